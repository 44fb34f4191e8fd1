"""Steps as CUDA graphs, and what happens where that fails; on a machine without a GPU, with a stand-in for it."""

import contextlib
import warnings

import pytest
import torch

from headfields.records import Rays
from headfields.runs import step_graph
from headfields.runs.step_graph import WAITING, WARM, StepGraph


class Generator:
    """PyTorch's generator of a GPU: a capture that fails leaves its state in that of capturing."""

    def __init__(self, state="free"):
        self.state = state

    def clone_state(self):
        assert self.state == "free"
        return Generator(self.state)

    def graphsafe_set_state(self, other):
        self.state = other.state


@pytest.fixture
def generator(monkeypatch):
    """The one of a GPU on which no capture ends."""
    own = Generator()

    @contextlib.contextmanager
    def graph(made, stream, capture_error_mode):
        own.state = "capturing"
        try:
            yield
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "default_generators", (own,))
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return own


class Stream:
    device = torch.device("cuda", 0)


def steps_of(body, count):
    graph = StepGraph(body, [], lambda step: {}, Stream())
    batch = Rays(torch.zeros(1, 3), torch.ones(1, 3), torch.zeros(1, dtype=torch.long))
    for step in range(count):
        graph.run(batch, batch, step)
    return graph


def test_a_failed_capture_leaves_random_numbers_usable_and_says_why(generator):
    """The cause is the error within the step, not that of the capture's end; the step runs all the same."""
    runs = []

    def body(batch, state, step):
        if generator.state == "capturing":
            raise ValueError("a part reads the device")
        runs.append(step)

    graph = steps_of(body, WARM + 3)
    assert generator.state == "free" and runs == list(range(WARM + 3))
    assert graph.reason == "ValueError: a part reads the device" and not graph.captures


def test_a_step_that_waits_is_not_captured(generator, monkeypatch):
    places = ["losses.py:7"]

    @contextlib.contextmanager
    def waits():
        yield places

    monkeypatch.setattr(step_graph, "waits", waits)
    graph = steps_of(lambda *_: None, WARM + WAITING)
    assert graph.reason == "a step waits for the GPU, at losses.py:7" and generator.state == "free"


def test_one_that_waits_once_is(generator, monkeypatch):
    places = [["first_use.py:3"], []]

    @contextlib.contextmanager
    def waits():
        yield places.pop(0)

    monkeypatch.setattr(step_graph, "waits", waits)
    monkeypatch.setattr(step_graph, "capture_launches", lambda body, stream: body)
    graph = steps_of(lambda *_: None, WARM + 2)
    assert not graph.reason and graph.captures == 1


def test_waits_are_pytorchs_warnings_and_others_go_on(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.warns(UserWarning, match="of another kind") as others, step_graph.waits() as found:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("of another kind", stacklevel=1)
    assert len(found) == 1 and found[0].startswith("test_step_graph.py:") and len(others) == 1
    assert modes == ["warn", 0]
