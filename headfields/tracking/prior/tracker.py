"""The tracker: a recording's frames one after another, then together; what fails is named, and the rest goes on."""

import dataclasses
import functools
import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from headfields.mesh import Mesh, extract, save_mesh
from headfields.priors import Prior
from headfields.records import HeadState
from headfields.runs.clock import Clock
from headfields.runs.folder import write_picture
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.lock import run_lock
from headfields.runs.randomness import deterministic
from headfields.tracking.failures import FrameFailure
from headfields.tracking.prior.fit import FrameFit
from headfields.tracking.prior.folder import TrackingFolder
from headfields.tracking.prior.frames import FrameSource, LabelClasses, TrackedFrame, find_landmarks, load_frame
from headfields.tracking.prior.head import TrackedHead, TrackingPrior
from headfields.tracking.prior.landmarks import LandmarkDetector
from headfields.tracking.prior.mononphm_layout import write_mononphm
from headfields.tracking.prior.options import TrackingOptions
from headfields.tracking.prior.pictures import frame_picture
from headfields.tracking.prior.stage1 import fit_frame, pace_of
from headfields.tracking.prior.stage2 import JointFit
from headfields.viz import write_video

__all__ = ["Tracker", "Tracking"]

KEPT_FRAMES = 256
"""Reduced frames that are kept in memory."""


@dataclass(frozen=True)
class Tracking:
    """What `Tracker.run` gives.

    Attributes:
        stage1, stage2: fits by frame; the second is empty without a second stage, or before it ends.
        failed: what each frame without a fit failed by.
        seconds: of each frame fitted in this run, by what they went into.
        interrupted: whether Ctrl-C ended it; `Tracker.run(resume=True)` goes on.
    """

    stage1: Mapping[int, FrameFit]
    stage2: Mapping[int, FrameFit]
    failed: Mapping[int, FrameFailure]
    seconds: Mapping[int, Mapping[str, float]]
    interrupted: bool

    @property
    def fits(self) -> Mapping[int, FrameFit]:
        """Those of the last stage that there is."""
        return self.stage2 or self.stage1


class Tracker:
    """Fits a prior's head to a recording: identity, light and color affine once, expression and pose for each frame.

    The networks of the prior stay as they are. Stage 1 goes frame by frame, each from where the one before ended; the
    identity is fitted to the first frame that can be. Stage 2 moves everything together, smoothly. Each frame's result
    is on disk as soon as it is there.

    Args:
        prior: a trained prior, or what tracking needs of one. Without landmarks there is no landmark term.
        capture: the recording, of `headfields.data.load_capture`, or anything with its `camera`, `image`, `label` and
            `landmarks`.
        out: the folder of the run.
        options: weights, rates, sizes.
        frames: which frames, in this order; all of them if None.
        classes: what segmentation labels mean; `LabelClasses()` if None.
        detector: finds landmarks, in place of the capture's files.
        device: where it runs.
        bar: whether progress is shown.

    Raises:
        ValueError: there are no frames.
        IndexError: a frame is out of range.

    Source: MonoNPHM (Giebenhain et al. 2024), section 5, and its released code; see docs/tracking.md for what differs.
    """

    def __init__(
        self,
        prior: TrackingPrior | Prior,
        capture: FrameSource,
        out: str | Path,
        options: TrackingOptions | None = None,
        frames: Sequence[int] | None = None,
        classes: LabelClasses | None = None,
        detector: LandmarkDetector | None = None,
        device: torch.device | str = "cpu",
        bar: bool = True,
    ) -> None:
        self.prior = TrackingPrior.of(prior) if isinstance(prior, Prior) else prior
        self.capture, self.detector, self.bar = capture, detector, bar
        classes = LabelClasses() if classes is None else classes
        self.classes = classes if self.prior.hair else classes.without_hair()
        self.options = TrackingOptions() if options is None else options
        self.folder = TrackingFolder(out)
        self.frames = list(range(len(capture))) if frames is None else [int(frame) for frame in frames]
        if not self.frames:
            raise ValueError("Tracker: there are no frames to track")
        wrong = [frame for frame in self.frames if not 0 <= frame < len(capture)]
        if wrong:
            raise IndexError(f"Tracker: frame {wrong[0]} is out of range; the capture has {len(capture)} frames")
        self.device = torch.device(device)
        options = self.options
        self.head = TrackedHead(self.prior, options.stage1.spread, options.coarse, options.fine).to(self.device)
        self._load = functools.lru_cache(maxsize=KEPT_FRAMES)(self._read)
        self._marks: dict[int, Tensor | None] = {}
        self._mean_landmarks = self._reference()

    def run(self, resume: bool = False) -> Tracking:
        """Tracks all frames.

        Args:
            resume: whether to go on with what is in the folder; the end is that of an unbroken run.

        Raises:
            FileExistsError: the folder holds a run, and `resume` is False.
            ValueError: the folder holds a run of something else.
            RunWriteError: a file cannot be written.
        """
        self.folder.open(self._config(), resume)
        with run_lock(self.folder.path), InterruptFlag() as interrupted, deterministic(self.device):
            return self._run(interrupted)

    def frame(self, frame: int) -> TrackedFrame:
        """A frame as tracking sees it.

        Args:
            frame: its index in the capture.

        Raises:
            FrameFailure: it cannot be used, and why.
        """
        return self._load(frame)

    def mesh(self, fit: FrameFit) -> Mesh:
        """The head of a frame in the space of the prior, meters, with the colors it has without light."""
        state = HeadState(torch.zeros(1, 0, 3), codes={name: value[None] for name, value in fit.codes.items()})
        field = self.head.avatar.field(state.to(self.device))
        mesh = extract(field, resolution=self.options.mesh_resolution, progress=False).to("cpu")
        self.head.jitter()
        return mesh

    def _run(self, interrupted: InterruptFlag) -> Tracking:
        done = self.folder.fits(1)
        fits = {frame: done[frame] for frame in self.frames if frame in done}
        failed: dict[int, FrameFailure] = {}
        seconds: dict[int, dict[str, float]] = {}
        motion = self._motion()
        known = [value for value in motion.values() if value >= 0]
        mean = sum(known) / max(len(known), 1)
        before = next(iter(fits.values()), None)
        bar = tqdm(self.frames, desc="stage 1", unit="frame", disable=not self.bar, file=sys.stderr)
        for frame in bar:
            if interrupted:
                break
            if frame in fits:
                before = fits[frame]
                continue
            clock = Clock()
            pace = 1.0 if before is None else pace_of(self.options.stage1, motion[frame], mean)
            try:
                with clock.part("reading"):
                    data = self._load(frame)

                def show(step: int, steps: int, found: dict[str, float]) -> None:
                    if step % 10 == 0:
                        bar.set_postfix_str(f"step {step}/{steps} energy {found['energy']:.2f}", refresh=step % 50 == 0)

                fit = fit_frame(self.head, data, frame, self.options, before, pace, clock, show)
                with clock.part("picture"):
                    fit = self._pictured(1, fit, data)
            except FrameFailure as failure:
                failed[frame] = failure
                bar.write(f"frame {frame} ({self.capture.frame_names[frame]}): {failure.reason}: {failure}", sys.stderr)
                self.folder.write_errors(self._names, fits, failed)
                continue
            fit = dataclasses.replace(fit, errors={**fit.errors, "seconds": round(sum(clock.seconds.values()), 2)})
            fit.save(self.folder.fit_path(1, frame))
            fits[frame] = before = fit
            seconds[frame] = dict(clock.seconds)
            self.folder.write_errors(self._names, fits, failed)
        if interrupted:
            return Tracking(fits, {}, failed, seconds, True)
        joint = self._joint(fits, failed, seconds, interrupted)
        if interrupted:
            return Tracking(fits, {}, failed, seconds, True)
        self._finish(fits, joint, failed, seconds)
        return Tracking(fits, joint, failed, seconds, False)

    def _joint(
        self, fits: dict[int, FrameFit], failed: Mapping[int, FrameFailure],
        seconds: dict[int, dict[str, float]], interrupted: InterruptFlag,
    ) -> dict[int, FrameFit]:  # fmt: skip
        """Stage 2."""
        if self.options.stage2 is None or not fits:
            return {}
        done = self.folder.fits(2)
        if set(done) == set(fits):
            return done
        stage, clock = JointFit(self.head, fits, self.options), Clock()
        bar = tqdm(total=stage.steps, desc="stage 2", unit="step", disable=not self.bar, file=sys.stderr)

        def show(step: int, steps: int, found: dict[str, float]) -> None:
            bar.update(step + 1 - bar.n)
            if step % 10 == 0:
                bar.set_postfix_str(f"energy {found['energy']:.2f}", refresh=False)

        with bar:
            whole = stage.fit(self._load, self.folder.checkpoint, clock, show, lambda: bool(interrupted))
        if not whole:
            return {}
        out = {}
        for frame, fit in stage.result(self._load).items():
            out[frame] = self._pictured(2, fit, self._load(frame))
        for frame, fit in out.items():
            fit.save(self.folder.fit_path(2, frame))
        for frame in fits:
            spent = {f"stage 2 {name}": value / len(fits) for name, value in clock.seconds.items()}
            seconds.setdefault(frame, {}).update(spent)
        self.folder.write_errors(self._names, out, failed)
        return out

    def _pictured(self, stage: int, fit: FrameFit, data: TrackedFrame) -> FrameFit:
        picture, errors = frame_picture(self.head, data, fit)
        write_picture(self.folder.picture_path(stage, fit.frame), torch.from_numpy(picture).float() / 255)
        if not all(math.isfinite(value) for value in errors.values()):
            raise FrameFailure("diverged", f"the picture of the fit is not finite ({errors})")
        return dataclasses.replace(fit, errors={**fit.errors, **errors})

    def _finish(
        self, first: Mapping[int, FrameFit], joint: Mapping[int, FrameFit], failed: Mapping[int, FrameFailure],
        seconds: dict[int, dict[str, float]],
    ) -> None:  # fmt: skip
        """Meshes, videos, the published layout."""
        best = joint or first
        self.folder.write_errors(self._names, best, failed)
        meshes: dict[int, Mesh] = {}
        if self.options.mesh_resolution:
            for frame in tqdm(best, desc="meshes", unit="frame", disable=not self.bar, file=sys.stderr):
                clock = Clock()
                with clock.part("mesh"):
                    meshes[frame] = self.mesh(best[frame])
                    save_mesh(self.folder.mesh_path(frame), meshes[frame])
                seconds.setdefault(frame, {}).update(clock.seconds)
        for number, fits in ((1, first), (2, joint)):
            if not fits:
                continue
            paths = [self.folder.picture_path(number, frame) for frame in fits]
            write_video(self.folder.path / f"stage{number}.mp4", _images(paths), fps=min(len(paths), 12))
            own = meshes if fits is best else {}
            write_mononphm(self.folder.path / "mononphm", self.capture.name, fits, number, own)
        self.folder.write("profile.json", profile(seconds))

    @property
    def _names(self) -> dict[int, str]:
        return {frame: self.capture.frame_names[frame] for frame in self.frames}

    def _read(self, frame: int) -> TrackedFrame:
        if frame not in self._marks:
            self._marks[frame] = find_landmarks(self.capture, frame, self.detector)
        marks = self.head.landmarks
        number = torch.zeros(0, dtype=torch.long) if marks is None else marks.number.cpu()
        data = load_frame(
            self.capture, frame, self._mean_landmarks, number, (self.head.center.cpu(), self.head.radius),
            self.options, self.classes, self._marks[frame], self.options.stage1.weights,
        )  # fmt: skip
        return data.on(self.device)

    @torch.no_grad()
    def _reference(self) -> Float[Tensor, "l 3"]:
        """The landmarks of the mean head with the mean expression, posed."""
        if self.head.landmarks is None:
            return torch.zeros(0, 3)
        mean = {name: torch.zeros(self.head.width(name), device=self.device) for name in self.head.names}
        return self.head.posed_landmarks(self.head.avatar.field(self.head.state(mean))).points.cpu()

    def _motion(self) -> dict[int, float]:
        """How far landmarks move from the frame before to each, in parts of the image; NaN where that is not known."""
        out = dict.fromkeys(self.frames, math.nan)
        last: Tensor | None = None
        side = torch.tensor([self.capture.size[1], self.capture.size[0]])
        for frame in self.frames:
            try:
                self._marks[frame] = find_landmarks(self.capture, frame, self.detector)
            except FrameFailure:
                last = None
                continue
            marks = self._marks[frame]
            if marks is not None and last is not None:
                moved = ((marks - last) / side).norm(dim=1)
                out[frame] = float(moved.nanmean())
            last = marks
        return out

    def _config(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name, tensor in sorted({**self.head.state_dict()}.items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return {
            "capture": {"name": self.capture.name, "frames": len(self.capture), "size": list(self.capture.size)},
            "options": dataclasses.asdict(self.options),
            "prior": digest.hexdigest()[:16],
            "frames": self.frames,
            "landmarks": 0 if self.head.landmarks is None else len(self.head.landmarks),
        }


def profile(seconds: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Medians over frames of what `Tracking.seconds` holds, and of their sums."""
    names = dict.fromkeys(name for parts in seconds.values() for name in parts)
    parts = {name: median([row.get(name, 0.0) for row in seconds.values()]) for name in names}
    totals = [sum(row.values()) for row in seconds.values()]
    return {
        "frames": len(seconds),
        "median_seconds_a_frame": round(median(totals), 3) if totals else 0.0,
        "median_seconds_by_part": {name: round(value, 3) for name, value in parts.items()},
        "seconds_by_frame": {str(frame): {k: round(v, 3) for k, v in row.items()} for frame, row in seconds.items()},
    }


def _images(paths: Sequence[Path]) -> Any:
    import numpy as np
    from PIL import Image

    return (np.asarray(Image.open(path).convert("RGB")) for path in paths)
