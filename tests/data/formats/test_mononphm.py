"""The input folder of MonoNPHM's tracker; landmarks projected from known points are the oracle of cameras and crops."""

import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import headfields.data.formats.mononphm as layout
from headfields.apps.tracking import PriorTracker
from headfields.apps.tracking.frame_source import FrameSource
from headfields.apps.tracking.prior.observation import FACER_LABELS, LabelClasses
from headfields.cli import open_run
from headfields.data import CaptureError, load_capture, load_mononphm
from headfields.data.formats.mononphm import WFLW_OF_IBUG, MonoNPHMSequence
from tests.apps.tracking.prior.ball import BallRecording, ball_prior, tiny_options
from tests.data.formats.mononphm_folder import SIZE, write_folder

IBUG_OF_WFLW = {
    0: 0, 32: 16, 16: 8, 33: 17, 37: 21, 42: 22, 46: 26, 51: 27, 54: 30, 55: 31, 59: 35, 60: 36, 64: 39, 68: 42, 72: 45,
    63: 38, 69: 43, 67: 41, 73: 46, 76: 48, 82: 54, 79: 51, 85: 57, 88: 60, 92: 64, 90: 62, 94: 66,
}  # fmt: skip
"""Places that both sets have, by name: ends of the contour and chin, ends of the brows, bridge, tip and wings of the
nose, corners of the eyes, four of the lids, corners and middles of the outer and of the inner lips."""


@pytest.fixture
def made(tmp_path):
    return write_folder(tmp_path / "510_seq_4")


def test_the_68_are_the_same_places_of_wflw():
    assert len(WFLW_OF_IBUG) == len(set(WFLW_OF_IBUG)) == 68
    assert max(WFLW_OF_IBUG) == 95  # 96 and 97 are pupils, which iBUG lacks
    assert {WFLW_OF_IBUG[ibug]: ibug for ibug in IBUG_OF_WFLW.values()} == IBUG_OF_WFLW


@pytest.mark.parametrize("text", [False, True])
def test_cameras_project_points_onto_the_landmarks(tmp_path, monkeypatch, text):
    monkeypatch.setattr(layout, "CROP", 40)
    made = write_folder(tmp_path / "someone", text=text)
    sequence = load_mononphm(made.folder)
    assert isinstance(sequence, FrameSource) and sequence.size == ((40, 40) if text else SIZE)
    points = torch.from_numpy(made.points).float()[list(WFLW_OF_IBUG)]
    camera = sequence.camera([0, 1, 2])
    assert torch.equal(camera.world_to_camera[0], camera.world_to_camera[1])  # of file max(t - 1, 0)
    assert not torch.equal(camera.world_to_camera[1], camera.world_to_camera[2])
    for frame in range(3):
        pixels, depth = sequence.camera([frame]).project(points[None])
        assert (depth > 0).all()
        torch.testing.assert_close(pixels.reshape(68, 2), sequence.landmarks(frame), atol=2e-3, rtol=0)
    sequence.validate()


def test_crops_show_the_same_pixels_as_landmarks_and_camera(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "CROP", 40)
    made = write_folder(tmp_path / "someone", text=True)
    sequence = load_mononphm(made.folder)
    for frame in range(3):
        corner = torch.from_numpy(made.pixels(frame)[list(WFLW_OF_IBUG)]) - sequence.landmarks(frame)
        color = (sequence.image(frame)[..., :3] * 255).round()
        assert color.shape == (40, 40, 3) and (color[..., 2] == frame).all()
        torch.testing.assert_close(color[0, 0, :2], corner[0].round().float())
        assert sequence.label(frame).shape == (40, 40)
    center = made.pixels(2).mean(axis=0)
    assert np.abs(corner[0].numpy() + 20 - center).max() < 1 or (corner[0].round() == 0).any()


def test_a_face_at_the_border_keeps_a_whole_crop(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "CROP", 40)
    folder = write_folder(tmp_path / "someone", text=True).folder
    np.save(folder / "pipnet" / "test.npy", np.random.default_rng(0).uniform(0.9, 1.1, (3, 98, 2)))
    sequence = load_mononphm(folder)
    assert sequence.image(0).shape == (40, 40, 4)
    assert (sequence.image(0)[-1, -1, :2] * 255).round().tolist() == [SIZE[1] - 1, SIZE[0] - 1]


def test_the_matte_is_empty_where_labels_are_background(made):
    sequence = load_mononphm(made.folder)
    alpha, label = sequence.image(1)[..., 3], sequence.label(1)
    assert label.dtype == torch.uint8 and set(label.unique().tolist()) == {0, 2, 3, 20}
    torch.testing.assert_close(alpha, torch.where((label == 0) | (label == 20), 0.0, 0.8))


def test_a_frame_without_a_face_has_no_landmarks(made):
    path = made.folder / "pipnet" / "test.npy"
    landmarks = np.load(path)
    landmarks[1] = [-1 / SIZE[1], -1 / SIZE[0]]  # as the release writes it
    landmarks[2, 0] = np.nan
    np.save(path, landmarks)
    sequence = load_mononphm(made.folder)
    assert sequence.landmarks(1) is None
    assert sequence.landmarks(2)[0].isnan().all() and sequence.landmarks(2)[1:].isfinite().all()


def test_the_contour_is_that_of_kpt_unless_intrinsics_are_known(tmp_path):
    made = write_folder(tmp_path / "someone", kpt=True)
    np.save(made.folder / "kpt" / "00002.npy", np.zeros((68, 2)))  # as written where no face was found
    sequence = load_mononphm(made.folder)
    own = torch.from_numpy(made.pixels(0)).float()
    torch.testing.assert_close(sequence.landmarks(0)[:17], own[:17] + 1)
    torch.testing.assert_close(sequence.landmarks(0)[17:], own[list(WFLW_OF_IBUG)][17:])
    assert sequence.landmarks(2).abs().min() > 0
    made = write_folder(tmp_path / "other", kpt=True, text=True)
    own = torch.from_numpy(made.pixels(0)).float()[list(WFLW_OF_IBUG)]
    shift = (load_mononphm(made.folder).landmarks(0) - own).round()
    torch.testing.assert_close(load_mononphm(made.folder).landmarks(0), own + shift[17], atol=1e-3, rtol=0)


def test_a_renamed_folder_finds_its_cameras_and_copies_read_on(made):
    folder = made.folder.rename(made.folder.parent / "renamed")
    sequence = pickle.loads(pickle.dumps(load_mononphm(folder)))
    assert sequence.name == "renamed" and len(sequence.camera([0, 2]).world_to_camera) == 2
    assert sequence.image(2).shape == (*SIZE, 4)
    with pytest.raises(IndexError, match="3"):
        sequence.image(3)


def remove(name):
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def array(name, change):
    def mutate(folder):
        np.save(folder / name, change(np.load(folder / name)))

    return mutate


def camera(**changes):
    def mutate(folder):
        path = folder / "metrical_tracker" / folder.name / "checkpoint" / "00001_cam_params_opencv.npz"
        content = dict(np.load(path))
        for name, change in changes.items():
            content[name] = change(content[name])
        np.savez(path, **content)

    return mutate


def without(entry):
    def mutate(folder):
        path = folder / "metrical_tracker" / folder.name / "checkpoint" / "00001_cam_params_opencv.npz"
        content = dict(np.load(path))
        del content[entry]
        np.savez(path, **content)

    return mutate


def image(name, mode="L", size=(SIZE[1], SIZE[0])):
    return lambda folder: Image.new(mode, size).save(folder / name)


def intrinsics(text):
    return lambda folder: (folder / "camera_intrinsics.txt").write_text(text)


CAMERA = "00001_cam_params_opencv.npz"
MUTATIONS = {
    "no source": (remove("source"), "source"), "a gap": (remove("source/00001.png"), "source.*00001.png"),
    "no first": (remove("source/00000.png"), "00000.png"), "no matte": (remove("matting/00002.png"), "matting.*00002"),
    "no mattes": (remove("matting"), "matting.*00000"), "no labels": (remove("seg/2.png"), "seg.*2.png"),
    "no landmarks": (remove("pipnet/test.npy"), "pipnet.*test.npy"),
    "no cameras": (remove("metrical_tracker"), "metrical_tracker.*checkpoint"),
    "rows": (array("pipnet/test.npy", lambda a: a[:2]), r"test.npy has shape \(2, 98, 2\)"),
    "68": (array("pipnet/test.npy", lambda a: a[:, :68]), r"test.npy has shape \(3, 68, 2\)"),
    "in pixels": (array("pipnet/test.npy", lambda a: a * 500), "test.npy holds.*fractions"),
    "infinite": (array("pipnet/test.npy", lambda a: a / 0), "test.npy holds"),
    "whole": (array("pipnet/test.npy", lambda a: a.astype(int)), "test.npy.*dtype int64"),
    "no K": (without("K"), f"{CAMERA} lacks K"), "no R": (without("R"), f"{CAMERA} lacks R"),
    "two frames": (camera(R=lambda a: np.concatenate([a, a])), f"{CAMERA}: R has shape"),
    "NaN": (camera(t=lambda a: a * np.nan), f"{CAMERA}: t at"),
    "scaled": (camera(R=lambda a: 4 * a), f"{CAMERA}: R is no rotation"),
    "mirrored": (camera(R=lambda a: -a), f"{CAMERA}: R is no rotation"),
    "millimeters": (camera(t=lambda a: 1000 * a), f"{CAMERA}: t is.*meters"),
    "K of another size": (camera(K=lambda a: np.diag([0.2, 0.2, 1]) @ a), "principal point.*camera_intrinsics.txt"),
    "transposed": (camera(K=lambda a: a.swapaxes(1, 2)), f"{CAMERA}: K is.*focal"),
    "a word": (intrinsics("540 547 nine 914"), "camera_intrinsics.txt.*nine"),
    "three numbers": (intrinsics("40 30 90"), "camera_intrinsics.txt has 3 numbers"),
    "another order": (intrinsics("90 95 40 30"), "camera_intrinsics.txt has its principal point"),
    "a smaller matte": (image("matting/00001.png", size=(40, 30)), "matting.*00001.png is 40x30"),
    "smaller labels": (image("seg/0.png", size=(40, 30)), "seg.*0.png is 40x30"),
    "a smaller frame": (image("source/00002.png", "RGB", (40, 30)), "source.*00002.png is 40x30"),
    "16 bits": (image("seg/1.png", "I;16"), "seg.*1.png has mode"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("name", MUTATIONS)
def test_errors_name_the_file(made, name):
    mutate, message = MUTATIONS[name]
    mutate(made.folder)
    with pytest.raises((CaptureError, FileNotFoundError), match=message):
        load_mononphm(made.folder).validate()


def test_other_folders_are_refused(tmp_path, made):
    with pytest.raises(CaptureError, match="is not a folder"):
        load_mononphm(tmp_path / "none")
    with pytest.raises(CaptureError, match=r"input of MonoNPHM's tracker.*load_mononphm"):
        load_capture(made.folder)
    assert isinstance(open_run.open_frames(made.folder, 100), MonoNPHMSequence)


@pytest.mark.slow
def test_is_tracked(tmp_path):
    """A ball, written into the layout, is tracked with facer's labels; a frame without matte is named and left out."""
    recording = BallRecording(3)
    folder = write_folder(tmp_path / "ball", size=recording.size).folder
    height, width = recording.size
    checkpoints = folder / "metrical_tracker" / "ball" / "checkpoint"
    camera = recording.camera([0])
    for path in checkpoints.iterdir():
        np.savez(path, R=camera.world_to_camera[:, :3, :3], t=camera.world_to_camera[:, :3, 3], K=camera.intrinsics)
    landmarks = np.zeros((3, 98, 2))
    for frame in range(3):
        rgba = recording.image(frame)
        rgb, alpha = (value.mul(255).round().byte().numpy() for value in (rgba[..., :3], rgba[..., 3]))
        Image.fromarray(rgb).save(folder / "source" / f"{frame:05d}.png")
        Image.fromarray(alpha).save(folder / "matting" / f"{frame:05d}.png")
        Image.fromarray(np.where(alpha > 127, 2, 0).astype(np.uint8)).save(folder / "seg" / f"{frame}.png")
        landmarks[frame, list(WFLW_OF_IBUG)] = recording.landmarks(frame) / torch.tensor([width, height])
    np.save(folder / "pipnet" / "test.npy", landmarks)
    (folder / "matting" / "00001.png").unlink()
    options = tiny_options(stage2=None, mesh_resolution=0)
    options = replace(options, stage1=replace(options.stage1, steps=40))
    tracker = PriorTracker(ball_prior(), load_mononphm(folder), tmp_path / "run", options, bar=False)
    assert tracker.classes == FACER_LABELS
    assert PriorTracker(ball_prior(), recording, tmp_path / "other", options).classes == LabelClasses()
    result = tracker.run()
    assert result.failed[1].reason == "unreadable" and "00001.png" in str(result.failed[1])
    for frame in (0, 2):
        assert result.fits[frame].errors["landmarks_px"] < 1
        assert result.fits[frame].errors["iou"] > 0.9
