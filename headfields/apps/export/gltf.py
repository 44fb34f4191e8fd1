"""Rigged meshes as binary glTF 2.0 (texture, morph targets, skin, animation), and Gaussians in its extension.

Source: the glTF 2.0 specification (Khronos Group), sections 3.7 (geometry, skins) and 3.11 (animations), and the
extension KHR_gaussian_splatting, ratified by the Khronos Group.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headfields.apps.export.rigged_mesh import INFLUENCES, RiggedMesh, RigMotion, strongest_joints
from headfields.files.atomic import write_bytes
from headfields.files.gltf import ATTRIBUTE, GltfDocument
from headfields.mesh.files import gltf_primitive
from headfields.mesh.seams import split_at_seams
from headfields.networks.gaussians import DC
from headfields.ops.rotations import quaternion_from_rotation
from headfields.ops.srgb import linear_from_srgb
from headfields.records import Splats

__all__ = ["SPLATTING", "save_gltf_splats", "save_rigged_gltf"]

SPLATTING = "KHR_gaussian_splatting"
"""The extension of glTF for Gaussians; its status is "Complete, Ratified by the Khronos Group"."""


def save_rigged_gltf(path: Path | str, rig: RiggedMesh, motion: RigMotion | None = None) -> Path:
    """Writes a rigged mesh as `.glb`, with its motion as an animation.

    The mesh's own vertices come first, in order; copies of those on seams of the texture follow. Vertices keep their
    four strongest joints. Normals of the targets are not stored: most programs compute them, or do without.

    Args:
        path: the file; its folder is made.
        rig: the mesh, meters, y up, face toward +z, as glTF has it too.
        motion: key frames, between which programs interpolate linearly; None: none.

    Returns:
        The path.

    Raises:
        ValueError: another ending; no vertices or faces; a number that is not finite; or a motion of another rig.
        OSError: the file cannot be written.
    """
    path = checked_path(path, ".glb", "save_rigged_gltf")
    check_rig("save_rigged_gltf", rig, motion)
    document = GltfDocument()
    mesh = rig.mesh.map(lambda tensor: tensor.detach().cpu()).with_normals()
    primitive = gltf_primitive(document, mesh)
    rows = torch.arange(len(mesh.vertices)) if mesh.uv is None else split_at_seams(mesh).vertex
    index, weights = strongest_joints(rig.weights.detach().cpu().float()[rows])
    index = torch.where(weights > 0, index, 0)  # glTF: the joint of an unused place is 0
    padding = (0, INFLUENCES - index.shape[1])
    index, weights = (torch.nn.functional.pad(values, padding) for values in (index, weights))
    small = len(rig.joints) <= 256
    joints = index.numpy().astype(np.uint8 if small else np.uint16)
    primitive["attributes"]["JOINTS_0"] = document.accessor(joints, ATTRIBUTE)
    primitive["attributes"]["WEIGHTS_0"] = document.accessor(weights.numpy(), ATTRIBUTE)
    targets = rig.targets.detach().cpu().float()[:, rows].numpy()
    entry: dict[str, object] = {"name": "head", "primitives": [primitive]}
    if len(targets):
        primitive["targets"] = [{"POSITION": document.accessor(each, ATTRIBUTE, bounds=True)} for each in targets]
        entry |= {"weights": [0.0] * len(targets), "extras": {"targetNames": list(rig.target_names)}}
    skinned = document.add("nodes", {"name": "head", "mesh": document.add("meshes", entry), "skin": 0})
    first = _add_joints(document, rig)
    if motion is not None and len(motion):
        _add_animation(document, rig, motion, skinned, first)
    roots = [first + joint for joint, parent in enumerate(rig.parents) if parent < 0]
    document.json["scenes"] = [{"nodes": [skinned, *roots]}]
    document.json["scene"] = 0
    return write_bytes(path, document.to_bytes())


def _add_joints(document: GltfDocument, rig: RiggedMesh) -> int:
    """Adds a node for each joint, and the skin; returns the index of the first node."""
    first = len(document.json["nodes"])
    places = rig.joints.detach().cpu().float()
    for joint, (name, parent) in enumerate(zip(rig.joint_names, rig.parents, strict=True)):
        place = places[joint] - (places[parent] if parent >= 0 else 0)
        node: dict[str, object] = {"name": name, "translation": place.tolist()}
        children = [first + other for other, above in enumerate(rig.parents) if above == joint]
        document.add("nodes", {**node, "children": children} if children else node)
    inverse = torch.eye(4).repeat(len(places), 1, 1)
    inverse[:, :3, 3] = -places
    skin = {"inverseBindMatrices": document.accessor(inverse.numpy()),
            "joints": list(range(first, first + len(places)))}  # fmt: skip
    roots = [joint for joint, parent in enumerate(rig.parents) if parent < 0]
    document.add("skins", skin | ({"skeleton": first + roots[0]} if len(roots) == 1 else {}))
    return first


def _add_animation(document: GltfDocument, rig: RiggedMesh, motion: RigMotion, skinned: int, first: int) -> None:
    times = document.accessor(motion.times.detach().cpu().float().numpy(), bounds=True)
    samplers: list[dict[str, object]] = []
    channels: list[dict[str, object]] = []

    def channel(node: int, path: str, values: Tensor) -> None:
        output = document.accessor(values.detach().cpu().float().numpy())
        channels.append({"sampler": len(samplers), "target": {"node": node, "path": path}})
        samplers.append({"input": times, "output": output, "interpolation": "LINEAR"})

    if len(rig.targets):
        channel(skinned, "weights", motion.target_weights.reshape(-1))
    places = motion.joint_places(rig).double()
    rotations = continuous_quaternions(places[..., :3, :3])[..., [1, 2, 3, 0]]  # x, y, z, w in glTF
    for joint in range(len(rig.joints)):
        channel(first + joint, "rotation", rotations[:, joint])
        channel(first + joint, "translation", places[:, joint, :3, 3])
    document.add("animations", {"name": "motion", "samplers": samplers, "channels": channels})


def continuous_quaternions(rotations: Tensor) -> Tensor:
    """Quaternions (T, ..., 4), w first, of rotations (T, ..., 3, 3), of the sign that is nearer to the frame before."""
    quaternions = torch.nn.functional.normalize(quaternion_from_rotation(rotations), dim=-1)
    if len(quaternions) < 2:
        return quaternions
    agrees = (quaternions[1:] * quaternions[:-1]).sum(-1, keepdim=True) >= 0
    sign = torch.where(agrees, 1.0, -1.0).to(quaternions).cumprod(0)
    return torch.cat([quaternions[:1], quaternions[1:] * sign])


def save_gltf_splats(path: Path | str, splats: Splats) -> Path:
    """Writes the Gaussians of one frame as `.glb` with the extension KHR_gaussian_splatting.

    Programs that do not know the extension show points in the Gaussians' colors.

    Args:
        path: the file; its folder is made.
        splats: (N, ...) or one frame (1, N, ...), meters, y up; colors become harmonics of degree 0.

    Returns:
        The path.

    Raises:
        ValueError: another ending, several frames, no Gaussian, a number that is not finite, or a rotation of length 0.
        OSError: the file cannot be written.
    """
    op = "save_gltf_splats"
    path = checked_path(path, ".glb", op)
    if splats.means.ndim == 3 and len(splats.means) == 1:
        splats = splats.map(lambda tensor: tensor[0])
    if splats.means.ndim != 2:
        raise ValueError(f"{op}: splats has means of shape {tuple(splats.means.shape)}; expected one frame: splats[3]")
    if not splats.count:
        raise ValueError(f"{op}: there is no Gaussian, and glTF holds no empty lists; write a .ply")
    splats = splats.map(lambda tensor: tensor.detach().cpu().float())
    harmonics = splats.harmonics if splats.colors is None else ((splats.colors - 0.5) / DC)[:, None]
    assert harmonics is not None
    length = splats.quaternions.norm(dim=-1, keepdim=True)
    numbers = {"means": splats.means, "scales": splats.scales, "opacities": splats.opacities[:, None],
               "quaternions": splats.quaternions / length, "harmonics": harmonics.flatten(1)}  # fmt: skip
    for name, values in numbers.items():
        bad = ~values.isfinite().all(dim=1)
        if bool(bad.any()):
            why = "; a rotation of length 0" if name == "quaternions" else ""
            raise ValueError(f"{op}: {name} of Gaussian {int(bad.int().argmax())} is not finite{why}")
    document = GltfDocument()
    document.use(SPLATTING)
    shown = linear_from_srgb((harmonics[:, 0] * DC + 0.5).clamp(0, 1))  # for programs that show points
    shown = torch.cat([shown, splats.opacities[:, None].clamp(0, 1)], dim=1)
    attributes = {
        "POSITION": document.accessor(splats.means.numpy(), ATTRIBUTE, bounds=True),
        "COLOR_0": document.accessor(shown.numpy(), ATTRIBUTE),
        f"{SPLATTING}:ROTATION": document.accessor(numbers["quaternions"][:, [1, 2, 3, 0]].numpy(), ATTRIBUTE),
        f"{SPLATTING}:SCALE": document.accessor(splats.scales.numpy(), ATTRIBUTE),
        f"{SPLATTING}:OPACITY": document.accessor(splats.opacities.numpy(), ATTRIBUTE),
    }
    for row in range(harmonics.shape[1]):
        degree = int(row**0.5 + 1e-6)
        name = f"{SPLATTING}:SH_DEGREE_{degree}_COEF_{row - degree * degree}"
        attributes[name] = document.accessor(harmonics[:, row].contiguous().numpy(), ATTRIBUTE)
    look = {SPLATTING: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}}
    primitive = {"attributes": attributes, "mode": 0, "extensions": look}
    node = document.add("nodes", {"name": "gaussians", "mesh": document.add("meshes", {"primitives": [primitive]})})
    document.json["scenes"] = [{"nodes": [node]}]
    document.json["scene"] = 0
    return write_bytes(path, document.to_bytes())


def checked_path(path: Path | str, ending: str | tuple[str, ...], op: str) -> Path:
    """The path, if it has the ending.

    Raises:
        ValueError: it has another.
    """
    path, endings = Path(path), (ending,) if isinstance(ending, str) else ending
    if path.suffix.lower() not in endings:
        raise ValueError(f"{op}: {path.name} ends in {path.suffix!r}; expected {' or '.join(endings)}")
    return path


def check_rig(op: str, rig: RiggedMesh, motion: RigMotion | None) -> None:
    """Refuses what no animation file can hold.

    Raises:
        ValueError: there are no vertices or faces, a number is not finite, or the motion belongs to another rig.
    """
    if not len(rig.mesh.faces):
        raise ValueError(f"{op}: the mesh has {len(rig.mesh.vertices)} vertices and no faces; a surface is needed")
    numbers = {"mesh.vertices": rig.mesh.vertices, "targets": rig.targets, "joints": rig.joints, "weights": rig.weights}
    if motion is not None:
        numbers |= {"times": motion.times, "target_weights": motion.target_weights}
        numbers["joint_transforms"] = motion.joint_transforms
        shape = (motion.target_weights.shape[1], motion.joint_transforms.shape[1])
        if shape != (len(rig.targets), len(rig.joints)):
            raise ValueError(
                f"{op}: motion has {shape[0]} targets and {shape[1]} joints; the mesh {len(rig.targets)} and "
                f"{len(rig.joints)}"
            )
    for name, values in numbers.items():
        if not bool(values.isfinite().all()):
            raise ValueError(f"{op}: {name} has numbers that are not finite (NaN or infinity); mend or remove them")
