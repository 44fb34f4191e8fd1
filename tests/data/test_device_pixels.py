"""Pixels of a capture on a device: the batches that the host makes, bit for bit; and where the host makes them."""

import dataclasses
from pathlib import Path

import pytest
import torch

import headfields as hf
from headfields.data import device_pixels
from headfields.data.device_pixels import DevicePixels
from headfields.records import PixelBatch
from headfields.training.batches import BatchSource
from headfields.training.processes import Processes

CPU = torch.device("cpu")


def source(capture, rank: int = 0, count: int = 1, weights: dict | None = None) -> BatchSource:
    return BatchSource(
        capture, Processes(rank, count, CPU), torch.tensor([0, 1, 2]), None, 2, "random", weights, None, 0
    )


@pytest.mark.parametrize(("rank", "count", "weights"), [(0, 1, None), (0, 1, {"mouth": 4.0}), (1, 2, None)])
def test_batches_are_those_of_the_host(tiny_folder: Path, rank: int, count: int, weights: dict | None) -> None:
    capture = hf.data.load_capture(tiny_folder)
    pixels, draws = DevicePixels(capture, CPU), source(capture, rank, count, weights)
    generators, sent = [torch.Generator().manual_seed(7) for _ in range(2)], set[int]()
    for _ in range(4):
        want, frames, first, total = draws.draw(101, generators[0])
        drawn, own, *counts = draws.draw_indices(101, generators[1])
        assert torch.equal(own, frames) and counts == [first, total] and len(drawn) == len(want)
        assert torch.equal(*(generator.get_state() for generator in generators))
        missing = pixels.missing(own.tolist())
        assert missing is not None and not missing.keys() & sent, "frames are sent once"
        sent |= missing.keys()
        pixels.put(missing)
        have = pixels.batch(drawn)
        for each in dataclasses.fields(PixelBatch):
            one, other = getattr(have, each.name), getattr(want, each.name)
            if isinstance(one, torch.Tensor):
                assert torch.equal(one, other), each.name
            elif one is not None:
                assert all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))


def test_where_the_host_makes_the_batches(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture, cuda = hf.data.load_capture(tiny_folder), torch.device("cuda", 0)
    made: list[torch.device] = []
    monkeypatch.setattr(DevicePixels, "__init__", lambda self, capture, device: made.append(device))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    bytes_of_all = sum(
        len(capture) * array[0].numel() * array.element_size() for array in capture.stored_pixels([0]).values()
    )
    free = round(bytes_of_all / device_pixels.SHARE)
    assert DevicePixels.where_they_fit(capture, cuda) is not None and made == [cuda]
    free -= 8
    assert DevicePixels.where_they_fit(capture, cuda) is None, "too little memory"
    free = 80 << 30
    assert DevicePixels.where_they_fit(capture, CPU) is None
    assert DevicePixels.where_they_fit(hf.data.JoinedCaptures([capture]), cuda) is None
    assert DevicePixels.where_they_fit(object(), cuda) is None


def test_a_frame_without_depth_is_left_to_the_host(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = hf.data.load_capture(tiny_folder)
    stored = capture.stored_pixels
    monkeypatch.setattr(
        capture, "stored_pixels",
        lambda frames: {**stored(frames), "depth": torch.full_like(stored(frames)["depth"], -1)},
    )  # fmt: skip
    assert DevicePixels(capture, CPU).missing([0, 1]) is None
