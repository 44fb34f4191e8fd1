"""ARKit's 52 shapes for a head that lacks them: carried over from one that has them, and fitted by the head's own.

Nothing is mapped by hand: deformation transfer finds the correspondence of the two heads and deforms the target as each
shape deforms the source. A mapping then says what of the target's own expressions and joints comes nearest.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.apps.export.arkit import arkit_rig
from headfields.apps.export.heads import rig_of_head
from headfields.apps.faces.arkit import ARKIT_NAMES, arkit_columns
from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.retargeting.retargeter import Retargeter
from headfields.apps.retargeting.sources import surface_of_head
from headfields.files.atomic import write_text
from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.skinned import SkinnedHead
from headfields.ops.smoothstep import cubic
from headfields.records import HeadState

__all__ = ["MappedShapes", "arkit_shapes", "mapping_of_shapes", "shaped_surface", "transferred_shapes", "write_mapping"]

Head = SkinnedHead | BlendshapeHead
_STILL = 1e-5
"""Meters: a shape that moves no vertex by so much does nothing."""
_STEPS = 4
"""Gauss-Newton steps of a shape: expressions are linear, and turns of joints nearly."""
_RIDGE = 1e-4
"""Of the mean square of a shape: coefficients that the mesh does not determine stay near 0. Our own choice."""
_TURN = 1e-3
"""Radians by which a joint is turned for its derivative."""
_LEAST = 1e-3
"""Weights and radians below which an entry of a mapping is left out."""


def arkit_shapes(
    head: Head, mapping: Mapping[str, Mapping[str, object]] | None = None
) -> tuple[Float[Tensor, "52 v 3"], Bool[Tensor, "52"]]:
    """The displacements of ARKit's shapes at weight 1, and which of them the head has.

    Args:
        head: a head with the shapes by name, or a mapping's.
        mapping: what each is made of (`headfields.apps.export.arkit.arkit_rig`); by name if None.

    Returns:
        Displacements (52, V, 3), meters, 0 of those that the head lacks; and the mask (52,) of those that move it.

    Raises:
        ValueError: the head has none of them.
    """
    rig = rig_of_head(head)
    named = {name: {rig.target_names[column]: 1.0 for column in columns}
             for name, columns in arkit_columns(rig.target_names).items()}  # fmt: skip
    shapes = arkit_rig(rig, {**named, **(mapping or {})}).targets
    has = shapes.norm(dim=-1).amax(1) > _STILL
    if not bool(has.any()):
        raise ValueError(
            "arkit_shapes: the head has none of ARKit's 52 shapes; its first are "
            f"{', '.join(rig.target_names[:4]) or 'none'}. Pass one that has, or a mapping"
        )
    return shapes, has


def shaped_surface(head: Head, shapes: Float[Tensor, "52 v 3"]) -> HeadSurface:
    """The surface of a head that has the shapes: its own blinks show how near its lids come.

    Args:
        head: the head.
        shapes: (52, V, 3) of `arkit_shapes`.
    """
    blinks = shapes[[ARKIT_NAMES.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]]
    surface = surface_of_head(head)
    shut = surface.neutral + blinks.sum(0) if bool((blinks.flatten(1).abs().amax(1) > _STILL).all()) else None
    return replace(surface, closed=shut)


def transferred_shapes(
    source: Head, shapes: Float[Tensor, "n v 3"], target: HeadSurface | Head, source_surface: HeadSurface | None = None
) -> Float[Tensor, "n w 3"]:
    """Shapes of one head on another, of any topology, by deformation transfer; see `Retargeter`.

    Args:
        source: the head that has the shapes.
        shapes: (N, V, 3) displacements from its neutral face, meters.
        target: the head that gets them.
        source_surface: of the source; `shaped_surface` knows how its eyes shut.

    Returns:
        (N, W, 3) displacements from the target's neutral face, meters.

    Raises:
        ValueError: the heads have no correspondence (`headfields.apps.retargeting.binding.bind`).
    """
    own = surface_of_head(source) if source_surface is None else source_surface
    other = target if isinstance(target, HeadSurface) else surface_of_head(target)
    retargeter = Retargeter(own, other)
    with torch.no_grad():
        rest = retargeter(HeadState(own.neutral[None].to(shapes))).vertices
        moved = [retargeter(HeadState((own.neutral.to(shapes) + shape)[None])).vertices - rest for shape in shapes]
    return torch.cat(moved) if moved else shapes.new_zeros(0, *rest.shape[1:])


@dataclass(frozen=True)
class MappedShapes:
    """What ARKit's shapes are made of on a head.

    Attributes:
        recipes: for each of ARKit's names, weights by the head's own names and turns by `pose:JOINT`, as
            `headfields.apps.export.arkit.read_mapping` reads them.
        errors: root mean square distance from the transferred shape where it moves, meters, by name.
        sizes: root mean square displacement of the transferred shape there, meters, by name.
    """

    recipes: dict[str, dict[str, float | list[float]]]
    errors: dict[str, float]
    sizes: dict[str, float]


def mapping_of_shapes(
    head: Head,
    shapes: Float[Tensor, "52 v 3"],
    has: Bool[Tensor, "52"],
    progress: Callable[[Sequence[int]], Sequence[int]] = lambda rows: rows,
) -> MappedShapes:
    """ARKit's shapes by a head's own expressions, jaw and eyes, in the least-squares sense, where they move the head.

    The jaw may turn for the shapes of jaw and mouth, and an eye for its looks (`eyeLookUpLeft`).

    Args:
        head: FLAME, SMPL-X, a rig, or a blendshape head.
        shapes: (52, V, 3) displacements of ARKit's shapes on this head, meters.
        has: (52,) which of them to map.
        progress: wraps the list of rows, for a bar.

    Source: least squares by Gauss-Newton, our own; joints by finite differences.
    """
    names = rig_of_head(head).target_names
    neutral = _posed(head, torch.zeros(1, len(names)), {})[0]
    basis = head.expression_basis.detach()
    recipes: dict[str, dict[str, float | list[float]]] = {}
    errors, sizes = {}, {}
    rows = [row for row, given in enumerate(has.tolist()) if given]
    for row in progress(rows):
        name, goal = ARKIT_NAMES[row], neutral + shapes[row].to(neutral)
        joints = _joints_of(name) if isinstance(head, SkinnedHead) else ()
        moved = shapes[row].norm(dim=-1)
        weight = 0.05 + cubic((moved / (0.25 * moved.amax()).clamp_min(_STILL)).clamp(0, 1))
        coefficients, turns = torch.zeros(len(names)), torch.zeros(len(joints), 3)
        for _ in range(_STEPS if joints else 1):
            now = _posed(head, coefficients[None], dict(zip(joints, turns[:, None], strict=True)))[0]
            columns = [basis.flatten(1) if not joints else _expression_slopes(head, coefficients, joints, turns)]
            if joints:
                columns.append(_turn_slopes(head, coefficients, joints, turns, now))
            slopes = torch.cat(columns).double()
            scale = weight.double().repeat_interleave(3)
            normal = (slopes * scale) @ slopes.T
            right = (slopes * scale) @ (goal - now).double().flatten()
            ridge = torch.zeros(len(normal), dtype=torch.float64)
            ridge[: len(names)] = _RIDGE * normal.diagonal()[: len(names)].mean().clamp_min(1e-12)
            right = right - ridge * torch.cat([coefficients, turns.flatten()]).double()
            ridge[len(names) :] = 1e-9 * normal.diagonal().max().clamp_min(1e-12)
            step = torch.linalg.solve(normal + torch.diag(ridge), right).float()
            coefficients = coefficients + step[: len(names)]
            turns = turns + step[len(names) :].reshape(-1, 3)
        fitted = _posed(head, coefficients[None], dict(zip(joints, turns[:, None], strict=True)))[0]
        moves = moved > 0.1 * moved.amax()
        errors[name] = float((fitted - goal)[moves].square().sum(-1).mean().sqrt())
        sizes[name] = float(moved[moves].square().mean().sqrt())
        recipe: dict[str, float | list[float]] = {
            own: round(value, 5) for own, value in zip(names, coefficients.tolist(), strict=True) if abs(value) > _LEAST
        }
        recipe |= {
            f"pose:{joint}": [round(value, 5) for value in turn.tolist()]
            for joint, turn in zip(joints, turns, strict=True) if float(turn.abs().amax()) > _LEAST
        }  # fmt: skip
        recipes[name] = recipe
    return MappedShapes(recipes, errors, sizes)


def write_mapping(path: Path | str, mapped: MappedShapes) -> Path:
    """Writes the recipes as JSON, a line a shape.

    Raises:
        OSError: it cannot be written.
    """
    lines = [f"  {json.dumps(name)}: {json.dumps(recipe)}" for name, recipe in mapped.recipes.items()]
    return write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _joints_of(name: str) -> tuple[str, ...]:
    """The joints that a shape may turn."""
    if name.startswith("eyeLook"):
        return ("left_eye",) if name.endswith("Left") else ("right_eye",)
    return ("jaw",) if name.startswith(("jaw", "mouth")) else ()


@torch.no_grad()
def _posed(head: Head, expression: Float[Tensor, "b e"], turns: Mapping[str, Tensor]) -> Float[Tensor, "b v 3"]:
    if isinstance(head, BlendshapeHead):
        return head(expression=expression).vertices
    return head(expression=expression, pose=head.pose(**turns) if turns else None).vertices


def _expression_slopes(
    head: Head, coefficients: Tensor, joints: Sequence[str], turns: Float[Tensor, "j 3"]
) -> Float[Tensor, "e n"]:
    """Derivatives of the vertices by each coefficient: steps of 1, because the vertices are linear in them at a pose,
    but for the joints' places, which hardly move."""
    count = len(coefficients)
    acts = (head.expression_basis.flatten(1).abs().amax(1) > 0).nonzero()[:, 0]  # files fill up with zeros
    pose = dict(zip(joints, turns[:, None], strict=True))
    still = _posed(head, coefficients[None], pose)
    out = still.new_zeros(count, still.numel())
    for part in acts.split(25):
        out[part] = (_posed(head, coefficients[None] + torch.eye(count)[part], pose) - still).flatten(1)
    return out


def _turn_slopes(
    head: Head, coefficients: Tensor, joints: Sequence[str], turns: Float[Tensor, "j 3"], now: Float[Tensor, "v 3"]
) -> Float[Tensor, "k n"]:
    """Derivatives of the vertices by the turns of joints, three each."""
    out = []
    for joint in range(len(joints)):
        changed = turns.repeat(3, 1, 1)
        changed[:, joint] += _TURN * torch.eye(3)
        pose = {name: changed[:, number] for number, name in enumerate(joints)}
        out.append((_posed(head, coefficients[None].expand(3, -1), pose) - now).flatten(1) / _TURN)
    return torch.cat(out)
