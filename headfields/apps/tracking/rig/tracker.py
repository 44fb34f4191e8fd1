"""The tracker of a rigged, textured template, on the frame loop of `headfields.apps.tracking.loop`.

3VP Avatar (Nehvi et al. 2024) tracks such a template; its energy and weights are not published. All of this package is
our own choice.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.apps.tracking.clock import Clock
from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.frame_source import FrameSource
from headfields.apps.tracking.loop import FrameTracker, FrameTurn, Tracking
from headfields.apps.tracking.rig.adapted import AdaptedTemplate, adapted_template
from headfields.apps.tracking.rig.body import BodyPose, TrackedBody
from headfields.apps.tracking.rig.energy import Energy, MotionPrior
from headfields.apps.tracking.rig.fit import RigFit
from headfields.apps.tracking.rig.light import LightSums, fitted_light
from headfields.apps.tracking.rig.observation import RigObservation, rig_observation
from headfields.apps.tracking.rig.options import RigTrackingOptions
from headfields.apps.tracking.rig.pictures import rig_picture
from headfields.apps.tracking.rig.smoothing import smooth_together
from headfields.apps.tracking.rig.solve import extrapolated_pose, landmark_start, solve_frame
from headfields.apps.tracking.rig.surface import RigSurface
from headfields.apps.tracking.rig.tracked_capture import write_tracked_capture
from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.frame_indices import frame_indices
from headfields.data.untracked import UntrackedRecording

__all__ = ["RigTracker"]

_ASTRAY = 0.05
"""Fraction of the image's side that half of the landmarks of a warm start may be off before landmarks start it anew."""


class RigTracker(FrameTracker[RigObservation, RigFit]):
    """Fits a rigged, textured template to a recording: pose of the body, neck, head and jaw, and expression per frame,
    and one light.

    Tracking starts at the first frame with enough landmarks, goes forward to the end and then back to the beginning.
    With an adapted template, frames with enough landmarks come first, and those between them, seen from behind say, are
    fitted by colors and outlines from both sides, so that errors add up over half of the way only. Each frame starts
    from the extrapolated motion of its neighbors. With `RigTrackingOptions.adaptation` the template first takes the
    shape and colors of the person, hair and clothes included. Only the lens of the capture's cameras is used; its
    camera poses, meshes and expressions are not read.

    Args:
        rig: the template.
        capture: the recording, with mattes; landmarks where known, else NaN.
        out: the folder of the run.
        options: scales, sizes, steps.
        frames: indices of the frames to track; all if None. They are tracked in the order of time.
        bar: whether progress bars are shown.

    Raises:
        ValueError: there are no frames.
        IndexError: a frame is out of range.
    """

    fit_type = RigFit
    options: RigTrackingOptions
    cuts: Sequence[int] = ()
    """Frames that begin another shot: each starts from its own landmarks."""

    def __init__(
        self,
        rig: RiggedTemplate,
        capture: FrameSource,
        out: str | Path,
        options: RigTrackingOptions | None = None,
        frames: Sequence[int] | None = None,
        bar: bool = True,
    ) -> None:
        options = RigTrackingOptions() if options is None else options
        ordered = None if frames is None else sorted(set(frame_indices(frames, len(capture), type(self).__name__)))
        super().__init__(capture, out, options, ordered, bar=bar)
        self.template = self.rig = rig
        self.body, self.surface = TrackedBody(rig, options.expressions), RigSurface(rig)
        self.light = LightSums.empty()  # what is known of it before the first frame
        self._step = min((later - earlier for earlier, later in pairwise(self.frames)), default=1)

    @property
    def model(self) -> nn.Module:
        return self.template

    @property
    def landmark_count(self) -> int:
        return self.body.landmark_count

    @property
    def fits_jointly(self) -> bool:
        return self.options.joint_steps > 0

    def visits(self) -> Sequence[tuple[int, bool]]:
        known = set(self._landmarks())
        if self.options.adaptation is None:
            first = next((row for row, frame in enumerate(self.frames) if frame in known), 0)
            return [(f, False) for f in self.frames[first:]] + [(f, True) for f in reversed(self.frames[:first])]
        order = [(frame, False) for frame in self.frames if frame in known]
        for known_frames, group in groupby(self.frames, known.__contains__):
            gap = list(group)
            if known_frames or not order:
                continue
            # from the frame before as far as the middle or the next shot, and from the frame after; the first and the
            # last frames have one side only
            pairs = pairwise([gap[0] - self._step, *gap])
            shots = (k for k, pair in enumerate(pairs) if any(self._between(*pair, cut) for cut in self.cuts))
            middle = next(shots, (len(gap) + 1) // 2)
            middle = 0 if gap[0] == self.frames[0] else len(gap) if gap[-1] == self.frames[-1] else middle
            order += [(frame, False) for frame in gap[:middle]] + [(frame, True) for frame in reversed(gap[middle:])]
        return order or super().visits()

    @torch.no_grad()
    def prepare(self, stop: Callable[[], bool]) -> None:
        """Adapts the template to the person, if the options say so, or reads that of the interrupted run."""
        adaptation, path = self.options.adaptation, self.folder.path / "adapted.safetensors"
        if adaptation is None:
            return
        if path.is_file():
            adapted = AdaptedTemplate.load(path)
        else:
            with tqdm(
                total=0, desc="template", bar_format="{desc}: {postfix}", disable=not self.bar, file=sys.stderr
            ) as bar:
                fitted = adapted_template(
                    self.template, self._landmarks(), lambda frame: self.capture.camera([frame])[0],
                    self.observation, self.options, adaptation, lambda text: bar.set_postfix_str(text), stop,
                )  # fmt: skip
            if fitted is None:
                return
            adapted = fitted
            adapted.save(path)
        self.rig = adapted.rig(self.template)
        self.body = TrackedBody(self.rig, self.options.expressions)
        self.surface, self.light = RigSurface(self.rig, tint=adapted.tint), adapted.light

    def _landmarks(self) -> dict[int, Float[Tensor, "68 2"]]:
        """Landmarks of the frames with enough of them to start from."""
        out: dict[int, Tensor] = {}
        for frame in self.frames if self.landmark_count == 68 else ():
            try:
                marks = self.capture.landmarks(frame)
            except (CaptureError, OSError, ValueError):
                continue  # the frame fails when its turn comes
            if marks is not None and int(marks.isfinite().all(dim=1).sum()) >= self.options.landmark_count:
                out[frame] = marks
        return out

    def load(self, frame: int) -> RigObservation:
        return rig_observation(self.capture, frame, self.options)

    @torch.no_grad()
    def fit(self, observation: RigObservation, turn: FrameTurn[RigFit]) -> RigFit:
        with turn.clock.part("fitting"):
            if turn.fits:
                return self._follow(observation, turn)
            return self._start(turn.frame, observation)

    @torch.no_grad()
    def fit_jointly(
        self, fits: Mapping[int, RigFit], clock: Clock, show: Callable[[int, int, str], None],
        stop: Callable[[], bool],
    ) -> dict[int, RigFit] | None:  # fmt: skip
        # the frame that was fitted last has the light of all
        sums = max((fit.light for fit in fits.values()), key=lambda light: float(light.count))
        total = self.options.joint_steps * len(fits)
        poses = smooth_together(
            self.body, self.surface, {frame: fit.pose for frame, fit in fits.items()}, sums.coefficients(),
            self.observation, self.options, lambda step, row: show(step * len(fits) + row + 1, total, ""), stop,
            self.cuts,
        )  # fmt: skip
        if poses is None:
            return None
        return {frame: dataclasses.replace(fits[frame], pose=pose, light=sums) for frame, pose in poses.items()}

    def picture(self, observation: RigObservation, fit: RigFit) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, float]]:
        return rig_picture(self.body, self.surface, observation, fit.pose, fit.light.coefficients())

    def export(self, result: Tracking[RigFit]) -> None:
        """Writes the tracked capture."""
        if result.fits and isinstance(self.capture, Capture | UntrackedRecording):
            result.capture = write_tracked_capture(self.folder.path / "capture", self.capture, self.body, result.fits)

    def _start(self, frame: int, observation: RigObservation) -> RigFit:
        """The first frame: pose from landmarks and outlines, then light and pose in turns."""
        known = self.light.coefficients() if float(self.light.count) > 0 else None
        pose, energy = solve_frame(
            self.body, self.surface, observation, [landmark_start(self.body, observation, self.options)], known,
            MotionPrior(), self.options, first=True,
        )  # fmt: skip
        for _ in range(2 if self.options.scales.color_weight > 0 and known is None else 0):
            light = self._with_light(self.light, energy, observation).coefficients()
            pose, energy = solve_frame(
                self.body, self.surface, observation, [pose], light, MotionPrior(), self.options, first=True
            )
        return self._checked(frame, pose, self._with_light(self.light, energy, observation), energy, observation)

    def _follow(self, observation: RigObservation, turn: FrameTurn[RigFit]) -> RigFit:
        """A later frame: from the extrapolated motion of the nearest frames, and from landmarks if those look lost."""
        fits, frame, sign = turn.fits, turn.frame, -1 if turn.backward else 1
        behind = sorted((f for f in fits if (f - frame) * sign < 0), key=lambda f: abs(f - frame))
        behind = behind or sorted(fits, key=lambda f: abs(f - frame))  # all on that side have failed
        last = fits[behind[0]]
        gap = abs(behind[0] - frame) / self._step
        if any(self._between(behind[0], frame, cut) for cut in self.cuts):
            start = landmark_start(self.body, observation, self.options)
            light = last.light.coefficients()
            pose, energy = solve_frame(
                self.body, self.surface, observation, [start], light, MotionPrior(), self.options, first=True
            )
            return self._checked(frame, pose, self._with_light(last.light, energy, observation), energy, observation)
        steady = len(behind) > 1 and gap == 1 and abs(behind[1] - behind[0]) == self._step
        extrapolated = extrapolated_pose(last.pose, fits[behind[1]].pose if steady else None)
        starts: list[BodyPose] = [extrapolated]
        overlap = self._overlap(extrapolated, observation)
        lost = overlap < self.options.restart or self._astray(extrapolated, observation)
        if (gap > 1 or lost) and observation.landmark_count >= self.options.landmark_count:
            starts.append(landmark_start(self.body, observation, self.options))
        expected = MotionPrior(extrapolated, math.sqrt(gap) * (1.0 if len(starts) == 1 else 3.0))
        pose, energy = solve_frame(
            self.body, self.surface, observation, starts, last.light.coefficients(), expected, self.options, first=lost
        )
        return self._checked(frame, pose, self._with_light(last.light, energy, observation), energy, observation)

    @staticmethod
    def _between(one: int, other: int, cut: int) -> bool:
        """Whether a cut separates two frames."""
        return min(one, other) < cut <= max(one, other)

    def _astray(self, pose: BodyPose, observation: RigObservation) -> bool:
        """Whether the landmarks, if enough are known for a start, are far from their places: a head that was seen from
        behind may have the right outline and face the wrong way."""
        view = max(observation.views, key=lambda view: int(view.landmarks.isfinite().all(dim=1).sum()))
        known = view.landmarks.isfinite().all(dim=1)
        if observation.landmark_count < self.options.landmark_count or self.landmark_count != len(known):
            return False
        pixels = view.camera.project(self.body.landmark_points(pose)[None])[0].reshape(-1, 2)
        apart = (pixels - view.landmarks)[known].norm(dim=1).median()
        return not bool(apart <= _ASTRAY * max(view.camera.size))

    def _overlap(self, pose: BodyPose, observation: RigObservation) -> float:
        """Intersection over union of silhouette and matte on the coarsest level, the mean over the views."""
        posed, levels = self.body.posed(pose), [view.levels[0] for view in observation.views]
        each = [level.overlap(self.surface.visible(posed, level.camera).mask) for level in levels]
        return sum(each) / len(each)

    def _checked(
        self, frame: int, pose: BodyPose, light: LightSums, energy: Energy, observation: RigObservation
    ) -> RigFit:  # fmt: skip
        if energy.iou < self.options.lost:
            raise FrameFailure(
                "diverged", f"silhouette and matte overlap by {energy.iou:.2f} of their union; less than "
                f"{self.options.lost} counts as lost"
            )  # fmt: skip
        return RigFit(frame, pose, light, observation.camera, errors={"energy": energy.value})

    def _with_light(self, sums: LightSums, energy: Energy, observation: RigObservation) -> LightSums:
        scale = float(self.options.scales.color)
        for view, surface in zip(observation.views, energy.visible, strict=True):
            level = view.levels[-1]
            keep = surface.clear & (level.inside & ~level.free)[surface.mask]
            colors = level.rgb[surface.mask][keep]
            sums = fitted_light(sums, surface.albedo[keep], surface.normals[keep], colors, scale)
        return sums
