"""Captures written in VHAP's layout, read by the library and by an oracle that knows the layout alone."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import headfields as hf
from headfields.apps.export import save_vhap
from headfields.data import CaptureError, load_capture, save_capture
from headfields.data.formats.insta_writer import CapturedFrame, write_insta
from tests.data import tiny
from tests.data.formats import frame_folders, vhap_folder


@pytest.fixture(scope="session")
def head(tiny_head):
    """Layouts do not depend on how many vertices a head has."""
    return tiny_head


def _meshes(head, count=4):
    """Meshes of FLAME's topology that no parameters give exactly: bumps over a posed head."""
    random = torch.Generator().manual_seed(1)
    shape = torch.zeros(1, head.shape_count)
    shape[0, :5] = torch.randn(5, generator=random)
    expression = torch.zeros(count, head.expression_count)
    expression[:, :8] = 0.6 * torch.randn(count, 8, generator=random)
    pose = torch.zeros(count, 5, 3)
    pose[:, 0, 1] = torch.linspace(-0.4, 0.4, count)
    pose[:, 2, 0] = torch.linspace(0.0, 0.2, count)
    posed = head(shape=shape, expression=expression, pose=pose).vertices
    bumps = 5e-4 * torch.randn(posed.shape, generator=random)
    canonical = head(shape=shape).vertices[0] + 3e-4
    return posed + bumps, canonical, expression, pose


def _photographed(vertices, faces, camera, **extra):
    rgba = tiny.photograph(vertices, faces, camera)[0]
    return CapturedFrame(rgba, vertices, camera, **extra)


def _insta(folder, head, principal=(20.5, 23.5), **extra):
    posed, canonical, expression, _ = _meshes(head)
    frames = []
    for index, vertices in enumerate(posed):
        view = tiny.camera(0.2 * index - 0.3, 0.1)
        lens = view.intrinsics.clone()
        lens[0, 2], lens[1, 2] = principal
        view = view.replace(intrinsics=lens)
        frames.append(_photographed(vertices, head.faces, view, expression=expression[index], **extra))
    write_insta(folder, frames, canonical, head.faces, test_frames=1)
    return load_capture(folder, head_frame="keep", mouth="none")


@pytest.fixture(scope="module")
def written(head, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    capture = _insta(folder / "insta", head)
    export = save_vhap(capture, folder / "vhap", head)
    return capture, export, folder / "vhap"


def _same(one, other, frames, tolerance=2e-6):
    assert (one.state(frames).vertices - other.state(frames).vertices).abs().max() < tolerance
    assert (one.camera(frames).world_to_camera - other.camera(frames).world_to_camera).abs().max() < 1e-6
    assert torch.allclose(one.camera(frames).intrinsics, other.camera(frames).intrinsics, rtol=0, atol=1e-5)
    for frame in frames:
        assert torch.equal(one.image(frame), other.image(frame))
    assert {name: rows.tolist() for name, rows in one.splits.items()} == {
        name: rows.tolist() for name, rows in other.splits.items()
    }


def test_meshes_images_cameras_and_splits_come_back(written, head):
    capture, export, folder = written
    again = load_capture(folder, head=head, head_frame="keep", mouth="none")
    _same(capture, again, range(4))
    canonical = capture.recording.canonical.vertices
    assert (again.recording.canonical.vertices - canonical).abs().max() < 1e-6
    assert (export.frames, export.steps) == (4, 4) and 1e-5 < export.residual < 6e-4 < export.largest
    assert any("dynamic_offset" in line and "does not read it" in line for line in export.report)
    assert any("fitted to the canonical mesh" in line for line in export.report)


def test_parameters_are_those_of_the_meshes(written, head):
    again = load_capture(written[2], head=head, head_frame="keep", mouth="none")
    _, _, expression, pose = _meshes(head)
    assert (again.state(range(4)).expression - expression).abs().max() < 0.1
    assert (again.state(range(4)).pose[:, 2] - pose[:, 2]).abs().max() < 0.02


def test_an_oracle_of_the_layout_reads_it(tmp_path, head):
    """Written from the layout's description, with smplx: offsets before the joints, OpenGL axes, cy from below."""
    smplx = pytest.importorskip("smplx", reason="smplx, the oracle of this test, is not installed")
    basis = torch.cat([head.shape_basis, head.expression_basis, head.pose_basis]).permute(1, 2, 0).numpy()
    arrays = {
        "v_template": head.template_vertices.numpy(), "f": head.faces.numpy(), "shapedirs": basis[..., :400],
        "posedirs": basis[..., 400:], "J_regressor": head.joint_regressor.numpy(), "weights": head.weights.numpy(),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], range(5)]),
    }  # fmt: skip
    posed, canonical, expression, _ = _meshes(head, count=2)
    view = tiny.camera(0.2, 0.1)
    frames = [_photographed(vertices, head.faces, view, expression=expression[0]) for vertices in posed]
    write_insta(tmp_path / "insta", frames, canonical, head.faces, test_frames=1)
    capture = load_capture(tmp_path / "insta", head_frame="keep", mouth="none")
    save_vhap(capture, tmp_path / "vhap", head)
    content = json.loads((tmp_path / "vhap/transforms.json").read_text())
    assert content["timestep_indices"] == [0, 1] and content["camera_indices"] == [0]
    for index, frame in enumerate(content["frames"]):
        values = np.load(tmp_path / "vhap" / frame["flame_param_path"])
        assert {name: values[name].shape for name in ("shape", "expr", "eyes_pose", "jaw_pose")} == {
            "shape": (300,), "expr": (1, 100), "eyes_pose": (1, 6), "jaw_pose": (1, 3)
        }  # fmt: skip
        static = values["static_offset"]
        moved = arrays["v_template"] + static[0] + values["dynamic_offset"][0]
        (tmp_path / str(index)).mkdir()
        np.savez(tmp_path / str(index) / "FLAME_NEUTRAL.npz", **{**arrays, "v_template": moved})
        with open(tmp_path / str(index) / "flame_static_embedding.pkl", "wb") as file:
            pickle.dump({"lmk_face_idx": np.zeros(51, int), "lmk_b_coords": np.full((51, 3), 1 / 3)}, file)
        model = smplx.FLAME(
            str(tmp_path / str(index)), ext="npz", num_betas=300, num_expression_coeffs=100, use_face_contour=False,
            flame_lmk_embedding_path=str(tmp_path / str(index) / "flame_static_embedding.pkl"),
        )  # fmt: skip
        eyes = torch.from_numpy(values["eyes_pose"])
        with torch.no_grad():
            vertices = model(
                betas=torch.from_numpy(values["shape"])[None],
                expression=torch.from_numpy(values["expr"]),
                global_orient=torch.from_numpy(values["rotation"]),
                neck_pose=torch.from_numpy(values["neck_pose"]),
                jaw_pose=torch.from_numpy(values["jaw_pose"]),
                leye_pose=eyes[:, :3],
                reye_pose=eyes[:, 3:],
                transl=torch.from_numpy(values["translation"]),
            ).vertices[0]
        assert (vertices - posed[index]).abs().max() < 1e-5  # a hundredth of a millimeter
        pose = np.linalg.inv(np.array(frame["transform_matrix"]) @ np.diag([1.0, -1, -1, 1]))
        local = vertices.double().numpy() @ pose[:3, :3].T + pose[:3, 3]
        x = frame["fl_x"] * local[:, 0] / local[:, 2] + frame["cx"]
        y = frame["fl_y"] * local[:, 1] / local[:, 2] + frame["h"] - frame["cy"]
        expected = view.project(posed[index][None])[0][0]
        assert np.abs(np.stack([x, y], 1) - expected.reshape(-1, 2).numpy()).max() < 1e-2
        mask = np.array(Image.open(tmp_path / "vhap" / frame["fg_mask_path"]))
        picture = np.array(Image.open(tmp_path / "vhap" / frame["file_path"]))
        assert np.array_equal(mask, frames[index].image[..., 3]) and np.array_equal(picture, frames[index].image)
        assert frame["camera_angle_x"] == pytest.approx(2 * np.arctan(frame["w"] / 2 / frame["fl_x"]))
    rest = np.load(tmp_path / "vhap/canonical_flame_param.npz")
    assert np.array_equal(rest["static_offset"], static) and not rest["expr"].any() and "dynamic_offset" not in rest


def test_a_capture_with_parameters_keeps_them(tmp_path, head):
    source = vhap_folder.write(tmp_path / "source", head, steps=2)
    capture = load_capture(source, head=head, head_frame="keep", mouth="none")
    export = save_vhap(capture, tmp_path / "again")
    assert (export.frames, export.steps) == (4, 2) and "as they are recorded" in export.report[0]
    again = load_capture(tmp_path / "again", head=head, head_frame="keep", mouth="none")
    _same(capture, again, range(4))
    assert again.frame_names == capture.frame_names
    for path in sorted((source / "flame_param").iterdir()):
        one, other = np.load(path), np.load(tmp_path / "again/flame_param" / path.name)
        for key in set(one) - {"static_offset", "dynamic_offset"}:
            assert np.array_equal(one[key], other[key]), key
        for key in ("static_offset", "dynamic_offset"):
            assert np.abs(one[key] - other[key]).max() < 1e-8
    content = json.loads((tmp_path / "again/transforms_val.json").read_text())
    assert content["camera_indices"] == [1] and [f["timestep_index"] for f in content["frames"]] == [0]


@pytest.mark.parametrize("write", [frame_folders.write_metrical, frame_folders.write_pixel3dmm])
def test_eyelids_of_the_posed_mesh_become_offsets(tmp_path, head, write):
    """Trackers close the lids after skinning; the layout's offsets come before."""
    capture = load_capture(write(tmp_path / "tracked", head), head=head, head_frame="keep", mouth="none")
    export = save_vhap(capture, tmp_path / "vhap")
    assert export.largest > 1e-4
    again = load_capture(tmp_path / "vhap", head=head, head_frame="keep", mouth="none")
    _same(capture, again, range(4))
    assert torch.allclose(capture.state(range(4)).expression, again.state(range(4)).expression)


def test_cameras_one_after_the_other_become_time_steps(tmp_path, head):
    """A recording whose frames are sorted by camera, as NeRSemble's, with a camera that misses the first step."""
    source = load_capture(vhap_folder.write(tmp_path / "a", head, steps=3), head=head, head_frame="keep", mouth="none")
    order = [0, 2, 4, 3, 5]  # camera 0 at three steps, camera 1 at the last two
    capture = hf.data.capture_from_arrays(
        [(source.image(frame) * 255).round().byte().numpy() for frame in order],
        source.camera(order),
        [source.state(frame).vertices[0] for frame in order],
        source.recording.canonical,
        splits={"train": [0, 1, 3], "test": [2, 4]},
    )
    assert save_vhap(capture, tmp_path / "vhap", head).steps == 3
    frames = json.loads((tmp_path / "vhap/transforms.json").read_text())["frames"]
    assert [(f["timestep_index"], f["camera_index"]) for f in frames] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    test = json.loads((tmp_path / "vhap/transforms_test.json").read_text())
    assert [f["file_path"] for f in test["frames"]] == ["images/00002_00.png", "images/00002_01.png"]
    assert test["timestep_indices"] == [2] and test["camera_indices"] == [0, 1]
    again = load_capture(tmp_path / "vhap", head=head, head_frame="keep", mouth="none")
    for row, frame in enumerate([0, 2, 3, 4, 5]):
        assert (again.state(row).vertices - source.state(frame).vertices).abs().max() < 2e-6
        assert (again.camera(row).world_to_camera - source.camera(frame).world_to_camera).abs().max() < 1e-6
        assert torch.equal(again.image(row), source.image(frame))


def test_there_and_back_again(tmp_path, head):
    """VHAP, then INSTA, then VHAP: the fit starts at the recorded parameters."""
    source = vhap_folder.write(tmp_path / "source", head, steps=2)
    first = load_capture(source, head=head, head_frame="keep", mouth="none")
    save_capture(first, tmp_path / "insta")
    meshes = load_capture(tmp_path / "insta", head_frame="keep", mouth="none")
    export = save_vhap(meshes, tmp_path / "back", head)
    assert export.steps == 2
    last = load_capture(tmp_path / "back", head=head, head_frame="keep", mouth="none")
    _same(first, last, range(4))
    assert (first.state(range(4)).expression - last.state(range(4)).expression).abs().max() < 0.3


def test_the_side_of_an_off_center_principal_point_is_stated(tmp_path, head):
    capture = _insta(tmp_path / "insta", head, principal=(19.0, 27.0))
    export = save_vhap(capture, tmp_path / "vhap", head, frames=[1, 2])
    assert any(line.startswith("warning: the principal point") for line in export.report)
    again = load_capture(tmp_path / "vhap", head=head, head_frame="keep", mouth="none")
    assert len(again) == 2 and again.camera(0).intrinsics[0, :2, 2].tolist() == [19.0, 27.0]
    for name in ("transforms.json", "transforms_train.json", "transforms_test.json", "transforms_val.json"):
        path = tmp_path / "vhap" / name
        path.write_text(path.read_text().replace('"lower border"', '"left border"'))
    with pytest.raises(CaptureError, match="cy_counts_from is 'left border'"):
        load_capture(tmp_path / "vhap", head=head)


def test_what_cannot_be_written_is_named(written, head, tmp_path):
    capture, _, folder = written
    with pytest.raises(ValueError, match="head is None"):
        save_vhap(capture, tmp_path / "a")
    with pytest.raises(FileExistsError, match="save_vhap: folder"):
        save_vhap(capture, folder, head)
    with pytest.raises(ValueError, match="frames is empty"):
        save_vhap(capture, tmp_path / "a", head, frames=[])
    with pytest.raises(IndexError):
        save_vhap(capture, tmp_path / "a", head, frames=[4])
    less = vhap_folder.tiny_head()
    less.template_vertices = less.template_vertices[:-1]
    with pytest.raises(CaptureError, match="362 vertices, the head 361"):
        save_vhap(capture, tmp_path / "a", less)
    other = vhap_folder.tiny_head()
    other.faces = other.faces.flip(0) * 0 + other.faces.roll(1, 0).clamp(max=360).flip(1)[:, [0, 0, 1]]
    with pytest.raises(CaptureError, match="of the head's faces"):
        save_vhap(capture, tmp_path / "a", other)
    scaled = vhap_folder.tiny_head()
    for name in ("template_vertices", "shape_basis", "expression_basis", "pose_basis"):
        getattr(scaled, name).mul_(4.0)
    with pytest.raises(CaptureError, match="every identity of the head is more than 20 mm"):
        save_vhap(capture, tmp_path / "a", scaled)
    body = vhap_folder.tiny_head()
    body.parents = (-1, 0, 1, 1)
    with pytest.raises(ValueError, match="4 joints"):
        save_vhap(capture, tmp_path / "a", body)
    assert not Path(tmp_path / "a").exists()


def test_meshes_that_are_no_poses_of_the_head_are_named(head, tmp_path):
    """Offsets make any mesh exact while skinning has an inverse; large ones are warned of."""
    posed, canonical, _, _ = _meshes(head)
    random = torch.Generator().manual_seed(2)
    view = tiny.camera(0.1, 0.1)
    noisy = posed[1] + 8e-3 * torch.randn(posed[1].shape, generator=random)
    frames = [_photographed(vertices, head.faces, view) for vertices in (posed[0], noisy)]
    write_insta(tmp_path / "noisy", frames, canonical, head.faces, test_frames=1)
    capture = load_capture(tmp_path / "noisy", head_frame="keep", mouth="none")
    export = save_vhap(capture, tmp_path / "vhap", head)
    assert any(line.startswith("warning: dynamic_offset") for line in export.report)
    again = load_capture(tmp_path / "vhap", head=head, head_frame="keep", mouth="none")
    assert (again.state(1).vertices[0] - noisy).abs().max() < 2e-6
    mirrored = posed[1] * torch.tensor([-1.0, 1, 1])
    frames[1] = _photographed(mirrored, head.faces, view)
    write_insta(tmp_path / "mirrored", frames, canonical, head.faces, test_frames=1)
    capture = load_capture(tmp_path / "mirrored", head_frame="keep", mouth="none")
    with pytest.raises(CaptureError, match=r"frame images/00001.png: .*folds a vertex"):
        save_vhap(capture, tmp_path / "b", head)
    assert not list((tmp_path / "b").glob("transforms*.json"))


def test_a_broken_frame_leaves_no_capture(head, tmp_path):
    capture = _insta(tmp_path / "insta", head)
    (tmp_path / "insta/images/00002.png").write_bytes(b"")
    with pytest.raises(CaptureError, match=r"images/00002\.png"):
        save_vhap(capture, tmp_path / "vhap", head)
    assert not list((tmp_path / "vhap").glob("transforms*.json"))
    with pytest.raises(CaptureError, match="none of the layouts"):
        load_capture(tmp_path / "vhap", head=head)
