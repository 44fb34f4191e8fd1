"""A mapping from other shapes (ARKit's 52) to a head's own: what each entry names, and its numbers.

`{"jawOpen": {"jaw_open": 1.0, "pose:jaw": [0.3, 0, 0]}}`: weights of the head's shapes, and turns of its joints.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["part_of_recipe"]


def part_of_recipe(
    name: str, part: str, value: Any, targets: Sequence[str], joints: Sequence[str], where: str
) -> tuple[Literal["joint", "target"], int, Tensor]:
    """What an entry of a mapping is: of a joint or a target, its index, and the turn (3,) or the weight ().

    Args:
        name: ARKit's name that the entry belongs to, for messages.
        part, value: the entry.
        targets, joints: names that the head has.
        where: beginning of messages.

    Raises:
        ValueError: the value is no finite number, or not three of a joint; or the head lacks the name.
    """
    own = part.removeprefix("pose:")
    numbers = torch.as_tensor(value, dtype=torch.float32) if _numeric(value) else None
    expected = (3,) if part.startswith("pose:") else ()
    if numbers is None or tuple(numbers.shape) != expected or not bool(numbers.isfinite().all()):
        kind = "three finite numbers, axis-angle in radians" if expected else "a finite number"
        raise ValueError(f"{where}: {name}: {part} is {value!r}; expected {kind}")
    if expected and own in joints:
        return "joint", joints.index(own), numbers
    if not expected and part in targets:
        return "target", targets.index(part), numbers
    have = ", ".join(joints if expected else targets) or "none"
    raise ValueError(f"{where}: {name}: the head has no {'joint' if expected else 'target'} {own}; it has {have}")


def _numeric(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
