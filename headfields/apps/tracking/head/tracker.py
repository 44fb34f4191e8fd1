"""The head tracker: a personal head through a recording, on the rig tracker's frames."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from headfields.apps.tracking.head.identity import HeadIdentity
from headfields.apps.tracking.head.options import HeadTrackingOptions
from headfields.apps.tracking.head.rig import HeadModel
from headfields.apps.tracking.head.tracked_head import write_tracked_head
from headfields.apps.tracking.loop import Tracking, pictures_of
from headfields.apps.tracking.rig.fit import RigFit
from headfields.apps.tracking.rig.observation import RigObservation, rig_observation
from headfields.apps.tracking.rig.surface import RigSurface
from headfields.apps.tracking.rig.tracker import RigTracker
from headfields.data.untracked import UntrackedRecording
from headfields.viz import write_video

__all__ = ["HeadTracker"]


class HeadTracker(RigTracker):
    """Fits pose, jaw, eyes and expression of a person's head to each frame, then to all frames together.

    Each frame starts from the extrapolated motion of its neighbors, forward from the first frame with a face, then
    backward from there; frames without landmarks are fitted by colors and outlines, and a frame that begins another
    shot starts from its own landmarks.

    Args:
        model: the head.
        identity: of the recording, from `fit_identity`.
        recording: images, mattes, and landmarks where known.
        out: the folder of the run.
        options: sizes and steps.
        free_labels: labels of what the head lacks.
        frames: indices of the frames to track; all that can be used if None.
        capture: folder of the tracked capture.
        bar: whether progress bars are shown.

    Raises:
        ValueError: there are no frames.
        IndexError: a frame is out of range.
    """

    def __init__(
        self, model: HeadModel, identity: HeadIdentity, recording: UntrackedRecording, out: str | Path,
        options: HeadTrackingOptions | None = None, free_labels: Sequence[int] = (),
        frames: Sequence[int] | None = None, capture: str | Path | None = None, bar: bool = True,
    ) -> None:  # fmt: skip
        options = HeadTrackingOptions() if options is None else options
        rig = model.rig(identity.coefficients)
        lens = recording if recording.intrinsics is not None else recording.with_focal(identity.focal)
        super().__init__(rig, lens, out, options.frame, frames, bar=bar)
        self.head_model, self.identity, self.recording = model, identity, lens
        self.body = model.body(identity.coefficients, options.frame.expressions, float(options.frame.scales.expression))
        self.body.landmark_offsets = identity.landmark_offsets
        self.surface = RigSurface(rig, identity.colors, model.outlined)
        self.light = identity.light
        self.cuts = tuple(recording.cuts)
        self._free, self._out = tuple(free_labels), Path(out) / "capture" if capture is None else Path(capture)

    def load(self, frame: int) -> RigObservation:
        return rig_observation(self.recording, frame, self.options, self._free)

    def export(self, result: Tracking[RigFit]) -> None:
        """Writes the tracked capture, and beside it errors.json and the pictures as overlay.mp4."""
        if not result.fits:
            return
        result.capture = write_tracked_head(
            self._out, self.recording, self.head_model, self.identity.coefficients, self.body, result.fits
        )
        shutil.copyfile(self.folder.path / "errors.json", self._out / "errors.json")
        stage = 2 if result.stage2 else 1
        pictures = [self.folder.picture_path(stage, frame) for frame in sorted(result.fits)]
        write_video(self._out / "overlay.mp4", pictures_of(pictures), fps=min(len(pictures), 12))
