"""The launches of a training step captured once as a CUDA graph, and replayed.

A graph repeats the same kernels on the same memory. So the batch is copied into tensors that stay, and whatever the
host decides in a step (sizes of buffers, a schedule, the first step of a loss) is noted when the step is captured;
where the host would decide otherwise, the step is captured again.
"""

import operator
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from headfields.records.base import Record

MOST_CAPTURES = 40
"""A run that captures its step more often than this in `WINDOW` steps does so no longer. Own choice."""
WINDOW = 1000

WARM = 2
"""Steps without a graph before the step is captured, and after each change."""


class ReadStepError(RuntimeError):
    """The number of the step enters a value, which is another in each step."""


class StepProbe:
    """The number of a step, as losses see it in a captured step: comparisons with it are noted, to be asked again.

    Any other use raises `ReadStepError`: a value that follows the step cannot be captured.
    """

    def __init__(self, step: int) -> None:
        self._step, self._answers = step, []  # type: ignore[var-annotated]

    @property
    def __class__(self) -> type:
        return int  # for what looks at annotations; a subclass of int would miss `2.5 < step`

    def agrees(self, step: int) -> bool:
        """Whether all comparisons come out as they did, at another step."""
        return all(compare(step, other) == answer for compare, other, answer in self._answers)

    def _note(self, compare: Callable[[Any, Any], bool], other: Any) -> bool:
        answer = compare(self._step, other)
        self._answers.append((compare, other, answer))
        return answer

    def __lt__(self, other: Any) -> bool:
        return self._note(operator.lt, other)

    def __le__(self, other: Any) -> bool:
        return self._note(operator.le, other)

    def __gt__(self, other: Any) -> bool:
        return self._note(operator.gt, other)

    def __ge__(self, other: Any) -> bool:
        return self._note(operator.ge, other)

    def __eq__(self, other: object) -> bool:
        return self._note(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._note(operator.ne, other)

    def _refuse(self, *_: Any) -> Any:
        raise ReadStepError("a loss computes with the number of the step")

    __hash__ = __bool__ = __int__ = __float__ = __index__ = __neg__ = __abs__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = _refuse


class HostState:
    """What the host decides with in a step: plain attributes of modules and losses, and which tensors they hold.

    Args:
        modules: modules whose parts' attributes count.
        others: further objects.
    """

    def __init__(self, modules: Iterable[nn.Module], others: Iterable[Any]) -> None:
        self._holders: list[Any] = [part for module in modules for part in module.modules()] + list(others)

    def now(self) -> dict[tuple[int, str], Any]:
        """The attributes by holder and name."""
        state: dict[tuple[int, str], Any] = {}
        for number, holder in enumerate(self._holders):
            for name, value in getattr(holder, "__dict__", {}).items():
                if type(value) in _PLAIN:
                    state[number, name] = value
                elif isinstance(value, Tensor):
                    state[number, name] = _Same(value)
                elif name in ("_buffers", "_parameters"):
                    for own, tensor in value.items():
                        state[number, own] = _Same(tensor)
        return state

    def difference(self, before: dict[tuple[int, str], Any], now: dict[tuple[int, str], Any]) -> str:
        """The first attribute that differs, for a message; empty if none does."""
        for key in (*now, *before):
            if key not in before or key not in now or before[key] != now[key]:
                return f"{type(self._holders[key[0]]).__name__}.{key[1]}"
        return ""


_PLAIN = (int, float, bool, str, type(None))


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


def capture(body: Callable[[], None], stream: Any) -> Callable[[], None]:
    """Captures what `body` launches, without running it; what repeats it."""
    graph = torch.cuda.CUDAGraph()
    # Another thread (a viewer's, say) may allocate meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        body()
    return graph.replay


class StepGraph:
    """The body of a training step, run from a graph where it can be.

    Args:
        body: the step, of a batch, a state and the number of the step; it leaves its results in tensors that stay.
        host: what the host decides with.
        sizes: the sizes of buffers now.
        stream: the CUDA stream on which all steps run.

    Attributes:
        reason: why steps are not replayed any more; empty while they are.
        captures: how often the step has been captured.
    """

    def __init__(
        self, body: Callable[[Any, Any, Any], None], host: HostState, sizes: Callable[[], dict[str, int]], stream: Any
    ) -> None:
        self._body, self._host, self._sizes, self._stream = body, host, sizes, stream
        self._replay: Callable[[], None] | None = None
        self._captured_at: list[int] = []
        self._known: Any = None
        self._before: dict[tuple[int, str], Any] = {}
        self._change, self._quiet = "", 0
        self.reason, self.captures = "", 0

    def run(self, batch: Any, state: Any, step: int) -> None:
        """A step, which is captured before where that is due."""
        if self.reason:
            return self._body(batch, state, step)
        structure, host, sizes = (structure_of(batch), structure_of(state)), self._host.now(), dict(self._sizes())
        if self._replay is not None and not self._probe.agrees(step):
            self._change, self._quiet, self._replay = "a comparison with the number of the step", 0, None
        if (structure, sizes) != self._known or host != self._before:
            what = self._host.difference(self._before, host) or "the batch, or the number of samples,"
            self._change, self._quiet, self._replay = what, 0, None
            self._known, self._before = (structure, sizes), host
        if self._quiet < WARM:  # what is made at first use, as an optimizer's moments, is made outside of the graph
            self._quiet += 1
            return self._body(batch, state, step)
        if self._replay is None:
            self._capture(batch, state, step)
        if self._replay is None:
            return self._body(batch, state, step)
        torch._foreach_copy_(self._inputs, tensors_of(batch) + tensors_of(state))
        self._replay()
        return None

    def forget(self) -> None:
        """Has the step captured anew: what it holds is of other sizes."""
        self._change, self._quiet, self._replay = "the number of Gaussians", 0, None

    def _capture(self, batch: Any, state: Any, step: int) -> None:
        """Captures the step, or says why not."""
        self._captured_at = [each for each in self._captured_at if each > step - WINDOW] + [step]
        if len(self._captured_at) > MOST_CAPTURES:
            self.reason = f"{self._change} changes too often"
            return
        batch, state = batch.map(torch.clone), state.map(torch.clone)
        self._inputs = tensors_of(batch) + tensors_of(state)
        self._probe = StepProbe(step)
        try:
            self._replay = capture(lambda: self._body(batch, state, self._probe), self._stream)
        except Exception as error:  # of a part that reads the device, say; without a graph it may
            self.reason = f"{type(error).__name__}: {error}".split("\n")[0]
            return
        self.captures += 1
