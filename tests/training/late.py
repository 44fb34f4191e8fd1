"""Lets the CPU take steps as a GPU does; a captured step is the body again, on what it was captured with."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch

from headfields.runs import step_graph
from headfields.training import step_kinds
from headfields.training.step_phases import StepPhases


class Stream:
    """In the place of a CUDA stream."""

    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, stream: object) -> None:
        pass


@contextlib.contextmanager
def late_steps(captured: bool) -> Iterator[None]:
    """Within the block trainers on the CPU take asynchronous steps, captured or not."""

    def why_no_graph(avatar: object, losses: list, optimizer: object, callbacks: list) -> str:
        return StepPhases(losses, callbacks).reason if captured else "a test"

    with (
        mock.patch.object(step_kinds, "why_synchronous", lambda *_: ""),
        mock.patch.object(step_kinds, "why_no_graph", why_no_graph),
        mock.patch.object(step_graph, "capture_launches", lambda body, stream: body),
        mock.patch.object(torch.cuda, "Stream", Stream),
        mock.patch.object(torch.cuda, "current_stream", Stream),
        mock.patch.object(torch.cuda, "stream", lambda stream: contextlib.nullcontext()),
    ):
        yield
