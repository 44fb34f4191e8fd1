"""FLAME's published files: pickles with chumpy objects, masks, the template OBJ, and their conversion."""

import pickle
import re
import sys

import numpy as np
import pytest
import scipy.sparse
import torch

from headfields.apps.export.flame import convert_flame
from headfields.cli import main
from headfields.heads import FlameHead
from headfields.heads.flame.assets import FlameAssets, read_masks
from tests.cli.test_cli import fails
from tests.files.test_unpickler import chumpy_module
from tests.heads.flame.published import MASKS, write_masks, write_template
from tests.heads.flame.test_model import SEVEN, save, small
from tests.heads.test_landmarks import files  # noqa: F401
from tests.tables import table


@pytest.fixture
def published(tmp_path, arrays, monkeypatch):
    """A model as published: a protocol 2 pickle, chumpy arrays, a sparse regressor, uint32 roots, other keys."""
    ch, select = chumpy_module(monkeypatch)
    model = {key: np.array(arrays[key]) for key in SEVEN}
    whole, template = ch(), ch()
    template.x = model["v_template"].astype(np.float64)
    whole.x = np.concatenate([model["shapedirs"], model["shapedirs"][:, :, :7]], 2).astype(np.float64)
    cut = select()  # shapedirs[:, :, :400], as chumpy has it
    cut.a, cut.preferred_shape = whole, model["shapedirs"].shape
    cut.idxs = np.arange(whole.x.size).reshape(whole.x.shape)[:, :, :400].ravel()
    model |= {
        "v_template": template,
        "shapedirs": cut,
        "J_regressor": scipy.sparse.csc_matrix(model["J_regressor"]),
        "f": model["f"].astype(np.uint32),
        "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "J": np.zeros((5, 3)), "bs_style": "lbs", "bs_type": "lrotmin",
    }  # fmt: skip
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps(model, protocol=2))
    for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        monkeypatch.delitem(sys.modules, name)
    return path


@pytest.fixture
def masks(tmp_path, arrays):
    return write_masks(tmp_path, arrays)


@pytest.fixture
def template_obj(tmp_path, arrays):
    return write_template(tmp_path, arrays)


def test_a_published_model_is_the_head_that_it_was_made_of(published, head):
    found = FlameHead.from_file(published)
    assert (found.shape_count, found.expression_count, found.parents) == (300, 100, (-1, 0, 1, 1, 1))
    for name in (
        "template_vertices",
        "faces",
        "shape_basis",
        "expression_basis",
        "pose_basis",
        "joint_regressor",
        "weights",
    ):
        torch.testing.assert_close(getattr(found, name), getattr(head, name), atol=0, rtol=0)


@table(
    ("components", "asked", "shape", "expression"),
    [
        (400, None, slice(0, 300), slice(300, 400)),
        (400, 50, slice(0, 300), slice(300, 350)),  # the first 50 expressions, as DECA counts them
        (400, 0, slice(0, 300), slice(300, 300)),
        (450, None, slice(0, 300), slice(300, 450)),
        (350, 50, slice(0, 300), slice(300, 350)),
        (300, 0, slice(0, 300), slice(300, 300)),
        (150, 50, slice(0, 100), slice(100, 150)),
        (20, 10, slice(0, 10), slice(10, 20)),
    ],
)
def test_which_components_are_expression(tmp_path, components, asked, shape, expression):
    head = FlameHead.from_file(save(tmp_path, small(components)), expression_count=asked)
    basis = torch.from_numpy(small(components)["shapedirs"].transpose(2, 0, 1)).float()
    assert torch.equal(head.shape_basis, basis[shape]) and torch.equal(head.expression_basis, basis[expression])


@table("components", [399, 350, 300, 150, 20])
def test_fewer_components_are_not_guessed_at(tmp_path, components):
    with pytest.raises(ValueError, match=rf"model\.npz: shapedirs has {components} components.*pass expression_count"):
        FlameHead.from_file(save(tmp_path, small(components)))


def test_more_expressions_than_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"expression_count is 101.*pass at most 100"):
        FlameHead.from_file(save(tmp_path, small()), expression_count=101)


@table(
    ("key", "value", "reason"),
    [
        ("weights", np.full((12, 5), np.nan), r"weights at \(0, 0\) is nan"),
        ("f", np.array([[0, 1, 12]]), r"f has indices in \[0, 12\]"),
        ("kintree_table", np.array([[-1, 2, 1, 1, 1], range(5)]), "kintree_table has 2 for the parent of joint 1"),
        ("v_template", np.array([["a"] * 3] * 12), "v_template has dtype"),
        ("J_regressor", [[0.0] * 12] * 4 + [[0.0]], "J_regressor is no array"),
        ("posedirs", {"a": 1}, "posedirs is an array of Python objects"),
    ],
)
def test_bad_arrays_are_named(tmp_path, key, value, reason):
    with pytest.raises(ValueError, match=rf"model\.pkl: {reason}"):
        FlameHead.from_file(save(tmp_path, small(**{key: value}), "pkl"))


def test_masks(published, masks, arrays, unchecked):
    head = FlameHead.from_file(published, masks=masks)
    ids = read_masks(masks)
    assert tuple(head.regions) == MASKS == tuple(ids)
    for name, mask in head.regions.items():
        assert torch.equal(mask, torch.from_numpy(np.isin(arrays["f"], ids[name]).all(1))), name
    regions = head.derived_regions()
    assert torch.equal(regions["mouth"], head.regions["lips"]) and torch.equal(regions["face"], head.regions["face"])
    masks.write_bytes(pickle.dumps({"face": np.array([10**6])}))
    with pytest.raises(ValueError, match=r"FLAME_masks\.pkl: face has indices in"):
        FlameHead.from_file(published, masks=masks)
    masks.write_bytes(pickle.dumps({"face": np.array(["a"])}))
    with pytest.raises(ValueError, match=r"FLAME_masks\.pkl: face has dtype"):
        read_masks(masks)
    with pytest.raises(ValueError, match="a region is called 'a b'"):
        FlameHead.from_file(published, masks={"a b": np.array([1])})


def test_texture_coordinates_of_the_template(published, template_obj, arrays, tmp_path):
    head = FlameHead.from_file(published, uv=template_obj)
    assert len(head.uv) > len(head.template_vertices)
    expected = torch.from_numpy(arrays["uv"][arrays["uv_faces"]])
    torch.testing.assert_close(head.uv[head.uv_faces], expected, atol=1e-7, rtol=0)
    text = template_obj.read_text()
    bare = "".join(f"{line}\n" for line in text.splitlines() if line[:2] != "vt")
    template_obj.write_text(re.sub(r"/\d+", "", bare))
    with pytest.raises(ValueError, match=r"head_template_mesh\.obj has no vt, or a face without them"):
        FlameHead.from_file(published, uv=template_obj)
    template_obj.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n")
    with pytest.raises(ValueError, match=r"has 3 vertices and 1 faces, the model 4515 and"):
        FlameHead.from_file(published, uv=template_obj)
    first = next(line for line in text.splitlines() if line.startswith("f "))
    a, b, c = first.split()[1:]
    template_obj.write_text(text.replace(first, f"f {b} {a} {c}"))
    with pytest.raises(ValueError, match=r"has no face \("):
        FlameHead.from_file(published, uv=template_obj)
    with pytest.raises(FileNotFoundError, match=r"gone\.obj is not a file"):
        FlameHead.from_file(published, uv=tmp_path / "gone.obj")


def test_conversion_keeps_everything(published, masks, template_obj, files, tmp_path):  # noqa: F811
    assets = FlameAssets(
        masks=masks, uv=template_obj, landmarks=files / "landmark_embedding.npy",
        mediapipe=files / "mediapipe_landmark_embedding.npz",
    )  # fmt: skip
    found = convert_flame(published, tmp_path / "out.npz", assets=assets)
    assert found.chumpy == ("v_template", "shapedirs") and found.sparse == ("J_regressor",)
    assert found.ignored == ("J", "bs_style", "bs_type") and found.regions == MASKS
    assert (found.landmarks, found.contour, found.mediapipe) == (51, 17, 105)
    with np.load(found.path, allow_pickle=False) as archive:
        assert archive["v_template"].dtype == np.float64 and archive["posedirs"].dtype == np.float32
    one = FlameHead.from_file(
        published, masks=masks, uv=template_obj, landmarks=assets.landmarks, mediapipe=assets.mediapipe
    )
    other = FlameHead.from_file(found.path)
    names = [name for name, _ in one.named_buffers()]
    assert names == [name for name, _ in other.named_buffers()]
    for name, buffer in one.named_buffers():
        assert torch.equal(buffer, other.get_buffer(name)), name
    again = convert_flame(found.path, tmp_path / "again.npz")
    assert (again.regions, again.uv, again.ignored) == (found.regions, found.uv, ())


def test_smplx_reads_the_conversion(tmp_path, files):  # noqa: F811
    """Also of a file with 100 shape and 50 expression components, which smplx by itself splits at 10."""
    smplx = pytest.importorskip("smplx", reason="smplx, the oracle of this test, is not installed")
    source = save(tmp_path, small(150), "pkl")
    with pytest.raises(ValueError, match="pass expression_count"):
        convert_flame(source, tmp_path / "FLAME_NEUTRAL.npz")
    found = convert_flame(source, tmp_path / "FLAME_NEUTRAL.npz", expression_count=50)
    assert (found.shape, found.expression) == (100, 50)
    static = {"lmk_face_idx": np.zeros(51, int), "lmk_b_coords": np.full((51, 3), 1 / 3)}
    (tmp_path / "flame_static_embedding.pkl").write_bytes(pickle.dumps(static))
    oracle = smplx.FLAME(str(tmp_path), ext="npz", num_betas=300, num_expression_coeffs=100)
    head = FlameHead.from_file(source, expression_count=50)
    shape, expression = torch.randn(1, 100), torch.randn(1, 50)
    pad = torch.nn.functional.pad
    expected = oracle(betas=pad(shape, (0, 200)), expression=pad(expression, (0, 50))).vertices
    for ours in (head, FlameHead.from_file(found.path)):
        assert (ours(shape, expression).vertices - expected).abs().max() < 1e-5


def test_the_command(published, masks, tmp_path, capsys):
    out = tmp_path / "FLAME_NEUTRAL.npz"
    assert main(["convert-flame", str(published), "--out", str(out), "--masks", str(masks)]) == 0
    printed = capsys.readouterr().out
    for text in (
        "4515 vertices, 8868 faces, 5 joints", "300 shape, 100 expression\n", 
        "chumpy arrays: v_template, shapedirs; sparse: J_regressor",
        "left out: J, bs_style, bs_type", "regions face, neck", "flame_static_embedding.pkl",
    ):  # fmt: skip
        assert text in printed
    assert FlameHead.from_file(out).regions.keys() == set(MASKS)
    assert "pass --force" in fails(capsys, "convert-flame", str(published), "--out", str(out))
    assert main(["convert-flame", str(published), "--out", str(out), "--force"]) == 0
    capsys.readouterr()
    line = fails(capsys, "convert-flame", str(tmp_path / "gone.pkl"), "--out", str(tmp_path / "a.npz"))
    assert "gone.pkl is not a file" in line
    assert "must end in .npz" in fails(capsys, "convert-flame", str(published), "--out", str(tmp_path / "a.pkl"))
    assert "choose another name" in fails(capsys, "convert-flame", str(out), "--out", str(out), "--force")
    assert "is not a folder" in fails(capsys, "convert-flame", str(published), "--out", str(tmp_path / "no/a.npz"))
    hostile = tmp_path / "hostile.pkl"
    hostile.write_bytes(f"cos\nsystem\n(S'echo > {tmp_path}/ran'\ntR.".encode())
    line = fails(capsys, "convert-flame", str(hostile), "--out", str(tmp_path / "a.npz"))
    assert "hostile.pkl: the file names os.system" in line
    assert not (tmp_path / "ran").exists() and not (tmp_path / "a.npz").exists() and not list(tmp_path.glob(".*part"))


def test_too_many_shapes_to_convert(tmp_path):
    with pytest.raises(ValueError, match="has 320 shape components"):
        convert_flame(save(tmp_path, small(330)), tmp_path / "out.npz", expression_count=10)
    assert not (tmp_path / "out.npz").exists()


def test_help_says_what_it_is_for(capsys):
    with pytest.raises(SystemExit):
        main(["convert-flame", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("generic_model.pkl --out FLAME_NEUTRAL.npz", "without chumpy", "--expression-count", "is refused"):
        assert text in printed
