"""A prior as tracking drives it: codes measured in spreads, a light, a camera's colors; its networks are frozen."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.avatar import Avatar
from headfields.models.mononphm import code_widths
from headfields.networks import Anchors
from headfields.networks.latent_table import AnchoredCode
from headfields.parts import Field, Rendering
from headfields.priors import CodeStatistics, Prior
from headfields.records import Camera, HeadState, Rays
from headfields.renderers import ScheduledSharpness, SurfaceRenderer, SurfaceSampler, UnclampedAlpha
from headfields.renderers.lighting import ColorAffine, SHLighting
from headfields.tracking.prior.landmarks import LandmarkPoints, PosedLandmarks

__all__ = ["IDENTITY", "PER_FRAME", "PriorHead", "TrackingPrior"]

IDENTITY = ("geometry", "appearance")
"""Codes that are a person's."""
PER_FRAME = "expression_code"
"""The code that is a frame's."""
AROUND = 0.01
"""Standard deviation, meters, of where landmarks are searched that are not found at once. An open mouth's lips are some
centimeters from their canonical place, with ground between where the deformation says nothing: from half a millimeter
around, as published, many of them are not found. Our own choice."""


@dataclass(frozen=True)
class TrackingPrior:
    """What tracking needs of a prior; `of` makes it from a trained one.

    Attributes:
        avatar: whose state is codes: `"expression_code"`, and of `"geometry"` and `"appearance"` what it has. Its
            decoder gives distances.
        codes: the range of each code.
        landmarks: points of its canonical head, or None for none.
        hair: whether its heads have hair; of a recording's, neither color nor outline then count.
        expressions: (S, E) expression codes to start from, or None for the mean alone.
    """

    avatar: Avatar
    codes: Mapping[str, CodeStatistics]
    landmarks: LandmarkPoints | None = None
    hair: bool = True
    expressions: Float[Tensor, "s e"] | None = None

    def __post_init__(self) -> None:
        if self.avatar.decoder.gives != "distance":
            raise ValueError(
                f"TrackingPrior: the avatar's {type(self.avatar.decoder).__name__} gives {self.avatar.decoder.gives}; "
                "tracking needs a field of signed distances (headfields.models.mononphm)"
            )
        unknown = [name for name in self.codes if name not in (*IDENTITY, PER_FRAME)]
        missing = [name for name in code_widths(self.avatar) if name not in self.codes]
        if unknown or missing:
            raise ValueError(
                f"TrackingPrior: codes has {', '.join(self.codes)}; expected {', '.join((*IDENTITY, PER_FRAME))}, and "
                f"for each code of the avatar its range ({', '.join(code_widths(self.avatar))})"
            )

    @classmethod
    def of(cls, prior: Prior, landmarks: LandmarkPoints | None = None, hair: bool = True) -> "TrackingPrior":
        """Ranges of the codes as they are over the people and scans that a prior was trained on.

        Args:
            prior: trained.
            landmarks: points of its canonical head.
            hair: whether its heads have hair.
        """
        ranges = prior.statistics()
        named = {"geometry": ranges.geometry, "appearance": ranges.appearance, PER_FRAME: ranges.expression}
        return cls(prior.avatar, named, landmarks, hair, prior.expression.detach().clone())


class PriorHead(nn.Module):
    """The frozen model, rendered as the tracker does, with light and color affine of one recording.

    Args:
        prior: its avatar is copied.
        spread: what one spread of a code counts as in the units that codes are fitted in.
        coarse, fine: samples a ray.

    Attributes:
        light, affine: what is fitted beside codes and poses.
    """

    def __init__(self, prior: TrackingPrior, spread: float, coarse: int, fine: int) -> None:
        super().__init__()
        self.avatar = copy.deepcopy(prior.avatar).requires_grad_(False).eval()
        bounds = self.avatar.deformer.bounds()
        self.light, self.affine = SHLighting().to(bounds), ColorAffine().to(bounds)
        sampler = SurfaceSampler(coarse, fine, rounds=1, sharpness=4 * math.exp(3), keep_coarse=False)
        self.sharpness = ScheduledSharpness()
        renderer = SurfaceRenderer(sampler, UnclampedAlpha(self.sharpness), lighting=[self.light, self.affine])
        renderer.build(bounds)
        self.avatar.renderer = renderer.to(bounds).eval()
        self.jitter()
        self.landmarks = None if prior.landmarks is None else prior.landmarks.to(bounds.device)
        self.scale = spread
        self.starts: Tensor | None
        self.register_buffer("starts", None if prior.expressions is None else prior.expressions.to(bounds))
        for name, code in prior.codes.items():
            self.register_buffer(f"mean_{name}", code.mean.to(bounds))
            self.register_buffer(f"axes_{name}", code.axes.to(bounds))
            self.register_buffer(f"spread_{name}", code.axes.norm(dim=1).clamp_min(1e-12).to(bounds))
        self.names = tuple(prior.codes)
        low, high = bounds
        self.center, self.radius = (low + high) / 2, float((high - low).max() / 2)

    def width(self, name: str) -> int:
        """How many directions of the code called `name` are fitted."""
        return getattr(self, f"axes_{name}").shape[1]

    def layout(self, name: str) -> AnchoredCode | None:
        """How the code is divided among anchors, if it is."""
        anchors = self.anchors
        return anchors.layout if anchors is not None and name in IDENTITY else None

    @property
    def anchors(self) -> Anchors | None:
        """The part that predicts anchors, if the model has one."""
        found = getattr(self.avatar.deformer, "anchors", None)
        return found if isinstance(found, Anchors) else None

    def state(self, free: Mapping[str, Float[Tensor, " w"]]) -> HeadState:
        """The state of one frame from codes in the units they are fitted in: 0 is the mean.

        Args:
            free: each code (K,), for the K directions that are fitted (`width`).
        """
        codes = {name: (getattr(self, f"mean_{name}") + self.moved(name, free[name]))[None] for name in self.names}
        some = next(iter(codes.values()))
        return HeadState(vertices=some.new_zeros(1, 0, 3), codes=codes)

    def moved(self, name: str, free: Float[Tensor, "*b k"]) -> Float[Tensor, "*b w"]:
        """What codes (..., W) called `name` are off the mean, from the units they are fitted in."""
        return free @ getattr(self, f"axes_{name}").T / self.scale

    def in_spreads(self, name: str, free: Float[Tensor, " k"]) -> Float[Tensor, " w"]:
        """What each number of the code called `name` is off the mean, one standard deviation of it being `scale`."""
        return self.moved(name, free) / getattr(self, f"spread_{name}") * self.scale

    def free(self, name: str, codes: Float[Tensor, "*b w"]) -> Float[Tensor, "*b k"]:
        """Codes (..., W) called `name` in the units they are fitted in, as far as directions go: undoes `state`."""
        axes = getattr(self, f"axes_{name}")
        return (codes - getattr(self, f"mean_{name}")) @ (axes / axes.square().sum(dim=0)) * self.scale

    def sharpen(self, exponent: float) -> None:
        """Sets the sharpness to exp(10 · exponent) per quarter of a meter."""
        self.sharpness.now.fill_(4 * math.exp(10 * exponent))

    def jitter(self) -> None:
        """Has strata along rays drawn at random, the rest being in evaluation mode, which leaves out weak members."""
        renderer = self.avatar.renderer
        assert isinstance(renderer, SurfaceRenderer)
        renderer.sampler.train()

    def render(self, rays: Rays, field: Field) -> Rendering:
        """Rays in the space of the head, over white."""
        return self.avatar.renderer(rays, field, torch.ones_like(rays.origins))

    def picture(self, camera: Camera, state: HeadState) -> Rendering:
        """An image of one frame over white, without random samples."""
        self.avatar.eval()
        try:
            return self.avatar.render(camera, state)
        finally:
            self.jitter()

    def canonical_landmarks(self, state: HeadState) -> Float[Tensor, "l 3"]:
        """The landmarks of the canonical head of the state's only frame, meters."""
        assert self.landmarks is not None
        code = state.codes.get("geometry")
        anchors = None if self.anchors is None else self.anchors.prepare(state)[0]
        return self.landmarks(anchors, None if code is None else code[0])

    def free_expressions(self, count: int) -> Float[Tensor, "n e"]:
        """Up to so many of the prior's expression codes, as different as can be, in the units they are fitted in."""
        if self.starts is None or not count:
            return getattr(self, f"mean_{PER_FRAME}").new_zeros(0, self.width(PER_FRAME))
        codes = self.free(PER_FRAME, self.starts)
        chosen = [int(codes.norm(dim=1).argmax())]
        nearest = (codes - codes[chosen[0]]).norm(dim=1)
        while len(chosen) < min(count, len(codes)):
            chosen.append(int(nearest.argmax()))
            nearest = nearest.minimum((codes - codes[chosen[-1]]).norm(dim=1))
        return codes[chosen]

    def posed_landmarks(self, field: Field, guess: Float[Tensor, "l 3"] | None = None) -> PosedLandmarks:
        """The landmarks of the field's only frame in posed space, through the inverse of the deformation.

        Args:
            field: of `avatar`.
            guess: (L, 3) where to look first, meters; the canonical places if None.

        Differentiable to first order in the codes.
        """
        points = self.canonical_landmarks(field.state)
        frame = torch.zeros(len(points), dtype=torch.long, device=points.device)
        found = field.invert(points, frame, guess=guess, spread=AROUND)
        return PosedLandmarks(found.points, found.converged)
