"""The tracker of templates: frame by frame from a front view, then together; what fails is named, the rest goes on."""

import dataclasses
import functools
import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from headfields.data.capture import Capture
from headfields.rigging.rigged_template import RiggedTemplate
from headfields.runs.clock import Clock
from headfields.runs.folder import write_picture
from headfields.runs.interrupts import InterruptFlag
from headfields.runs.lock import run_lock
from headfields.runs.randomness import deterministic
from headfields.tracking.failures import FrameFailure
from headfields.tracking.prior.folder import TrackingFolder
from headfields.tracking.prior.tracker import _images, profile
from headfields.tracking.rig.body import BodyPose, TrackedBody
from headfields.tracking.rig.fit import TemplateFit
from headfields.tracking.rig.joint import smooth_together
from headfields.tracking.rig.light import LightSums, fitted_light
from headfields.tracking.rig.observation import Observation, observe
from headfields.tracking.rig.options import TemplateTrackingOptions
from headfields.tracking.rig.output import write_tracked_capture
from headfields.tracking.rig.pictures import template_picture
from headfields.tracking.rig.solve import foreseen_pose, landmark_start, solve_frame
from headfields.tracking.rig.surface import TemplateSurface
from headfields.tracking.rig.terms import Energy, Expected
from headfields.viz import write_video

__all__ = ["TemplateTracker", "TemplateTracking"]

_KEPT_FRAMES = 128


@dataclass(frozen=True)
class TemplateTracking:
    """What `TemplateTracker.run` gives.

    Attributes:
        stage1, stage2: fits by frame, one by one and together; the second is empty without a joint pass.
        failed: what each frame without a fit failed by.
        capture: the folder of the tracked capture; None if there is none.
        interrupted: whether Ctrl-C ended it; `run(resume=True)` goes on.
    """

    stage1: Mapping[int, TemplateFit]
    stage2: Mapping[int, TemplateFit]
    failed: Mapping[int, FrameFailure]
    capture: Path | None
    interrupted: bool

    @property
    def fits(self) -> Mapping[int, TemplateFit]:
        """Those of the last stage that there is."""
        return self.stage2 or self.stage1


class _Folder(TrackingFolder):
    """The folder of `headfields.tracking`, with fits of templates; the tracked capture is in `capture/`."""

    def template_fits(self, stage: int) -> dict[int, TemplateFit]:
        paths = sorted((self.path / "fits" / f"stage{stage}").glob("[0-9]*.safetensors"))
        return {int(path.stem): TemplateFit.load(path) for path in paths}


class TemplateTracker:
    """Fits a rigged, textured template to a recording: where the body is, neck, head, jaw and expression for each
    frame, and one light.

    The first frame with enough landmarks starts; from it tracking goes forward to the end and then back to the
    beginning, each frame from where the one before ended and was going. Views without landmarks are held by colors and
    outlines. Of the capture's cameras the lens is used; where they stand, meshes and expressions are not looked at.

    Args:
        rig: the template.
        capture: the recording, with mattes; landmarks where there are some, NaN those that are not seen.
        out: the folder of the run.
        options: scales, sizes, steps.
        frames: which; all of them if None. They are taken in order of time.
        bar: whether progress is shown.

    Raises:
        ValueError: there are no frames.
        IndexError: a frame is out of range.

    Source: 3VP Avatar (Nehvi et al. 2024) tracks a template; its energy and weights are not known, and all here is our
    own choice.
    """

    def __init__(
        self,
        rig: RiggedTemplate,
        capture: Capture,
        out: str | Path,
        options: TemplateTrackingOptions | None = None,
        frames: Sequence[int] | None = None,
        bar: bool = True,
    ) -> None:
        self.rig, self.capture, self.bar = rig, capture, bar
        self.options = TemplateTrackingOptions() if options is None else options
        self.folder = _Folder(out)
        self.frames = sorted({int(f) for f in (range(len(capture)) if frames is None else frames)})
        if not self.frames:
            raise ValueError("TemplateTracker: there are no frames to track")
        wrong = [frame for frame in self.frames if not 0 <= frame < len(capture)]
        if wrong:
            raise IndexError(f"TemplateTracker: frame {wrong[0]} is out of range; the capture has {len(capture)}")
        self._apart = min((b - a for a, b in pairwise(self.frames)), default=1)
        self.body, self.surface = TrackedBody(rig, self.options.expressions), TemplateSurface(rig)
        self._observe = functools.lru_cache(maxsize=_KEPT_FRAMES)(lambda f: observe(capture, f, self.options))

    @torch.no_grad()
    def run(self, resume: bool = False) -> TemplateTracking:
        """Tracks all frames and writes the tracked capture.

        Args:
            resume: whether to go on with what is in the folder; the end is that of an unbroken run.

        Raises:
            FileExistsError: the folder holds a run, and `resume` is False.
            ValueError: the folder holds a run of something else.
            RunWriteError: a file cannot be written.
        """
        self.folder.open(self._config(), resume)
        with run_lock(self.folder.path), InterruptFlag() as interrupted, deterministic(torch.device("cpu")):
            return self._run(interrupted)

    def _run(self, interrupted: InterruptFlag) -> TemplateTracking:
        done = self.folder.template_fits(1)
        fits: dict[int, TemplateFit] = {}
        failed: dict[int, FrameFailure] = {}
        seconds: dict[int, dict[str, float]] = {}
        bar = tqdm(total=len(self.frames), desc="frames", unit="frame", disable=not self.bar, file=sys.stderr)
        start: int | None = None
        with bar:
            # forward from the first frame that can start, then back from it
            for frame in self.frames:
                if interrupted:
                    return TemplateTracking(fits, {}, failed, None, True)
                self._one(frame, fits, failed, seconds, done, 1, start is None)
                if start is None and frame in fits:
                    start = frame
                bar.update(1)
            for frame in reversed([f for f in self.frames if start is not None and f < start]):
                if interrupted:
                    return TemplateTracking(fits, {}, failed, None, True)
                failed.pop(frame, None)
                self._one(frame, fits, failed, seconds, done, -1, False)
        self.folder.write_errors(self._names, fits, failed)
        if self.bar:
            for frame, failure in sorted(failed.items()):
                print(f"frame {frame} ({self._names[frame]}): {failure.reason}: {failure}", file=sys.stderr)
        joint = self._joint(fits, failed, interrupted) if fits and self.options.joint_steps else {}
        if interrupted:
            return TemplateTracking(fits, {}, failed, None, True)
        best = joint or fits
        self.folder.write_errors(self._names, best, failed)
        if not best:
            return TemplateTracking(fits, joint, failed, None, False)
        for number, found in ((1, fits), (2, joint)):
            if found:
                paths = [self.folder.picture_path(number, frame) for frame in sorted(found)]
                write_video(self.folder.path / f"stage{number}.mp4", _images(paths), fps=min(len(paths), 12))
        self.folder.write("profile.json", profile(seconds))
        tracked = write_tracked_capture(self.folder.path / "capture", self.capture, self.body, best)
        return TemplateTracking(fits, joint, failed, tracked, False)

    def _one(
        self, frame: int, fits: dict[int, TemplateFit], failed: dict[int, FrameFailure],
        seconds: dict[int, dict[str, float]], done: Mapping[int, TemplateFit], way: int, first: bool,
    ) -> None:  # fmt: skip
        """One frame, from those that lie behind it on the way; what it fails by is noted."""
        if frame in done:
            fits[frame] = done[frame]
            if not self.folder.picture_path(1, frame).is_file():
                self._pictured(1, done[frame], self._observe(frame))
            return
        clock = Clock()
        try:
            with clock.part("reading"):
                seen = self._observe(frame)
            with clock.part("fitting"):
                fit = self._start(frame, seen) if first else self._follow(frame, seen, fits, way)
            with clock.part("picture"):
                fit = self._pictured(1, fit, seen)
        except FrameFailure as failure:
            failed[frame] = failure
            return
        fit.save(self.folder.fit_path(1, frame))
        fits[frame] = fit
        seconds[frame] = dict(clock.seconds)

    def _start(self, frame: int, seen: Observation) -> TemplateFit:
        """From landmarks: shape first, then the light, then both."""
        start = landmark_start(self.body, seen, self.options)
        pose, energy = solve_frame(
            self.body, self.surface, seen, [start], None, Expected(), self.options, first=True
        )  # fmt: skip
        sums = LightSums.empty()
        for _ in range(2 if self.options.scales.color_weight > 0 else 0):
            light = self._lit(LightSums.empty(), energy, seen).coefficients()
            pose, energy = solve_frame(
                self.body, self.surface, seen, [pose], light, Expected(), self.options, first=True
            )  # fmt: skip
        return self._checked(frame, pose, self._lit(sums, energy, seen), energy, seen)

    def _follow(self, frame: int, seen: Observation, fits: Mapping[int, TemplateFit], way: int) -> TemplateFit:
        """From where the nearest frame behind ended and was going; from landmarks too where that looks lost."""
        behind = sorted((f for f in fits if (f - frame) * way < 0), key=lambda f: abs(f - frame))
        last = fits[behind[0]]
        gap = abs(behind[0] - frame) / self._apart
        steady = len(behind) > 1 and gap == 1 and abs(behind[1] - behind[0]) == self._apart
        foreseen = foreseen_pose(last.pose, fits[behind[1]].pose if steady else None)
        light = last.light.coefficients()
        starts: list[BodyPose] = [foreseen]
        overlap = self._overlap(foreseen, seen)
        if (gap > 1 or overlap < self.options.restart) and seen.landmark_count >= self.options.landmark_count:
            starts.append(landmark_start(self.body, seen, self.options))
        expected = Expected(foreseen, math.sqrt(gap) * (1.0 if len(starts) == 1 else 3.0))
        lost = overlap < self.options.restart
        pose, energy = solve_frame(self.body, self.surface, seen, starts, light, expected, self.options, first=lost)
        return self._checked(frame, pose, self._lit(last.light, energy, seen), energy, seen)

    def _overlap(self, pose: BodyPose, seen: Observation) -> float:
        level = seen.levels[0]
        mask = self.surface.see(self.body.posed(pose), level.camera).mask
        return float((mask & level.mask).sum() / (mask | level.mask).sum().clamp_min(1))

    def _checked(
        self, frame: int, pose: BodyPose, light: LightSums, energy: Energy, seen: Observation
    ) -> TemplateFit:  # fmt: skip
        if energy.iou < self.options.lost:
            raise FrameFailure(
                "diverged", f"silhouette and matte overlap by {energy.iou:.2f} of their union; less than "
                f"{self.options.lost} counts as lost"
            )  # fmt: skip
        return TemplateFit(frame, pose, light, seen.camera, {"energy": energy.value})

    def _lit(self, sums: LightSums, energy: Energy, seen: Observation) -> LightSums:
        level, surface = seen.levels[-1], energy.seen
        keep = surface.clear & level.inside[surface.mask]
        colors = level.rgb[surface.mask][keep]
        scale = float(self.options.scales.color)
        return fitted_light(sums, surface.albedo[keep], surface.normals[keep], colors, scale)

    def _joint(
        self, fits: dict[int, TemplateFit], failed: Mapping[int, FrameFailure], interrupted: InterruptFlag
    ) -> dict[int, TemplateFit]:
        done = self.folder.template_fits(2)
        if set(done) == set(fits):
            return done
        # the frame that was fitted last knows the light of all
        sums = max((fit.light for fit in fits.values()), key=lambda light: float(light.count))
        light = sums.coefficients()
        bar = tqdm(
            total=self.options.joint_steps * len(fits), desc="together", unit="frame", disable=not self.bar,
            file=sys.stderr,
        )  # fmt: skip
        with bar:
            found = smooth_together(
                self.body, self.surface, {frame: fit.pose for frame, fit in fits.items()}, light, self._observe,
                self.options, lambda step, frame: bar.update(1) and None, lambda: bool(interrupted),
            )  # fmt: skip
        if found is None:
            return {}
        out = {}
        for frame, pose in found.items():
            fit = dataclasses.replace(fits[frame], pose=pose, light=sums)
            out[frame] = self._pictured(2, fit, self._observe(frame))
        for frame, fit in out.items():
            fit.save(self.folder.fit_path(2, frame))
        return out

    def _pictured(self, stage: int, fit: TemplateFit, seen: Observation) -> TemplateFit:
        picture, errors = template_picture(self.body, self.surface, seen, fit.pose, fit.light.coefficients())
        write_picture(self.folder.picture_path(stage, fit.frame), torch.from_numpy(picture).float() / 255)
        if not all(math.isfinite(value) for value in errors.values()):
            raise FrameFailure("diverged", f"the picture of the fit is not finite ({errors})")
        return dataclasses.replace(fit, errors={**fit.errors, **errors})

    @property
    def _names(self) -> dict[int, str]:
        return {frame: self.capture.frame_names[frame] for frame in self.frames}

    def _config(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        tensors: dict[str, Tensor] = dict(self.rig.state_dict())
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return {
            "capture": {"name": self.capture.name, "frames": len(self.capture), "size": list(self.capture.size)},
            "options": dataclasses.asdict(self.options),
            "prior": digest.hexdigest()[:16],
            "frames": self.frames,
            "landmarks": 0 if self.rig.landmark_faces is None else len(self.rig.landmark_faces),
        }
