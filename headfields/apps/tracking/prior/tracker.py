"""The tracker with a prior of heads (MonoNPHM), on the frame loop of `headfields.apps.tracking.loop`."""

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from headfields.apps.priors import Prior
from headfields.apps.tracking.clock import Clock
from headfields.apps.tracking.failures import FrameFailure
from headfields.apps.tracking.frame_source import FrameSource
from headfields.apps.tracking.loop import FrameTracker, FrameTurn, Tracking
from headfields.apps.tracking.prior.fit import PriorFit
from headfields.apps.tracking.prior.head import PriorHead, TrackingPrior
from headfields.apps.tracking.prior.landmarks import LandmarkDetector
from headfields.apps.tracking.prior.mononphm_layout import write_mononphm
from headfields.apps.tracking.prior.observation import (
    LABEL_CLASSES,
    LabelClasses,
    PriorObservation,
    frame_landmarks,
    prior_observation,
)
from headfields.apps.tracking.prior.options import PriorTrackingOptions
from headfields.apps.tracking.prior.pictures import COARSEST, frame_picture
from headfields.apps.tracking.prior.stage1 import fit_frame, pace_of
from headfields.apps.tracking.prior.stage2 import JointFit
from headfields.mesh import Mesh, extract, save_mesh
from headfields.records import HeadState

__all__ = ["PriorTracker"]


class PriorTracker(FrameTracker[PriorObservation, PriorFit]):
    """Fits a prior's head to a recording: identity, light and color affine once, expression and pose per frame.

    The networks of the prior are frozen. Stage 1 fits frame by frame, each from the fit of the frame before; the
    identity is fitted to the first frame that can be used. Stage 2 fits all frames together, with smooth motion.

    Args:
        prior: a trained prior, or what tracking needs of one. Without landmarks there is no landmark term.
        capture: the recording; of one from several cameras the first camera's.
        out: the folder of the run.
        options: weights, rates, sizes.
        frames: indices of the frames to track, in this order; all if None.
        classes: meaning of segmentation labels; if None, `FACER_LABELS` for
            `headfields.data.formats.mononphm.MonoNPHMSequence`, and `LabelClasses()` for other recordings.
        detector: finds landmarks, in place of the capture's files.
        device: device to run on.
        bar: whether progress bars are shown.
        graph: whether steps on a GPU are replayed from a CUDA graph, where they can be captured. In either case the
            host reads their metrics up to 31 steps later, and waits for none.

    Attributes:
        graph_reason: why the steps of the last fit on a GPU were not replayed from a graph; empty where they were.

    Raises:
        ValueError: there are no frames, or classes is None and the capture's `label_names` are unknown.
        IndexError: a frame is out of range.

    Source: MonoNPHM (Giebenhain et al. 2024), section 5, and its released code; see docs/tracking.md for what differs.
    """

    fit_type = PriorFit
    kept_frames = 256
    options: PriorTrackingOptions

    def __init__(
        self,
        prior: TrackingPrior | Prior,
        capture: FrameSource,
        out: str | Path,
        options: PriorTrackingOptions | None = None,
        frames: Sequence[int] | None = None,
        classes: LabelClasses | None = None,
        detector: LandmarkDetector | None = None,
        device: torch.device | str = "cpu",
        bar: bool = True,
        graph: bool = True,
    ) -> None:
        options = PriorTrackingOptions() if options is None else options
        super().__init__(capture, out, options, frames, device, bar)
        self.prior = TrackingPrior.of(prior) if isinstance(prior, Prior) else prior
        self.detector = detector
        if classes is None:
            names = getattr(capture, "label_names", "insta")
            if names not in LABEL_CLASSES:
                raise ValueError(
                    f"PriorTracker: capture.label_names is {names!r}; expected one of {', '.join(LABEL_CLASSES)}, or "
                    "pass classes, a LabelClasses of the capture's numbers"
                )
            classes = LABEL_CLASSES[names]
        self.classes = classes if self.prior.hair else classes.without_hair()
        self.head = PriorHead(
            self.prior, options.stage1.spread, options.coarse, options.fine, self.device, options.band
        )
        self.head.graph = graph
        self._landmarks: dict[int, Tensor | None] = {}
        self._mean_landmarks = self._landmarks_of_the_mean()

    @property
    def model(self) -> nn.Module:
        return self.head

    @property
    def graph_reason(self) -> str:
        """See above."""
        return self.head.graph_reason

    @property
    def landmark_count(self) -> int:
        return 0 if self.head.landmarks is None else len(self.head.landmarks)

    @property
    def fits_jointly(self) -> bool:
        return self.options.stage2 is not None

    def load(self, frame: int) -> PriorObservation:
        points = self.head.landmarks
        number = torch.zeros(0, dtype=torch.long) if points is None else points.number.cpu()
        observation = prior_observation(
            self.capture, frame, self._mean_landmarks, number, (self.head.center.cpu(), self.head.radius),
            self.options, self.classes, self._frame_landmarks(frame), self.options.stage1.weights,
        )  # fmt: skip
        return observation.on(self.device)

    def fit(self, observation: PriorObservation, turn: FrameTurn[PriorFit]) -> PriorFit:
        previous = next(reversed(turn.fits.values()), None) or next(iter(turn.resumed.values()), None)
        motion, mean = self._motion
        pace = 1.0 if previous is None else pace_of(self.options.stage1, motion[turn.frame], mean)

        def show(step: int, steps: int, energies: dict[str, float]) -> None:
            if step % 10 == 0:
                turn.show(f"step {step}/{steps} energy {energies['energy']:.2f}", step % 50 == 0)

        return fit_frame(self.head, observation, turn.frame, self.options, previous, pace, turn.clock, show)

    def fit_jointly(
        self, fits: Mapping[int, PriorFit], clock: Clock, show: Callable[[int, int, str], None],
        stop: Callable[[], bool],
    ) -> dict[int, PriorFit] | None:  # fmt: skip
        joint = JointFit(self.head, fits, self.options)

        def show_step(step: int, steps: int, energies: dict[str, float]) -> None:
            show(step + 1, steps, f"energy {energies['energy']:.2f}" if step % 10 == 0 else "")

        if not joint.fit(self.observation, self.folder.checkpoint, clock, show_step, stop):
            return None
        if joint.skipped.total:
            print(f"headfields: warning: stage 2: {joint.skipped.summary()}", file=sys.stderr)
        return joint.result(self.observation)

    def picture(
        self, observation: PriorObservation, fit: PriorFit
    ) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, float]]:
        return frame_picture(self.head, observation, fit)

    def mesh(self, fit: PriorFit) -> Mesh:
        """The head of a frame in the space of the prior, meters, with its colors before lighting."""
        state = HeadState(torch.zeros(1, 0, 3), codes={name: value[None] for name, value in fit.codes.items()})
        field = self.head.avatar.field(state.to(self.device))
        mesh = extract(field, resolution=self.options.mesh_resolution, coarse=COARSEST, progress=False).to("cpu")
        self.head.jitter()
        return mesh

    def export(self, result: Tracking[PriorFit]) -> None:
        """Writes meshes and the published layout."""
        meshes: dict[int, Mesh] = {}
        if self.options.mesh_resolution:
            for frame in tqdm(result.fits, desc="meshes", unit="frame", disable=not self.bar, file=sys.stderr):
                clock = Clock()
                with clock.part("mesh"):
                    meshes[frame] = self.mesh(result.fits[frame])
                    save_mesh(self.folder.mesh_path(frame), meshes[frame])
                result.seconds.setdefault(frame, {}).update(clock.seconds)
        for stage, fits in ((1, result.stage1), (2, result.stage2)):
            if fits:
                stage_meshes = meshes if fits is result.fits else {}
                write_mononphm(self.folder.path / "mononphm", self.capture.name, fits, stage, stage_meshes)

    @torch.no_grad()
    def _landmarks_of_the_mean(self) -> Float[Tensor, "l 3"]:
        """The landmarks of the mean head with the mean expression, posed."""
        if self.head.landmarks is None:
            return torch.zeros(0, 3)
        mean = {name: torch.zeros(self.head.width(name), device=self.device) for name in self.head.names}
        return self.head.posed_landmarks(self.head.avatar.field(self.head.state(mean))).points.cpu()

    def _frame_landmarks(self, frame: int) -> Float[Tensor, "68 2"] | None:
        """The landmarks of a frame, found once."""
        if frame not in self._landmarks:
            self._landmarks[frame] = frame_landmarks(self.capture, frame, self.detector)
        return self._landmarks[frame]

    @functools.cached_property
    def _motion(self) -> tuple[dict[int, float], float]:
        """Landmark motion since the frame before, as a fraction of the image (NaN if unknown), and its mean."""
        motion = dict.fromkeys(self.frames, math.nan)
        previous: Tensor | None = None
        sides = torch.tensor([self.capture.size[1], self.capture.size[0]])
        for frame in self.frames:
            try:
                landmarks = self._frame_landmarks(frame)
            except FrameFailure:
                previous = None
                continue
            if landmarks is not None and previous is not None:
                motion[frame] = float(((landmarks - previous) / sides).square().nanmean())
            previous = landmarks
        known = [value for value in motion.values() if value >= 0]
        return motion, sum(known) / max(len(known), 1)
