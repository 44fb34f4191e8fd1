"""The frozen prior that tracking renders: codes along principal directions, light and color affine."""

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.apps.priors import Prior
from headfields.apps.priors.code_statistics import CodeStatistics
from headfields.apps.tracking.prior.landmarks import EMPHASIZED, LandmarkPoints, PosedLandmarks
from headfields.avatar.avatar import Avatar
from headfields.models.mononphm import code_widths
from headfields.networks import Anchors
from headfields.networks.anchors import AnchoredCode
from headfields.ops import TriangleBVH
from headfields.parts import Field, Rendering
from headfields.records import Camera, HeadState, Rays
from headfields.records.device_copy import send
from headfields.renderers import (
    ScheduledSharpness,
    SurfaceBandSampler,
    SurfaceRenderer,
    SurfaceSampler,
    UnclampedAlpha,
)
from headfields.renderers.lighting import ColorAffine, SHLighting
from headfields.renderers.padded import Buffers

__all__ = ["IDENTITY", "PER_FRAME", "PriorHead", "TrackingPrior"]

IDENTITY = ("geometry", "appearance")
"""Codes of a person."""
PER_FRAME = "expression_code"
"""The code of a frame."""
SEARCH_DEVIATION = 0.01
"""Standard deviation, meters, of the starts from which the inverse deformation is searched again where the first search
fails. The lips of an open mouth are centimeters from their canonical place; with the published half a millimeter many
of them are not found. Our own choice."""

BAND_SHARPNESS = 4 * math.exp(5)
"""Sharpness, 1/m, of the coarse pass within a band. Our own choice."""
ROOT_DEVIATION = 0.0005
"""Standard deviation, meters, of the starts of `PriorHead.landmark_roots` around the canonical point: the published
0.002 in units of a quarter of a meter."""


@dataclass(frozen=True)
class TrackingPrior:
    """A prior as tracking uses it; `of` builds one from a trained prior.

    Attributes:
        avatar: reads `"expression_code"`, and may read `"geometry"` and `"appearance"`; its decoder gives distances.
        codes: statistics of each code.
        landmarks: points of its canonical head, or None.
        hair: whether its heads have hair. If not, hair in a recording is masked out.
        expressions: (S, E) expression codes that a fit may start from, besides the mean; or None.
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
                f"TrackingPrior: codes has {', '.join(self.codes)}; expected only {', '.join((*IDENTITY, PER_FRAME))}, "
                f"with statistics for each code of the avatar ({', '.join(code_widths(self.avatar))})"
            )

    @classmethod
    def of(cls, prior: Prior, landmarks: LandmarkPoints | None = None, hair: bool = True) -> "TrackingPrior":
        """Builds it with the statistics of the codes over the people and scans that a prior was trained on.

        Args:
            prior: trained.
            landmarks: points of its canonical head.
            hair: whether its heads have hair.
        """
        statistics = prior.statistics()
        codes = {
            "geometry": statistics.geometry, "appearance": statistics.appearance, PER_FRAME: statistics.expression,
        }  # fmt: skip
        return cls(prior.avatar, codes, landmarks, hair, prior.expression.detach().clone())


class PriorHead(nn.Module):
    """A copy of a prior's avatar, frozen, with the tracker's renderer and the light and color affine of one recording.

    Codes are fitted along their principal directions, in units in which one standard deviation is `spread`.

    Args:
        prior: its avatar is copied.
        spread: one standard deviation of a code, in the units that codes are fitted in.
        coarse, fine: samples per ray.
        band: half width, meters, of the band around a known surface in which `render` samples half as many; 0 if it is
            never given a surface.
        device: where everything is; None: where the prior is.

    Attributes:
        light, affine: fitted together with codes and poses.
        names: names of the codes.
        sharpness_value: the sharpness, 1/m, as the host knows it.
        emphasized: (L,) which landmarks are among those that MonoNPHM's tracker emphasizes.
        graph: whether steps on a GPU are replayed from a CUDA graph, where they can be captured.
        graph_reason: why those of the last fit were not; empty where they were.
        sample_buffers: sizes of buffers for the samples of a step, as in `SurfaceRenderer`; None: there are none.
        radius, center: meters and (3,), of the ball that holds the heads.
    """

    emphasized: Tensor

    def __init__(
        self,
        prior: TrackingPrior,
        spread: float,
        coarse: int,
        fine: int,
        device: torch.device | str | None = None,
        band: float | int = 0.0,
    ) -> None:
        super().__init__()
        self.avatar = copy.deepcopy(prior.avatar).requires_grad_(False).eval().to(device)
        bounds = self.avatar.deformer.bounds()
        self.light, self.affine = SHLighting().to(bounds), ColorAffine().to(bounds)
        whole = SurfaceSampler(coarse, fine, rounds=1, sharpness=4 * math.exp(3), keep_coarse=False)
        half = SurfaceSampler(-(-coarse // 2), -(-fine // 2), rounds=1, sharpness=BAND_SHARPNESS, keep_coarse=False)
        sampler = SurfaceBandSampler(whole, half, band) if band else whole
        self.sharpness = ScheduledSharpness()
        renderer = SurfaceRenderer(sampler, UnclampedAlpha(self.sharpness), lighting=[self.light, self.affine])
        renderer.build(bounds)
        self.avatar.renderer = renderer.to(bounds).eval()
        self.jitter()
        self.landmarks = None if prior.landmarks is None else prior.landmarks.to(bounds.device)
        number = torch.zeros(0) if prior.landmarks is None else prior.landmarks.number.cpu()
        emphasized = torch.isin(number, torch.tensor(EMPHASIZED, dtype=number.dtype))
        self.register_buffer("emphasized", emphasized.to(bounds.device), persistent=False)
        self.scale = spread
        self.graph, self.graph_reason = True, ""
        self.sample_buffers: Buffers | None = None
        self.sharpness_value = float(self.sharpness.initial)
        self._expressions: dict[int, Tensor] = {}
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
        """The number of fitted directions K of the code `name`."""
        return getattr(self, f"axes_{name}").shape[1]

    def layout(self, name: str) -> AnchoredCode | None:
        """The layout of an anchored code; None for a code without anchors."""
        anchors = self.anchors
        return anchors.layout if anchors is not None and name in IDENTITY else None

    @property
    def anchors(self) -> Anchors | None:
        """The part that predicts anchors, if the model has one."""
        anchors = getattr(self.avatar.deformer, "anchors", None)
        return anchors if isinstance(anchors, Anchors) else None

    def state(self, free: Mapping[str, Float[Tensor, " w"]]) -> HeadState:
        """The state of one frame from codes in the units they are fitted in, where 0 is the mean.

        Args:
            free: each code (K,), K = `width(name)`.
        """
        codes = {name: (getattr(self, f"mean_{name}") + self.deviation(name, free[name]))[None] for name in self.names}
        vertices = codes[self.names[0]].new_zeros(1, 0, 3)
        return HeadState(vertices=vertices, codes=codes)

    def deviation(self, name: str, free: Float[Tensor, "*b k"]) -> Float[Tensor, "*b w"]:
        """The deviation (..., W) of the code `name` from its mean, from the units it is fitted in."""
        return free @ getattr(self, f"axes_{name}").T / self.scale

    def in_spreads(self, name: str, free: Float[Tensor, " k"]) -> Float[Tensor, " w"]:
        """The deviation (W,) of the code `name`, each number in units in which its standard deviation is `scale`."""
        return self.deviation(name, free) / getattr(self, f"spread_{name}") * self.scale

    def free(self, name: str, codes: Float[Tensor, "*b w"]) -> Float[Tensor, "*b k"]:
        """Codes (..., W) projected on the principal directions, in the units they are fitted in; inverse of `state`."""
        axes = getattr(self, f"axes_{name}")
        return (codes - getattr(self, f"mean_{name}")) @ (axes / axes.square().sum(dim=0)) * self.scale

    def sharpen(self, exponent: float) -> None:
        """Sets the sharpness to exp(10 · exponent) per quarter of a meter."""
        self.sharpness_value = 4 * math.exp(10 * exponent)
        self.sharpness.now.fill_(self.sharpness_value)

    def jitter(self) -> None:
        """Draws samples at random within strata along rays; everything else stays in evaluation mode."""
        renderer = self.avatar.renderer
        assert isinstance(renderer, SurfaceRenderer)
        renderer.sampler.train()

    def render(self, rays: Rays, field: Field, surface: TriangleBVH | None = None) -> Rendering:
        """Renders rays in the space of the head, over white.

        Args:
            rays: N rays.
            field: field of the avatar.
            surface: mesh of its surface, or of one nearby, around which rays are sampled if the head has a band; None:
                whole rays.
        """
        renderer = self.avatar.renderer
        assert isinstance(renderer, SurfaceRenderer)
        sampler, renderer.sample_buffers = renderer.sampler, self.sample_buffers
        if isinstance(sampler, SurfaceBandSampler):
            sampler.surface = surface
        try:
            return renderer(rays, field, torch.ones_like(rays.origins))
        finally:
            renderer.sample_buffers = None
            if isinstance(sampler, SurfaceBandSampler):
                sampler.surface = None

    @contextlib.contextmanager
    def fixed_sizes(self, rays: int) -> Iterator[None]:
        """Within the block, `render` puts the samples of so many rays into buffers that have room for all."""
        sampler = self.avatar.renderer.sampler
        assert isinstance(sampler, SurfaceSampler | SurfaceBandSampler)
        self.sample_buffers = Buffers(self.center.device)
        self.sample_buffers.resize(dict.fromkeys(self.sample_buffers.names, rays * sampler.most))
        try:
            yield
        finally:
            self.sample_buffers = None

    def picture(self, camera: Camera, state: HeadState) -> Rendering:
        """Renders an image of one frame over white, without random samples."""
        self.avatar.eval()
        try:
            return self.avatar.render(camera, state)
        finally:
            self.jitter()

    def canonical_landmarks(self, state: HeadState) -> Float[Tensor, "l 3"]:
        """The landmarks (L, 3) of the canonical head of a state of one frame, meters."""
        assert self.landmarks is not None
        code = state.codes.get("geometry")
        anchors = None if self.anchors is None else self.anchors.prepare(state)[0]
        return self.landmarks(anchors, None if code is None else code[0])

    def free_expressions(self, count: int) -> Float[Tensor, "n e"]:
        """Up to `count` of the prior's expression codes by farthest-point sampling, in the units they are fitted in."""
        if self.starts is None or not count:
            return getattr(self, f"mean_{PER_FRAME}").new_zeros(0, self.width(PER_FRAME))
        if count not in self._expressions:
            codes = self.free(PER_FRAME, self.starts)
            self._expressions[count] = codes[farthest_points(codes.cpu(), count)]
        return self._expressions[count]

    def posed_landmarks(self, field: Field, guess: Float[Tensor, "l 3"] | None = None) -> PosedLandmarks:
        """The landmarks in posed space, by inverting the deformation.

        Args:
            field: field of the avatar for one frame.
            guess: (L, 3) initial guess, meters; the canonical points if None, and where it is NaN.

        Differentiable to first order in the codes.
        """
        points = self.canonical_landmarks(field.state)
        frame = torch.zeros(len(points), dtype=torch.long, device=points.device)
        if guess is not None:
            guess = torch.where(guess.isnan(), points.detach(), guess)
        inverse = field.invert(points, frame, guess=guess, spread=SEARCH_DEVIATION)
        return PosedLandmarks(inverse.points, inverse.converged)

    def root_shifts(self, searches: int, random: torch.Generator) -> Float[Tensor, "s l 3"]:
        """From the canonical landmarks to the starts of S searches for each: none, then normal ones, as published.

        Args:
            searches: S.
            random: draws them, on the CPU.
        """
        assert self.landmarks is not None
        points = self.landmarks.base
        shift = ROOT_DEVIATION * torch.randn(searches, *points.shape, generator=random)
        shift[:1] = 0
        return send(shift.to(points.dtype), points.device)

    def landmark_roots(self, field: Field, shift: Float[Tensor, "s l 3"]) -> PosedLandmarks:
        """The posed places of the landmarks that several searches find, all of them.

        Args:
            field: field of the avatar for one frame.
            shift: (S, L, 3) of the starts of S searches for each of the L landmarks, as of `root_shifts`.

        Returns:
            S L points, the L of one search after the other.

        Differentiable to first order in the codes.
        """
        points = self.canonical_landmarks(field.state)
        starts = (points.detach() + shift).flatten(0, 1)
        frame = torch.zeros(len(starts), dtype=torch.long, device=points.device)
        inverse = field.invert(points.repeat(len(shift), 1), frame, guess=starts, starts=1)
        return PosedLandmarks(inverse.points, inverse.converged)


def farthest_points(points: Float[Tensor, "n c"], count: int) -> list[int]:
    """Up to `count` of N points, each the farthest from those before it; the first is the farthest from the origin."""
    selected = [int(points.norm(dim=1).argmax())]
    nearest = (points - points[selected[0]]).norm(dim=1)
    while len(selected) < min(count, len(points)):
        selected.append(int(nearest.argmax()))
        nearest = nearest.minimum((points - points[selected[-1]]).norm(dim=1))
    return selected
