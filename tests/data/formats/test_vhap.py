import json
import shutil

import numpy as np
import pytest
import torch

import headfields as hf
from headfields.data import load_capture
from headfields.data.errors import CaptureError
from headfields.heads.skinned import SkinnedHead
from tests.data import broken
from tests.data.formats import vhap_folder


@pytest.fixture(scope="module")
def written(head, tmp_path_factory):
    return vhap_folder.write(tmp_path_factory.mktemp("vhap") / "person", head)


def test_meshes_cameras_and_mattes_are_those_written(written, head):
    capture = load_capture(written, head=head, head_frame="keep", mouth="none")
    assert len(capture) == 8 and capture.size == vhap_folder.SIZE
    assert {key: len(value) for key, value in capture.splits.items()} == {"train": 3, "test": 2, "val": 3, "all": 8}
    state = capture.state(range(8))
    for frame in range(8):
        values = vhap_folder.parameters(head, frame // 2)
        assert (state.vertices[frame] - vhap_folder.posed(head, values)).abs().max() < 2e-6
        assert torch.equal(state.expression[frame], torch.from_numpy(values["expr"][0]))
        assert (
            capture.camera(frame).world_to_camera[0] - torch.from_numpy(vhap_folder.view(frame % 2))
        ).abs().max() < 1e-6
        assert capture.camera(frame).intrinsics[0, 1, 2] == 32
        assert torch.equal(capture.image(frame)[..., 3] > 0.5, (capture.image(frame)[..., :3] < 1).any(-1))
    assert any("VHAP" not in line and "OpenGL axes" in line for line in capture.report)
    assert any("2 cameras" in line for line in capture.report)
    assert {"mouth", "eyes", "face", "neck"} <= set(capture.template.regions)


def test_joint_transforms_lead_from_the_canonical_mesh(written, head):
    capture = load_capture(written, head=head, head_frame="keep", mouth="none")
    state, rest = capture.state(3), capture.template.canonical_vertices
    points = torch.einsum(
        "vj,jab,vb->va", head.weights, state.joint_transforms[0], torch.nn.functional.pad(rest, (0, 1), value=1.0)
    )
    # Expression, correctives and the dynamic offset are left: a jaw's opening and a head's turn are not.
    assert (points[:, :3] - state.vertices[0]).norm(dim=1).mean() < 4e-3
    assert (rest - state.vertices[0]).norm(dim=1).mean() > 1.5e-2


@pytest.mark.parametrize(
    ("row", "flip", "counts"),
    [
        (24.0, True, "lower"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((24.0, False, "upper"), (40.0, True, "lower"))),
    ],
)
def test_the_principal_point_is_told_by_the_mattes(tmp_path, head, row, flip, counts):
    vhap_folder.write(tmp_path / "a", head, principal_row=row, flip=flip)
    capture = load_capture(tmp_path / "a", head=head)
    assert capture.camera(0).intrinsics[0, 1, 2] == row
    assert any(line.startswith(f"cameras: cy counts from the {counts}") for line in capture.report)


def test_a_principal_point_without_evidence_is_ambiguous(tmp_path, head):
    vhap_folder.write(tmp_path / "a", head, principal_row=30.0)
    for path in (tmp_path / "a").glob("transforms*.json"):
        content = json.loads(path.read_text())
        for frame in content["frames"]:
            del frame["fg_mask_path"]
        path.write_text(json.dumps(content))
    with pytest.raises(CaptureError, match=r"cameras are ambiguous.*cy counts"):
        load_capture(tmp_path / "a", head=head)


def test_cameras_with_other_axes_are_recognized(tmp_path, head):
    vhap_folder.write(tmp_path / "a", head, axes=np.eye(4))
    capture = load_capture(tmp_path / "a", head=head, head_frame="keep")
    assert (capture.camera(1).world_to_camera[0] - torch.from_numpy(vhap_folder.view(1))).abs().max() < 1e-6


def test_teeth_that_the_head_lacks_are_left_out(tmp_path, head, written):
    vhap_folder.write(tmp_path / "a", head, teeth=120)
    capture = load_capture(tmp_path / "a", head=head, head_frame="keep", mouth="none")
    values = vhap_folder.parameters(head, 0, teeth=120)
    assert (capture.state(0).vertices[0] - vhap_folder.posed(head, values)).abs().max() < 2e-6
    assert any("teeth" in line for line in capture.report)


def test_a_head_that_has_the_teeth_keeps_them(tmp_path, head):
    """Teeth have no directions: the first 60 follow the neck's joint, the others the jaw."""
    teeth = torch.rand(120, 3, generator=torch.Generator().manual_seed(0)) * 0.02
    joint = torch.zeros(120, 5)
    joint[:60, head.skull_joint] = joint[60:, head.jaw_joint] = 1

    def more(values, axis=0):
        shape = list(values.shape)
        shape[axis] = 120
        return torch.cat([values, torch.zeros(shape)], dim=axis)

    with_teeth = SkinnedHead(
        template=torch.cat([head.template_vertices, teeth]),
        faces=torch.cat([head.faces, torch.arange(120).reshape(40, 3) + len(head.template_vertices)]),
        shape_basis=more(head.shape_basis, 1),
        expression_basis=more(head.expression_basis, 1),
        pose_basis=more(head.pose_basis, 1),
        joint_regressor=more(head.joint_regressor, 1),
        weights=torch.cat([head.weights, joint]),
        parents=head.parents,
    )
    for name, count in (("with", 120), ("without", 0)):
        folder = vhap_folder.write(tmp_path / name, head, teeth=count)
        capture = load_capture(folder, head=with_teeth, head_frame="keep", mouth="none")
        values = vhap_folder.parameters(head, 3, teeth=count)
        for key in ("static_offset", "dynamic_offset"):
            values[key] = np.pad(values[key], ((0, 0), (0, 120 - count), (0, 0)))
        posed = capture.state(6).vertices[0]
        assert (posed - vhap_folder.posed(with_teeth, values)).abs().max() < 2e-6
        assert not any("teeth" in line for line in capture.report)


def test_without_canonical_file_the_first_frame_gives_it(tmp_path, head, written):
    vhap_folder.write(tmp_path / "a", head, canonical=False)
    own = load_capture(tmp_path / "a", head=head).template.canonical_vertices
    stored = load_capture(written, head=head).template.canonical_vertices
    assert (own - stored).abs().max() < 1e-6


def test_sets_of_siblings_need_a_root(tmp_path, head, written):
    shutil.copytree(written, tmp_path / "sets" / "one")
    union = tmp_path / "sets" / "union"
    union.mkdir()
    for path in written.glob("transforms*.json"):
        content = json.loads(path.read_text())
        for frame in content["frames"]:
            for key in ("file_path", "fg_mask_path", "flame_param_path"):
                frame[key] = "../one/" + frame[key]
            del frame["timestep_id"], frame["timestep_index_original"]
        (union / path.name).write_text(json.dumps(content))
    with pytest.raises(CaptureError, match="leads out of the capture's folder"):
        load_capture(union, head=head)
    with pytest.raises(CaptureError, match=r"root .* does not hold"):
        load_capture(union, head=head, root=tmp_path / "sets" / "one")
    joined = load_capture(union, head=head, root=tmp_path / "sets")
    assert torch.equal(joined.state(5).vertices, load_capture(written, head=head).state(5).vertices)


def test_a_head_is_needed(written, tmp_path, head):
    with pytest.raises(CaptureError, match=r"FLAME parameters and no meshes; pass head=.*convert"):
        load_capture(written)
    capture = load_capture(written, head=head, mouth="none")
    hf.data.save_capture(capture, tmp_path / "insta")
    again = load_capture(tmp_path / "insta", mouth="none")
    assert torch.equal(again.state(2).vertices, capture.state(2).vertices)
    assert torch.equal(again.state(2).joint_transforms, capture.state(2).joint_transforms)
    assert torch.equal(again.camera(2).intrinsics, capture.camera(2).intrinsics)
    assert torch.equal(again.image(2), capture.image(2))
    named = load_capture(tmp_path / "insta", head=head, mouth="none")  # its regions are the head's own masks
    assert torch.equal(named.state(2).vertices, capture.state(2).vertices)


def _first(number):
    def change(array):
        array = array.copy()
        array.flat[0] = number
        return array

    return change


def _parameter_rows():
    keys = ("translation", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "shape", "expr", "static_offset")
    for key in keys:
        for kind, new in {
            "missing": ..., "two rows": lambda array: np.stack([np.atleast_2d(array)] * 2), "scalar": np.float32(1),
            "text": lambda array: np.array([["a"] * array.shape[-1]]),
            "nan": _first(np.nan), "infinite": _first(np.inf),
        }.items():  # fmt: skip
            if (key, kind) != ("static_offset", "missing"):
                yield key, kind, new
    yield "expr", "too long", np.ones((1, 500), np.float32)
    yield "shape", "too long", np.ones(500, np.float32)
    yield "static_offset", "of another mesh", np.zeros((1, 77, 3))
    yield "translation", "in millimeters", np.full((1, 3), 900.0)


def _key_rows():
    for key in ("transform_matrix", "file_path", "fg_mask_path", "flame_param_path", "fl_x", "cx", "cy", "w", "h"):
        for kind, value in {"text": "x y", "list": [1], "null": None, "nan": float("nan"), "object": {"a": 1}}.items():
            yield key, kind, value
    yield "transform_matrix", "scaled", (2 * np.eye(4)).tolist()
    yield "transform_matrix", "mirrored", np.diag([-1.0, 1, 1, 1]).tolist()
    yield "transform_matrix", "far", (np.eye(4) + 1e6 * np.eye(4, k=3)).tolist()
    yield "fl_x", "tiny", 1e-3
    yield "cy", "far", 1e6
    yield "w", "other", 99


def _in_second_step(key, value):
    def change(content):
        for frame in content["frames"]:
            if frame["timestep_index"] == 1:
                frame[key] = value

    return broken.in_json("transforms*.json", change)


def _rows():
    path = "flame_param/00001.npz"
    for key, kind, new in _parameter_rows():
        names = (rf"(?s)images/00001_0\d.png.*flame_param_path.*{key}",)
        yield broken.Broken(f"{key}: {kind}", broken.array(path, key, new), names)
    for name in (path, "images/00001_00.png", "fg_masks/00001_00.png"):
        yield from broken.files(name)
    for name in ("transforms.json", "transforms_train.json"):
        yield from broken.files(name, missing=None)
    for row in broken.files("canonical_flame_param.npz", missing=None):
        yield broken.Broken(row.name, row.apply, None) if "a folder" in row.name else row
    for key, kind, value in _key_rows():
        yield broken.Broken(f"{key} of a frame: {kind}", _in_second_step(key, value), (key,))


@pytest.mark.parametrize("row", broken.params(_rows()))
def test_broken_captures_are_refused_by_name(row, written, head, tmp_path):
    broken.check(row, written, tmp_path, lambda folder: load_capture(folder, head=head).validate())
