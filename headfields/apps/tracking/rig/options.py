"""Options of the rig tracker: scales of the residuals, image sizes, steps."""

import math
from dataclasses import dataclass, fields, replace

__all__ = ["Adaptation", "RigTrackingOptions", "TermScales"]


@dataclass(frozen=True)
class TermScales:
    """Standard deviations of the residuals, and weights of the terms.

    Attributes:
        color: scale of a pixel's color, sRGB in [0, 1]; also the scale of Geman and McClure's function.
        color_weight, outline_weight, landmark_weight: total weight of all pixels, of all outline points and of 68
            landmarks, times the level's side. color_weight 0 switches the photometric term off.
        light_reach: standard deviation of the Gaussian, as a fraction of the image's side, whose local mean of color
            differences is attributed to light; 0 for none.
        outline: scale of the silhouette's outline, as a fraction of the image's side.
        landmarks: scale of a landmark's error, as a fraction of the image's side.
        torso, neck, head, jaw, eye: scale of the angle of a joint from rest, radians.
        torso_limit, head_limit: angle from which on a turn of the torso from the seat, and of the head from the torso
            (neck and head together), is beyond a person's range, radians: 45 and 75 degrees. `math.inf`: no limit.
        beyond: scale of the angle beyond a limit, radians.
        expression: scale of a coefficient's deviation from 0.
        motion_turn, motion_shift: scale of the whole body's deviation from its extrapolated motion, radians and meters
            per frame.
        motion_joint, motion_expression: the same of joints, radians, and of coefficients.
        smooth: scale of second differences in the joint fit, as a fraction of the motion scales.
        smooth_seat: the same of the whole body's turn: a chair turns more evenly than the person on it.
    """

    color: float | int = 0.05
    color_weight: float | int = 2.0
    light_reach: float | int = 0.04
    outline: float | int = 0.006
    outline_weight: float | int = 2.0
    landmarks: float | int = 0.012
    landmark_weight: float | int = 0.5
    torso: float | int = 0.3
    neck: float | int = 0.35
    head: float | int = 0.35
    jaw: float | int = 0.25
    eye: float | int = 0.2
    torso_limit: float | int = math.radians(45)
    head_limit: float | int = math.radians(75)
    beyond: float | int = 0.03
    expression: float | int = 0.6
    motion_turn: float | int = 0.15
    motion_shift: float | int = 0.02
    motion_joint: float | int = 0.12
    motion_expression: float | int = 0.35
    smooth: float | int = 0.3
    smooth_seat: float | int = 0.1

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name.endswith("_limit") and value > 0:
                continue
            if not (0 <= value < math.inf) or (value == 0 and item.name not in ("color_weight", "light_reach")):
                raise ValueError(f"TermScales: {item.name} is {value}; expected a positive number")


@dataclass(frozen=True)
class Adaptation:
    """How a template is adapted to the person of a recording (`adapted_template`). Sizes are our own choice.

    Attributes:
        keyframes: number of frames that share the shape.
        landmark_steps, steps: Gauss-Newton steps on landmarks alone, and in each round.
        rounds: rounds of poses and shape, then colors.
        wide, wide_scale, wide_modes: reach and standard deviation of smooth offsets along each axis, meters, and number
            of functions.
        narrow, narrow_scale, narrow_modes: the same of finer ones along the normals.
    """

    keyframes: int = 12
    landmark_steps: int = 10
    steps: int = 6
    rounds: int = 3
    wide: float | int = 0.15
    wide_scale: float | int = 0.008
    wide_modes: int = 16
    narrow: float | int = 0.05
    narrow_scale: float | int = 0.007
    narrow_modes: int = 64

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least = getattr(self, item.name), 0 if item.name == "landmark_steps" else 1
            counts = isinstance(item.default, int)
            if not (value >= least if counts else 0 < value < math.inf):
                expected = f"at least {least}" if counts else "a positive number"
                raise ValueError(f"Adaptation: {item.name} is {value}; expected {expected}")


@dataclass(frozen=True)
class RigTrackingOptions:
    """Sizes and schedules of `RigTracker`.

    Attributes:
        scales: scales of the terms.
        levels: longer sides of the reduced images, coarse to fine, pixels; images are not enlarged.
        steps: Gauss-Newton steps on each level.
        first_steps: steps on the coarsest level where tracking starts, or restarts.
        joint_steps: steps of the joint fit of all frames; 0 for none.
        pixels: approximate number of pixels in the photometric term, on each level.
        expressions: maximum number of coefficients.
        mask_pixels: a frame whose matte has fewer pixels is not fitted.
        landmark_count: number of known landmarks that a start needs.
        lost: a frame has failed if the intersection over union of silhouette and matte is less.
        restart: a frame whose warm start has a lower intersection over union also starts from landmarks.
        adaptation: how the template is adapted to the person first; None for a scan of this very person.
    """

    scales: TermScales = TermScales()
    levels: tuple[int, ...] = (48, 96, 144)
    steps: tuple[int, ...] = (3, 3, 2)
    first_steps: int = 15
    joint_steps: int = 3
    pixels: int = 1500
    expressions: int = 50
    mask_pixels: int = 60
    landmark_count: int = 12
    lost: float | int = 0.6
    restart: float | int = 0.75
    adaptation: Adaptation | None = None

    def __post_init__(self) -> None:
        if not self.levels or len(self.levels) != len(self.steps) or sorted(self.levels) != list(self.levels):
            raise ValueError(
                f"RigTrackingOptions: levels is {self.levels} and steps {self.steps}; expected increasing "
                "levels, and a number of steps for each"
            )
        for name, least in (("first_steps", 1), ("joint_steps", 0), ("expressions", 0), ("pixels", 1),
                            ("mask_pixels", 1),
                            ("landmark_count", 6)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"RigTrackingOptions: {name} is {getattr(self, name)}; it must be at least {least}")
        if min(self.levels) < 8 or min(self.steps) < 0:
            raise ValueError(
                f"RigTrackingOptions: levels is {self.levels}, steps {self.steps}; they must be at least 8, 0"
            )
        if not (0 <= self.lost <= 1 and 0 <= self.restart <= 1):
            raise ValueError(f"RigTrackingOptions: lost is {self.lost}, restart {self.restart}; expected [0, 1]")

    @classmethod
    def quick(cls) -> "RigTrackingOptions":
        """Two levels and fewer steps."""
        return cls(levels=(48, 96), steps=(3, 3), joint_steps=2)

    def without_color(self) -> "RigTrackingOptions":
        """Landmarks and silhouettes only: the baseline without the photometric term."""
        return replace(self, scales=replace(self.scales, color_weight=0.0))
