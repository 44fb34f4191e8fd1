"""A capture that is still being written: frames join when they are whole, and memory stays within its budget."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from headfields.data.errors import CaptureError
from headfields.data.formats.insta_writer import write_insta
from headfields.data.live import LiveCapture, wait_for_frames
from headfields.data.load import load_capture
from tests.data.tiny import blob, tiny_frames


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("live") / "whole"
    write_insta(folder, tiny_frames(6), *blob(), test_frames=0)
    return folder


class Writer:
    """Copies a capture frame by frame, as a tracker would write it."""

    def __init__(self, whole: Path, folder: Path, splits: bool = True) -> None:
        self.whole, self.folder = whole, folder
        self.name = "transforms_train.json" if splits else "transforms.json"
        self.content = json.loads((whole / "transforms.json").read_text())
        self.frames = self.content["frames"]
        folder.mkdir()
        shutil.copy(whole / "canonical.obj", folder)

    def files(self, frame: int) -> list[str]:
        return [value for key, value in self.frames[frame].items() if key.endswith("_path")]

    def write(self, count: int, listed: int | None = None) -> None:
        for frame in range(count):
            for file in self.files(frame):
                (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
                if not (self.folder / file).exists():
                    shutil.copy(self.whole / file, self.folder / file)
        self.list(count if listed is None else listed)

    def list(self, count: int) -> None:
        text = json.dumps({**self.content, "frames": self.frames[:count]})
        (self.folder / self.name).write_text(text)


@pytest.mark.parametrize("splits", [True, False])
def test_frames_join_as_they_come_and_are_those_of_the_whole_capture(whole: Path, tmp_path: Path, splits: bool) -> None:
    writer = Writer(whole, tmp_path / "live", splits)
    writer.write(3)
    live = LiveCapture(writer.folder)
    assert len(live) == 3 and live.splits["train"].tolist() == [0, 1, 2] and live.refresh() == []
    before = live.state([0, 2]).vertices
    writer.write(6)
    assert live.refresh() == [3, 4, 5] and len(live) == 6 and live.splits["train"].tolist() == list(range(6))
    assert live.splits["all"].tolist() == list(range(6)) and live.refresh() == []
    offline = load_capture(whole)
    assert live.frame_names == offline.frame_names
    for frame in range(6):
        assert torch.equal(live.image(frame), offline.image(frame))
        assert torch.equal(live.depth(frame), offline.depth(frame))
    everything = slice(None)
    assert torch.equal(live.state(everything).vertices, offline.state(everything).vertices)
    assert torch.equal(live.state(everything).expression, offline.state(everything).expression)
    mine, other = live.camera(everything), offline.camera(everything)
    assert torch.equal(mine.world_to_camera, other.world_to_camera) and torch.equal(mine.intrinsics, other.intrinsics)
    assert torch.equal(live.state([0, 2]).vertices, before)
    batch, frames = live.sample_pixels([4, 5], 20, torch.Generator().manual_seed(0))
    assert len(batch) == 20 and frames.tolist() == [4, 5]


def test_a_frame_that_is_not_whole_joins_later_and_keeps_the_order(whole: Path, tmp_path: Path) -> None:
    writer = Writer(whole, tmp_path / "live")
    writer.write(3)
    live = LiveCapture(writer.folder)
    writer.write(5)
    image = writer.folder / writer.frames[3]["file_path"]
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    assert live.refresh() == [] and len(live) == 3 and writer.frames[3]["file_path"] in live.refused
    image.write_bytes(content)
    assert live.refresh() == [3, 4] and live.refused == ""
    writer.list(6)  # named before its files are there
    assert live.refresh() == [] and "does not exist" in live.refused
    (writer.folder / writer.name).write_text('{"frames": [')  # half a list
    assert live.refresh() == [] and live.refused and len(live) == 5
    writer.write(6)
    assert live.refresh() == [5]


def test_a_frame_of_another_size_or_without_its_files_is_refused(whole: Path, tmp_path: Path) -> None:
    writer = Writer(whole, tmp_path / "live")
    writer.write(3)
    live = LiveCapture(writer.folder)
    writer.write(4, listed=3)
    expression = writer.frames[3].pop("exp_path")
    writer.list(4)
    assert live.refresh() == [] and "exp" in live.refused
    writer.frames[3]["exp_path"] = expression
    writer.list(4)
    assert live.refresh() == [3]


def test_memory_is_that_of_the_budget(whole: Path, tmp_path: Path) -> None:
    writer = Writer(whole, tmp_path / "live")
    writer.write(2)
    live = LiveCapture(writer.folder, memory_budget_mb=0.06)
    slots = live._images.slots
    assert 1 <= slots < 6
    writer.write(6)
    assert live.refresh() == [2, 3, 4, 5]
    offline = load_capture(whole)
    for frame in (0, 5, 1, 4, 2, 3):
        assert torch.equal(live.image(frame), offline.image(frame))
    assert live._images.slots == slots and len(live._images._slot) <= slots


def test_waiting(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "live"
    with pytest.raises(CaptureError, match=r"0 frames, and 8 are needed to begin. canonical.obj is missing"):
        wait_for_frames(folder, timeout=0)
    writer = Writer(whole, folder)
    with pytest.raises(CaptureError, match=r"no transforms\.json"):
        wait_for_frames(folder, timeout=0)
    writer.write(2)
    with pytest.raises(CaptureError, match="has 2 frames, and 3 are needed"):
        wait_for_frames(folder, least=3, timeout=0)
    assert wait_for_frames(folder, least=2) == 2
    with pytest.raises(CaptureError, match="is not a folder in INSTA's layout"):
        LiveCapture(tmp_path / "nowhere")
