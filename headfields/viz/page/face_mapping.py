"""Faces that come into a page, on a head without shapes of their names: what each of ARKit's weights moves."""

from collections.abc import Mapping
from typing import Any

from headfields.heads.shape_mapping import part_of_recipe
from headfields.records.head_rig import HeadRig

__all__ = ["face_mapping"]


def face_mapping(
    mapping: Mapping[str, Mapping[str, Any]], rig: HeadRig, joints: Mapping[str, int]
) -> dict[str, list[tuple[int, float]]]:
    """Places in a page's row of parameters, expression before pose, and what a weight of 1 adds there, by ARKit's name.

    Args:
        mapping: by ARKit's name, weights by names of the rig's expressions (`expression_007` of those without a name),
            and `"pose:JOINT"`, axis-angle in radians, as `headfields arkit` writes it.
        rig: what moves the mesh.
        joints: those that the page can turn, and their places in a pose.

    Raises:
        ValueError: the rig lacks an expression or joint, or a value is no finite number, three of a joint.
    """
    names = rig.expression_names or tuple(f"expression_{i:03d}" for i in range(len(rig.expression)))
    moves: dict[str, list[tuple[int, float]]] = {}
    for name, recipe in mapping.items():
        moves[name] = []
        for part, value in recipe.items():
            kind, at, numbers = part_of_recipe(name, part, value, names, tuple(joints), "to_html: arkit")
            if kind == "target":
                moves[name].append((at, float(numbers)))
                continue
            start = len(rig.expression) + 3 * joints[tuple(joints)[at]]
            moves[name] += [(start + axis, turn) for axis, turn in enumerate(numbers.tolist()) if turn]
    return moves
