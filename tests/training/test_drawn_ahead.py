"""Batches drawn in a thread are those of the plain loop, and the run's generator is where that would have it."""

import threading
import time

import pytest
import torch

from headfields.training.drawn_ahead import DrawnAhead, decoding_ahead


def draw(rays: int, generator: torch.Generator) -> tuple[int, torch.Tensor]:
    return threading.get_ident(), torch.rand(rays, generator=generator)


def test_same_batches_and_states_as_without_a_thread():
    plain, run = (torch.Generator().manual_seed(3) for _ in range(2))
    source, own, threads = [object()], threading.get_ident(), []
    with DrawnAhead(draw, lambda: tuple(source)) as ahead:
        for step in range(12):
            rays = 5 if step < 6 else 7  # another number than the one that was begun
            if step == 4:
                source[0] = object()  # other frames
            if step == 9:
                torch.rand(1, generator=run), torch.rand(1, generator=plain)  # somebody else draws
            thread, values = ahead.take(rays, run)
            threads.append(thread)
            assert values.equal(draw(rays, plain)[1])
            ahead.start(rays, run)
            time.sleep(0.01)
            assert run.get_state().equal(plain.get_state()), "a checkpoint between two steps"
    assert [step for step, thread in enumerate(threads) if thread == own] == [0, 4, 6, 9]


def test_an_error_comes_with_the_step_that_would_raise_it():
    def fails(rays: int, generator: torch.Generator) -> None:
        raise OSError("gone")

    generator = torch.Generator()
    with DrawnAhead(fails) as ahead:
        ahead.start(3, generator)
        time.sleep(0.01)
        with pytest.raises(OSError, match="gone"):
            ahead.take(3, generator)
        ahead.start(3, generator)  # which nobody takes


def test_decoding_fills_the_room_that_there_is(capture):
    """Frames come into memory beside whoever uses them, as far as the budget goes, and stop with the block."""
    images = capture._images
    frames = capture.splits["train"].tolist()
    images._slot.clear()
    capture.recording.in_videos = True
    capture.decode_ahead(lambda: False)
    assert not images._slot, "a video starts again where frames are read in between"
    capture.recording.in_videos = False
    with decoding_ahead(capture):
        for _ in range(500):
            if len(images._slot) == min(len(frames), images.slots):
                break
            time.sleep(0.01)
    assert set(images._slot) == set(frames[: images.slots])
    images.load_ahead(frames, lambda: True)
    with decoding_ahead(object()):  # a capture of one's own
        pass
