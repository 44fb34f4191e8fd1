"""Pixel3DMM's tracking folder, opened as a capture."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.data import load_capture
from headfields.data.errors import CaptureError
from tests.data import broken
from tests.data.formats import frame_folders, vhap_folder

TRACKING = "someone_nV1_noPho_uv2000.0_n1000.0"


@pytest.fixture(scope="module")
def written(head, tmp_path_factory):
    return frame_folders.write_pixel3dmm(tmp_path_factory.mktemp("p3dmm") / "someone", head)


def opened(folder, head, **options):
    return load_capture(folder, head=head, head_frame="keep", mouth="none", **options)


def test_meshes_cameras_and_mattes_are_those_written(written, head):
    capture = opened(written, head)
    assert len(capture) == frame_folders.FRAMES and capture.size == (frame_folders.P3DMM_SIDE,) * 2
    assert capture.report[0] == "layout: Pixel3DMM" and not capture.warnings
    state = capture.state(range(4))
    for frame in range(4):
        assert (state.vertices[frame] - frame_folders.pixel3dmm_posed(head, frame)).abs().max() < 2e-6
        rotation = vhap_folder.rodrigues(frame_folders.ROTATION * (frame - 1))
        assert torch.allclose(hf_rotation(state.pose[frame, 0]), rotation.float(), atol=1e-5)
        camera = capture.camera(frame)
        view = np.diag([1.0, -1, -1, 1]) @ frame_folders.pixel3dmm_view()
        assert np.allclose(camera.world_to_camera[0], view, atol=1e-6)
        assert np.allclose(camera.intrinsics[0], frame_folders.pixel3dmm_intrinsics(), atol=1e-4)
        inside = (capture.image(frame)[..., :3] < 1).any(-1)
        assert torch.equal(capture.image(frame)[..., 3] > 0.5, inside & (torch.arange(40) < 37)[:, None])


def hf_rotation(vector):
    return vhap_folder.rodrigues(vector.numpy()).float()


def test_joint_transforms_lead_to_the_moved_mesh(written, head):
    capture = opened(written, head, eyelids=None)
    state, rest = capture.state(3), capture.template.canonical_vertices
    points = torch.einsum(
        "vj,jab,vb->va", head.weights, state.joint_transforms[0], torch.nn.functional.pad(rest, (0, 1), value=1.0)
    )
    # Expression, correctives and lids are left: the head's motion is not.
    assert (points[:, :3] - state.vertices[0]).norm(dim=1).mean() < 1.5e-2
    assert (rest - state.vertices[0]).norm(dim=1).mean() > 4e-2


def test_the_tracking_folder_opens_with_the_images_beside(tmp_path, written, head):
    folder = shutil.copytree(written / TRACKING, tmp_path / "a")
    with pytest.raises(CaptureError, match="no images; expected a folder cropped beside it"):
        opened(folder, head)
    shutil.copytree(written / "cropped", folder / "cropped")
    shutil.copytree(written / "seg_og", folder / "seg_og")
    (folder / "masks").mkdir()
    for path in (written / "seg_og").iterdir():  # mattes come before labels
        Image.fromarray(np.where(np.array(Image.open(path)) == 2, 255, 0).astype(np.uint8)).save(
            folder / "masks" / path.name
        )
    capture = opened(folder, head)
    assert any("mattes are those of masks" in text for text in capture.report)
    assert any("lids do not close" in text for text in capture.warnings)


def test_several_trackings_are_refused(tmp_path, written, head):
    folder = shutil.copytree(written, tmp_path / "a")
    shutil.copytree(folder / TRACKING, folder / "someone_nV1_noLM")
    with pytest.raises(CaptureError, match=r"several folders have a checkpoint .*expected one"):
        opened(folder, head)


def test_copies_for_workers_decode_the_same(written, head):
    capture = opened(written, head)
    copy = pickle.loads(pickle.dumps(capture))
    assert torch.equal(copy.image(1), capture.image(1))
    assert torch.equal(copy.state(1).vertices, capture.state(1).vertices)


_TOLERATED = {
    "flame.eyelids: missing", "flame.eyelids: null", "flame.R_rotation_matrix: missing",
    "flame.R_rotation_matrix: null",
}  # fmt: skip


def _field_rows():
    arrays = ("flame.exp", "flame.shape", "flame.eyes", "flame.jaw", "flame.neck", "flame.eyelids", "flame.R",
              "flame.R_rotation_matrix", "flame.t", "camera.R_base_0", "camera.t_base_0", "camera.fl", "camera.pp",
              "img_size")  # fmt: skip
    missing = {"missing": lambda array: ..., "null": lambda array: None}
    for field in arrays:
        for kind, change in (missing | broken.ARRAYS).items():
            yield field, kind, change
    yield "camera.R_base_0", "mirrored", lambda array: -array
    yield "camera.R_base_0", "scaled", lambda array: 2 * array
    yield "camera.t_base_0", "in millimeters", lambda array: 1000 * array
    yield "camera.t_base_0", "behind the camera", lambda array: -array
    yield "camera.fl", "in pixels", lambda array: array * 512
    yield "camera.pp", "in pixels", lambda array: array * 512
    yield "flame.R", "of the inverse", lambda array: np.array([[1.0, 0, 0, 0, 0, -1]])
    yield "flame.t", "in millimeters", lambda array: array + 900
    yield "img_size", "not square", lambda array: np.array([20, 30])
    yield "flame.shape", "of more coefficients", lambda array: np.ones((1, 400))


def _rows():
    for field, kind, change in _field_rows():
        name = f"{field}: {kind}"
        words = {"behind the camera": "0% of the vertices"}
        names = ("00002.frame", words.get(kind, field.rpartition(".")[2]))
        yield broken.Broken(name, _changed(field, change), None if name in _TOLERATED else names)
    yield from broken.files(f"{TRACKING}/checkpoint/00002.frame", missing=None)
    yield from broken.files("cropped/00002.png", "00002")
    yield from broken.files("seg_og/00002.png", "00002")
    for side in "lr":
        yield from broken.files(f"{side}_eyelid.npy")


def _changed(field, change):
    return frame_folders.changed(f"{TRACKING}/checkpoint/00002.frame", field, change)


@pytest.mark.parametrize("row", broken.params(_rows()))
def test_broken_folders_are_refused_by_name(row, written, head, tmp_path):
    broken.check(row, written, tmp_path, lambda folder: opened(folder, head).validate())
