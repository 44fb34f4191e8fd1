"""Faces that come into a page, on a head without shapes of their names: what each of ARKit's weights moves."""

import math
from collections.abc import Mapping
from typing import Any

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
    found: dict[str, list[tuple[int, float]]] = {}
    for name, recipe in mapping.items():
        found[name] = moves = []
        for part, value in recipe.items():
            joint = part.removeprefix("pose:")
            values = _numbers(name, part, value, 3 if part.startswith("pose:") else 1)
            if joint != part and joint in joints:
                start = len(rig.expression) + 3 * joints[joint]
                moves += [(start + axis, turn) for axis, turn in enumerate(values) if turn]
            elif joint == part and part in names:
                moves.append((names.index(part), values[0]))
            else:
                kind, have = ("expression", names) if joint == part else ("joint", tuple(joints))
                raise ValueError(
                    f"to_html: arkit: {name}: the page's head has no {kind} {joint}; it has {', '.join(have) or 'none'}"
                )
    return found


def _numbers(name: str, part: str, value: Any, count: int) -> list[float]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    numbers = [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(values) != count or len(numbers) != count or not all(map(math.isfinite, numbers)):
        expected = "three finite numbers, axis-angle in radians" if count == 3 else "a finite number"
        raise ValueError(f"to_html: arkit: {name}: {part} is {value!r}; expected {expected}")
    return [float(number) for number in numbers]
