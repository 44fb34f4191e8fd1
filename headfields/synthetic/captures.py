"""Synthetic captures of the procedural head, in INSTA's layout.

The head turns, talks and grimaces under lights that are fixed in the room; rays are cast through `TriangleBVH`. The
scene is our own choice. It has what a tracked mesh lacks and an avatar has to learn: hair off the surface, teeth, and
wrinkles that depend on the expression.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from headfields.apps.progress_estimate import announced
from headfields.data.formats.insta_writer import CapturedFrame, write_insta
from headfields.data.noise_ceiling import write_noise_ceiling
from headfields.files.atomic import write_text
from headfields.files.reading import read_json
from headfields.files.unfinished import filling, has_unfinished
from headfields.heads.flame.files import flame_arrays
from headfields.heads.flame.model import FlameHead
from headfields.metrics.image import decibels
from headfields.ops.rotations import rotation_from_euler
from headfields.records import Camera, HeadState
from headfields.records.opengl_axes import flip_y_z
from headfields.synthetic.head.model import procedural_head, procedural_head_arrays
from headfields.synthetic.retargeted_motion import retargeted_states
from headfields.synthetic.scans.sampler import HeadSampler
from headfields.synthetic.scene.head_geometry import HeadGeometry
from headfields.synthetic.scene.motion import JAW_OPEN, ScriptedMotion, scripted_motion
from headfields.synthetic.scene.ray_tracer import RayTracer
from headfields.synthetic.scene.shading import Lights
from headfields.synthetic.scene.wrinkles import Activity
from headfields.synthetic.tracking_error import write_truth
from headfields.synthetic.tracking_noise import TrackingNoise

__all__ = ["write_head_capture"]

_VERSION = 2  # raised when the same arguments give another capture
_RECORD = "synthetic.json"
_DISTANCE = 1.1  # meters from the camera to the head
_MARGIN = 0.96  # fraction of the half image that the head may fill
_JAW = 2
CAMERAS = "cameras"
"""Folder of held-out cameras within a capture."""
RETARGETED = "retargeted"
"""Folder of motion retargeted from another person within a capture."""
ORBIT_FRAMES = 4  # test frames that each of them sees


def write_head_capture(
    out: str | Path,
    frames: int = 72,
    test_frames: int | None = None,
    size: int = 128,
    seed: int = 0,
    samples: int = 4,
    rate: float = 6.0,
    progress: bool = True,
    noise: TrackingNoise | None = None,
    identity: int | None = None,
    cameras: int = 0,
    retargeted: int | None = None,
    unfollowed: Sequence[str] = (),
) -> Path:
    """Renders a capture of the procedural head and writes it in INSTA's layout; `load_capture` reads it.

    As in INSTA's captures, the head is static in its own frame and the camera carries the pose. Camera and lights are
    fixed in the room, so the shading moves over the head. Meshes are the tracked head without hair and teeth, the mouth
    closed by faces; `canonical.obj` has a neutral expression and the jaw 12 degrees open. Expression files have the
    head's 100 coefficients; the jaw rotates by 20 degrees times `mouth_open` (the 15th), so they determine the mouth
    fully. Rotations and transforms of the joints are written too. Depth is that of the mesh with the mouth closed,
    millimeters, 0 on ears and neck. Labels are INSTA's: the subject's left brow, eye and ear are 240, 210 and 180, the
    right ones 230, 200 and 170.

    Args:
        out: the folder; created if it does not exist.
        frames: number of frames, test frames included.
        test_frames: number of frames of the test split, the last ones of the same motion; a sixth if None.
        size: height and width of the images, pixels.
        seed: seed of hair, motion and expressions; the same arguments give the same bytes on one machine.
        samples: rays per pixel for anti-aliasing, a square number (1, 4, 9, ...).
        rate: frames per second. The motion is defined in seconds: at the default of 6, 72 frames are 12 seconds.
        progress: whether to show a progress bar.
        noise: tracking errors of meshes, cameras, expression files and the meshes' depth maps; None for exact tracking.
            Images, labels and landmarks stay exact, and `truth.npz` has the true tracking, for
            `headfields.synthetic.tracking_error`.
        identity: seed of the person, as `headfields.synthetic.scans.sampler.HeadSampler` samples it; the mean head if
            None.
        cameras: number of cameras on an orbit around the head, at yaws evenly from −90 to 90 degrees in the room, that
            see four of the test frames each; `out/cameras` is a capture of them, with exact tracking. Training never
            sees them. 0 for none.
        retargeted: seed of another identity that performs a motion of its own; None for none. `out/retargeted` is a
            capture of `test_frames` frames of this person, drawn as they would look in that motion, with the states
            that `headfields.apps.retargeting.Retargeter` makes of the other person's exact meshes, and the camera of
            the drawing. Its `truth.npz` has the true states, so that `tracking_error` says what retargeting loses.
        unfollowed: the head's expressions, by name, that the tracked meshes do not follow, as a template follows what
            it has and nothing else: images show them and the expression files have their coefficients, the meshes and
            their depth maps lack them. So a residual is left, a function of the expression alone, that a fine field
            can learn.

    Returns:
        The folder. A folder that has this capture already is left unchanged.

    Raises:
        FileExistsError: `out` has other contents.
        ValueError: an argument is out of range.
    """
    folder = Path(out)
    test_frames = frames // 6 if test_frames is None else test_frames
    record = _checked(frames, test_frames, size, seed, samples, rate)
    if cameras < 0 or (cameras and not test_frames):
        raise ValueError(
            f"write_head_capture: cameras is {cameras} and test_frames {test_frames}; expected 0 or more cameras, "
            "which see test frames"
        )
    if cameras:
        record["cameras"] = cameras
    if retargeted is not None:
        if retargeted < 0 or retargeted == identity or not test_frames:
            raise ValueError(
                f"write_head_capture: retargeted is {retargeted}, identity {identity} and test_frames {test_frames}; "
                "expected the seed of another identity, at least 0, and test frames, whose number it has"
            )
        record["retargeted"] = retargeted
    if noise is not None:
        record["noise"] = asdict(noise)
    if unfollowed:
        record["unfollowed"] = list(unfollowed)
    if identity is not None:
        if identity < 0:
            raise ValueError(
                f"write_head_capture: identity is {identity}; expected at least 0, or None for the mean head"
            )
        record["identity"] = identity
    head = procedural_head() if identity is None else head_of_identity(identity)
    unknown = sorted(set(unfollowed) - set(head.expression_names))
    if unknown:
        raise ValueError(
            f"write_head_capture: unfollowed has {', '.join(unknown)}; the head's expressions are "
            f"{', '.join(head.expression_names)}"
        )
    if folder.exists():
        if not folder.is_dir():
            raise FileExistsError(f"write_head_capture: out {folder} is a file; pass a folder")
        if _is_same(folder, record):
            return folder
        if any(folder.iterdir()) and not has_unfinished(folder):
            raise FileExistsError(
                f"write_head_capture: {folder} is not empty and holds no capture of these arguments ({_RECORD}); "
                "choose another folder or remove it"
            )
    with torch.no_grad(), filling(folder, "write_head_capture"):
        motion = scripted_motion(frames, rate, list(head.expression_names), seed)
        states = _states(head, motion)
        template = head.template()
        lens = _lens(head, states, _poses(head, motion), size)
        true_cameras = Camera(_poses(head, motion), lens.expand(frames, 3, 3).contiguous(), (size, size))
        tracked, tracked_cameras = states, true_cameras
        if noise is not None:
            noisy = noise.track(motion, rate)
            tracked, tracked_cameras = _states(head, noisy), true_cameras.replace(world_to_camera=_poses(head, noisy))
        if unfollowed:
            tracked = _without(head, tracked, unfollowed)
        scene = HeadGeometry(head, seed)
        renderer = RayTracer(scene, template.faces, size, samples, seed)

        def drawn(
            made: ScriptedMotion, index: int, state: HeadState, camera: Camera, tracked_state: HeadState,
            tracked_camera: Camera,
        ) -> CapturedFrame:  # fmt: skip
            lights = Lights.in_frame(_rotations(made)[index])
            image, label = renderer.draw(scene.pose(state), camera, lights, _activity(made, index))
            landmarks = camera.project(head.landmarks(state.vertices))[0][0]
            assert tracked_state.expression is not None and tracked_state.pose is not None
            return CapturedFrame(
                image=image,
                vertices=tracked_state.vertices[0],
                camera=tracked_camera,
                expression=tracked_state.expression[0],
                label=label,
                depth=renderer.depth(scene.pose(tracked_state), tracked_camera),
                landmarks=landmarks.numpy(),
                pose=tracked_state.pose[0],
                joint_transforms=head.from_template(tracked_state)[0],
            )

        def recorded() -> Iterator[CapturedFrame]:
            for index in announced(range(frames), "drawing", "frame", progress):
                truth = states[index], true_cameras[index]
                yield drawn(motion, index, *truth, tracked[index], tracked_cameras[index])

        def orbiting() -> Iterator[CapturedFrame]:
            yaws = torch.linspace(-90, 90, cameras) if cameras > 1 else torch.zeros(1)
            seen = torch.linspace(frames - test_frames, frames - 1, min(ORBIT_FRAMES, test_frames)).round().int()
            for yaw in announced(yaws.tolist(), "other cameras", "camera", progress):
                poses = _poses(head, motion, yaw)[seen]
                held_out = Camera(poses, _lens(head, states[seen], poses, size).expand(len(seen), 3, 3), (size, size))
                for row, index in enumerate(seen.tolist()):
                    yield drawn(motion, index, states[index], held_out[row], states[index], held_out[row])

        def retarget(performer: FlameHead) -> None:
            """Writes the capture of this person as the performer moves."""
            made = scripted_motion(frames, rate, list(head.expression_names), seed + 1)
            last = torch.arange(frames - test_frames, frames)
            true, performed = _states(head, made)[last], _states(performer, made)[last]
            moved = retargeted_states(head, performer, performed, tracked[torch.arange(frames - test_frames)])
            poses = _poses(head, made)[last]
            seen = Camera(poses, _lens(head, true, poses, size).expand(len(last), 3, 3).contiguous(), (size, size))

            def performing() -> Iterator[CapturedFrame]:
                for row in announced(range(len(last)), "retargeted", "frame", progress):
                    yield drawn(made, int(last[row]), true[row], seen[row], moved[row], seen[row])

            place = folder / RETARGETED
            write_insta(place, performing(), template.canonical_vertices, template.faces, test_frames)
            write_truth(place, *_true_tracking(true, seen))

        write_insta(folder, recorded(), template.canonical_vertices, template.faces, test_frames)
        middle = frames - max(test_frames, 1) // 2 - 1
        again = RayTracer(scene, template.faces, size, samples, seed + 1)
        pair = [
            each.draw(
                scene.pose(states[middle]), true_cameras[middle], Lights.in_frame(_rotations(motion)[middle]),
                _activity(motion, middle),
            )[0]
            for each in (renderer, again)
        ]  # fmt: skip
        source = f"two drawings of frame {middle} with other rays"
        write_noise_ceiling(folder, _ceiling(*pair), source)
        if cameras:
            views = cameras * min(ORBIT_FRAMES, test_frames)
            write_insta(folder / CAMERAS, orbiting(), template.canonical_vertices, template.faces, views)
        if retargeted is not None:
            retarget(head_of_identity(retargeted))
        if noise is not None:
            write_truth(folder, *_true_tracking(states, true_cameras))
        # Last, so that an interrupted capture is not mistaken for a complete one.
        write_text(folder / _RECORD, json.dumps(record, indent=1) + "\n")
    return folder


def _ceiling(image: UInt8[np.ndarray, "h w 4"], other: UInt8[np.ndarray, "h w 4"]) -> dict[str, float]:
    """PSNR that the noise of an image leaves, dB, from two images of the same with noise of their own, on white."""
    first, second = (torch.from_numpy(each).double() / 255 for each in (image, other))
    on_white = [each[..., :3] * each[..., 3:] + 1 - each[..., 3:] for each in (first, second)]
    variance = (on_white[0] - on_white[1]).square().mean(-1) / 2
    head = first[..., 3] > 0.5
    return {
        name: decibels(float(variance[mask].mean()), most=120.0)
        for name, mask in (("psnr", torch.ones_like(head)), ("psnr_head", head))
        if bool(mask.any())
    }


def _true_tracking(states: HeadState, cameras: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `write_truth` takes of states."""
    assert states.expression is not None
    return states.vertices.numpy(), cameras.world_to_camera.numpy(), states.expression.numpy()


def head_of_identity(identity: int) -> FlameHead:
    """The procedural head with the template of a random identity: that of captures with this `identity`."""
    arrays = flame_arrays(procedural_head_arrays(), "procedural_head()")
    identity_code = HeadSampler(procedural_head()).identity(np.random.default_rng([identity, 6])).numpy()
    template = (arrays.template + arrays.shape_basis @ identity_code).astype(np.float32)
    return FlameHead(replace(arrays, template=template))


def _checked(frames: int, test_frames: int, size: int, seed: int, samples: int, rate: float) -> dict[str, object]:
    """Checks the arguments that the capture depends on, and returns its record."""
    if frames < 1:
        raise ValueError(f"write_head_capture: frames is {frames}; expected at least 1")
    if not 0 <= test_frames <= frames:
        raise ValueError(f"write_head_capture: test_frames is {test_frames}; expected 0 to {frames} (frames)")
    if size < 8:
        raise ValueError(f"write_head_capture: size is {size}; expected at least 8 pixels")
    if samples < 1 or round(samples**0.5) ** 2 != samples:
        raise ValueError(
            f"write_head_capture: samples is {samples}; expected a square number of rays per pixel (1, 4, 9, ...)"
        )
    if not rate > 0:
        raise ValueError(f"write_head_capture: rate is {rate}; expected a positive number of frames per second")
    if seed < 0:
        raise ValueError(f"write_head_capture: seed is {seed}; expected at least 0")
    return {
        "version": _VERSION,
        "frames": frames,
        "test_frames": test_frames,
        "size": size,
        "seed": seed,
        "samples": samples,
        "rate": float(rate),
    }


def _is_same(folder: Path, record: dict[str, object]) -> bool:
    path = folder / _RECORD
    try:
        return path.is_file() and read_json(path) == record
    except ValueError:
        return False


def _states(head: FlameHead, motion: ScriptedMotion) -> HeadState:
    """States of all frames: jaw, eyes and expression move; the camera carries the head's pose."""
    weights = {name: torch.from_numpy(track).float() for name, track in motion.weights.items()}
    expression = head.expression(**weights)
    pose = torch.zeros(len(motion.angles), 5, 3)
    pose[:, _JAW, 0] = float(JAW_OPEN) * weights["mouth_open"]
    gaze = torch.from_numpy(motion.gaze).float()
    pose[:, 3:, 0] = gaze[:, 1:]
    pose[:, 3:, 1] = gaze[:, :1]
    return head(expression=expression, pose=pose)


def _without(head: FlameHead, states: HeadState, names: Sequence[str]) -> HeadState:
    """The states with meshes that lack these expressions; coefficients and joints as they are."""
    assert states.expression is not None and states.pose is not None
    kept = states.expression.clone()
    kept[:, [head.expression_names.index(name) for name in names]] = 0
    return states.replace(vertices=head(expression=kept, pose=states.pose).vertices)


def _rotations(motion: ScriptedMotion) -> Float[Tensor, "f 3 3"]:
    """Rotations from head to room: roll, then pitch, then yaw."""
    angles = torch.from_numpy(motion.angles).double()  # yaw, pitch, roll
    return rotation_from_euler(angles * torch.tensor([1, 1, -1]), "yxz").float()


def _poses(head: FlameHead, motion: ScriptedMotion, yaw: float = 0.0) -> Float[Tensor, "f 4 4"]:
    """World-to-camera, in the head's frame, of a camera that is fixed in the room, `yaw` degrees around the head's
    middle toward the head's left."""
    rotation = _rotations(motion)
    pivot = (head.joint_regressor @ head.template_vertices)[1] + torch.tensor([0.0, 0.02, 0.0])  # the upper neck
    middle = _middle(head)
    room = flip_y_z(torch.eye(3))  # OpenCV axes, looking along -z
    shift = pivot + torch.from_numpy(motion.shift).float()
    place = torch.tensor([0.0, float(middle[1]), float(middle[2]) + _DISTANCE])
    pose = torch.zeros(len(rotation), 4, 4)
    pose[:, :3, :3] = room @ rotation
    pose[:, :3, 3] = (shift - (rotation @ pivot) - place) @ room.T
    if yaw:
        back = rotation_from_euler(torch.tensor([-np.radians(yaw), 0.0, 0.0]).double(), "yxz").float()
        center = place - torch.tensor([0.0, 0.0, _DISTANCE])
        pose[:, :3, :3] = room @ back @ rotation
        pose[:, :3, 3] = ((shift - (rotation @ pivot) - center) @ back.T + center - place) @ room.T
    pose[:, 3, 3] = 1
    return pose


def _in_view(head: FlameHead) -> Bool[Tensor, " v"]:
    """(V,) mask of the vertices that must be in the image; the lower end of the neck may leave it."""
    upper_neck = (head.joint_regressor @ head.template_vertices)[1, 1]
    return head.template_vertices[:, 1] > float(upper_neck) - 0.035


def _middle(head: FlameHead) -> Float[Tensor, "3"]:
    return 0.5 * (head.template_vertices[_in_view(head)].amin(0) + head.template_vertices.amax(0))


def _lens(head: FlameHead, states: HeadState, pose: Float[Tensor, "f 4 4"], size: int) -> Float[Tensor, "3 3"]:
    """Intrinsics with the longest focal length that keeps the moving head in the image."""
    # Hair extends 3 cm beyond the skin.
    reach = states.vertices[:, _in_view(head)]
    reach = reach + 0.028 * torch.nn.functional.normalize(reach - _middle(head), dim=-1)
    in_camera = reach @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3]
    extent = float((in_camera[..., :2].abs() / in_camera[..., 2:]).amax())
    focal = _MARGIN * 0.5 * size / extent
    return torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])


def _activity(motion: ScriptedMotion, index: int) -> Activity:
    """Muscle activities of a frame, on which the wrinkles depend."""

    def weight(name: str) -> float:
        return float(np.clip(motion.weights[name][index], 0, 1))

    inner = 0.8 * weight("brow_inner_raise")
    return Activity(
        brow_raise=(max(weight("brow_raise_right"), inner), max(weight("brow_raise_left"), inner)),
        frown=weight("brow_furrow"),
        squint=(weight("squint_right"), weight("squint_left")),
        smile=(weight("smile_right"), weight("smile_left")),
    )
