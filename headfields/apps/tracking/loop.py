"""The frame loop of all trackers: frames one after another, each from its neighbor's fit, then all frames jointly.

A tracker supplies its own part: how a frame is read (`load`), fitted (`fit`, `fit_jointly`) and pictured
(`picture`). Order, resuming, failures, interrupts, timing and files are the same for all and are here.
"""

import dataclasses
import functools
import hashlib
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from headfields.apps.tracking.clock import Clock
from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.folder import TrackingFolder
from headfields.apps.tracking.frame_fit import FrameFit
from headfields.apps.tracking.frame_source import FrameSource
from headfields.data.frame_indices import frame_indices
from headfields.runs.folder import write_picture
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.lock import run_lock
from headfields.runs.randomness import deterministic
from headfields.viz import write_video

__all__ = ["FrameTracker", "FrameTurn", "Tracking", "pictures_of", "profile"]


Observation = TypeVar("Observation")
Fit = TypeVar("Fit", bound=FrameFit)


@dataclass
class Tracking(Generic[Fit]):
    """The result of a tracker.

    Attributes:
        stage1: fits by frame, each fitted after the other.
        stage2: fits by frame after the joint fit; empty without one, or before it ends.
        failed: why frames without a fit failed.
        seconds: seconds spent on each frame fitted in this run, by part.
        interrupted: whether Ctrl-C ended the run; `run(resume=True)` continues it.
        capture: folder of the tracked capture, of trackers that write one.
    """

    stage1: dict[int, Fit] = field(default_factory=dict)
    stage2: dict[int, Fit] = field(default_factory=dict)
    failed: dict[int, FrameFailure] = field(default_factory=dict)
    seconds: dict[int, dict[str, float]] = field(default_factory=dict)
    interrupted: bool = False
    capture: Path | None = None

    @property
    def fits(self) -> dict[int, Fit]:
        """The fits of the last stage that has any."""
        return self.stage2 or self.stage1


@dataclass(frozen=True)
class FrameTurn(Generic[Fit]):
    """State of the loop while a frame is fitted.

    Attributes:
        frame: index in the capture.
        fits: fits of the frames visited before, in the order of the visits.
        resumed: fits that were on disk when the run started.
        backward: whether frames are visited from later to earlier ones.
        clock: measures the time of each part of the fit.
        show: shows a text next to the progress bar; redraws the bar if the second argument is True.
    """

    frame: int
    fits: dict[int, Fit]
    resumed: dict[int, Fit]
    backward: bool
    clock: Clock
    show: Callable[[str, bool], None]


class FrameTracker(ABC, Generic[Observation, Fit]):
    """Base class of trackers.

    Frames are visited in the order of `visits`. Each fit is on disk as soon as it exists.

    Args:
        capture: the recording.
        out: the folder of the run.
        options: a dataclass; recorded in config.json.
        frames: indices of the frames to track, in this order; all if None.
        device: device of the tensors.
        bar: whether progress bars are shown.

    Raises:
        ValueError: there are no frames.
        IndexError: a frame is out of range.
    """

    fit_type: type[Fit]
    kept_frames: ClassVar[int] = 128
    """Number of frames that `observation` keeps in memory."""

    def __init__(
        self, capture: FrameSource, out: str | Path, options: Any, frames: Sequence[int] | None,
        device: torch.device | str = "cpu", bar: bool = True,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        self.capture, self.options, self.bar = capture, options, bar
        self.device = torch.device(device)
        self.folder = TrackingFolder(out)
        self.frames = frame_indices(range(len(capture)) if frames is None else frames, len(capture), name)
        if not self.frames:
            raise ValueError(f"{name}: there are no frames to track")
        self._cached = functools.lru_cache(maxsize=self.kept_frames)(self.load)

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The fitted model. The digest of its tensors is recorded, so that a run is not resumed with another model."""

    @property
    @abstractmethod
    def landmark_count(self) -> int:
        """Number of the model's landmarks that can be compared to a frame's."""

    @property
    @abstractmethod
    def fits_jointly(self) -> bool:
        """Whether there is a second stage."""

    def visits(self) -> Sequence[tuple[int, bool]]:
        """The frames in the order of stage 1, each with whether it follows a later one."""
        return [(frame, False) for frame in self.frames]

    def prepare(self, stop: Callable[[], bool]) -> None:
        """Fits what all frames share, before the first frame; called again when a run is resumed.

        Args:
            stop: asked between steps whether to stop.
        """

    @abstractmethod
    def load(self, frame: int) -> Observation:
        """Reads a frame.

        Raises:
            FrameFailure: the frame cannot be used.
        """

    @abstractmethod
    def fit(self, observation: Observation, turn: FrameTurn[Fit]) -> Fit:
        """Fits one frame.

        Raises:
            FrameFailure: the fit failed.
        """

    @abstractmethod
    def fit_jointly(
        self, fits: Mapping[int, Fit], clock: Clock, show: Callable[[int, int, str], None], stop: Callable[[], bool]
    ) -> dict[int, Fit] | None:
        """Fits all frames together.

        Args:
            fits: results of stage 1, by frame.
            clock: takes the time of the parts.
            show: called with the number of steps done, their total, and a text next to the progress bar.
            stop: asked between steps whether to stop.

        Returns:
            Fits by frame; None if stopped.
        """

    @abstractmethod
    def picture(self, observation: Observation, fit: Fit) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, float]]:
        """A picture of the frame next to its fit, and errors measured on it."""

    def export(self, result: Tracking[Fit]) -> None:
        """Writes further results into the folder; sets `result.capture` if a capture is written."""

    def run(self, resume: bool = False) -> Tracking[Fit]:
        """Tracks all frames.

        Args:
            resume: whether to continue the run in the folder; the result is that of an unbroken run.

        Raises:
            FileExistsError: the folder holds a run, and `resume` is False.
            ValueError: the folder holds a run with another configuration.
            RunLockedError: another process tracks into the folder.
            RunWriteError: a file cannot be written.
            NanLossError: ten steps in a row of the joint fit had an energy or a gradient that is not finite; the fits
                of the first stage are whole.
        """
        self.folder.create()
        with run_lock(self.folder.path), InterruptFlag() as interrupted, deterministic(self.device):
            self.folder.open(self._config(), resume)
            result: Tracking[Fit] = Tracking()
            self.prepare(lambda: bool(interrupted))
            self._visit_frames(result, interrupted)
            if not interrupted:
                self._visit_jointly(result, interrupted)
            result.interrupted = bool(interrupted)
            if not result.interrupted:
                self._finish(result)
            return result

    def observation(self, frame: int) -> Observation:
        """A frame as the tracker sees it; the last `kept_frames` are kept in memory.

        Args:
            frame: index in the capture.

        Raises:
            FrameFailure: the frame cannot be used.
        """
        return self._cached(frame)

    def _visit_frames(self, result: Tracking[Fit], interrupted: InterruptFlag) -> None:
        """Stage 1."""
        saved = self._saved(1)
        resumed = {frame: saved[frame] for frame in self.frames if frame in saved}
        with tqdm(
            total=len(self.frames), desc="stage 1", unit="frame", disable=not self.bar, file=sys.stderr
        ) as bar:  # fmt: skip
            for frame, backward in [] if interrupted else self.visits():
                if interrupted:
                    break
                self._visit(frame, backward, resumed, result, bar)
                bar.update(1)
        result.stage1 = {**resumed, **result.stage1}

    def _visit(
        self, frame: int, backward: bool, resumed: dict[int, Fit], result: Tracking[Fit], bar: "tqdm[Any]"
    ) -> None:
        """One frame: its fit is loaded, or made and saved, or its failure is noted."""
        if frame in resumed:
            if not self.folder.picture_path(1, frame).is_file():
                self._pictured(1, resumed[frame], self.observation(frame))
            result.stage1[frame] = resumed[frame]
            return
        clock = Clock()
        turn = FrameTurn(
            frame, result.stage1, resumed, backward, clock,
            lambda text, redraw: bar.set_postfix_str(text, refresh=redraw),
        )  # fmt: skip
        try:
            with clock.part("reading"):
                observation = self.observation(frame)
            fit = self.fit(observation, turn)
            with clock.part("picture"):
                fit = self._pictured(1, fit, observation)
        except FrameFailure as failure:
            result.failed[frame] = failure
            self._report(frame, result, bar)
        else:
            seconds = round(sum(clock.seconds.values()), 2)
            fit = dataclasses.replace(fit, errors={**fit.errors, "seconds": seconds})
            fit.save(self.folder.fit_path(1, frame))
            result.stage1[frame] = fit
            result.seconds[frame] = dict(clock.seconds)
        self.folder.write_errors(self._names, {**resumed, **result.stage1}, result.failed)

    def _visit_jointly(self, result: Tracking[Fit], interrupted: InterruptFlag) -> None:
        """Stage 2."""
        if not self.fits_jointly or not result.stage1:
            return
        saved = self._saved(2)
        if set(saved) == set(result.stage1):
            result.stage2 = saved
            return
        clock = Clock()
        with tqdm(total=0, desc="stage 2", unit="step", disable=not self.bar, file=sys.stderr) as bar:

            def show(step: int, steps: int, text: str) -> None:
                bar.total = steps
                bar.update(step - bar.n)
                if text:
                    bar.set_postfix_str(text, refresh=False)

            fits = self.fit_jointly(result.stage1, clock, show, lambda: bool(interrupted))
        if fits is None:
            return
        fits = {frame: self._pictured(2, fit, self.observation(frame)) for frame, fit in fits.items()}
        for frame, fit in fits.items():
            fit.save(self.folder.fit_path(2, frame))
        if clock.seconds:
            shares = {f"stage 2 {name}": value / len(fits) for name, value in clock.seconds.items()}
            for frame in fits:
                result.seconds.setdefault(frame, {}).update(shares)
        result.stage2 = fits

    def _pictured(self, stage: int, fit: Fit, observation: Observation) -> Fit:
        picture, errors = self.picture(observation, fit)
        write_picture(self.folder.picture_path(stage, fit.frame), torch.from_numpy(picture).float() / 255)
        if not all(math.isfinite(value) for value in errors.values()):
            raise FrameFailure("diverged", f"the picture of the fit is not finite ({errors})")
        return dataclasses.replace(fit, errors={**fit.errors, **errors})

    def _finish(self, result: Tracking[Fit]) -> None:
        self.folder.write_errors(self._names, result.fits, result.failed)
        self.export(result)
        for stage, fits in ((1, result.stage1), (2, result.stage2)):
            paths = [self.folder.picture_path(stage, frame) for frame in self.frames if frame in fits]
            if paths:
                write_video(self.folder.path / f"stage{stage}.mp4", pictures_of(paths), fps=min(len(paths), 12))
        self.folder.write("profile.json", profile(result.seconds))

    def _saved(self, stage: int) -> dict[int, Fit]:
        return {frame: self.fit_type.load(path) for frame, path in self.folder.fit_paths(stage).items()}

    def _report(self, frame: int, result: Tracking[Fit], bar: "tqdm[Any]") -> None:
        failure = result.failed[frame]
        bar.write(f"frame {frame} ({self._names[frame]}): {failure.reason}: {failure}", sys.stderr)

    @property
    def _names(self) -> dict[int, str]:
        return {frame: self.capture.frame_names[frame] for frame in self.frames}

    def _config(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        tensors: dict[str, Tensor] = dict(self.model.state_dict())
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return {
            "capture": {"name": self.capture.name, "frames": len(self.capture), "size": list(self.capture.size)},
            "options": dataclasses.asdict(self.options),
            "prior": digest.hexdigest()[:16],
            "frames": self.frames,
            "landmarks": self.landmark_count,
        }


def profile(seconds: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Medians over frames of `Tracking.seconds`, by part and of their sums.

    >>> from headfields.apps.tracking.loop import profile
    >>> profile({0: {"reading": 1.0, "fitting": 4.0}, 1: {"reading": 1.0, "fitting": 2.0}})["median_seconds_a_frame"]
    4.0
    """
    names = dict.fromkeys(name for parts in seconds.values() for name in parts)
    parts = {name: median([row.get(name, 0.0) for row in seconds.values()]) for name in names}
    totals = [sum(row.values()) for row in seconds.values()]
    return {
        "frames": len(seconds),
        "median_seconds_a_frame": round(median(totals), 3) if totals else 0.0,
        "median_seconds_by_part": {name: round(value, 3) for name, value in parts.items()},
        "seconds_by_frame": {str(frame): {k: round(v, 3) for k, v in row.items()} for frame, row in seconds.items()},
    }


def pictures_of(paths: Sequence[Path]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The pictures in files, one after another."""
    return (np.asarray(Image.open(path).convert("RGB")) for path in paths)
