"""Options of the head tracker."""

from dataclasses import dataclass, field

from headfields.apps.tracking.rig.options import RigTrackingOptions, TermScales

__all__ = ["HeadTrackingOptions"]


def _frame_options() -> RigTrackingOptions:
    scales = TermScales(landmarks=0.008, landmark_weight=1.0, outline_weight=1.0, expression=0.5, jaw=0.15, eye=0.15)
    return RigTrackingOptions(scales=scales, levels=(64, 112, 160), steps=(2, 3, 2), joint_steps=2, expressions=60)


@dataclass(frozen=True)
class HeadTrackingOptions:
    """Sizes and schedules of `fit_identity` and `HeadTracker`. Our own choices.

    Attributes:
        frame: of the fit of each frame, and of the joint fit.
        identities: largest number of identity directions.
        keyframes: frames that identity and focal length are fitted to.
        landmark_frames: frames whose landmarks, before any images, say the focal length.
        landmark_steps: Gauss-Newton steps on landmarks alone.
        rounds: of albedo, light and a fit of identity to landmarks, outlines and colors.
        steps: Gauss-Newton steps in each round.
        side: longer side of the reduced images that identity is fitted to, pixels.
        focal_error: standard error of the logarithm of the focal length above which it counts as undetermined.
    """

    frame: RigTrackingOptions = field(default_factory=_frame_options)
    identities: int = 100
    keyframes: int = 12
    landmark_frames: int = 40
    landmark_steps: int = 25
    rounds: int = 3
    steps: int = 4
    side: int = 128
    focal_error: float | int = 0.2

    def __post_init__(self) -> None:
        for name, least in (("identities", 0), ("keyframes", 1), ("landmark_frames", 1), ("landmark_steps", 1),
                            ("rounds", 0), ("steps", 1), ("side", 32)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"HeadTrackingOptions: {name} is {getattr(self, name)}; it must be at least {least}")
        if not self.focal_error > 0:
            raise ValueError(f"HeadTrackingOptions: focal_error is {self.focal_error}; expected more than 0")

    @classmethod
    def quick(cls) -> "HeadTrackingOptions":
        """Fewer keyframes, smaller images and fewer steps."""
        frame = _frame_options()
        small = RigTrackingOptions(scales=frame.scales, levels=(48, 96), steps=(2, 3), joint_steps=1, expressions=60)
        return cls(frame=small, keyframes=6, landmark_frames=20, rounds=2, steps=3, side=96)
