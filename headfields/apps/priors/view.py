"""A prior in the viewer: identity, appearance and expression by principal components, drawn by sphere tracing."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.priors.code_statistics import CodeStatistics
from headfields.apps.priors.codes import anchors_of
from headfields.apps.priors.pictures import trace
from headfields.apps.priors.prior import Prior
from headfields.apps.viewer.articulation import Articulation, Control
from headfields.apps.viewer.motion import Motion
from headfields.apps.viewer.scene import Scene
from headfields.avatar.avatar import Avatar
from headfields.ops.background import background_pixels
from headfields.parts import Rendering
from headfields.records import Camera, HeadState

__all__ = ["CodeArticulation", "TracedAvatar", "prior_scene"]

COMPONENTS = 8
"""Sliders of each code: its first principal components."""
REACH = 3.0
"""Standard deviations to either side."""
_EXTENT = 0.31
"""Height of a head with its hair, meters, as in the pictures of scans."""
_FIELDS = {"identity": "geometry", "appearance": "appearance", "expression": "expression_code"}


class CodeArticulation(Articulation):
    """Moves the codes of a state along the principal axes of a prior's codes.

    Args:
        prior: a trained prior.
    """

    def __init__(self, prior: Prior) -> None:
        statistics = prior.statistics()
        self._axes: dict[str, Float[Tensor, "w k"]] = {
            "identity": _most_axes(statistics.geometry),
            "appearance": _most_axes(statistics.appearance),
            "expression": _most_axes(statistics.expression),
        }
        self.controls = tuple(
            Control(f"{group} {number + 1}", group, -REACH, REACH, "σ")
            for group, axes in self._axes.items()
            for number in range(axes.shape[1])
        )

    def apply(self, state: HeadState, values: Mapping[str, float | int]) -> HeadState:
        codes = dict(state.codes)
        for group, axes in self._axes.items():
            amounts = torch.tensor([values.get(f"{group} {k + 1}", 0.0) for k in range(axes.shape[1])])
            if bool(amounts.any()):
                codes[_FIELDS[group]] = codes[_FIELDS[group]] + axes @ amounts.to(axes)
        return state.replace(codes=codes)


class TracedAvatar:
    """Draws an avatar of distances by sphere tracing: one color for each ray, where `Avatar.render` takes dozens.

    Args:
        avatar: with a decoder of distances.
    """

    def __init__(self, avatar: Avatar) -> None:
        self.avatar = avatar

    @torch.no_grad()
    def render(self, camera: Camera, state: HeadState, background: Any = 1.0) -> Rendering:
        """An image of one frame, as `headfields.Avatar.render` gives it."""
        with self.avatar.evaluating():
            field, rays = self.avatar.field(state), camera.rays()
            color = background_pixels("TracedAvatar.render", background, camera.size, rays.origins.device).clone()
            along, hit = trace(field, rays)
            normal = torch.zeros_like(rays.origins)
            if bool(hit.any()):
                points = rays.origins[hit] + along[hit, None] * rays.directions[hit]
                canonical, values = field.signed_distance(points, rays.frame[hit], create_graph=False)
                values = field.color(values, canonical)
                assert values.rgb is not None and values.normal is not None
                color[hit], normal[hit] = values.rgb.clamp(0, 1), values.normal
        images = (color, hit.float(), torch.where(hit, along, 0.0), normal)
        rgb, opacity, depth, normals = (each.unflatten(0, camera.size) for each in images)
        return Rendering(rgb=rgb, opacity=opacity, depth=depth, normal=normals)


def prior_scene(prior: Prior, name: str = "prior", background: float | int = 1.0) -> Scene:
    """A prior's mean person, its training scans, and sliders for the principal components of its codes.

    Args:
        prior: a trained prior.
        name: for the title.
        background: gray behind the head in [0, 1].
    """
    motions = [Motion.still("mean person", prior.state())]
    if len(prior.scans):
        motions.append(Motion("scans", len(prior.scans), lambda scan: prior.state(prior.codes(torch.tensor([scan])))))
    low, high = prior.avatar.deformer.bounds().cpu()
    anchors_of(prior.avatar)
    return Scene(
        name, TracedAvatar(prior.avatar), motions, CodeArticulation(prior), center=(low + high) / 2, extent=_EXTENT,
        background=background,
    )  # fmt: skip


def _most_axes(statistics: CodeStatistics) -> Float[Tensor, "w k"]:
    return statistics.axes[:, :COMPONENTS]
