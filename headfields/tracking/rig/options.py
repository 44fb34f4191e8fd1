"""What template tracking can be told. The paper's energy and its weights are not known: all of it is our own choice."""

import math
from dataclasses import dataclass, fields, replace

__all__ = ["RigTrackingOptions", "TermScales"]


@dataclass(frozen=True)
class TermScales:
    """How far each residual is expected to be off: it counts by 1 over the square of its scale.

    Attributes:
        color: of a pixel's color, sRGB in [0, 1]; also where Geman and McClure's function bends.
        color_weight, outline_weight, landmark_weight: what all pixels, outlines and 68 landmarks count, times
            the level's side; without the first (0) there is no photometric term.
        light_reach: standard deviation, in parts of the image's side, of what differences of color are averaged over
            to take slow ones for light; 0 takes none.
        outline: of the silhouette's outline, parts of the image's side.
        landmarks: of a landmark, parts of the image's side.
        torso, neck, head, jaw: of the angle of a joint from rest, radians.
        expression: of a coefficient from 0.
        motion_turn, motion_shift: how much the whole moves otherwise than foreseen, radians and meters, a frame.
        motion_joint, motion_expression: the same of joints, radians, and coefficients.
        smooth: part of these that the joint pass expects of the second difference over frames.
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
    expression: float | int = 0.6
    motion_turn: float | int = 0.15
    motion_shift: float | int = 0.02
    motion_joint: float | int = 0.12
    motion_expression: float | int = 0.35
    smooth: float | int = 0.3

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (0 <= value < math.inf) or (value == 0 and item.name not in ("color_weight", "light_reach")):
                raise ValueError(f"TermScales: {item.name} is {value}; expected a positive number")


@dataclass(frozen=True)
class RigTrackingOptions:
    """Sizes and schedules of template tracking.

    Attributes:
        scales: of the terms.
        levels: sides that images are reduced to, coarse to fine, pixels; none is enlarged.
        steps: of Gauss and Newton on each level of a frame.
        first_steps: the same for the frame that starts, or starts anew.
        joint_steps: of the joint pass over all frames; 0: none.
        pixels: whose colors count, of each level.
        expressions: at most so many coefficients.
        mask_pixels: a frame with fewer pixels of the matte is not fitted.
        landmark_count: how many visible landmarks a start needs.
        lost: a frame whose silhouette overlaps less with the matte (intersection over union) has failed.
        restart: a frame whose warm start overlaps less starts from landmarks too, if there are enough.
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

    def __post_init__(self) -> None:
        if not self.levels or len(self.levels) != len(self.steps) or sorted(self.levels) != list(self.levels):
            raise ValueError(
                f"RigTrackingOptions: levels is {self.levels} and steps {self.steps}; expected as many of each, "
                "coarse to fine"
            )
        for name, least in (("first_steps", 1), ("joint_steps", 0), ("expressions", 0), ("pixels", 1),
                            ("mask_pixels", 1),
                            ("landmark_count", 6)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"RigTrackingOptions: {name} is {getattr(self, name)}; at least {least}")
        if min(self.levels) < 8 or min(self.steps) < 0:
            raise ValueError(f"RigTrackingOptions: levels is {self.levels}, steps {self.steps}; at least 8 and 0")
        if not (0 <= self.lost <= 1 and 0 <= self.restart <= 1):
            raise ValueError(f"RigTrackingOptions: lost is {self.lost}, restart {self.restart}; parts in [0, 1]")

    @classmethod
    def quick(cls) -> "RigTrackingOptions":
        """Two levels and fewer steps."""
        return cls(levels=(48, 96), steps=(3, 3), joint_steps=2)

    def without_color(self) -> "RigTrackingOptions":
        """Landmarks and silhouettes alone: the baseline that says what the photometric term brings."""
        return replace(self, scales=replace(self.scales, color_weight=0.0))
