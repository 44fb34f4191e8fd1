"""ARKit's 52 blendshapes from those of a rig, by a mapping that says what each is made of."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headfields.apps.export.heads import frame_times
from headfields.apps.export.rigged_mesh import RiggedMesh, RigMotion
from headfields.apps.faces.arkit import ARKIT_NAMES
from headfields.files.reading import file_bytes, reading
from headfields.heads.shape_mapping import part_of_recipe
from headfields.ops.rotations import rotation_matrices
from headfields.ops.skinning import joint_transforms

__all__ = ["ARKIT_NAMES", "arkit_rig", "check_arkit_names", "read_mapping"]

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
        check_arkit_names(mapping, where)
        return mapping


def check_arkit_names(mapping: Mapping52, where: str) -> None:
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
    check_arkit_names(mapping, where)
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
