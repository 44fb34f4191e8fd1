"""Options of the tracker with a prior: weights, rates and schedules, MonoNPHM's published ones by default.

The published numbers are for codes of the published prior. Codes of another prior may vary more or less, so codes are
fitted along the prior's principal directions (`headfields.apps.priors.code_statistics.CodeStatistics`): one standard
deviation counts as `Stage1.spread` published units, in rates and in regularizers alike.
"""

import math
from dataclasses import dataclass, field, fields, replace

__all__ = ["EnergyWeights", "PriorTrackingOptions", "Stage1", "Stage2", "SteppedRate", "WeightSchedule"]

PUBLISHED_UNIT = 4.0
"""Published units of length in a meter."""
WEAK_POSE = 300.0
"""`EnergyWeights.pose` of `PriorTrackingOptions.quick`."""
HELD_POSE = 3000.0
"""`EnergyWeights.pose` of `PriorTrackingOptions.holding_pose`: a centimeter costs 48, about as much as all colors."""


@dataclass(frozen=True)
class SteppedRate:
    """A learning rate of Adam over the steps of a fit.

    Attributes:
        start: rate at the first step.
        halve: steps at which the rate is halved.
        change: (step, rate) pairs; from that step on, this rate replaces `start`.

    >>> from headfields.apps.tracking.prior.options import SteppedRate
    >>> rate = SteppedRate(0.01, halve=(200, 225), change=((150, 0.02),))
    >>> [rate.at(step) for step in (0, 150, 200, 225)]
    [0.01, 0.02, 0.01, 0.005]
    """

    start: float | int
    halve: tuple[int, ...] = ()
    change: tuple[tuple[int, float | int], ...] = ()

    def at(self, step: float | int) -> float:
        """The rate at a step of the full schedule; a shorter fit passes its step, scaled to the full length."""
        value = self.start
        for begin, other in self.change:
            if step >= begin:
                value = other
        return value / 2 ** sum(step >= border for border in self.halve)


@dataclass(frozen=True)
class WeightSchedule:
    """A weight that is piecewise constant over the steps of a fit.

    Attributes:
        values: pairs of (first step, weight); the first pair begins at step 0.

    >>> from headfields.apps.tracking.prior.options import WeightSchedule
    >>> WeightSchedule(((0, 100.0), (25, 50.0))).at(30)
    50.0
    """

    values: tuple[tuple[int, float | int], ...]

    def at(self, step: float | int) -> float:
        """The value at a step."""
        return [value for begin, value in self.values if step >= begin][-1]


@dataclass(frozen=True)
class EnergyWeights:
    """Weights of the terms of the energy; the defaults are the published ones (stage 1 of a video), except `likely`.

    Attributes:
        color: weight of the absolute color difference, summed over rays and channels and divided by the number of
            rays, colors in [-1, 1].
        mouth: weight of pixels inside the mouth in the color term.
        mask: weight of the soft Jaccard term, 5 (1 - (I + 5) / (U + 5)) over the rays.
        hair: weight of hair pixels in the Jaccard term. The released code intends such a weight, but a boolean takes
            its place.
        landmarks: weight, over steps, of the squared landmark distance, as a fraction of the image's sides, averaged
            over landmarks and over x and y.
        emphasis: factor of that distance, before it is squared, for the chin, four landmarks of the eyelids and ten of
            the lips.
        geometry_local, appearance_local, geometry_global, appearance_global: weights of ‖·‖² of these parts of the
            codes.
        likely: weight of ‖·‖² of geometry and appearance along the prior's principal directions. An image constrains
            only a few of them; along the others Adam's steps, whose length does not depend on the gradient's, would
            drift to unlikely people. Our own choice; there is no such published term.
        symmetry: weight of the mean distance of the parts of mirrored anchors, for geometry and appearance.
        expression: weight of ‖·‖² of the expression code.
        first_expression: the same on the frame that the identity is fitted to.
        pose: weight of the squared pose relative to the start of a frame, rotation + 10 · translation in published
            units. A single camera hardly distinguishes a large distant head from a small near one, and with free poses
            the shape absorbs the ambiguity; see `PriorTrackingOptions.holding_pose` for captures with accurate cameras.
            Our own choice; the published weight is 0.
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
    likely: float | int = 900.0
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
        """Weights published for a single image."""
        return cls(geometry_global=50.0, appearance_global=100.0, expression=250.0, first_expression=250.0)

    @classmethod
    def joint(cls) -> "EnergyWeights":
        """Weights published for stage 2."""
        return cls(
            mask=10.0, landmarks=WeightSchedule(((0, 5.0),)), geometry_local=500.0, appearance_local=500.0,
            geometry_global=50.0, expression=100.0, first_expression=100.0,
        )  # fmt: skip


@dataclass(frozen=True)
class Stage1:
    """Options of stage 1, frame by frame. Rates and schedules count the first frame's steps; later frames take fewer.

    Attributes:
        steps: steps of the first frame.
        pace: number of steps of later frames, as a fraction, if the landmarks moved by more than twice, more than half,
            and less than half of their mean motion, the mean squared change of their coordinates.
        geometry, appearance, expression, light, affine, rotation, translation: rates. Codes in published units, angles
            in radians, translation in units of a quarter of a meter.
        pose_later: factor of the rates of the pose on later frames.
        sharpness, sharpness_later: exponent v of the sharpness exp(10 v), per quarter of a meter, on the first frame
            and on later ones: start, increment each `sharpen_every` steps, and end.
        sharpen_every, sharpen_every_later: steps; the latter is multiplied by the frame's pace.
        clip: bound on the norm of the gradient of each code of the identity.
        weights: weights of the energy.
        spread: published units per standard deviation of the prior's codes. Our own choice.
        starts: number of the prior's own expressions that are compared by landmarks before a frame is fitted (see
            `initial_expression`). Our own choice; the published tracker has none.
    """

    steps: int = 251
    pace: tuple[float | int, float | int, float | int] = (0.5, 0.25, 0.1)
    geometry: SteppedRate = SteppedRate(5e-4, (200, 225))
    appearance: SteppedRate = SteppedRate(5e-4, (200, 225))
    expression: SteppedRate = SteppedRate(2e-4, (200, 225), ((150, 5e-4),))
    light: SteppedRate = SteppedRate(0.05, (150, 225))
    affine: SteppedRate = SteppedRate(5e-4, (200, 225))
    rotation: SteppedRate = SteppedRate(5e-3, (32, 200))
    translation: SteppedRate = SteppedRate(2.5e-3, (32, 200))
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
        """Options published for a single image: five times the steps."""
        return cls(steps=1251, weights=EnergyWeights.single_image())


@dataclass(frozen=True)
class Stage2:
    """Options of stage 2, all frames together, one per step.

    Attributes:
        steps_a_frame: number of steps, divided by the number of frames.
        geometry, appearance, expression, light, rotation, translation: initial rates; halved after a half and three
            quarters of the steps.
        smooth_expression, smooth_pose: weights of the squared difference to the tracked frames before and after, the
            mean over the two; of the pose, rotation + 10 · translation. Halved after half of the steps. The published
            tracker fits consecutive frames; our own choice, as for a random walk, is to divide the square by the number
            of frames between the two.
        sharpness: exponent v; that of the end of stage 1 throughout, our own choice: the released tracker begins at 0.5
            once more, and comes to 0.8 after two fifths of the steps.
        weights: weights of the energy.
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
    """Options of `PriorTracker`.

    Attributes:
        stage1, stage2: options of the two stages; `stage2=None` skips the second.
        rays: number of rays per step.
        foreground: fraction of the rays on the head.
        coarse, fine: samples per ray, uniform and importance-sampled.
        band: half width, meters, of the band around the last surface in which rays are sampled, with half the samples,
            as soon as the surface is sharp; 0, as published: rays are sampled whole.
        roots: searches for the posed place of each landmark; the landmark term is the mean over all that converge. 0:
            one root of each, searched from that of the step before, and in a wider neighborhood where that fails; our
            own choice.
        image_height: height of the reduced images, pixels (no image is enlarged); 133 is a sixth of the published crop
            of 800.
        seed: seed of rays and samples.
        mask_pixels: a frame with fewer pixels of the head, after reduction, is not fitted.
        landmark_share: fraction of the landmarks that the frame must have, and that must be found in posed space.
        mesh_resolution: grid points along the longest side for mesh extraction; 0 for no meshes.
        checkpoint_every: steps of stage 2 between checkpoints.
    """

    stage1: Stage1 = Stage1()
    stage2: Stage2 | None = field(default_factory=Stage2)
    rays: int = 450
    foreground: float | int = 0.75
    coarse: int = 32
    fine: int = 32
    band: float | int = 0.0
    roots: int = 32
    image_height: int = 133
    seed: int = 42
    mask_pixels: int = 200
    landmark_share: float | int = 0.3
    mesh_resolution: int = 192
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name, least in (("rays", 1), ("coarse", 1), ("fine", 1), ("roots", 0), ("image_height", 8),
                            ("mask_pixels", 1), ("mesh_resolution", 0), ("checkpoint_every", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"PriorTrackingOptions: {name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.band < math.inf:
            raise ValueError(f"PriorTrackingOptions: band is {self.band}; expected 0 (whole rays) or meters")
        if not (0 < self.foreground <= 1 and 0 <= self.landmark_share <= 1):
            raise ValueError(
                f"PriorTrackingOptions: foreground is {self.foreground} and landmark_share {self.landmark_share}; "
                "expected parts in (0, 1] and [0, 1]"
            )

    @classmethod
    def quick(cls) -> "PriorTrackingOptions":
        """Fewer rays, samples and steps, for minutes on a CPU; our own choice.

        Expressions have a higher rate, because there are fewer steps. Poses are weakly held to their starts (a
        centimeter costs 4.8, a sixth of the color term): with few rays, gradients along directions that one camera
        hardly constrains are noise, and the length of Adam's steps does not depend on it.
        """
        stage1, stage2 = Stage1(), Stage2()
        return cls(
            stage1=replace(
                stage1, pace=(0.25, 0.16, 0.1), expression=SteppedRate(5e-4, (200, 225)),
                weights=replace(stage1.weights, pose=WEAK_POSE),
            ),
            stage2=replace(
                stage2, steps_a_frame=16.0, expression=2.5e-4, weights=replace(stage2.weights, pose=WEAK_POSE)
            ),
            rays=200, coarse=16, fine=12, band=0.01, roots=0, mesh_resolution=112,
        )  # fmt: skip

    def holding_pose(self, weight: float | int = HELD_POSE) -> "PriorTrackingOptions":
        """The options with poses held to their starts in both stages: to the capture's camera poses, where frames start
        from them (see `prior_observation`).

        Args:
            weight: `EnergyWeights.pose`.
        """
        stage1 = replace(self.stage1, weights=replace(self.stage1.weights, pose=weight))
        stage2 = self.stage2
        if stage2 is not None:
            stage2 = replace(stage2, weights=replace(stage2.weights, pose=weight))
        return replace(self, stage1=stage1, stage2=stage2)
