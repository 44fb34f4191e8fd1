"""Plain recordings on disk: crops, shots, faults of frames, and what is said of them."""

import numpy as np
import pytest
from PIL import Image

from headfields.apps.capturing.detectors.files import DetectionFiles
from headfields.apps.capturing.framing import framing_of
from headfields.apps.capturing.prepare import DEFAULT_FOCAL, prepare_recording
from headfields.apps.capturing.recording_files import load_untracked
from headfields.apps.capturing.video import open_video
from headfields.apps.tracking.frame_source import FrameSource
from headfields.data import load_capture
from headfields.data.errors import CaptureError
from headfields.data.untracked import UntrackedRecording
from tests.data.recorded import HEIGHT, WIDTH, drawn_frame

FRAMES = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Frame 2 is black, frame 3 has no face, frame 4 no matte, frame 5 two faces, frame 6 opens another scene."""
    path = tmp_path_factory.mktemp("recorded")
    for name in ("images", "landmarks"):
        (path / name).mkdir()
    for index in range(FRAMES):
        image, matte, points = drawn_frame(index)
        image = np.zeros_like(image) if index == 2 else 255 - image if index >= 6 else image
        rgba = np.dstack([image, np.zeros_like(matte) if index == 4 else matte])
        Image.fromarray(rgba).save(path / "images" / f"{index:05d}.png")
        if index != 3:
            faces = np.stack([points * 0.5, points]) if index == 5 else points
            np.save(path / "landmarks" / f"{index:05d}.npy", faces)
    return path


@pytest.fixture(scope="module")
def recording(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    return prepare_recording(open_video(folder), out / "recording", DetectionFiles(folder / "landmarks"))


def test_every_frame_that_cannot_be_used_has_a_sentence(recording):
    assert isinstance(recording, FrameSource) and len(recording) == FRAMES
    assert set(recording.failed) == {2, 4}
    assert "frame 2 (00002.png) is black" in recording.failed[2]
    assert "frame 4 (00004.png): nobody is in the matte" in recording.failed[4]
    with pytest.raises(CaptureError, match="is black"):
        recording.image(2)
    assert recording.landmarks(3) is None and recording.image(3)[..., 3].max() == 1
    assert any("frame 5 (00005.png) has 2 faces" in line for line in recording.report)
    assert "no face in frame 3 (00003.png): fitted by colors and outlines" in recording.report
    assert recording.cuts == (6,) and any(
        "a cut: another scene begins with frame 6" in line for line in recording.report
    )


def test_the_crop_is_a_square_around_all_faces(recording):
    height, width = recording.size
    assert height == width < HEIGHT
    for index in (0, 5, 8):
        marks, image = recording.landmarks(index), recording.image(index)
        assert bool(((marks > 0) & (marks < width)).all())
        x, y = marks.mean(0).round().long().tolist()
        assert image[y, x, 3] == 1  # the disc's middle
    left = drawn_frame(0)[2][0] - recording.landmarks(0)[0].numpy()
    assert np.allclose(recording.principal_point, [WIDTH / 2 - left[0], HEIGHT / 2 - left[1]], atol=1e-3)


def test_cameras_need_a_focal_length(recording):
    with pytest.raises(CaptureError, match="the focal length is unknown"):
        recording.camera(0)
    camera = recording.with_focal(250.0).camera([1, 2])
    assert camera.intrinsics[1, 0, 0] == 250 and camera.size == recording.size
    assert recording.default_focal == pytest.approx(DEFAULT_FOCAL * WIDTH)
    with pytest.raises(ValueError, match=r"focal is -1\.0"):
        recording.with_focal(-1.0)


def test_a_prepared_folder_is_opened_and_not_made_again(folder, recording, tmp_path):
    out = tmp_path / "again"
    files = DetectionFiles(folder / "landmarks")
    assert prepare_recording(open_video(folder), out, files, stop=lambda: True) is None
    made = prepare_recording(open_video(folder), out, files, side=48, focal=100.0)
    assert made.size == (48, 48)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = prepare_recording(open_video(folder), out, files, side=48)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert again.report == made.report and again.failed == made.failed
    assert np.array_equal(again.image(1), load_untracked(out).image(1))
    scale = 48 / recording.size[0]
    assert again.camera(0).intrinsics[0, 0, 0] == pytest.approx(100 * scale)
    assert again.landmarks(1)[3, 0] == pytest.approx(float(recording.landmarks(1)[3, 0]) * scale, rel=1e-3)


def test_detectors_fill_what_files_lack(folder, tmp_path):
    class Drawn:
        """Knows one frame's points for every image, a matte and labels."""

        def landmarks(self, image):
            return np.stack([drawn_frame(0)[2]])

        def matte(self, image):
            return np.full(image.shape[:2], 200, np.uint8)

        def labels(self, image):
            return np.full(image.shape[:2], 250, np.uint8)

    source = open_video(folder, limit=2)
    made = prepare_recording(source, tmp_path / "out", None, [Drawn()], crop=(0, 0, 64, 96))
    assert made.size == (96, 64) and made.label(0).unique().tolist() == [250]
    assert made.image(0)[..., 3].unique().numel() == 2  # the images' own alpha comes before the detector's matte

    class Wrong(Drawn):
        def labels(self, image):
            return np.zeros((3, 3), np.uint8)

    with pytest.raises(CaptureError, match=r"frame 0 .*labels has shape \(3, 3\)"):
        prepare_recording(source, tmp_path / "wrong", None, [Wrong()])


def test_recordings_without_face_or_matte(folder, tmp_path):
    (tmp_path / "black").mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "black" / "0.png")

    class Blind:
        def landmarks(self, image):
            return None

        matte = labels = landmarks

    with pytest.raises(CaptureError, match=r"none of 1 frames can be used; frame 0 \(0.png\) is black"):
        prepare_recording(open_video(tmp_path / "black"), tmp_path / "out", None, [Blind()])
    with pytest.raises(CaptureError, match="no face in any of 9 frames; pass landmarks"):
        prepare_recording(open_video(folder), tmp_path / "out", None, [Blind()])
    read = []
    with pytest.raises(CaptureError, match="no landmarks were given, and there is no detector; pass landmarks"):
        prepare_recording(open_video(folder), tmp_path / "out", show=lambda what, count: read.append(count))
    opaque = tmp_path / "opaque"
    opaque.mkdir()
    image, _, points = drawn_frame(0)
    Image.fromarray(image).save(opaque / "00000.png")
    np.save(tmp_path / "marks.npy", points[None])
    files, see = DetectionFiles(tmp_path / "marks.npy"), lambda what, count: read.append(count)
    with pytest.raises(CaptureError, match="no mattes were given, the images have no alpha, and there is no detector"):
        prepare_recording(open_video(opaque), tmp_path / "out2", files, show=see)
    assert not read  # it is said before any frame is read
    with pytest.raises(CaptureError, match="no frame has a matte; pass"):
        prepare_recording(open_video(opaque), tmp_path / "out2", files, [Blind()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda matte: 0 * matte, r"none of 3 frames can be used; frame 0 \(00000.png\): nobody is in the matte"),
        (lambda matte: 255 - matte, "the mattes leave out the face in 3 of 3 frames with landmarks; .* invert them"),
        (lambda matte: 0 * matte + 255, "the mattes cover whole images"),
    ],
)
def test_mattes_that_no_head_is_in_are_an_error(tmp_path, change, message):
    points = []
    for index in range(3):
        image, matte, marks = drawn_frame(index)
        points.append(marks)
        for name, picture in (("images", image), ("mattes", change(matte))):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / name / f"{index:05d}.png")
    np.save(tmp_path / "marks.npy", np.stack(points))
    files = DetectionFiles(tmp_path / "marks.npy", tmp_path / "mattes")
    with pytest.raises(CaptureError, match=message):
        prepare_recording(open_video(tmp_path / "images"), tmp_path / "out", files)


def test_what_is_no_capture_yet_is_told_how_to_become_one(folder, recording, tmp_path):
    (tmp_path / "me.MP4").write_bytes(b"a video")
    (tmp_path / "notes").mkdir()
    for path, message in (
        (folder, "It has images, and no tracked meshes; headfields capture"),
        (tmp_path / "me.MP4", "is a video; headfields capture"),
        (prepare_recording(open_video(folder), tmp_path / "made", DetectionFiles(folder / "landmarks")) and
         tmp_path / "made", "a recording without tracked meshes .* headfields track and track-template take"),
        (tmp_path / "notes", "The folder is empty"),
        (tmp_path / "none", "is not a folder; name the one that holds transforms"),
    ):  # fmt: skip
        with pytest.raises(CaptureError, match=message):
            load_capture(path)


def test_framing():
    with pytest.raises(ValueError, match="box is"):
        framing_of((100, 200), None, None, (150, 0, 64, 64))
    with pytest.raises(ValueError, match="side is 8"):
        framing_of((100, 200), None, 8)
    whole = framing_of((100, 200), None, 100)
    assert whole.size == (50, 100) and np.allclose(whole.points(np.array([[20.0, 10.0]])), [[10, 5]])


def test_arrays_of_an_untracked_recording_are_checked():
    with pytest.raises(CaptureError, match=r"two: intrinsics has shape \(3, 3, 3\)"):
        UntrackedRecording("two", (4, 4), ["a", "b"], lambda k: None, lambda k: None, lambda k: None,
                           intrinsics=np.zeros((3, 3, 3)))  # fmt: skip
