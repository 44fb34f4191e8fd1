"""Gaussians spread over a mesh, evenly by area, on its surface and in layers off it: where an avatar's start."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.nearest_vertices import VertexTree
from headfields.ops.rotations import quaternion_from_rotation
from headfields.ops.triangle_frames import triangle_frames
from headfields.ops.vertex_geometry import triangle_areas
from headfields.records import Splats, Template

_PLASTIC = 1.32471795724474602596
"""The root of x³ = x + 1: its powers give the additive sequence with the most even spread over a square."""


def surface_splats(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    count: int,
    height: float | int = 0.0,
    share_above: float | int = 0.3,
    width: float | int = 0.6,
    flatness: float | int = 0.3,
    opacity: float | int = 0.5,
    opacity_above: float | int = 0.2,
    face_weights: Float[Tensor, " f"] | None = None,
    above: Bool[Tensor, " f"] | None = None,
) -> tuple[Splats, Int[Tensor, " n"]]:
    """Gray, flat Gaussians in the planes of a mesh's triangles; and, of hair that the mesh does not have, above them.

    No random numbers: faces have their share of the count by area, and positions in them follow Roberts's sequence R2.

    Args:
        vertices: (V, 3), meters.
        faces: (F, 3).
        count: N.
        height: meters above the surface up to which Gaussians are spread, for hair; 0: all on the surface.
        share_above: share of the Gaussians that are above, if there is a height.
        width: standard deviations in the plane, relative to the distance of neighbors.
        flatness: standard deviation along the normal, relative to that in the plane. Gaussians above are balls.
        opacity, opacity_above: of those on the surface, and of those above, most of which may be in empty space.
        face_weights: (F,) factors on the areas, as for more Gaussians in the face; 1 if None.
        above: (F,) the faces that have Gaussians above them; all if None, or if it holds for none.

    Returns:
        The Gaussians (N, ...), with colors, and their triangles (N,). No gradient.

    Raises:
        ValueError: a number is out of range, or the mesh has no area.
    """
    if not hasattr(count, "__index__"):
        raise TypeError(f"surface_splats: count is {count!r}; expected a number of Gaussians, an integer")
    if count < 0 or not (0 <= height < math.inf and 0 <= share_above < 1 and width > 0 and flatness > 0):
        raise ValueError(
            f"surface_splats: count={count}, height={height}, share_above={share_above}, width={width}, flatness="
            f"{flatness}; expected a count and a height of 0 or more, a share below 1, and positive proportions"
        )
    vertices = vertices.detach()
    areas = triangle_areas(vertices, faces)
    weights = areas if face_weights is None else areas * face_weights.to(areas)
    if count and not bool(weights.sum() > 0):
        raise ValueError("surface_splats: the mesh has no area; pass a mesh with faces")
    high = round(count * share_above) if height else 0
    weights_above = weights if above is None or not bool((weights * above).any()) else weights * above
    each = weights, weights_above
    parts = [_spread(own, number) for own, number in zip(each, (count - high, high), strict=True)]
    face = torch.cat([part[0] for part in parts])
    barycentric = torch.cat([part[1] for part in parts])
    frames = triangle_frames(vertices, faces)[face]
    on = torch.arange(count, device=face.device) < count - high
    share = torch.cat([own[part[0]] / own.sum() for own, part in zip(each, parts, strict=True)])
    density = share / areas[face].clamp_min(1e-20)  # share of the Gaussians per area
    number = torch.where(on, count - high, max(high, 1)).to(areas)
    spacing = (density * number).clamp_min(1e-12).rsqrt()
    level = torch.cat([torch.zeros_like(parts[0][2]), height * parts[1][2]])
    means = (vertices[faces[face]] * barycentric[..., None]).sum(1) + level[:, None] * frames[..., 2]
    flat = spacing.new_tensor([1.0, 1.0, flatness]).expand(count, 3)
    scales = width * spacing[:, None] * torch.where(on[:, None], flat, 1.0)
    colors, opacities = means.new_full((count, 3), 0.5), torch.where(on, float(opacity), float(opacity_above)).to(means)
    return Splats(means, quaternion_from_rotation(frames[..., :3]), scales, opacities, colors), face


_BARE = ("face", "eyes", "mouth", "inner_mouth", "teeth")
"""Regions of a template that have no hair above them."""


def may_have_hair(template: Template, height: float | int) -> Bool[Tensor, " f"]:
    """The faces (F,) of a template above which hair may be: those of no other region, and those within `height` meters
    of one, over which hair hangs. All, where labels have said nothing about the face."""
    bare = torch.zeros(len(template.faces), dtype=torch.bool, device=template.faces.device)
    if "face" not in template.regions:
        return ~bare
    for name in _BARE:
        if name in template.regions:
            bare |= template.regions[name].to(bare.device)
    if not bool((~bare).any()) or not height:
        return ~bare
    centers = template.canonical_vertices[template.faces].mean(1)
    near = VertexTree(centers[~bare]).nearest(centers, k=1, max_distance=height)
    return near.index[:, 0] >= 0


def _spread(weights: Float[Tensor, " f"], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """`count` places on faces in proportion to their weights: faces, barycentric coordinates, and levels in (0, 1]."""
    index = torch.arange(count, dtype=torch.float64, device=weights.device)
    total = weights.double().cumsum(0)
    place = (index + 0.5) / max(count, 1) * (total[-1] if len(total) else 0)
    face = torch.searchsorted(total, place).clamp_max(max(len(weights) - 1, 0))
    u, v, level = (((index + 1) * step) % 1 for step in (1 / _PLASTIC, 1 / _PLASTIC**2, (5**0.5 - 1) / 2))
    outside = u + v > 1
    u, v = torch.where(outside, 1 - u, u), torch.where(outside, 1 - v, v)
    barycentric = torch.stack([1 - u - v, u, v], dim=-1).to(weights)
    return face, barycentric, (1 - level).to(weights)
