"""A capture in use: which frames an index names, pickles, and backgrounds."""

import copy
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from headfields.data import Capture, CaptureError, load_capture
from headfields.data.formats.insta_writer import write_insta
from tests.data.tiny import blob, tiny_frames
from tests.tables import table


@pytest.fixture(scope="module")
def capture(written: Path) -> Capture:
    return load_capture(written)


MASK = torch.tensor([False, True, False, False, True, False])


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (3, [3]),
        (np.int64(3), [3]),
        (torch.tensor(3), [3]),
        (np.array(3, np.uint8), [3]),
        ([2, 0, 2], [2, 0, 2]),
        ((1,), [1]),
        (range(1, 4), [1, 2, 3]),
        (torch.tensor([4, 1], dtype=torch.int32), [4, 1]),
        (np.array([4, 1]), [4, 1]),
        ([torch.tensor(5), np.int32(1)], [5, 1]),
        (slice(1, None, 2), [1, 3, 5]),
        (slice(-2, None), [4, 5]),
        (MASK, [1, 4]),
        (MASK.numpy(), [1, 4]),
        ([], []),
        (torch.tensor([]), []),
        ({2: "two"}.keys(), [2]),
    ],
)
def test_an_index_names_frames(capture: Capture, frames: object, expected: list[int], unchecked: None) -> None:
    assert capture.frame_indices(frames) == expected
    state = capture.state(frames)
    assert state.frame_id is not None and state.frame_id.tolist() == expected
    assert (
        len(capture.camera(frames)) == len(capture.tracked(frames)) == len(capture.head_pose(frames)) == len(expected)
    )
    batch, drawn = capture.sample_pixels(frames, min(5, 5 * len(expected)), torch.Generator().manual_seed(0))
    assert drawn.tolist() == expected and len(batch) == min(5, 5 * len(expected))


@table(
    ("frames", "error", "message"),
    [
        ([3.5], TypeError, "frame 3.5 is a float; pass integers"),
        (3.0, TypeError, "frame 3.0 is a float; pass integers"),
        (torch.tensor([3.5]), TypeError, "frames has dtype float32; pass integers"),
        (torch.tensor(3.0), TypeError, "frames has dtype float32; pass integers"),
        (np.array([1.0, 2.0]), TypeError, "frames has dtype float64"),
        ([torch.tensor(2.7)], TypeError, r"frame tensor\(2.7000\) is a Tensor; pass integers"),
        ([np.float32(2.0)], TypeError, ".* is a float32; pass integers"),
        ([True, False], TypeError, "frame True is a bool; pass integers"),
        (True, TypeError, "frame True is a bool"),
        ("3", TypeError, "frame '3' is a str"),
        (["00003"], TypeError, "frame '00003' is a str"),
        (None, TypeError, "frame None is a NoneType"),
        (torch.tensor([[1, 2]]), TypeError, r"frames has shape \(1, 2\); pass one axis"),
        ([[1]], TypeError, r"frame \[1\] is a list"),
        (6, IndexError, "frame 6 is out of range; it has frames 0 to 5"),
        ([0, -1], IndexError, "frame -1 is out of range"),
        (MASK[:5], IndexError, r"frames is a mask of shape \(5,\); expected \(6,\)"),
    ],
)
def test_what_names_no_frame_is_refused(
    capture: Capture, frames: object, error: type[Exception], message: str, unchecked: None
) -> None:
    for method in (capture.state, capture.camera, capture.tracked, capture.head_pose):
        with pytest.raises(error, match=f"Capture 'tiny': {message}"):
            method(frames)


@pytest.mark.parametrize("method", ["image", "label", "depth", "landmarks", "pixels"])
def test_methods_of_one_frame_take_one_index(capture: Capture, method: str, unchecked: None) -> None:
    call = getattr(capture, method)
    for frame in (1, np.int64(1), torch.tensor(1)):
        assert call(frame) is not None
    for frame, error in ((1.5, TypeError), ([1], TypeError), (torch.tensor([1]), TypeError), (True, TypeError),
                         (-1, IndexError), (6, IndexError)):  # fmt: skip
        with pytest.raises(error, match="Capture 'tiny': frame"):
            call(frame)


@pytest.mark.parametrize("background", [255, -0.1, torch.nan, 1.01])
def test_a_background_is_in_0_to_1(capture: Capture, background: float, unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"Capture.pixels: background is .*; expected sRGB in \[0, 1\]"):
        capture.pixels(0, background)


def test_a_capture_in_millimeters_is_refused(tmp_path: Path) -> None:
    """Meshes and cameras agree with each other, so nothing else would notice."""
    frames = []
    for frame in tiny_frames(2):
        pose = frame.camera.world_to_camera.clone()
        pose[:3, 3] *= 1000
        camera = frame.camera.replace(world_to_camera=pose)
        frames.append(type(frame)(frame.image, frame.vertices * 1000, camera))
    vertices, faces = blob()
    write_insta(tmp_path / "tiny", frames, vertices * 1000, faces)
    with pytest.raises(CaptureError, match=r"canonical.* extends over 2\d\d m; it looks like millimeters.* by 0.001"):
        load_capture(tmp_path / "tiny")


def used(folder: Path) -> Capture:
    """A capture whose caches, template and fitted joints have been used."""
    capture = load_capture(folder, skinning=torch.rand(len(blob()[0]), 2))
    capture.state([0, 1])
    capture.image(0)
    assert len(capture.template.faces)
    return capture


def test_a_pickled_capture_gives_the_same_and_keeps_no_frames(written: Path) -> None:
    capture = used(written)
    dump = pickle.dumps(capture)
    pixels = len(capture) * capture.size[0] * capture.size[1]
    assert len(dump) < 40 * pixels, "the cache of decoded frames stays behind"
    for again in (pickle.loads(dump), copy.deepcopy(capture)):
        for one, other in ((capture.state([2, 1]), again.state([2, 1])), (capture.camera([3]), again.camera([3]))):
            for name, value in vars(one).items():
                assert not isinstance(value, torch.Tensor) or torch.equal(value, getattr(other, name))
        assert torch.equal(capture.image(4), again.image(4)) and torch.equal(capture.depth(4), again.depth(4))
        assert capture.report == again.report and again.splits["test"].equal(capture.splits["test"])
        batches = [each.sample_pixels([1, 2], 50, torch.Generator().manual_seed(3))[0] for each in (capture, again)]
        assert torch.equal(batches[0].rgb, batches[1].rgb)


def test_a_capture_is_pickled_while_another_thread_decodes(written: Path) -> None:
    capture = load_capture(written)
    lock = capture._images._lock
    with lock:
        thread = threading.Thread(target=pickle.dumps, args=(capture,))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()


def test_a_capture_whose_head_moves_keeps_its_poses_in_a_pickle(written: Path) -> None:
    capture = load_capture(written, head_frame="normalize")
    again = pickle.loads(pickle.dumps(capture))
    assert torch.equal(capture.camera([0, 5]).world_to_camera, again.camera([0, 5]).world_to_camera)
    assert torch.equal(capture.state([0, 5]).vertices, again.state([0, 5]).vertices)


def test_region_masks_are_boolean(written: Path, unchecked: None) -> None:
    mask = torch.rand(len(blob()[1]))
    with pytest.raises(CaptureError, match=r"regions\['mouth'\] has dtype torch.float32; expected a mask, mask > 0"):
        _ = load_capture(written, regions={"mouth": mask}).template
    assert load_capture(written, regions={"mouth": mask > 0.5}).template.regions["mouth"].dtype == torch.bool
