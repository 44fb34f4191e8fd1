"""Weights, rates and schedules of tracking: MonoNPHM's published ones by default, and smaller ones for a CPU.

The published numbers are for codes of the published prior. Codes of another prior may vary more or less, so codes are
fitted along the prior's principal directions (`headfields.priors.CodeStatistics`): one standard deviation counts as
`Stage1.spread` published units, in rates and in regularizers alike.
"""

import math
from dataclasses import dataclass, field, fields, replace

__all__ = ["EnergyWeights", "PriorTrackingOptions", "RateSchedule", "Stage1", "Stage2", "WeightSchedule"]

PUBLISHED_UNIT = 4.0
"""Published units of length in a meter."""
WEAK_POSE = 100.0
"""`EnergyWeights.pose` of `PriorTrackingOptions.quick`."""
HELD_POSE = 1000.0
"""`EnergyWeights.pose` of `PriorTrackingOptions.holding_pose`: a centimeter costs 16, about as much as all colors."""


@dataclass(frozen=True)
class RateSchedule:
    """A rate of Adam over the steps of a fit.

    Attributes:
        start: at the first step.
        halve: steps at which it is halved.
        change: (step, rate) from which on another value is halved instead of `start`.
    """

    start: float | int
    halve: tuple[int, ...] = ()
    change: tuple[tuple[int, float | int], ...] = ()

    def at(self, step: float | int) -> float:
        """The rate at a step of the full schedule; a shorter fit passes its step times full length / its length."""
        value = self.start
        for begin, other in self.change:
            if step >= begin:
                value = other
        return value / 2 ** sum(step >= border for border in self.halve)


@dataclass(frozen=True)
class WeightSchedule:
    """Something that takes other values over the steps of a fit: (step from which on, value), the first at 0."""

    values: tuple[tuple[int, float | int], ...]

    def at(self, step: float | int) -> float:
        """The value at a step."""
        return [value for begin, value in self.values if step >= begin][-1]


@dataclass(frozen=True)
class EnergyWeights:
    """What each term of the energy counts; the defaults are published (stage 1 of a video), but for `likely`.

    Attributes:
        color: mean over rays of the absolute difference of colors, in units of [-1, 1], per channel.
        mouth: what the inside of the mouth counts in it.
        mask: of the soft Jaccard term, 5 (1 - (I + 5) / (U + 5)) over the rays.
        hair: what hair counts in the Jaccard term. The released code means to do so and does not; this is one term with
            hair down-weighted.
        landmarks: over steps; of the mean squared distance of landmarks in parts of the image's sides.
        emphasis: factor of that distance, before it is squared, for chin, mouth and eyelids.
        geometry_local, appearance_local, geometry_global, appearance_global: of ‖·‖² of these parts of the codes.
        likely: of ‖·‖² of geometry and appearance along the prior's principal directions, of which only a few tell in
            an image: along the others nothing else keeps Adam's steps, which are as long whatever the gradient, from
            wandering off to people whom there are not. Our own choice; published has none.
        symmetry: of the squared difference of the parts of mirrored anchors, geometry and appearance.
        expression: of ‖·‖² of the expression code.
        first_expression: of the same on the frame that the identity is fitted to.
        pose: of the squared pose away from where a frame starts, rotation's + 10 · translation's in published units.
            A single camera hardly distinguishes a large distant head from a small near one, and with free poses the
            shape absorbs the ambiguity; see `PriorTrackingOptions.holding_pose` for captures with accurate cameras. Our
            own choice; the published weight is 0.
    """

    color: float | int = 100.0
    mouth: float | int = 1 / 25
    mask: float | int = 25.0
    hair: float | int = 1 / 5
    landmarks: WeightSchedule = WeightSchedule(((0, 100.0), (25, 50.0), (50, 20.0), (100, 10.0)))
    emphasis: float | int = 100.0
    geometry_local: float | int = 1000.0
    appearance_local: float | int = 1000.0
    geometry_global: float | int = 25.0
    appearance_global: float | int = 50.0
    likely: float | int = 300.0
    symmetry: float | int = 1.0
    expression: float | int = 150.0
    first_expression: float | int = 1000.0
    pose: float | int = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            for number in [v for _, v in value.values] if isinstance(value, WeightSchedule) else [value]:
                if not 0 <= number < math.inf:
                    raise ValueError(f"EnergyWeights: {item.name} is {value}; expected 0 (left out) or more")

    @classmethod
    def single_image(cls) -> "EnergyWeights":
        """As published for one image."""
        return cls(geometry_global=50.0, appearance_global=100.0, expression=250.0, first_expression=250.0)

    @classmethod
    def joint(cls) -> "EnergyWeights":
        """As published for stage 2."""
        return cls(
            mask=10.0, landmarks=WeightSchedule(((0, 5.0),)), geometry_local=500.0, appearance_local=500.0,
            geometry_global=50.0, expression=100.0, first_expression=100.0,
        )  # fmt: skip


@dataclass(frozen=True)
class Stage1:
    """Frame by frame. Steps of rates and schedules are those of the first frame; later frames run through them faster.

    Attributes:
        steps: of the first frame.
        pace: what part of them a later frame takes: by more than twice, more than half, and less than half of the mean
            motion of the landmarks.
        geometry, appearance, expression, light, affine, rotation, translation: rates. Codes and expression in published
            units, radians, and units of a quarter of a meter.
        pose_later: factor of the rates of the pose on later frames.
        sharpness, sharpness_later: exponents v of a sharpness exp(10 v), per quarter of a meter, on the first frame and
            on later ones: start, what is added each `sharpen_every` steps, and where it ends.
        sharpen_every, sharpen_every_later: steps; the latter times the frame's pace.
        clip: bound on the norm of the gradient of each code of the identity.
        weights: of the energy.
        spread: how many published units one spread of the prior's codes counts as. Our own choice.
        starts: how many of the prior's own expressions are looked at, by landmarks alone, before a frame is fitted; it
            starts from one of them if that is much better than where the frame before ended. Our own choice; the
            published tracker looks at none.
    """

    steps: int = 251
    pace: tuple[float | int, float | int, float | int] = (0.5, 0.25, 0.1)
    geometry: RateSchedule = RateSchedule(5e-4, (200, 225))
    appearance: RateSchedule = RateSchedule(5e-4, (200, 225))
    expression: RateSchedule = RateSchedule(2e-4, (200, 225), ((150, 5e-4),))
    light: RateSchedule = RateSchedule(0.05, (150, 200, 225))
    affine: RateSchedule = RateSchedule(5e-4, (200, 225))
    rotation: RateSchedule = RateSchedule(5e-3, (32, 200, 225))
    translation: RateSchedule = RateSchedule(2.5e-3, (32, 200, 225))
    pose_later: float | int = 0.1
    sharpness: tuple[float | int, float | int, float | int] = (0.3, 0.15, 0.8)
    sharpness_later: tuple[float | int, float | int, float | int] = (0.5, 0.15, 0.8)
    sharpen_every: int = 25
    sharpen_every_later: int = 50
    clip: float | int = 0.1
    weights: EnergyWeights = EnergyWeights()
    spread: float | int = 0.01
    starts: int = 32

    def __post_init__(self) -> None:
        if self.steps < 1 or self.starts < 0 or not all(0 < pace <= 1 for pace in self.pace) or not self.spread > 0:
            raise ValueError(
                f"Stage1: steps is {self.steps}, starts {self.starts}, pace {self.pace}, spread {self.spread}; "
                "expected at least one step, no negative number of starts, parts in (0, 1] and a positive spread"
            )

    @classmethod
    def single_image(cls) -> "Stage1":
        """As published for one image: five times the steps."""
        return cls(steps=1251, weights=EnergyWeights.single_image())


@dataclass(frozen=True)
class Stage2:
    """All frames together, one a step.

    Attributes:
        steps_a_frame: times the number of frames: steps.
        geometry, appearance, expression, light, rotation, translation: rates at the start; halved at a half and three
            quarters of the steps.
        smooth_expression, smooth_pose: weights of the squared differences to the frames before and after; of the pose,
            rotation's and 10 times translation's. Halved at half of the steps.
        sharpness: exponent v throughout; where stage 1 ends.
        weights: of the energy.
    """

    steps_a_frame: float | int = 251 * 0.25
    geometry: float | int = 2e-4
    appearance: float | int = 2e-4
    expression: float | int = 1e-4
    light: float | int = 1e-4
    rotation: float | int = 3e-4
    translation: float | int = 1e-4
    smooth_expression: float | int = 2000.0
    smooth_pose: float | int = 5e4
    sharpness: float | int = 0.8
    weights: EnergyWeights = field(default_factory=EnergyWeights.joint)

    def __post_init__(self) -> None:
        if not self.steps_a_frame > 0:
            raise ValueError(f"Stage2: steps_a_frame is {self.steps_a_frame}; expected a positive number")


@dataclass(frozen=True)
class PriorTrackingOptions:
    """All that tracking can be told.

    Attributes:
        stage1, stage2: the two stages; without the second if None.
        rays: a step.
        foreground: part of them that are on the head.
        coarse, fine: samples a ray of the first pass, and drawn from what it found.
        image_height: pixels that images are reduced to (none is enlarged); 133 is a sixth of the published crop of 800.
        seed: of rays and samples.
        mask_pixels: a frame with fewer pixels of the head, after the reduction, is not fitted.
        landmark_share: what share of the landmarks must be there, and be found in posed space.
        mesh_resolution: points of the longest side of the grid that meshes are extracted from; 0: no meshes.
        checkpoint_every: steps of stage 2.
    """

    stage1: Stage1 = Stage1()
    stage2: Stage2 | None = field(default_factory=Stage2)
    rays: int = 450
    foreground: float | int = 0.75
    coarse: int = 32
    fine: int = 32
    image_height: int = 133
    seed: int = 42
    mask_pixels: int = 200
    landmark_share: float | int = 0.3
    mesh_resolution: int = 192
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name, least in (("rays", 1), ("coarse", 1), ("fine", 1), ("image_height", 8), ("mask_pixels", 1),
                            ("mesh_resolution", 0), ("checkpoint_every", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"PriorTrackingOptions: {name} is {getattr(self, name)}; it must be at least {least}")
        if not (0 < self.foreground <= 1 and 0 <= self.landmark_share <= 1):
            raise ValueError(
                f"PriorTrackingOptions: foreground is {self.foreground} and landmark_share {self.landmark_share}; "
                "expected parts in (0, 1] and [0, 1]"
            )

    @classmethod
    def quick(cls) -> "PriorTrackingOptions":
        """Fewer rays, samples and steps, for minutes on a CPU: our own choice.

        Expressions move faster, for there are fewer steps; and poses are held a little to where frames start (a
        centimeter costs 1.6, a tenth of what colors do), for gradients of few rays are noise along what one camera
        hardly tells, and Adam's steps are as long for noise.
        """
        stage1, stage2 = Stage1(), Stage2()
        return cls(
            stage1=replace(
                stage1, pace=(0.25, 0.16, 0.1), expression=RateSchedule(5e-4, (200, 225)),
                weights=replace(stage1.weights, pose=WEAK_POSE),
            ),
            stage2=replace(
                stage2, steps_a_frame=16.0, expression=2.5e-4, weights=replace(stage2.weights, pose=WEAK_POSE)
            ),
            rays=200, coarse=16, fine=12, mesh_resolution=112,
        )  # fmt: skip

    def holding_pose(self, weight: float | int = HELD_POSE) -> "PriorTrackingOptions":
        """The same with poses held to where frames start, in both stages: to the capture's cameras, where those are
        taken (see `prior_observation`).

        Args:
            weight: `EnergyWeights.pose`.
        """
        stage1 = replace(self.stage1, weights=replace(self.stage1.weights, pose=weight))
        stage2 = self.stage2
        if stage2 is not None:
            stage2 = replace(stage2, weights=replace(stage2.weights, pose=weight))
        return replace(self, stage1=stage1, stage2=stage2)
