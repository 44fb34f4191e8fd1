"""Eyelid edges, found by ray casting from inside the eye, and their distance in any pose."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.apps.retargeting.head_surface import Eyeball, HeadSurface
from headfields.ops.similarity import Similarity
from headfields.ops.triangle_bvh import TriangleBVH

__all__ = ["LidAperture", "find_lids"]

_PLACES = 9  # meridians from corner to corner at which the lids' distance is measured
_MARGIN = 0.08  # fraction of the eye's width left out at each corner
_AZIMUTH, _ELEVATION, _STEP = 80, 60, 1  # degrees: the fan of rays out of an eyeball's center
_NARROW = 6  # degrees: a meridian with a smaller opening is at a corner
_SLIT = 16  # degrees: a narrower eye counts as shut
_REACH = 2.2  # radii: skin farther from the eyeball's center is no lid
_FINE = 0.1  # degrees between rays that locate an edge: 0.02 mm
_CLOSED = 0.35  # openness above which the "closed" mesh is rejected


@dataclass(frozen=True)
class LidAperture:
    """The edges of the two lids of one eye, sampled at K places.

    Attributes:
        eye: the eyeball behind them, the largest one if several share a center.
        corners: (2, K, 3) vertices of the triangles on which the K points of the upper and of the lower edge lie, from
            the head's right to its left.
        weights: (2, K, 3) their barycentric coordinates.
        direction: (K, 3) unit, from the lower to the upper edge at rest.
        rest: (K,) meters between them at rest.
        closed: (K,) meters along `direction` with the lids shut; 0 where no such mesh is known.
        azimuth: (K,) radians from +z toward +x, of the meridians of the points at rest.
        elevation: (2, K) radians over the horizontal through the eyeball's center, at rest.
    """

    eye: Eyeball
    corners: Int[Tensor, "2 k 3"]
    weights: Float[Tensor, "2 k 3"]
    direction: Float[Tensor, "k 3"]
    rest: Float[Tensor, " k"]
    closed: Float[Tensor, " k"]
    azimuth: Float[Tensor, " k"]
    elevation: Float[Tensor, "2 k"]

    def edges(self, vertices: Float[Tensor, "*b v 3"]) -> Float[Tensor, "*b 2 k 3"]:
        """The points of both edges, (..., 2, K, 3), on posed vertices of the head. Linear in them."""
        return torch.einsum("lkc,...lkcd->...lkd", self.weights.to(vertices), vertices[..., self.corners, :])

    def distance(self, vertices: Float[Tensor, "*b v 3"]) -> Float[Tensor, "*b k"]:
        """(..., K) meters between the edges of posed vertices, along `direction`; negative where they overlap."""
        upper, lower = self.edges(vertices).unbind(-3)
        return ((upper - lower) * self.direction.to(vertices)).sum(-1)

    def openness(self, vertices: Float[Tensor, "*b v 3"]) -> Float[Tensor, "*b k"]:
        """(..., K): 1 at rest, 0 with the lids shut. Linear in the vertices."""
        closed = self.closed.to(vertices)
        return (self.distance(vertices) - closed) / (self.rest.to(vertices) - closed)

    def distance_at(self, openness: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
        """(..., K) meters between the edges at an openness."""
        closed = self.closed.to(openness)
        return closed + openness * (self.rest.to(openness) - closed)


def find_lids(head: HeadSurface, align: Similarity | None = None) -> tuple[LidAperture, ...]:
    """Finds the lids of a head's open eyes, by rays from each eyeball's center that meet no skin.

    A lid's edge is where outer skin begins, on meridians spaced evenly from one corner of the eye to the other. This
    works on any topology, whether or not lids have an inner side or pass into the eyeball. An eye that is shut at rest,
    or has no eyeball, is left out.

    Args:
        head: y up and face toward +z after `align`.
        align: applied to the head first; the result is for aligned vertices.

    Our own choice.
    """
    align = Similarity.identity() if align is None else align
    if not bool(head.outer.any()):
        return ()
    neutral = align.apply(head.neutral.double())
    shut = None if head.closed is None else align.apply(head.closed.double())
    skins = [head.faces[mask] for mask in (head.skin, head.outer)]
    all_skin, outer = (TriangleBVH(skin, neutral.float()) for skin in skins)
    out = []
    for ball in _outermost(head.eyeballs):
        eye = Eyeball(ball.vertices, align.apply(ball.center.double()), ball.radius * float(align.scale))
        lids = _lids_of(eye, _Fan(eye, all_skin), _Fan(eye, outer), skins[1], neutral)
        if lids is None:
            continue
        if shut is not None and bool(lids.openness(shut).mean() < _CLOSED):
            lids = replace(lids, closed=torch.minimum(lids.distance(shut), 0.5 * lids.rest))
        out.append(lids)
    return tuple(out)


def _outermost(eyeballs: tuple[Eyeball, ...]) -> list[Eyeball]:
    """The largest eyeball of each group around one center (an eye may have several shells), right to left."""
    out: list[Eyeball] = []
    for ball in sorted(eyeballs, key=lambda each: -each.radius):
        if all(float((ball.center - other.center).norm()) > other.radius for other in out):
            out.append(ball)
    return sorted(out, key=lambda each: float(each.center[0]))


def _directions(azimuth: Tensor, elevation: Tensor) -> Float[Tensor, "*n 3"]:
    cos = elevation.cos()
    return torch.stack([azimuth.sin() * cos, elevation.sin().expand_as(azimuth * cos), azimuth.cos() * cos], dim=-1)


class _Fan:
    """Rays from an eyeball's center."""

    def __init__(self, eye: Eyeball, tree: TriangleBVH) -> None:
        self.eye, self.tree = eye, tree

    def cast(self, azimuth: Tensor, elevation: Tensor) -> tuple[Tensor, Tensor]:
        """Face of the skin that each ray hits, or −1, and barycentric coordinates on it."""
        directions = _directions(azimuth, elevation).float().reshape(-1, 3)
        origins = self.eye.center.float().expand_as(directions)
        hit = self.tree.raycast(origins, directions)
        face = torch.where(hit.distance < _REACH * self.eye.radius, hit.face, -1)
        return face.reshape(azimuth.shape), hit.barycentric.double().reshape(*azimuth.shape, 3)


def _lids_of(eye: Eyeball, skin: _Fan, outer: _Fan, faces: Tensor, neutral: Tensor) -> LidAperture | None:
    """The lids in front of an eyeball; `faces` belong to `outer`. The opening is free of all `skin`."""
    columns = torch.arange(-_AZIMUTH, _AZIMUTH + 1, _STEP).double()
    rows = torch.arange(-_ELEVATION, _ELEVATION + 1, _STEP).double()
    hit, _ = skin.cast(*(angle.deg2rad() for angle in torch.meshgrid(columns, rows, indexing="ij")))
    low, high = _opening(hit < 0)
    wide = ((high - low + 1) * _STEP >= _NARROW).nonzero()[:, 0]
    if len(wide) * _STEP < _SLIT:
        return None  # shut, or no lid above or below
    first, last = float(columns[wide[0]]), float(columns[wide[-1]])
    places = first + (last - first) * torch.linspace(_MARGIN, 1 - _MARGIN, _PLACES, dtype=torch.float64)
    column = ((places - columns[0]) / _STEP).round().long()
    middle = 0.5 * (rows[low[column]] + rows[high[column]])
    away = torch.arange(0, _ELEVATION, _FINE).double()
    elevation = torch.stack([middle[:, None] + away, middle[:, None] - away]).deg2rad()  # (2, K, N)
    hit, barycentric = outer.cast(places.deg2rad()[None, :, None].expand_as(elevation), elevation)
    nearest = (hit >= 0).long().argmax(dim=-1, keepdim=True)  # the first from the middle
    face = hit.gather(-1, nearest)[..., 0]
    if bool((face < 0).any()):
        return None
    weights = barycentric.gather(-2, nearest[..., None].expand(-1, -1, 1, 3))[..., 0, :]
    corners = faces[face]
    upper, lower = torch.einsum("lkc,lkcd->lkd", weights, neutral[corners])
    rest = (upper - lower).norm(dim=-1)
    direction = (upper - lower) / rest.clamp_min(1e-12)[:, None]
    edge = elevation.gather(-1, nearest)[..., 0]
    return LidAperture(eye, corners, weights, direction, rest, torch.zeros_like(rest), places.deg2rad(), edge)


def _opening(free: Tensor) -> tuple[Tensor, Tensor]:
    """First and last row of each column in the largest free region inside the fan; last < first outside it."""
    regions, count = scipy.ndimage.label(free.numpy())
    border = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[border] = 0
    sizes[0] = 0  # the background of the labeling
    low, high = torch.ones(len(free), dtype=torch.long), torch.zeros(len(free), dtype=torch.long)
    if sizes.max(initial=0) == 0:
        return low, high
    for column in np.unique(np.nonzero(regions == sizes.argmax())[0]):
        rows = np.nonzero(regions[column] == sizes.argmax())[0]
        low[column], high[column] = int(rows[0]), int(rows[-1])
    return low, high
