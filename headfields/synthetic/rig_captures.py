"""Synthetic captures of a rigged scan, as 3VP Avatar records them: a turn on a chair, and talking from all sides."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.data.formats.insta_writer import CapturedFrame, InstaWriter
from headfields.files.arrays import save_arrays
from headfields.files.atomic import write_text
from headfields.mesh.mesh import Mesh
from headfields.ops.rotations import rotation_from_euler
from headfields.records import Camera, HeadState
from headfields.records.opengl_axes import flip_y_z
from headfields.synthetic.captures import CAMERAS, ORBIT_FRAMES
from headfields.synthetic.detector_noise import DetectorNoise
from headfields.synthetic.scene.body_motion import PARTS, BodyMotion, Kind, chair_motion, talk_motion
from headfields.synthetic.scene.rig_dress import Dress
from headfields.synthetic.scene.rig_ray_tracer import RigRayTracer
from headfields.synthetic.tracking_error import TRUTH, TRUTH_FORMAT

__all__ = ["rig_states", "write_rig_capture"]

_RECORD = "synthetic.json"
_DISTANCE = 1.6  # meters from the camera to the chair's axis
_MARGIN = 0.94  # fraction of the half image that the body may fill
_VERSION = 1
_ELEVATION = 20.0  # degrees of held-out cameras above the recording one


def write_rig_capture(
    rig: RiggedTemplate,
    out: str | Path,
    kind: Kind = "talk",
    frames: int = 96,
    size: int = 224,
    seed: int = 0,
    samples: int = 4,
    rate: float = 10.0,
    progress: bool = True,
    dressed: bool = False,
    lowest: float | int | None = None,
    noise: DetectorNoise | None = None,
    cameras: int = 0,
) -> Path:
    """Renders a rigged scan on a turning chair and writes it in INSTA's layout; `load_capture` reads it.

    `"chair"` is one turn with a static face; `"talk"` is talking and grimacing with motion of head, neck and torso, on
    a chair that turns once. Camera and lights are fixed in the room. The frames' cameras carry the chair's rotation, as
    they carry the head's in INSTA's captures; neck, torso, jaw and face move in the meshes. The images show small
    relief and folds that the meshes lack. Mattes, labels and visible landmarks (NaN where hidden; no file if none is
    visible) are written too. For "chair", the test split is four ranges of the chair's yaw; for "talk", four intervals,
    a sixth of the frames in total, with held-out expressions (`HELD_OUT` in scene/rig_motion).

    Expression files have the jaw's rotation (axis-angle, 3) and then the rig's coefficients. Meshes, cameras,
    expressions and joints are exact; `truth.npz` repeats them and has the rotations of all joints as `pose` (F, J, 3).

    Args:
        rig: the rigged scan.
        out: the folder; created if it does not exist.
        kind: "chair" or "talk".
        frames: number of frames.
        size: height and width of the images, pixels.
        seed: seed of motion, relief and folds.
        samples: rays per pixel for anti-aliasing, a square number (1, 4, 9, ...).
        rate: frames per second of the talking; the chair's turn always takes all frames.
        progress: whether to show a progress bar.
        dressed: whether the subject has hair, brows, teeth and a shirt that stands off the skin, which the rig and its
            meshes lack; for a rig of `procedural_rig`.
        lowest: height at rest down to which the subject must be in the images, meters, such as that of the collar; the
            images cut off the rest. None: all of it.
        noise: errors of landmarks and mattes; None for exact ones. Labels stay exact.
        cameras: number of cameras 20 degrees above the recording one, at yaws evenly around the body in the room, that
            see four test frames each; `out/cameras` is an exact capture of them, which training never sees. 0 for none.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: an argument is out of range.
    """
    folder, op = Path(out), "write_rig_capture"
    if kind not in ("chair", "talk"):
        raise ValueError(f"{op}: kind is {kind!r}; expected 'chair' or 'talk'")
    if frames < 1 or size < 16 or seed < 0 or not rate > 0:
        raise ValueError(
            f"{op}: frames is {frames}, size {size}, seed {seed} and rate {rate}; expected at least 1 frame of 16 "
            "pixels, a seed of at least 0, and a positive rate"
        )
    if samples < 1 or round(samples**0.5) ** 2 != samples:
        raise ValueError(f"{op}: samples is {samples}; expected a square number of rays per pixel (1, 4, 9, ...)")
    if cameras < 0:
        raise ValueError(f"{op}: cameras is {cameras}; expected 0 or more")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{op}: {folder} exists and is not empty; choose another folder or remove it")
    with torch.no_grad():
        width = rig.expression_count
        motion = (
            chair_motion(frames, width, seed)
            if kind == "chair"
            else talk_motion(frames, tuple(rig.expression_names), width, rate, seed)
        )
        if cameras and not motion.test.any():
            raise ValueError(f"{op}: cameras is {cameras}, and none of {frames} frames is for testing; raise frames")
        states = rig_states(rig, motion)
        recording = _cameras(rig, motion, size, lowest)
        scene = RigRayTracer(rig, seed, samples, Dress(rig, seed) if dressed else None)
        template = rig.template()
        writer = InstaWriter(folder, Mesh(template.canonical_vertices, rig.faces), 0.001)

        def captured(index: int, camera: Camera, noise: DetectorNoise | None) -> CapturedFrame:
            state = states[index]
            drawn = scene.draw(state, camera, motion.body_to_room[index])
            assert state.expression is not None and state.pose is not None
            values = torch.cat([state.pose[0, rig.jaw_joint], state.expression[0]])
            image, landmarks = drawn.image, drawn.landmarks
            if noise is not None:
                image, landmarks = noise.detected(image, landmarks, index / rate)
            return CapturedFrame(
                image, state.vertices[0], camera, values, drawn.label, landmarks=landmarks,
                pose=state.pose[0], joint_transforms=rig.from_template(state)[0],
            )  # fmt: skip

        for index in tqdm(range(frames), desc="drawing", unit="frame", disable=not progress):
            camera = recording[index]
            writer.add(f"{index:05d}", captured(index, camera, noise), _camera_to_world(camera))
        rows = torch.arange(frames)
        test = rows[motion.test].tolist()
        writer.finish({"train": rows[~motion.test].tolist(), "test": test, "val": test[-20:]})
        if cameras:
            others = InstaWriter(folder / CAMERAS, Mesh(template.canonical_vertices, rig.faces), 0.001)
            seen = [test[i] for i in torch.linspace(0, len(test) - 1, min(ORBIT_FRAMES, len(test))).round().int()]
            for number in tqdm(range(cameras), desc="other cameras", unit="camera", disable=not progress):
                around = _cameras(rig, motion, size, lowest, 360 * number / cameras, _ELEVATION)
                for index in seen:
                    camera = around[index]
                    frame = captured(index, camera, None)
                    others.add(f"{others.count:05d}", frame, _camera_to_world(camera))
            others.finish({"train": [], "test": list(range(others.count)), "val": []})
    _write_truth(folder, rig, states, recording, motion)
    record = {"version": _VERSION, "kind": kind, "frames": frames, "size": size, "seed": seed, "samples": samples,
              "rate": float(rate), "vertices": len(rig.template_vertices)}  # fmt: skip
    write_text(folder / _RECORD, json.dumps(record, indent=1) + "\n")
    return folder


def rig_states(rig: RiggedTemplate, motion: BodyMotion) -> HeadState:
    """States of all frames without the chair's rotation; joints missing from a five-joint rig stay at rest."""
    joints = rig.joints
    rotations = {name: motion.rotations[name] for name in PARTS if joints.get(name, 0)}
    parts = [
        rig(
            expression=motion.expression[rows],
            pose=rig.pose(**{name: values[rows] for name, values in rotations.items()}),
        )
        for rows in torch.arange(len(motion.yaw)).split(16)
    ]
    return replace(
        parts[0],
        vertices=torch.cat([part.vertices for part in parts]),
        expression=torch.cat([part.need("rig_states", "expression") for part in parts]),
        pose=torch.cat([part.need("rig_states", "pose") for part in parts]),
        joint_transforms=torch.cat([part.need("rig_states", "joint_transforms") for part in parts]),
    )


def _camera_to_world(camera: Camera) -> np.ndarray:
    return np.linalg.inv(camera.world_to_camera.double().view(4, 4).numpy())


def _cameras(
    rig: RiggedTemplate,
    motion: BodyMotion,
    size: int,
    lowest: float | int | None,
    yaw: float = 0.0,
    height: float = 0.0,
) -> Camera:
    """A camera fixed in the room, in the turning body's frame, with the longest focal length that keeps it in view,
    or what is above `lowest`; `yaw` degrees around the chair's axis and `height` degrees above its middle."""
    rest = rig.template_vertices
    if lowest is not None:
        rest = rest[rest[:, 1] > lowest]
        if not len(rest):
            raise ValueError(f"write_rig_capture: lowest is {lowest} m, above all of the rig")
    low, high = rest.amin(0), rest.amax(0)
    axis = torch.stack([0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]), 0.5 * (low[2] + high[2])])
    rotation = motion.body_to_room
    room = flip_y_z(torch.eye(3))  # OpenCV axes, looking along -z
    pose = torch.eye(4).repeat(len(rotation), 1, 1)
    around = rotation_from_euler(torch.tensor([-np.radians(yaw), 0.0, 0.0]).double(), "yxz").float()
    above = rotation_from_euler(torch.tensor([0.0, np.radians(height), 0.0]).double(), "yxz").float()
    orbit = above @ around
    pose[:, :3, :3] = room @ orbit @ rotation
    shift = (motion.shift - (rotation @ axis)) @ orbit.T - torch.tensor([0.0, 0.0, _DISTANCE])
    pose[:, :3, 3] = shift @ room.T
    offset = rest - axis
    radius = float(offset[:, [0, 2]].norm(dim=1).max())
    reach = max(radius, float(offset[:, 1].abs().max()) * (1 + radius / _DISTANCE)) + 0.02
    focal = _MARGIN * 0.5 * size * (_DISTANCE**2 - radius**2) ** 0.5 / reach
    lens = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return Camera(pose, lens.expand(len(pose), 3, 3).contiguous(), (size, size))


def _write_truth(folder: Path, rig: RiggedTemplate, states: HeadState, cameras: Camera, motion: BodyMotion) -> None:
    assert states.expression is not None and states.pose is not None
    jaw: Float[Tensor, "f 3"] = states.pose[:, rig.jaw_joint]
    truth = {
        "vertices": states.vertices,
        "world_to_camera": cameras.world_to_camera,
        "expression": torch.cat([jaw, states.expression], 1),
        "pose": states.pose,
        "yaw": motion.yaw,
    }
    save_arrays(folder / TRUTH, {name: tensor.numpy() for name, tensor in truth.items()}, TRUTH_FORMAT)
