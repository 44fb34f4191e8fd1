"""NeRSemble's benchmark of avatars, opened as a capture; and the frames that it holds out."""

import pickle
import shutil

import numpy as np
import pytest
import torch

from headfields.data import load_capture
from headfields.data.errors import CaptureError
from headfields.data.formats.nersemble import read_nersemble_holdout
from tests.data import broken
from tests.data.formats import nersemble_folder as made


@pytest.fixture(scope="module")
def written(head, tmp_path_factory):
    """One sequence of one camera."""
    return made.write(tmp_path_factory.mktemp("nersemble") / "393", head)


@pytest.fixture(scope="module")
def larger(head, tmp_path_factory):
    """Two sequences of two cameras, and one that is held out."""
    return made.write(tmp_path_factory.mktemp("nersemble") / "404", head, ("A", "B"), made.SERIALS[1:3], ("FREE",))


def opened(folder, head, **options):
    return load_capture(folder, head=head, head_frame="keep", mouth="none", **options)


def check_frame(capture, head, frame, sequence, serial, step):
    rows = made.rows_of(head, sequence)
    expected = made.posed(head, rows, step) / made.SCALE
    assert (capture.state(frame).vertices[0] - expected).abs().max() < 3e-6
    view = made.view(serial)
    view[:3, 3] /= made.SCALE
    assert np.allclose(capture.camera(frame).world_to_camera[0], view, atol=1e-6)
    assert np.allclose(capture.camera(frame).intrinsics[0], made.intrinsics(), atol=1e-4)
    image = capture.image(frame)
    alpha, gray = image[..., 3] > 0.5, image[..., :3].mean(-1)
    assert ((gray < 0.9) == alpha).float().mean() > 0.9  # videos are lossy
    assert abs(float(gray[alpha].median()) - (40 + 60 * step) / 255) < 0.04


def test_meshes_cameras_and_images_are_those_written(larger, head):
    capture = opened(larger, head)
    assert len(capture) == 2 * 2 * made.STEPS and capture.size == made.SIZE
    assert capture.report[0] == "layout: NeRSemble's benchmark" and not capture.warnings
    assert any("left out: FREE" in text for text in capture.report)
    assert any("scale of 1.25" in text for text in capture.report)
    frame = 0
    for sequence in range(2):
        for serial in made.SERIALS[1:3]:
            for step in range(made.STEPS):
                check_frame(capture, head, frame, sequence, serial, step)
                frame += 1
    assert capture.frame_names[4] == "A/images/cam_222200039.mp4 frame 1"


def test_a_sequence_opens_alone_and_frames_in_any_order(larger, head):
    capture = opened(larger / "sequences/B", head)
    assert len(capture) == 2 * made.STEPS
    for frame in (2, 0, 5, 1):
        check_frame(capture, head, frame, 1, made.SERIALS[1 + frame // 3], frame % 3)
    copy = pickle.loads(pickle.dumps(capture))  # for the workers of a DataLoader
    assert torch.equal(copy.image(4), capture.image(4))
    assert torch.equal(copy.state(4).vertices, capture.state(4).vertices)


def test_mattes_may_be_missing_and_neck_and_eyes(tmp_path, head):
    folder = made.write(tmp_path / "393", head, mattes=False)
    change("neck", lambda rows: ...)(folder)
    change("eyes", lambda rows: ...)(folder)
    capture = opened(folder, head)
    assert any("no alpha_maps; the matte is 1 everywhere" in text for text in capture.report)
    assert capture.state(0).pose[0, 1].eq(0).all() and capture.state(0).pose[0, 3:].eq(0).all()


def test_one_matrix_of_intrinsics_for_all_cameras(tmp_path, written, head):
    folder = shutil.copytree(written, tmp_path / "393")
    calibrate("intrinsics", lambda table: table[made.SERIAL])(folder)
    assert np.allclose(opened(folder, head).camera(0).intrinsics[0], made.intrinsics(), atol=1e-4)


def test_rotation_matrices_that_differ_are_a_warning(tmp_path, written, head):
    folder = shutil.copytree(written, tmp_path / "393")
    change("rotation_matrices", lambda rows: rows.swapaxes(1, 2))(folder)
    assert any("rotation_matrices differ from rotation" in text for text in opened(folder, head).warnings)


def test_views_to_synthesize_have_no_tracking(tmp_path, written, head):
    folder = shutil.copytree(written, tmp_path / "388")
    shutil.rmtree(folder / "sequences/EXP-1-head/tracking")
    with pytest.raises(CaptureError, match=r"no sequence has a tracking.*headfields capture"):
        opened(folder, head)


def test_frames_that_are_held_out_have_heads_and_cameras(larger, written, head):
    recording, places = read_nersemble_holdout(larger, head)
    assert places[:3] == [("FREE", "220700191")] * 3 and len(places) == 4 * made.STEPS
    assert sorted({serial for _, serial in places}) == list(made.SERIALS) and recording.size == made.SIZE
    expected = made.posed(head, made.rows_of(head, 2), 1) / made.SCALE
    assert np.abs(recording.decode_head(4).vertices - expected.numpy()).max() < 3e-6
    view = made.view("222200037")
    view[:3, 3] /= made.SCALE
    assert np.allclose(np.linalg.inv(recording.camera_to_world[4]), view, atol=1e-6)
    with pytest.raises(CaptureError, match="the benchmark holds its images out"):
        recording.decode_image(0)
    with pytest.raises(CaptureError, match="every tracked sequence has videos"):
        read_nersemble_holdout(written, head)


def change(key, new):
    return broken.array(f"sequences/EXP-1-head/{made.TRACKING}", key, new)


def calibrate(key, new):
    return broken.in_json("calibration/camera_params.json", lambda content: broken.put(content, key, new))


_TOLERATED = {
    "neck: missing", "eyes: missing", "rotation_matrices: missing", "frames: missing", "frames: a word",
    "rotation_matrices: huge", "calibration: other cameras broken", "sequences/EXP-1-head/alpha_maps: all missing",
}  # fmt: skip


def _rows():
    video, place = f"cam_{made.SERIAL}.mp4", "sequences/EXP-1-head"
    keys = ("shape", "expression", "jaw", "neck", "eyes", "rotation", "translation", "scale", "rotation_matrices")
    kinds = {key: broken.ARRAYS[key] for key in ("text", "a word", "nan", "infinite", "of no numbers", "huge")}
    for key in keys:
        cases = {"missing": lambda rows: ..., "a row more": lambda rows: np.concatenate([rows, rows[:1]]), **kinds}
        for kind, new in cases.items():
            if kind == "huge" and key in ("jaw", "neck", "eyes", "rotation"):
                continue  # an angle
            yield _row(f"{key}: {kind}", change(key, new), (made.TRACKING, key))
        flat = lambda rows: rows[..., :-1]  # noqa: E731
        if key not in ("shape", "expression"):
            yield _row(f"{key}: a column less", change(key, flat), (key,))
    for kind, value in {"zero": 0.0, "negative": -1.0, "tiny": 1e-9}.items():
        yield _row(f"scale: {kind}", change("scale", [[value]]), ("scale is",))
    yield _row("shape: of more coefficients", change("shape", np.ones((1, 400))), ("shape has",))
    yield _row("translation: in millimeters", change("translation", lambda rows: rows + 900), ("translation is up",))
    for kind in ("missing", "a word"):
        yield _row(f"frames: {kind}", change("frames", ... if kind == "missing" else np.array("x")), ())
    for key in ("world_2_cam", "intrinsics"):
        for kind, value in {
            "missing": ...,
            "null": None,
            "text": "x",
            "a number": 3,
            "a list": [1],
            "empty": {},
        }.items():
            yield _row(f"{key}: {kind}", calibrate(key, value), (key,))
        for kind, value in {"null": None, "text": "x", "ragged": [[1, 2], [3]], "flat": [1.0] * 9,
                            "nan": [[float("nan")] * 4] * 4, "zero": np.zeros((4, 4)).tolist(),
                            "of words": [["a"] * 4] * 4}.items():  # fmt: skip
            yield _row(
                f"{key} of the camera: {kind}",
                calibrate(key, lambda t, value=value: t | {made.SERIAL: value}),
                ("camera_params.json", key),
            )
    yield _row(
        "calibration: other cameras broken",
        calibrate("world_2_cam", lambda t: {made.SERIAL: t[made.SERIAL], "222200046": "x"}), (),
    )  # fmt: skip
    mirror = lambda t: t | {made.SERIAL: (np.diag([-1.0, 1, 1, 1]) @ t[made.SERIAL]).tolist()}  # noqa: E731
    yield _row("world_2_cam: mirrored", calibrate("world_2_cam", mirror), ("world_2_cam",))
    away = lambda t: t | {made.SERIAL: (np.diag([1.0, -1, -1, 1]) @ t[made.SERIAL]).tolist()}  # noqa: E731
    yield _row("world_2_cam: looking away", calibrate("world_2_cam", away), ())
    small = lambda t: t | {made.SERIAL: (np.array(t[made.SERIAL]) / 100).tolist()}  # noqa: E731
    yield _row("intrinsics: in image sides", calibrate("intrinsics", small), ("intrinsics",))
    for kind in ("images", "alpha_maps"):
        names = ("none of the layouts|no sequence has images|does not exist",) if kind == "images" else None
        yield from broken.files(f"{place}/{kind}/{video}", f"{kind}/{video}", missing=names)
        yield _row(
            f"{kind}: a frame less",
            lambda f, kind=kind: made.save_video(
                f / place / kind / video, [np.full((*made.SIZE, 3), 200, np.uint8)] * (made.STEPS - 1)
            ),
            (f"{kind}/{video} has 2 frames", "expected as many"),
        )
    yield from broken.files(f"{place}/{made.TRACKING}", missing=("no sequence has a tracking",))
    yield from broken.files("calibration/camera_params.json", missing=("camera_params.json",))


def _row(name, apply, names):
    return broken.Broken(name, apply, None if name in _TOLERATED or not names else names)


@pytest.mark.parametrize("row", broken.params(_rows(), default=12))
def test_broken_folders_are_refused_by_name(row, written, head, tmp_path):
    broken.check(row, written, tmp_path, lambda folder: opened(folder, head).validate())
