"""Files of Gaussians: 3DGS's layout to the byte, GaussianAvatars' binding and FLAME's parameters, and damaged files."""

import copy
import struct

import numpy as np
import pytest
import torch

import headfields as hf
from headfields.data import load_gaussians, save_gaussians
from headfields.data.formats.gaussian_ply import load_flame_parameters, save_flame_parameters
from headfields.networks import Gaussians
from tests.shapes import uv_sphere
from tests.tables import table


def random_gaussians(count: int = 7, degree: int = 3, bound: bool = False, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    gaussians = Gaussians(count, degree)
    with torch.no_grad():
        for parameter in gaussians.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if bound:
            gaussians.face.copy_(torch.randint(0, 9976, (count,), generator=generator))
    return gaussians


def tensors(gaussians: Gaussians) -> dict[str, torch.Tensor]:
    return {**dict(gaussians.named_parameters()), **dict(gaussians.named_buffers())}


def assert_same_bits(first: Gaussians, second: Gaussians) -> None:
    for name, tensor in tensors(first).items():
        other = tensors(second)[name]
        assert tensor.shape == other.shape and tensor.detach().numpy().tobytes() == other.detach().numpy().tobytes()


def names_of(degree: int, bound: bool) -> list[str]:
    rest = 3 * ((degree + 1) ** 2 - 1)
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
        *(["binding_0"] if bound else []),
    ]


def row_of(gaussians: Gaussians, i: int, bound: bool) -> list[float]:
    """A Gaussian's row, number by number, as the layout is documented."""
    gaussians = copy.deepcopy(gaussians).requires_grad_(False)
    row = [*gaussians.position[i].tolist(), 0.0, 0.0, 0.0, *gaussians.color[i].tolist()]
    row += [float(gaussians.harmonics[i, k, c]) for c in range(3) for k in range(gaussians.harmonics.shape[1])]
    row += [float(gaussians.opacity_logit[i]), *gaussians.log_scale[i].tolist(), *gaussians.quaternion[i].tolist()]
    return row + ([float(gaussians.face[i])] if bound else [])


def file_of(
    gaussians: Gaussians, bound: bool = False, layout: str = "binary_little_endian", kind: str = "float"
) -> bytes:
    degree = round((1 + gaussians.harmonics.shape[1]) ** 0.5) - 1
    head = f"ply\nformat {layout} 1.0\nelement vertex {len(gaussians)}\n"
    head += "".join(f"property {kind} {name}\n" for name in names_of(degree, bound)) + "end_header\n"
    rows = [row_of(gaussians, i, bound) for i in range(len(gaussians))]
    if layout == "ascii":
        return (head + "".join(" ".join(repr(value) for value in row) + "\n" for row in rows)).encode()
    letter = ("<" if "little" in layout else ">") + {"float": "f", "double": "d"}[kind]
    return head.encode() + b"".join(struct.pack(letter[0] + letter[1] * len(row), *row) for row in rows)


@table("bound", [False, True])
@table("degree", [0, 1, 2, 3])
@table("count", [0, 1, 7])
def test_a_file_has_the_published_layout_to_the_byte_and_comes_back_to_the_bit(tmp_path, count, degree, bound):
    gaussians = random_gaussians(count, degree, bound)
    path = save_gaussians(tmp_path / "some.ply", gaussians)
    has_binding = bound and count > 0
    assert path.read_bytes() == file_of(gaussians, has_binding)
    read = load_gaussians(path)
    assert_same_bits(gaussians, read)
    again = save_gaussians(tmp_path / "again.ply", read)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("binary_big_endian", "float"),
        ("binary_little_endian", "double"),
        ("binary_big_endian", "double"),
        ("ascii", "float"),
    ],
)
def test_other_encodings_hold_the_same_bits(tmp_path, layout, kind):
    gaussians = random_gaussians(bound=True)
    (tmp_path / "a.ply").write_bytes(file_of(gaussians, True, layout, kind))
    assert_same_bits(gaussians, load_gaussians(tmp_path / "a.ply"))


def test_negative_zero_and_small_numbers_keep_their_bits(tmp_path):
    gaussians = random_gaussians(3, 1)
    with torch.no_grad():
        gaussians.position[0] = torch.tensor([-0.0, 1e-45, -1e9])
        gaussians.log_scale[1] = torch.tensor([-80.0, 20.0, -3e38])
    assert_same_bits(gaussians, load_gaussians(save_gaussians(tmp_path / "a.ply", gaussians)))


def test_a_frame_is_written_as_parameters_of_the_same_splats_without_a_binding(tmp_path):
    def through_a_file(splats: hf.Splats) -> hf.Splats:
        read = load_gaussians(save_gaussians(tmp_path / "frame.ply", splats))
        assert (read.face == -1).all()
        return read()

    splats = random_gaussians(20, 2, bound=True)()
    again = through_a_file(splats)
    for name in ("means", "scales", "opacities", "harmonics"):
        torch.testing.assert_close(getattr(again, name), getattr(splats, name), atol=1e-5, rtol=1e-5)
    turns = (hf.ops.rotation_from_quaternion(each.quaternions) for each in (again, splats))
    torch.testing.assert_close(*turns, atol=1e-5, rtol=0)
    colors = splats.replace(harmonics=None, colors=torch.rand(20, 3), opacities=torch.arange(20.0) / 19)
    again = through_a_file(colors)
    torch.testing.assert_close(again.harmonics[:, 0] * 0.28209479177387814 + 0.5, colors.colors)
    torch.testing.assert_close(again.opacities, colors.opacities, atol=2e-6, rtol=0)
    flat = splats.replace(scales=splats.scales * torch.tensor([1.0, 1, 0]))
    assert float(through_a_file(flat).scales.detach().min()) < 1e-11
    batch = splats.map(lambda tensor: tensor[None])
    assert torch.equal(through_a_file(batch).means, splats.means)
    with pytest.raises(ValueError, match=r"gaussians has means of shape \(2, 20, 3\); expected one frame"):
        save_gaussians(tmp_path / "frame.ply", splats.map(lambda tensor: torch.stack([tensor, tensor])))


def changed(gaussians: Gaussians, name: str, row: int, value: float) -> Gaussians:
    with torch.no_grad():
        getattr(gaussians, name)[row] = value
    return gaussians


@table(
    ("gaussians", "name", "message"),
    [
        (random_gaussians(), "a.obj", "ends in '.obj'; expected .ply"),
        (changed(random_gaussians(), "position", 3, float("nan")), "a.ply", "x of Gaussian 3 is nan"),
        (changed(random_gaussians(), "log_scale", 2, 69.1), "a.ply", "scale_0 of Gaussian 2 is 69.*; .* at most 20.7"),
        (changed(random_gaussians(), "position", 2, -1e30), "a.ply", "x of Gaussian 2 is -1.*; .* at most 1e"),
        (changed(random_gaussians(), "quaternion", 2, 1e30), "a.ply", "rot_0 of Gaussian 2 is 1.*; .* at most 1e"),
        (changed(random_gaussians(), "quaternion", 1, 0.0), "a.ply", "rotation of Gaussian 1 has length 0"),
        (changed(random_gaussians(bound=True), "face", 1, -1), "a.ply", "6 of 7 Gaussians are attached"),
        (changed(random_gaussians(bound=True), "face", 1, 2**24), "a.ply", "face 16777216 is more than float32"),
        (Gaussians(3, 0, blendshapes=2), "a.ply", "gaussians has 2 blendshapes"),
    ],
)
def test_what_cannot_be_written(tmp_path, gaussians, name, message):
    with pytest.raises(ValueError, match=f"save_gaussians.*{message}"):
        save_gaussians(tmp_path / name, gaussians)
    assert not list(tmp_path.iterdir())


WHOLE = file_of(random_gaussians(3, 1, bound=True), True)
START = WHOLE.index(b"end_header\n") + 11
NAMES = names_of(1, True)
ROW = 4 * len(NAMES)


def header(old: str, new: str) -> bytes:
    assert WHOLE[:START].count(old.encode()) >= 1
    return WHOLE[:START].replace(old.encode(), new.encode(), 1) + WHOLE[START:]


def without(*names: str) -> bytes:
    """The file without some columns, data included."""
    kept = [place for place, name in enumerate(NAMES) if name not in names]
    head = WHOLE[:START].decode()
    for name in names:
        head = head.replace(f"property float {name}\n", "")
    table = np.frombuffer(WHOLE[START:], "<f4").reshape(3, -1)[:, kept]
    return head.encode() + table.tobytes()


def number(name: str, row: int, value: float) -> bytes:
    at = START + row * ROW + 4 * NAMES.index(name)
    return WHOLE[:at] + struct.pack("<f", value) + WHOLE[at + 4 :]


NAN, INF = float("nan"), float("inf")
HEAD = "ply\nformat ascii 1.0\n"
BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cut short or no PLY"),
    "another file": (b"solid cube\n", "no PLY"),
    "no end of the header": (WHOLE[: START - 5], "cut short"),
    "no data": (WHOLE[:START], "3 vertex take .* bytes, and 0 are left"),
    "a byte less": (WHOLE[:-1], "cut short"),
    "a number less": (WHOLE[:-4], "cut short"),
    "a row less": (WHOLE[:-ROW], "cut short"),
    "a byte more": (WHOLE + b"\0", "1 bytes follow"),
    "a row more": (WHOLE + WHOLE[-ROW:], "bytes follow"),
    "more rows announced": (header("vertex 3", "vertex 4"), "cut short"),
    "fewer rows announced": (header("vertex 3", "vertex 2"), "bytes follow"),
    "rows without end announced": (header("vertex 3", "vertex 99999999999999999999"), "cut short"),
    "a negative count": (header("vertex 3", "vertex -3"), "element vertex -3"),
    "a count that is no number": (header("vertex 3", "vertex three"), "element vertex three"),
    "no count": (header("vertex 3", "vertex"), "line 'element vertex'"),
    "another element": (header("vertex 3", "point 3"), "no element vertex"),
    "no element": (b"ply\nformat ascii 1.0\nend_header\n", "no element vertex"),
    "the element twice": (header("end_header", "element vertex 0\nproperty float x\nend_header"), "twice"),
    "a column twice": (header("property float y\n", "property float x\n"), "twice"),
    "no format": (header("format binary_little_endian 1.0\n", ""), "no format"),
    "an unknown format": (header("binary_little_endian", "binary_middle_endian"), "middle_endian"),
    "the other order of bytes": (header("little", "big"), "finite|whole|length|indices"),
    "ascii that is binary": (header("binary_little_endian", "ascii"), "lines for 3 rows|numbers|expected a number"),
    "an unknown type": (header("property float x", "property half x"), "property half x"),
    "a wider type": (header("property float x", "property double x"), "cut short"),
    "a narrower type": (header("property float x", "property short x"), "bytes follow"),
    "a line of its own": (header("end_header", "texture skin.png\nend_header"), "texture skin.png"),
    "a list": (header("property float opacity", "property list uchar float opacity"), "opacity of vertex is a list"),
    "a list of floating-point length": (header("property float x", "property list float float x"), "list float float"),
    "a property before an element": (b"ply\nproperty float x\n" + WHOLE[4:], "property float x"),
    "rows without columns": ((HEAD + "element vertex 3\nend_header\n").encode(), "3 vertex without a property"),
    "faces": (header("end_header", "element face 1\nproperty list uchar int vertex_indices\nend_header"), "is a list"),
    "one harmonic less": (without("f_rest_8"), "8 columns f_rest"),
    "one harmonic more": (header("property float nx", "property float f_rest_9"), "10 columns f_rest"),
    "another harmonic": (header("f_rest_3", "f_rest_11"), "lacks f_rest_3"),
    "compressed": (header("property float nx", "property float packed_position"), "compressed"),
    "two bindings": (header("property float nx", "property float binding_1"), "binding_1; expected one triangle"),
    "a point cloud": (
        f"{HEAD}element vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n1 2 3\n".encode(),
        "lacks f_dc_0.*point cloud",
    ),
    "a fraction of a face": (number("binding_0", 1, 7.5), r"binding_0 at \(1,\) is 7.5"),
    "a negative face": (number("binding_0", 2, -1.0), "indices in"),
    "an enormous face": (number("binding_0", 2, 3e7), "indices in"),
    "a face that is NaN": (number("binding_0", 0, NAN), "binding_0"),
    "a face that is infinite": (number("binding_0", 0, INF), "binding_0"),
    "an enormous scale": (number("scale_1", 1, 88.0), "scale_1 of Gaussian 1 is 88.0"),
    **{f"no {name}": (without(name), f"lacks {name}") for name in ("x", "z", "f_dc_1", "opacity", "scale_2", "rot_0")},
    **{
        f"NaN in {name}": (number(name, 2, NAN), f"{name} of Gaussian 2 is nan")
        for name in ("y", "f_dc_2", "f_rest_5", "opacity", "scale_0", "rot_3")
    },
    **{
        f"infinity in {name}": (number(name, 0, -INF), f"{name} of Gaussian 0 is -inf")
        for name in ("x", "f_rest_0", "opacity", "scale_2", "rot_1")
    },
}  # fmt: skip
ASCII = file_of(random_gaussians(2, 0), layout="ascii").decode()
FIRST = ASCII[ASCII.index("end_header\n") + 11 :].split()[0]
BROKEN |= {
    "ascii: a line less": (ASCII[: ASCII.rindex("\n", 0, -1) + 1].encode(), "1 lines for 2 rows"),
    "ascii: a line more": ((ASCII + "1 2 3\n").encode(), "3 lines for 2 rows"),
    "ascii: a number less": (ASCII.rsplit(" ", 1)[0].encode(), "vertex 1 has 16 numbers; expected 17"),
    "ascii: a word": (ASCII.replace(FIRST, "left").encode(), "'left'; expected a number"),
    "ascii: an underscore": (ASCII.replace(FIRST, "1_0").encode(), "'1_0'; expected a number"),
    "ascii: NaN": (ASCII.replace(FIRST, "nan").encode(), "x of Gaussian 0 is nan"),
    "ascii: beyond float32": (ASCII.replace(FIRST, "1e39").encode(), "x of Gaussian 0 is inf"),
    "ascii: beyond double": (ASCII.replace(FIRST, "1e999").encode(), "x of Gaussian 0 is inf"),
}


@table(("content", "message"), BROKEN.values())
def test_a_damaged_file_is_an_error_that_names_file_and_place(tmp_path, content, message):
    (tmp_path / "head.ply").write_bytes(content)
    with pytest.raises(ValueError, match=rf"head\.ply.*(?:{message})") as caught:
        load_gaussians(tmp_path / "head.ply")
    assert "\n" not in str(caught.value)


def test_there_are_sixty_of_them():
    assert len(BROKEN) >= 60


REORDERED = np.frombuffer(WHOLE[START:], "<f4").reshape(3, -1)[:, ::-1]
TOLERATED = {
    "crlf": WHOLE[:START].replace(b"\n", b"\r\n") + WHOLE[START:],
    "comments": header("element vertex", "comment made by hand\nobj_info x\nelement vertex"),
    "columns in another order": WHOLE[: WHOLE.index(b"property")]
    + "".join(f"property float {name}\n" for name in NAMES[::-1]).encode() + b"end_header\n" + REORDERED.tobytes(),
    "no normals": without("nx", "ny", "nz"),
    "an element before": header("element vertex 3", "element note 1\nproperty uchar a\nelement vertex 3")[: -3 * ROW]
    + b"\7" + WHOLE[START:],
    "an element behind": header("end_header", "element sky 2\nproperty short a\nend_header") + b"\1\0\2\0",
    "no faces": header("end_header", "element face 0\nproperty list uchar int vertex_indices\nend_header"),
    "float32": header("property float x", "property float32 x"),
    "NaN in a normal": number("ny", 1, NAN),
}  # fmt: skip


@table("content", TOLERATED.values())
def test_what_is_tolerated_changes_nothing(tmp_path, content):
    (tmp_path / "head.ply").write_bytes(content)
    assert_same_bits(load_gaussians(tmp_path / "head.ply"), random_gaussians(3, 1, bound=True))


def test_a_column_of_another_program_is_read_over(tmp_path):
    (tmp_path / "head.ply").write_bytes(header("property float nx", "property float confidence"))
    assert_same_bits(load_gaussians(tmp_path / "head.ply"), random_gaussians(3, 1, bound=True))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ply"):
        load_gaussians(tmp_path / "none.ply")


def parameters(frames: int = 4, vertices: int = 5, offsets: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {name: (frames, 3) for name in ("translation", "rotation", "neck_pose", "jaw_pose")}
    shapes |= {"eyes_pose": (frames, 6), "expr": (frames, 100), "shape": (300,)}
    if offsets:
        shapes |= {"static_offset": (vertices, 3), "dynamic_offset": (frames, vertices, 3)}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return made | {"jaw_pose": made["jaw_pose"].double()}  # as in some published files


@table("offsets", [False, True])
@table("frames", [0, 1, 4])
def test_flames_parameters_come_back_to_the_bit(tmp_path, frames, offsets):
    written = parameters(frames, offsets=offsets)
    path = save_flame_parameters(tmp_path / "point_cloud.ply", written)
    assert path == tmp_path / "flame_param.npz"
    read = load_flame_parameters(tmp_path / "point_cloud.ply")
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)


def test_axes_of_size_one_and_other_arrays_are_tolerated(tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in parameters().items()}
    arrays["static_offset"], arrays["shape"] = arrays["static_offset"][None], arrays["shape"][None]
    np.savez(tmp_path / "flame_param.npz", **arrays, timestep_id=np.array(["a"]))
    read = load_flame_parameters(tmp_path / "flame_param.npz")
    assert read["static_offset"].shape == (5, 3) and read["shape"].shape == (300,) and "timestep_id" not in read
    again = np.load(save_flame_parameters(tmp_path / "again.npz", read))
    arrays["shape"] = arrays["shape"][0]  # (300,) and (1, V, 3) in the files of GaussianAvatars' code
    assert again.keys() == arrays.keys()
    assert all(np.array_equal(again[name], arrays[name]) and again[name].dtype == arrays[name].dtype for name in arrays)


@table(
    ("change", "message"),
    [
        ({"expr": None}, "lacks expr"),
        ({"eyes_pose": torch.zeros(4, 3)}, r"eyes_pose has shape \(4, 3\); expected \(T, 6\)"),
        ({"jaw_pose": torch.zeros(3, 3)}, r"jaw_pose has shape \(3, 3\); .* with T = 4 as in translation"),
        ({"dynamic_offset": torch.zeros(4, 6, 3)}, "with V = 5 as in static_offset"),
        ({"rotation": torch.full((4, 3), NAN)}, "rotation has numbers that are not finite"),
        ({"shape": torch.zeros(300, dtype=torch.long)}, "shape has dtype int64"),
    ],
)
def test_flames_parameters_that_do_not_fit(tmp_path, change, message):
    wrong = {name: value for name, value in (parameters() | change).items() if value is not None}
    with pytest.raises(ValueError, match=f"save_flame_parameters.*{message}"):
        save_flame_parameters(tmp_path, wrong)
    np.savez(tmp_path / "flame_param.npz", **{name: value.numpy() for name, value in wrong.items()})
    with pytest.raises(ValueError, match=rf"load_flame_parameters: .*flame_param\.npz.*{message}"):
        load_flame_parameters(tmp_path / "flame_param.npz")
    with pytest.raises(ValueError, match="teeth is unknown"):
        save_flame_parameters(tmp_path, parameters() | {"teeth": torch.zeros(1)})


def test_plyfile_reads_and_writes_the_same_file(tmp_path):
    plyfile = pytest.importorskip("plyfile")
    gaussians = random_gaussians(5, 2, bound=True)
    path = save_gaussians(tmp_path / "a.ply", gaussians)
    table = plyfile.PlyData.read(path)
    assert np.array_equal(table["vertex"]["scale_1"], gaussians.log_scale[:, 1].detach().numpy())
    table.write(tmp_path / "b.ply")
    assert_same_bits(load_gaussians(tmp_path / "b.ply"), gaussians)
    assert hf.data.load_gaussians is load_gaussians


def test_a_bound_file_rides_on_a_mesh_as_published(tmp_path):
    vertices, faces = uv_sphere(6, 8, radius=0.1)
    gaussians = random_gaussians(30, 0)
    gaussians.face.copy_(torch.arange(30) * 2 % len(faces))
    read = load_gaussians(save_gaussians(tmp_path / "point_cloud.ply", gaussians))
    deformer = hf.deformers.TriangleBinding(vertices, faces)
    posed = (vertices * torch.tensor([1.0, 1.3, 0.8]) + 0.01)[None]
    avatar = hf.SplatAvatar(read, deformer)
    splats = avatar.splats(hf.HeadState(posed)).map(lambda tensor: tensor[0])
    for i in range(30):
        # world = R xyz s + centroid, R's columns the first edge, the normal, and the edge's and the normal's product
        a, b, c = posed[0, faces[read.face[i]]]
        edge = (b - a) / (b - a).norm()
        normal = torch.linalg.cross(b - a, c - a)
        normal = normal / normal.norm()
        third = -torch.linalg.cross(normal, edge)
        size = ((b - a).norm() + ((c - a) @ third).abs()) / 2
        frame = torch.stack([edge, normal, third], dim=1)
        expected = frame @ read.position[i] * size + (a + b + c) / 3
        torch.testing.assert_close(splats.means[i], expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(splats.scales[i], read.log_scale[i].exp() * size, atol=1e-7, rtol=1e-4)
        turn = frame @ hf.ops.rotation_from_quaternion(read.quaternion[i])
        torch.testing.assert_close(hf.ops.rotation_from_quaternion(splats.quaternions[i]), turn, atol=1e-5, rtol=0)
