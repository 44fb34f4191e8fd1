"""Composition of deformers: coarse, then fine."""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.deformers.jacobian import jacobian
from headfields.parts import Correction, Deformer, check_part
from headfields.records import Canonical, HeadState, Rays, Splats
from headfields.records.device_copy import any_directions


class Chain(Deformer):
    """Composes deformers: the canonical points of each are the posed points of the next.

    The first deformer bounds the rays. Face, barycentric coordinates and distance are those of the last deformer that
    gives them. A point is valid if it is valid in every deformer. Hyper-coordinates are concatenated. The box of the
    last deformer bounds canonical space. Gaussians go the other way, if all deformers pose them: from the coordinates
    of the last one, through each in turn, to posed space, attached to triangles of the first that has some.

    Args:
        deformers: one or more deformers, the first in posed space.

    Differentiable as the links are.

    Raises:
        TypeError: an argument is no deformer.
        ValueError: no deformer is given.
    """

    def __init__(self, *deformers: Deformer) -> None:
        super().__init__()
        if not deformers:
            raise ValueError("Chain: pass at least one deformer")
        for index, deformer in enumerate(deformers):
            check_part("Chain", f"deformers[{index}]", deformer, Deformer)
        self.deformers = nn.ModuleList(deformers)
        self.poses = all(deformer.poses for deformer in deformers)
        self.ambient_width = sum(deformer.ambient_width for deformer in deformers)
        self.moves_points = any(deformer.moves_points for deformer in deformers)
        # What moves points before one that follows the head does so along the axes of posed space.
        first = next((deformer for deformer in deformers if deformer.follows_head or deformer.moves_points), None)
        self.follows_head = first is not None and first.follows_head
        self.corrects = any(deformer.corrects for deformer in deformers)
        giving = [deformer for deformer in deformers if deformer.gives_faces]
        self.gives_faces = bool(giving)
        self.face_count = giving[-1].face_count if giving else None
        self.needs = tuple(dict.fromkeys(name for deformer in deformers for name in deformer.needs))

    @property
    def _links(self) -> list[Deformer]:
        return cast(list[Deformer], list(self.deformers))

    def bounds(self) -> Float[Tensor, "2 3"]:
        return self._links[-1].bounds()

    def prepare(self, state: HeadState) -> list[Any]:
        return [deformer.prepare(state) for deformer in self._links]

    def posed_bounds(self, prepared: list[Any]) -> Float[Tensor, "2 3"]:
        return self._links[0].posed_bounds(prepared[0])

    def near_far(self, rays: Rays, prepared: list[Any]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        return self._links[0].near_far(rays, prepared[0])

    def forward(
        self,
        points: Float[Tensor, "m 3"],
        directions: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        prepared: list[Any],
    ) -> Canonical:
        first, *others = self._links
        result = first(points, directions, frame, prepared[0])
        ambient = [result.ambient] if result.ambient is not None else []
        for deformer, own in zip(others, prepared[1:], strict=True):
            following = deformer(result.points, result.directions, frame, own)
            if following.ambient is not None:
                ambient.append(following.ambient)
            has_faces = following.face is not None
            result = Canonical(
                points=following.points,
                directions=following.directions,
                posed_points=points,
                frame=frame,
                valid=result.valid & following.valid,
                face=following.face if has_faces else result.face,
                barycentric=following.barycentric if has_faces else result.barycentric,
                distance=following.distance if has_faces else result.distance,
            )
        return result.replace(ambient=torch.cat(ambient, dim=-1)) if ambient else result

    def attach(self, splats: Splats, face: Int[Tensor, " n"] | None = None) -> tuple[Splats, Int[Tensor, " n"]]:
        giving = next((link for link in self._links if link.gives_faces), self._links[-1])
        face = giving.attach(splats, face)[1]
        return self._links[-1].attach(splats, face)[0], face

    def rest(self, splats: Splats, face: Int[Tensor, " n"]) -> Splats:
        return self._links[-1].rest(splats, face)

    def pose(self, splats: Splats, face: Int[Tensor, " n"], prepared: list[Any]) -> Splats:
        posed = self._links[-1].pose(splats, face, prepared[-1])
        for link, own in zip(reversed(self._links[:-1]), reversed(prepared[:-1]), strict=True):
            posed = link.pose(link.attach(posed, face)[0], face, own)
        return posed

    def jacobian(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: list[Any]
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3 3"]]:
        """The canonical points, and their derivatives by the posed ones: the product of the deformers' Jacobians.

        Args, differentiability: as `headfields.deformers.jacobian`.
        """
        points, total = jacobian(self._links[0], points, frame, prepared[0])
        for link, own in zip(self._links[1:], prepared[1:], strict=True):
            points, factor = jacobian(link, points, frame, own)
            total = factor @ total
        return points, total

    def corrections(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: list[Any], jacobians: bool = False
    ) -> list[Correction]:
        corrections: list[Correction] = []
        last = max((index for index, link in enumerate(self._links) if link.corrects), default=-1)
        directions = any_directions(points)  # points do not depend on them
        for index, (link, own) in enumerate(zip(self._links[: last + 1], prepared, strict=False)):
            corrections += link.corrections(points, frame, own, jacobians)
            if index < last:
                points = link(points, directions, frame, own).points
        return corrections
