"""The launches of a training step captured once as a CUDA graph, and replayed.

A graph repeats the same kernels on the same memory. So the batch is copied into tensors that stay, and whatever the
host decides in a step (sizes of buffers, a schedule, the first step of a loss) is noted when the step is captured;
where the host would decide otherwise, the step is captured again.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headfields.records.base import Record

MOST_CAPTURES = 40
"""A run that captures its step more often than this in `WINDOW` steps does so no longer. Own choice."""
WINDOW = 1000

WARM = 2
"""Steps without a graph before the step is captured, and after each change. The last shows whether the host waits."""
WAITING = 3
"""Steps in a row that wait for the GPU after which none is captured; one may wait for what is made at first use."""


def host_state(holders: Iterable[Any]) -> dict[tuple[int, str], Any]:
    """Plain attributes of objects (parts, losses) and which tensors they hold, by the object's place and their name."""
    state: dict[tuple[int, str], Any] = {}
    for place, holder in enumerate(holders):
        for name, value in getattr(holder, "__dict__", {}).items():
            if type(value) in _PLAIN:
                state[place, name] = value
            elif isinstance(value, Tensor):
                state[place, name] = _Same(value)
            elif name in ("_buffers", "_parameters"):
                for own, tensor in value.items():
                    state[place, own] = _Same(tensor)
    return state


_PLAIN = (int, float, bool, str, type(None))
_ELSE = -1
"""The place of what belongs to no object."""


class _Same:
    """Equal where the tensor is the same object and is trained or not alike; it keeps the object alive."""

    def __init__(self, tensor: Tensor | None) -> None:
        self._tensor, self._trained = tensor, tensor is not None and tensor.requires_grad

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._tensor is other._tensor and self._trained == other._trained

    __hash__ = None  # type: ignore[assignment]


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of a record, those of nested ones and of mappings among them, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Record):
        return [tensor for each in fields(value) for tensor in tensors_of(getattr(value, each.name))]
    if isinstance(value, dict):
        return [tensor for entry in value.values() for tensor in tensors_of(entry)]
    return []


def structure_of(value: Any) -> Any:
    """What of a record has to stay for a captured step: names, shapes, dtypes, and values that are no tensors."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, Record):
        return type(value), tuple((each.name, structure_of(getattr(value, each.name))) for each in fields(value))
    if isinstance(value, dict):
        return tuple((name, structure_of(entry)) for name, entry in value.items())
    return value


def capture_launches(body: Callable[[], None], stream: Any) -> Callable[[], None]:
    """Captures what `body` launches, without running it; what repeats it.

    Where that fails, random numbers go on as if it had not been tried: PyTorch before 2.13 leaves the generator in its
    capturing state, in which the next number is an error.
    """
    graph = torch.cuda.CUDAGraph()
    generator = torch.cuda.default_generators[stream.device.index]
    before = generator.clone_state()
    try:
        # Another thread (a viewer's, say) may allocate meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            body()
    except BaseException:
        generator.graphsafe_set_state(before)
        raise
    return graph.replay


@contextlib.contextmanager
def waits() -> Iterator[list[str]]:
    """Within the block, the places in the code where the host waits for the GPU, by PyTorch's own check."""
    places: list[str] = []
    if not torch.cuda.is_available():
        yield places
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for each in caught:
        if "synchronizing CUDA operation" in str(each.message):
            places.append(f"{Path(each.filename).name}:{each.lineno}")
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def deepest_cause(error: BaseException) -> str:
    """The first line of the error that began a chain: the end of a failed capture raises another one."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return f"{type(error).__name__}: {error}".split("\n")[0]


class StepGraph:
    """The body of a training step, run from a graph where it can be.

    Args:
        body: the step, of a batch, a state and the number of the step; it leaves its results in tensors that stay.
        holders: objects whose attributes the host decides with.
        decided: what else it decides in a step of this number, by name: the sizes of buffers, the phases of losses.
        stream: the CUDA stream on which all steps run.

    Attributes:
        reason: why steps are not replayed any more; empty while they are.
        captures: how often the step has been captured.
    """

    def __init__(
        self,
        body: Callable[[Any, Any, int], None],
        holders: Iterable[Any],
        decided: Callable[[int], Mapping[str, Any]],
        stream: Any,
    ) -> None:
        self._body, self._holders, self._decided, self._stream = body, list(holders), decided, stream
        self._replay: Callable[[], None] | None = None
        self._captured_at: list[int] = []
        self._before: dict[tuple[int, str], Any] = {}
        self._change, self._quiet, self._waiting = "", 0, 0
        self.reason, self.captures = "", 0

    def run(self, batch: Any, state: Any, step: int) -> None:
        """A step, which is captured before where that is due."""
        if self.reason:
            return self._body(batch, state, step)
        now = host_state(self._holders)
        now[_ELSE, "the batch"] = structure_of(batch), structure_of(state)
        now.update({(_ELSE, name): value for name, value in self._decided(step).items()})
        if now != self._before:
            self.forget(self._difference(now))
            self._before = now
        if self._quiet < WARM:  # what is made at first use, as an optimizer's moments, is made outside of the graph
            if self._quiet < WARM - 1:
                self._quiet += 1
                return self._body(batch, state, step)
            return self._check(batch, state, step)
        if self._replay is None:
            self._capture(batch, state, step)
        if self._replay is None:
            return self._body(batch, state, step)
        torch._foreach_copy_(self._inputs, tensors_of(batch) + tensors_of(state))
        self._replay()
        return None

    def _check(self, batch: Any, state: Any, step: int) -> None:
        """A step that is not captured unless it waits for nothing: a capture that fails would spoil the stream."""
        with waits() as places:
            self._body(batch, state, step)
        if not places:
            self._quiet, self._waiting = WARM, 0
            return
        self._waiting += 1
        if self._waiting == WAITING:
            self.reason = f"a step waits for the GPU, at {places[0]}"

    def forget(self, change: str) -> None:
        """Has the step captured anew, after this change."""
        self._change, self._quiet, self._replay = change, 0, None

    def _difference(self, now: dict[tuple[int, str], Any]) -> str:
        """The name of the first entry that differs from those of the step before."""
        before = self._before
        keys = (key for key in (*now, *before) if key not in before or key not in now or before[key] != now[key])
        place, name = next(keys)
        return name if place == _ELSE else f"{type(self._holders[place]).__name__}.{name}"

    def _capture(self, batch: Any, state: Any, step: int) -> None:
        """Captures the step, or says why not."""
        self._captured_at = [each for each in self._captured_at if each > step - WINDOW] + [step]
        if len(self._captured_at) > MOST_CAPTURES:
            self.reason = f"{self._change} changes too often"
            return
        batch, state = batch.map(torch.clone), state.map(torch.clone)
        self._inputs = tensors_of(batch) + tensors_of(state)
        try:
            self._replay = capture_launches(lambda: self._body(batch, state, step), self._stream)
        except Exception as error:  # of a part that reads the device, say; without a graph it may
            self.reason = deepest_cause(error)
            return
        self.captures += 1
