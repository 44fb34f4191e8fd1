"""Albedo of vertices and light of a recording, estimated from frames whose pose is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.apps.tracking.rig.body import BodyPose, TrackedBody
from headfields.apps.tracking.rig.light import LightSums, fitted_light
from headfields.apps.tracking.rig.observation import Level
from headfields.apps.tracking.rig.surface import RigSurface
from headfields.ops.mesh_topology import directed_edges
from headfields.renderers.lighting import sh_basis

__all__ = ["estimated_albedo", "estimated_tint"]

_ROUNDS = 3
_SHADE = 0.15
"""Irradiance below which a pixel says little of the albedo."""
_SCALE = 0.08
"""Scale of Geman and McClure's function of a pixel's color, sRGB in [0, 1]."""
_RIDGE = 0.05
"""Weight of no tint, in pixels that lie on a vertex."""
_SKIN = 0.6
"""Mean albedo, which a brighter light would otherwise be traded for."""


@dataclass(frozen=True)
class _View:
    """The pixels of a frame that count: vertices and barycentric coordinates, normals, cosine of the view, color, and
    the texture's albedo."""

    corners: Int[Tensor, "n 3"]
    weights: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    facing: Float[Tensor, " n"]
    rgb: Float[Tensor, "n 3"]
    texture: Float[Tensor, "n 3"]

    def albedo(self, colors: Float[Tensor, "v 3"]) -> Float[Tensor, "n 3"]:
        """Texture and colors of vertices at the pixels."""
        return self.texture + (self.weights[..., None] * colors[self.corners]).sum(1)


def estimated_albedo(
    body: TrackedBody, surface: RigSurface, poses: Sequence[BodyPose], levels: Sequence[Level]
) -> tuple[Float[Tensor, "v 3"], LightSums]:
    """Colors of vertices without light, and one light in camera space, by turns.

    A vertex's color is the robust mean, over frames, of the pixels on its faces divided by their irradiance. Vertices
    that no frame shows have their neighbors' color. sRGB as stored, our own choice as in the rig tracker.

    Args:
        body, surface: the head; the surface's own colors are not used.
        poses: of K frames.
        levels: the K frames.

    Returns:
        (V, 3) in [0, 1], and the light's normal equations.
    """
    views = [replace(view, texture=torch.zeros_like(view.texture)) for view in _views(body, surface, poses, levels)]
    count = len(body.rig.template_vertices)
    colors = [view.rgb for view in views if len(view.rgb)]
    mean = torch.cat(colors).median(0).values if colors else torch.full((3,), _SKIN)
    albedo = (mean * (_SKIN / mean.mean().clamp_min(1e-3))).expand(count, 3).clone()
    for _ in range(_ROUNDS):
        light = _light(albedo, views)
        albedo = _filled(_means(albedo, light.coefficients(), views), body.rig.faces)
        albedo = (albedo * (_SKIN / albedo.mean().clamp_min(1e-3))).clamp(0, 1.5)
    return albedo, _light(albedo, views)


def estimated_tint(
    body: TrackedBody, surface: RigSurface, poses: Sequence[BodyPose], levels: Sequence[Level]
) -> tuple[Float[Tensor, "v 3"], LightSums]:
    """What a recording's colors add to the texture of the surface, and one light in camera space, by turns.

    A vertex's tint is the robust mean, over frames, of albedo minus texture of the pixels on its faces, drawn to zero
    where few show it. A texture of the person keeps its detail, and another person's gets the colors of this one.

    Args:
        body, surface: the template; the surface's own tint is not used.
        poses: of K frames.
        levels: the K frames.

    Returns:
        (V, 3) to be added to the texture, and the light's normal equations.
    """
    views = _views(body, surface, poses, levels)
    tint = body.rig.template_vertices.new_zeros(len(body.rig.template_vertices), 3)
    for round_ in range(_ROUNDS):
        light = _light(tint, views)
        # the texture may be far from the person's colors: misfits count as outliers only at the end
        tint = _means(tint, light.coefficients(), views, _SCALE * 4.0 ** (_ROUNDS - 1 - round_), _RIDGE)
    return tint, _light(tint, views)


def _views(
    body: TrackedBody, surface: RigSurface, poses: Sequence[BodyPose], levels: Sequence[Level]
) -> list["_View"]:  # fmt: skip
    views: list[_View] = []
    for pose, level in zip(poses, levels, strict=True):
        visible = surface.visible(body.posed(pose), level.camera)
        keep = visible.clear & (level.inside & ~level.free)[visible.mask]
        views.append(
            _View(
                visible.corners[keep], visible.weights[keep], visible.normals[keep], visible.facing[keep],
                level.rgb[visible.mask][keep], visible.texture[keep],
            )
        )  # fmt: skip
    return views


def _light(albedo: Float[Tensor, "v 3"], views: Sequence["_View"]) -> LightSums:
    """The light of all frames under an albedo."""
    light = LightSums.empty()
    for view in views:
        if len(view.rgb):
            light = fitted_light(light, view.albedo(albedo), view.normals, view.rgb, 2 * _SCALE)
    return light


def _means(
    albedo: Float[Tensor, "v 3"], light: Float[Tensor, "9 3"], views: Sequence["_View"], scale: float = _SCALE,
    ridge: float = 0.0,
) -> Float[Tensor, "v 3"]:  # fmt: skip
    """Weighted means at vertices of what is added to the texture; NaN where no pixel is, if there is no ridge."""
    total, weight = torch.zeros_like(albedo), torch.zeros(len(albedo), 1)
    for view in views:
        shade = (sh_basis(view.normals) @ light).clamp_min(_SHADE)
        residual = (view.albedo(albedo) * shade - view.rgb).square().sum(1)
        trust = view.facing * (scale**2 / (scale**2 + residual)).square().clamp_min(1e-3)
        each = (view.weights.square() * trust[:, None])[..., None]
        corners = view.corners.flatten()
        total.index_add_(0, corners, (each * (view.rgb / shade - view.texture)[:, None]).reshape(-1, 3))
        weight.index_add_(0, corners, each.reshape(-1, 1))
    if ridge:
        return total / (weight + ridge)
    return torch.where(weight > 1e-4, total / weight.clamp_min(1e-9), torch.nan)


def _filled(colors: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "v 3"]:
    """Colors with those of vertices without any diffused from their neighbors, ring by ring."""
    known = colors.isfinite().all(1)
    if not bool(known.any()):
        return torch.full_like(colors, _SKIN)
    mean = colors[known].mean(0)
    ends = directed_edges(faces).flatten(0, 1)
    ends = torch.cat([ends, ends.flip(1)])
    out = torch.where(known[:, None], colors, 0.0)
    while not bool(known.all()):
        source = known[ends[:, 1]] & ~known[ends[:, 0]]
        if not bool(source.any()):
            out[~known] = mean
            break
        near = ends[source]
        total = torch.zeros_like(out).index_add_(0, near[:, 0], out[near[:, 1]])
        count = torch.zeros(len(out)).index_add_(0, near[:, 0], torch.ones(len(near)))
        reached = count > 0
        out[reached] = total[reached] / count[reached, None]
        known = known | reached
    return out
