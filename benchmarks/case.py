"""Cases: one task given to the library and its peers with the same input, timed, and their answers compared."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.memory import peak_growth
from benchmarks.timing import Timing, interleaved

OURS = "headfields"


@dataclass(frozen=True)
class Settings:
    """Options of a run, as an operation gets them."""

    quick: bool = False
    device: str = "cpu"
    threads: int = 2
    rounds: tuple[int, int] = (3, 21)
    seconds: float = 4.0  # time budget for the rounds of a case
    keep_going: bool = False  # a case that we fail is a row with the error, and the next is measured

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full


class PeerMissing(Exception):
    """A peer cannot take part; the table gives the message as the reason."""


@dataclass(frozen=True)
class Contestant:
    """One side of a case.

    Attributes:
        name: `OURS`, or the peer's.
        run: the timed call; it returns the answer.
        answer: converts the answer to numbers for the comparison, untimed; None for an answer that cannot be compared.
        work: units of work in one run, if not the case's (a slow peer gets the first part of the input).
        note: for the table.
        moved: bytes that one run reads and writes, for one that does nothing else.
    """

    name: str
    run: Callable[[], Any]
    answer: Callable[[Any], np.ndarray] | None = None
    work: int | None = None
    note: str = ""
    moved: int | None = None


Maker = Callable[[], Contestant]


@dataclass(frozen=True)
class Case:
    """One task.

    Attributes:
        label: of the task; cases of one label and growing size are one line of the plot.
        size: its numbers, such as `{"faces": 10000, "points": 200000}`.
        unit, work: the unit of work, and how many units a run does.
        contestants: makers by name, ours first; one that raises `PeerMissing` gives a row with the reason.
        goals: the ratio of a peer's time to ours that we aim for, by peer.
        limit: milliseconds that we aim to stay below.
        tolerance: answers farther than this from ours are counted separately, as are pairs of which only one is finite;
            infinite if all answers must agree.
        seconds: time budget for the rounds, if not the settings'.
    """

    label: str
    size: Mapping[str, int]
    unit: str
    work: int
    contestants: Mapping[str, Maker]
    goals: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None
    tolerance: float = np.inf
    seconds: float | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table: one contestant in one case. Times are medians; None where it was not measured."""

    label: str
    size: Mapping[str, int]
    contestant: str
    unit: str
    work: int
    milliseconds: float | None = None
    spread: float | None = None  # half the interquartile range over the median
    fastest: float | None = None  # milliseconds of the fastest round: on a shared machine, the least disturbed one
    rounds: int = 0
    busy: float | None = None  # cores
    memory: int | None = None  # bytes
    difference: float | None = None  # the largest, of the answers, to ours
    unmatched: int = 0  # answers beyond the case's tolerance, left out of `difference`
    ratio: float | None = None  # its time for a unit of work over ours
    goal: float | None = None  # of the ratio
    limit: float | None = None  # of the milliseconds, ours
    note: str = ""
    moved: int | None = None  # bytes, where the contestant only reads and writes memory: a floor for the others

    @property
    def rate(self) -> float | None:
        """Units of work a second."""
        return None if self.milliseconds is None else 1e3 * self.work / self.milliseconds

    @property
    def met(self) -> bool | None:
        """Whether the goal or limit holds; None without one, or without a measurement."""
        if self.goal is not None and self.ratio is not None:
            return self.ratio >= self.goal
        if self.limit is not None and self.milliseconds is not None:
            return self.milliseconds <= self.limit
        return None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rate": self.rate, "met": self.met}


def measure(case: Case, settings: Settings) -> list[Row]:
    """Runs a case: answers first, then memory, then interleaved times; one row for each contestant."""
    contestants: dict[str, Contestant] = {}
    reference: np.ndarray | None = None
    differences: dict[str, tuple[float | None, int]] = {}
    memory: dict[str, int | None] = {}
    missing: dict[str, str] = {}
    for name, maker in case.contestants.items():
        try:
            contestant = maker()
            answer = contestant.run()
            numbers = None if contestant.answer is None else np.asarray(contestant.answer(answer), np.float64)
            del answer
            if name == OURS:
                reference, differences[name] = numbers, (None, 0)
            else:
                differences[name] = _difference(reference, numbers, case.tolerance)
            del numbers
            memory[name] = peak_growth(contestant.run, settings.device)
            contestants[name] = contestant
        except PeerMissing as reason:
            missing[name] = str(reason)
        except Exception as error:
            if name == OURS:
                raise
            missing[name] = _said(error)
    times = _times(contestants, missing, settings, case.seconds)
    common = {"label": case.label, "size": dict(case.size), "unit": case.unit}
    ours = times[OURS].median / (contestants[OURS].work or case.work) if OURS in times else None
    rows = []
    for name in case.contestants:
        if name in missing:
            rows.append(Row(**common, contestant=name, work=case.work, note=missing[name]))
            continue
        contestant, timing = contestants[name], times[name]
        work = contestant.work or case.work
        own = name == OURS
        rows.append(
            Row(
                **common,
                contestant=name,
                work=work,
                milliseconds=1e3 * timing.median,
                spread=timing.spread,
                fastest=1e3 * min(timing.seconds),
                rounds=len(timing.seconds),
                busy=timing.busy,
                memory=memory[name],
                difference=differences[name][0],
                unmatched=differences[name][1],
                ratio=None if own or not ours else timing.median / work / ours,
                goal=case.goals.get(name),
                limit=case.limit if own else None,
                note=contestant.note,
                moved=contestant.moved,
            )
        )
    return rows


def failed(case: Case, error: Exception) -> Row:
    """The row of a case that we could not run."""
    return Row(case.label, dict(case.size), OURS, case.unit, case.work, note=_said(error))


def _said(error: BaseException) -> str:
    return f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


class _WhileTimed(Exception):
    """A contestant, by name, raised while it was timed."""


def _named(name: str, run: Callable[[], Any]) -> Callable[[], Any]:
    def named() -> Any:
        try:
            return run()
        except Exception as error:
            raise _WhileTimed(name) from error

    return named


def _times(
    contestants: dict[str, Contestant], missing: dict[str, str], settings: Settings, seconds: float | None
) -> dict[str, Timing]:
    """Interleaved times. A peer that fails when it is called again becomes missing, and the others begin anew."""
    synchronize = torch.cuda.synchronize if settings.device == "cuda" else None
    budget = settings.seconds if seconds is None else min(seconds, settings.seconds)
    while True:
        runs = {name: _named(name, each.run) for name, each in contestants.items() if name not in missing}
        try:
            return interleaved(runs, settings.rounds, budget, synchronize)
        except _WhileTimed as failure:
            name, error = str(failure), failure.__cause__
            assert error is not None
            if name == OURS or name in missing:
                raise error from None
            missing[name] = _said(error)


def _difference(ours: np.ndarray | None, theirs: np.ndarray | None, tolerance: float) -> tuple[float | None, int]:
    """The largest difference within the tolerance, over the answers that the peer gave, and how many are beyond it."""
    if ours is None or theirs is None:
        return None, 0
    ours = ours[: len(theirs)]
    if ours.shape != theirs.shape:
        raise ValueError(f"answers of shapes {ours.shape} and {theirs.shape} cannot be compared")
    with np.errstate(invalid="ignore"):
        apart = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
    beyond = ~(apart <= tolerance)  # so that a NaN counts
    return float(apart[~beyond].max(initial=0.0)), int(beyond.sum())
