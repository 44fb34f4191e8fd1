"""A made-up capture in VHAP's layout: FLAME parameters, two cameras, mattes; written from the layout alone."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from headfields.heads.skinned import SkinnedHead
from headfields.records import Camera
from tests.data.tiny import blob

SIZE = (64, 56)
_JOINTS = torch.tensor(
    [[0.0, -0.05, -0.02], [0.0, 0.0, -0.02], [0.0, -0.01, 0.0], [0.03, 0.05, 0.07], [-0.03, 0.05, 0.07]]
)
STEPS, CAMERAS = 4, 2
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def tiny_head() -> SkinnedHead:
    """A blob of 362 vertices with FLAME's joints and numbers of coefficients, and an open mouth."""
    vertices, faces = blob(open_mouth=True)
    random = torch.Generator().manual_seed(0)
    count = len(vertices)
    distance = torch.cdist(_JOINTS, vertices)
    weights = torch.softmax(-40 * distance, dim=0).T
    return SkinnedHead(
        template=vertices,
        faces=faces,
        shape_basis=2e-3 * torch.randn(300, count, 3, generator=random),
        expression_basis=2e-3 * torch.randn(100, count, 3, generator=random),
        pose_basis=1e-3 * torch.randn(36, count, 3, generator=random),
        joint_regressor=torch.softmax(-200 * distance, dim=1),
        weights=weights,
        parents=(-1, 0, 1, 1, 1),
    )


def parameters(head: SkinnedHead, step: int, offsets: bool = True, teeth: int = 0) -> dict[str, np.ndarray]:
    """The arrays of one time step's file."""
    random = np.random.default_rng(step)
    count = len(head.template_vertices) + teeth
    expression = np.zeros((1, 100), np.float32)
    expression[0, :5] = random.normal(size=5) * 0.3
    shape = np.zeros((1, 300), np.float32)
    shape[0, :3] = (0.4, -0.3, 0.2)
    values = {
        "translation": np.array([[0.01 * step, 0.02, -0.01]], np.float32),
        "rotation": np.array([[0.05, 0.15 * (step - 1.5), 0.02]], np.float32),
        "neck_pose": np.array([[0.02, 0.0, 0.03]], np.float32),
        "jaw_pose": np.array([[0.08 * step, 0.0, 0.0]], np.float32),
        "eyes_pose": np.array([[0.0, 0.1, 0.0, 0.0, 0.1, 0.0]], np.float32),
        "shape": shape[0],
        "expr": expression,
    }
    if offsets:
        values["static_offset"] = np.random.default_rng(99).normal(size=(1, count, 3)).astype(np.float32) * 5e-4
        values["dynamic_offset"] = random.normal(size=(1, count, 3)).astype(np.float32) * 2e-4
    return values


def posed(head: SkinnedHead, values: dict[str, np.ndarray]) -> torch.Tensor:
    """(V, 3) vertices by FLAME's formula, spelled out here: offsets first, then joints, then translation."""
    count = len(head.template_vertices)
    rest = head.template_vertices.double()
    rest = rest + torch.einsum("s,svc->vc", torch.from_numpy(values["shape"]).double(), head.shape_basis.double())
    rest = rest + torch.einsum(
        "s,svc->vc", torch.from_numpy(values["expr"][0]).double(), head.expression_basis.double()
    )
    for key in ("static_offset", "dynamic_offset"):
        if key in values:
            rest = rest + torch.from_numpy(values[key][0, :count]).double()
    joints = head.joint_regressor.double() @ rest
    vectors = np.concatenate([values[key][0] for key in ("rotation", "neck_pose", "jaw_pose", "eyes_pose")])
    rotations = torch.stack([rodrigues(vector) for vector in vectors.reshape(5, 3)])
    correctives = (rotations[1:] - torch.eye(3)).reshape(-1)
    rest = rest + torch.einsum("p,pvc->vc", correctives, head.pose_basis.double())
    world: list[torch.Tensor] = []
    for joint, parent in enumerate(head.parents):
        local = torch.eye(4, dtype=torch.float64)
        local[:3, :3] = rotations[joint]
        local[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    out = torch.zeros_like(rest)
    for joint, transform in enumerate(world):
        moved = (rest - joints[joint]) @ transform[:3, :3].T + transform[:3, 3]
        out += head.weights[:, joint, None].double() * moved
    return out + torch.from_numpy(values["translation"][0]).double()


def rodrigues(vector: np.ndarray) -> torch.Tensor:
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return torch.eye(3, dtype=torch.float64)
    x, y, z = vector.astype(np.float64) / angle
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def view(number: int) -> np.ndarray:
    """World to camera, OpenCV axes, of one of the cameras in front of the head."""
    yaw = 0.5 * number - 0.2
    rotation = np.array([[math.cos(yaw), 0, -math.sin(yaw)], [0, 1, 0], [math.sin(yaw), 0, math.cos(yaw)]])
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag([1.0, -1.0, -1.0]) @ rotation
    matrix[:3, 3] = (0.0, 0.0, 0.9)
    return matrix


def write(
    folder: Path,
    head: SkinnedHead,
    principal_row: float = 32.0,
    flip: bool = True,
    teeth: int = 0,
    axes: np.ndarray = _OPENGL,
    canonical: bool = True,
    prefix: str = "",
    steps: int = STEPS,
) -> Path:
    """Writes the capture; `principal_row` is the true row, `flip` counts it from the lower border as VHAP does."""
    height, width = SIZE
    for name in ("images", "fg_masks", "flame_param"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    frames = []
    for step in range(steps):
        values = parameters(head, step, teeth=teeth)
        np.savez(folder / f"flame_param/{step:05d}.npz", **values)
        vertices = posed(head, values).float()
        for number in range(CAMERAS):
            intrinsics = torch.tensor([[150.0, 0, 28], [0, 150, principal_row], [0, 0, 1]])
            camera = Camera(torch.from_numpy(view(number)).float()[None], intrinsics[None], SIZE)
            corners = vertices[head.faces]
            points = torch.cat([vertices, corners.mean(1), (corners + corners.roll(1, 1)).reshape(-1, 3) / 2])
            pixels = camera.project(points[None])[0][0]
            inside = ((pixels >= 0) & (pixels < torch.tensor([width, height]))).all(1)
            column, row = pixels[inside].long().T
            mask = np.zeros(SIZE, np.uint8)
            mask[row.numpy(), column.numpy()] = 255
            image = np.full((height, width, 3), 255, np.uint8)
            image[mask > 0] = (200, 150, 120 + 10 * step)
            name = f"{step:05d}_{number:02d}.png"
            Image.fromarray(image).save(folder / "images" / name)
            Image.fromarray(mask).save(folder / "fg_masks" / name)
            frames.append(
                {
                    "timestep_index": step, "timestep_index_original": step, "timestep_id": f"{step:05d}",
                    "camera_index": number, "camera_id": str(number), "cx": 28.0,
                    "cy": height - principal_row if flip else principal_row, "fl_x": 150.0, "fl_y": 150.0,
                    "h": height, "w": width,
                    "camera_angle_x": 2 * math.atan(width / 300), "camera_angle_y": 2 * math.atan(height / 300),
                    "transform_matrix": (np.linalg.inv(view(number)) @ axes).tolist(),
                    "file_path": f"{prefix}images/{name}", "fg_mask_path": f"{prefix}fg_masks/{name}",
                    "flame_param_path": f"{prefix}flame_param/{step:05d}.npz",
                }
            )  # fmt: skip
    if canonical:
        rest = {key: np.zeros((1, size)) for key, size in (
            ("translation", 3), ("rotation", 3), ("neck_pose", 3), ("eyes_pose", 6), ("expr", 100))}  # fmt: skip
        values = parameters(head, 0, teeth=teeth)
        rest |= {
            "jaw_pose": np.array([[0.3, 0, 0]]),
            "shape": values["shape"],
            "static_offset": values["static_offset"],
        }
        np.savez(folder / "canonical_flame_param.npz", **rest)
    for split, chosen in {
        "": frames,
        "_train": [
            frame for frame in frames if frame["timestep_index"] < max(1, steps - 1) and frame["camera_index"] == 0
        ],
        "_val": [
            frame for frame in frames if frame["timestep_index"] < max(1, steps - 1) and frame["camera_index"] == 1
        ],
        "_test": [frame for frame in frames if frame["timestep_index"] >= max(1, steps - 1)],
    }.items():
        content = {"timestep_indices": list(range(steps)), "camera_indices": list(range(CAMERAS)), "frames": chosen}
        (folder / f"transforms{split}.json").write_text(json.dumps(content))
    return folder
