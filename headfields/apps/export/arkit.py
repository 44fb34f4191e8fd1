"""ARKit's 52 blendshapes from those of a rig, by a mapping that says what each is made of."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from headfields.apps.export.heads import frame_times
from headfields.apps.export.rigged_mesh import RiggedMesh, RigMotion
from headfields.apps.faces.arkit import ARKIT_NAMES
from headfields.files.reading import file_bytes, reading
from headfields.ops.rotations import rotation_matrices
from headfields.ops.skinning import joint_transforms

__all__ = ["ARKIT_NAMES", "arkit_rig", "check_names", "part_of_recipe", "read_mapping"]

Mapping52 = Mapping[str, Mapping[str, Any]]


def read_mapping(path: Path | str) -> dict[str, dict[str, Any]]:
    """Reads a mapping from a JSON file; see `arkit_rig`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object of objects, or has a name that is none of ARKit's.
    """
    where = f"read_mapping: {path}"
    with reading(path, "a mapping to ARKit's blendshapes", where=where):
        try:
            mapping = json.loads(file_bytes(path))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{where} is no JSON: {error}") from error
        if not isinstance(mapping, dict) or not all(isinstance(value, dict) for value in mapping.values()):
            raise ValueError(f'{where}: expected an object of objects, as {{"jawOpen": {{"pose:jaw": [0.3, 0, 0]}}}}')
        check_names(mapping, where)
        return mapping


def check_names(mapping: Mapping52, where: str) -> None:
    """Raises ValueError, which begins with `where`, if a name is none of ARKit's."""
    unknown = [name for name in mapping if name not in ARKIT_NAMES]
    if unknown:
        raise ValueError(
            f"{where} has {', '.join(unknown)}, which ARKit has not; its names are {', '.join(ARKIT_NAMES)}"
        )


def arkit_rig(rig: RiggedMesh, mapping: Mapping52) -> RiggedMesh:
    """The rig with ARKit's 52 blendshapes as its targets, in ARKit's order.

    Args:
        rig: the rig.
        mapping: for each name of ARKit, weights by the names of the rig's targets; and `"pose:JOINT"`, axis-angle in
            radians, for what the rig does by joints: `{"jawOpen": {"jaw_open": 1.0, "pose:jaw": [0.3, 0, 0]}}`. A name
            that is not mapped is taken from the target of the rig that has it; without one, it does nothing.

    Returns:
        The rig with 52 targets. Those that turn joints are the displacement at weight 1, so their path is straight.

    Raises:
        ValueError: a name is none of ARKit's, of the rig's targets or of its joints; or a weight is no number.
    """
    where = "arkit_rig: mapping"
    check_names(mapping, where)
    own = {name.lower(): name for name in rig.target_names}
    targets = []
    for name in ARKIT_NAMES:
        recipe = mapping.get(name)
        if recipe is None:
            recipe = {own[name.lower()]: 1.0} if name.lower() in own else {}
        targets.append(_displacement(rig, name, recipe, where))
    return rig.with_targets(torch.stack(targets), ARKIT_NAMES)


def _displacement(rig: RiggedMesh, name: str, recipe: Mapping[str, Any], where: str) -> Tensor:
    amounts = rig.targets.new_zeros(1, len(rig.targets))
    turns = rig.joints.new_zeros(1, len(rig.joints), 3)
    for part, value in recipe.items():
        kind, at, number = part_of_recipe(name, part, value, rig.target_names, rig.joint_names, where)
        (turns if kind == "joint" else amounts)[0, at] = number
    moved = joint_transforms(rotation_matrices(turns), rig.joints[None], rig.parents)
    return rig.posed(RigMotion(frame_times(1, 25), amounts, moved))[0] - rig.mesh.vertices


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
