"""metrical-tracker's output folder, opened as a capture."""

import pickle

import numpy as np
import pytest
import torch

from headfields.data import load_capture
from headfields.data.errors import CaptureError
from tests.data import broken
from tests.data.formats import frame_folders


@pytest.fixture(scope="module")
def written(head, tmp_path_factory):
    return frame_folders.write_metrical(tmp_path_factory.mktemp("metrical") / "someone", head)


def opened(folder, head, **options):
    return load_capture(folder, head=head, head_frame="keep", mouth="none", **options)


def line(capture, start):
    return next((text for text in capture.report if text.startswith(start)), "")


def test_meshes_cameras_and_mattes_are_those_written(written, head):
    capture = opened(written, head)
    assert len(capture) == frame_folders.FRAMES and capture.size == frame_folders.SIZE
    assert capture.report[0] == "layout: metrical-tracker" and not capture.warnings
    state = capture.state(range(4))
    for frame in range(4):
        assert (state.vertices[frame] - frame_folders.posed(head, frame)).abs().max() < 2e-6
        values = frame_folders.values_of(head, frame)
        assert torch.equal(state.expression[frame], torch.from_numpy(values["expr"][0]))
        assert torch.allclose(state.pose[frame, 2], torch.from_numpy(values["jaw_pose"][0]), atol=1e-6)
        camera = capture.camera(frame)
        assert np.allclose(camera.world_to_camera[0], frame_folders.view_of(frame), atol=1e-6)
        assert np.allclose(camera.intrinsics[0], frame_folders.metrical_intrinsics())
        assert torch.equal(capture.image(frame)[..., 3] > 0.5, (capture.image(frame)[..., :3] < 1).any(-1))
    assert {"mouth", "eyes", "face", "neck"} <= set(capture.template.regions)
    assert line(capture, "img_size") == "img_size [44, 36] is (height, width), by the images"


def test_the_order_of_the_image_size_is_told_by_the_images(tmp_path, head):
    capture = opened(frame_folders.write_metrical(tmp_path / "a", head, order="wh"), head)
    assert capture.size == frame_folders.SIZE and "(width, height)" in line(capture, "img_size")


@pytest.mark.parametrize(("first", "images"), [(1, "images"), (0, "images"), (1, "imgs")])
def test_images_of_the_video_are_paired_in_order(tmp_path, head, first, images):
    capture = opened(frame_folders.write_metrical(tmp_path / "a", head, images, first), head)
    assert (capture.image(2)[..., :3].min() * 255).round() == 80


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [(1, 0, "the last file is the last image"), (0, 2, "file 0 is the first image"), (2, 0, "the last file")],
)
def test_images_that_were_not_tracked_are_told_by_the_mattes(tmp_path, head, before, after, name):
    folder = frame_folders.write_metrical(tmp_path / "a", head, "images", 1, before, after)
    capture = opened(folder, head)
    assert line(capture, "images: ").startswith(f"images: {name}")
    assert (capture.image(1)[..., :3].min() * 255).round() == 60 + 20 * before
    assert torch.equal(capture.image(1)[..., 3] > 0.5, (capture.image(1)[..., :3] < 1).any(-1))


def test_without_mattes_images_that_were_not_tracked_are_ambiguous(tmp_path, head):
    folder = frame_folders.write_metrical(tmp_path / "a", head, "images", 1, before=1, mattes=None)
    pattern = "images of the frames are ambiguous between 'file 0.*' .* and 'the last file.*remove the images"
    with pytest.raises(CaptureError, match=pattern):
        opened(folder, head)


def test_without_mattes_the_capture_opens_and_says_so(tmp_path, head):
    capture = opened(frame_folders.write_metrical(tmp_path / "a", head, mattes=None), head)
    assert line(capture, "camera convention").startswith("camera convention: world-to-camera, OpenCV axes")
    assert "the matte is 1 everywhere" in line(capture, "input has no alpha") and capture.image(0)[..., 3].min() == 1


def test_cameras_of_another_convention_are_recognized(tmp_path, head):
    folder = frame_folders.write_metrical(tmp_path / "a", head)
    for path in folder.glob("checkpoint/*"):
        content = torch.load(path, weights_only=False)
        inverse = np.linalg.inv(frame_folders.view_of(int(path.stem)))[None]
        content["opencv"].update(R=inverse[:, :3, :3], t=inverse[:, :3, 3])
        torch.save(content, path)
    capture = opened(folder, head)
    assert np.allclose(capture.camera(3).world_to_camera[0], frame_folders.view_of(3), atol=1e-6)
    assert any("fit as camera-to-world, OpenCV axes" in text for text in capture.warnings)


def test_lids_without_blendshapes_are_a_warning(tmp_path, written, head):
    folder = frame_folders.write_metrical(tmp_path / "a", head, eyelids=False)
    capture = opened(folder, head)
    assert any("lids do not close" in text and "up to 2.00" in text for text in capture.warnings)
    assert (capture.state(3).vertices[0] - frame_folders.posed(head, 3, eyelids=False)).abs().max() < 2e-6
    own = opened(folder, head, eyelids=tuple(written / f"{side}_eyelid.npy" for side in "lr"))
    assert (own.state(3).vertices[0] - frame_folders.posed(head, 3)).abs().max() < 2e-6


def test_arguments_of_other_layouts_are_refused(written, head, unchecked):
    with pytest.raises(CaptureError, match="root is for VHAP"):
        opened(written, head, root=written.parent)
    with pytest.raises(CaptureError, match=r"the layout of metrical-tracker, .*pass head="):
        load_capture(written)
    with pytest.raises(CaptureError, match="eyelids has 1 files; expected two"):
        opened(written, head, eyelids=(written / "l_eyelid.npy",))


def test_copies_for_workers_decode_the_same(written, head):
    capture = opened(written, head)
    copy = pickle.loads(pickle.dumps(capture))
    assert torch.equal(copy.image(1), capture.image(1))
    assert torch.equal(copy.state(1).vertices, capture.state(1).vertices)


_TOLERATED = {
    # What is missing has a default, or is of no use to a mesh.
    "flame.eyelids: missing", "flame.eyelids: null", "flame.tex: missing", "flame.tex: null", "flame.sh: missing",
    "flame.sh: null", "frame_id: missing", "frame_id: null", "global_step: missing", "global_step: null",
    "flame.tex: huge", "flame.sh: huge", "flame.tex: of no numbers", "frame_id: a word", "frame_id: text",
}  # fmt: skip


def _field_rows():
    arrays = ("flame.exp", "flame.shape", "flame.eyes", "flame.jaw", "flame.eyelids", "flame.tex", "flame.sh",
              "opencv.R", "opencv.t", "opencv.K", "img_size")  # fmt: skip
    missing = {"missing": lambda array: ..., "null": lambda array: None}
    for field in arrays:
        for kind, change in (missing | broken.ARRAYS).items():
            yield field, kind, change
    for field in ("frame_id", "global_step"):
        for kind, change in (
            missing | {"a word": lambda array: "seven", "text": lambda array: np.array(["a"])}
        ).items():
            yield field, kind, change
    yield "opencv.R", "mirrored", lambda array: -array
    yield "opencv.R", "scaled", lambda array: 2 * array
    yield "opencv.t", "in millimeters", lambda array: 1000 * array
    yield "opencv.t", "behind the camera", lambda array: -array
    yield "opencv.K", "with negative focal lengths", lambda array: -array
    yield "opencv.K", "in image sides", lambda array: array / 100
    yield "img_size", "of other images", lambda array: array * 2
    yield "flame.jaw", "zero", lambda array: array * 0
    yield "flame.exp", "of fewer coefficients", lambda array: array[:, :50]
    yield "flame.shape", "of more coefficients", lambda array: np.ones((1, 400))


def _rows():
    for field, kind, change in _field_rows():
        name = f"{field}: {kind}"
        words = {"behind the camera": "0% of the vertices", "of fewer coefficients": "expression has 50"}
        names = ("00001.frame", words.get(kind, field.rpartition(".")[2]))
        yield broken.Broken(name, _changed(field, change), None if name in _TOLERATED else names)
    yield from broken.files("checkpoint/00001.frame", missing=None)
    yield from broken.files("input/00002.png", "00002")
    yield from broken.files("matting/00002.png", "00002")
    for side in "lr":
        yield from broken.files(f"{side}_eyelid.npy")
    yield broken.Broken(
        "no checkpoint", lambda f: [p.unlink() for p in f.glob("checkpoint/*")], ("none of the layouts",)
    )
    yield broken.Broken(
        "no images", lambda f: [p.unlink() for p in f.glob("input/*")], ("no images; expected a folder",)
    )
    yield broken.Broken(
        "a file that is no number", lambda f: (f / "checkpoint/00001.frame").rename(f / "checkpoint/last.frame"),
        ("last.frame: expected a number",),
    )  # fmt: skip


def _changed(field, change):
    return frame_folders.changed("checkpoint/00001.frame", field, change)


@pytest.mark.parametrize("row", broken.params(_rows()))
def test_broken_folders_are_refused_by_name(row, written, head, tmp_path):
    broken.check(row, written, tmp_path, lambda folder: opened(folder, head).validate())
