"""A capture made by code: a head that turns, talks and grimaces under lights fixed in the room, in INSTA's layout.

Everything is the library's own: the procedural head, its blendshapes and joints, and rays cast through `TriangleBVH`.
The scene (hair that stands off the mesh, teeth, wrinkles that come with the expression) is our own choice; it holds
what a tracked mesh does not, so that there is something to learn.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from headfields.data.formats.insta_writer import CapturedFrame, write_insta
from headfields.heads.flame.files import flame_arrays
from headfields.heads.flame.model import FlameHead
from headfields.ops.rotations import rotation_matrices
from headfields.records import Camera, HeadState
from headfields.synthetic.head.model import procedural_head, procedural_head_arrays
from headfields.synthetic.scans.sampler import HeadSampler
from headfields.synthetic.scene.motion import JAW_OPEN, Motion, head_motion
from headfields.synthetic.scene.render import Renderer
from headfields.synthetic.scene.scene import Scene
from headfields.synthetic.scene.shading import Lights
from headfields.synthetic.scene.wrinkles import Activity
from headfields.synthetic.tracking_error import write_truth
from headfields.synthetic.tracking_noise import TrackingNoise

__all__ = ["TrackingNoise", "write_head_capture"]

_VERSION = 1  # of what the same arguments draw
_RECORD = "synthetic.json"
_DISTANCE = 1.1  # of the camera from the head, meters
_MARGIN = 0.96  # part of the half image that the head may fill
_JAW = 2


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
) -> Path:
    """Draws a capture of the procedural head and writes it in INSTA's layout; `load_capture` reads it.

    The head stands still in its own frame and the camera carries the pose, as in INSTA's captures; camera and lights
    are fixed in the room, so in the head's frame both move together and the shading moves over the head. Meshes hold
    the tracked head alone, no hair and no teeth, its mouth closed by a fan of faces; `canonical.obj` has no expression
    and the jaw 12 degrees open. Expression files hold the head's 100 coefficients, and
    the jaw turns by 20 degrees times `mouth_open` (the 15th), so that the file tells all that moves the mouth. Depth is
    the mesh's with the mouth closed, millimeters, 0 on ears and neck. Labels: the subject's left brow, eye and ear
    240, 210, 180, right 230, 200, 170.

    Args:
        out: the folder; made if it is not there.
        frames: how many in all.
        test_frames: how many of the last ones are the test split, from the same motion; a sixth of them if None.
        size: height and width of the images, pixels.
        seed: draws identity of hair, motion and expressions; the same arguments give the same bytes on one machine.
        samples: rays a pixel for anti-aliasing, a square number (1, 4, 9, ...).
        rate: frames a second. The motion runs in seconds; the default of 6 packs 12 seconds into 72 frames.
        progress: whether to show a bar.
        noise: how wrong meshes, cameras, expression files and (as they are the mesh's) depth maps are. Images, labels
            and landmarks stay those of the truth, which `truth.npz` then holds: `headfields.synthetic.tracking_error`
            compares. None for exact tracking.
        identity: draws whose head it is, as `headfields.synthetic.HeadSampler` does; the mean head if None.

    Returns:
        The folder. A folder that holds this very capture already is left as it is.

    Raises:
        FileExistsError: `out` holds something else.
        ValueError: an argument is out of range.
    """
    folder = Path(out)
    test_frames = frames // 6 if test_frames is None else test_frames
    record = _checked(frames, test_frames, size, seed, samples, rate)
    if noise is not None:
        record["noise"] = asdict(noise)
    if identity is not None:
        if identity < 0:
            raise ValueError(
                f"write_head_capture: identity is {identity}; expected at least 0, or None for the mean head"
            )
        record["identity"] = identity
    if folder.exists():
        if not folder.is_dir():
            raise FileExistsError(f"write_head_capture: out {folder} is a file; name a folder")
        if _is_same(folder, record):
            return folder
        if any(folder.iterdir()):
            raise FileExistsError(
                f"write_head_capture: {folder} is not empty and holds no capture of these arguments ({_RECORD}); "
                "name another folder or remove it"
            )
    with torch.no_grad():
        head = procedural_head() if identity is None else _someone(identity)
        motion = head_motion(frames, rate, list(head.expression_names), seed)
        states = _states(head, motion)
        template = head.template()
        rotation = _rotations(motion)
        lens = _lens(head, states, _poses(head, motion), size)
        cameras = Camera(_poses(head, motion), lens.expand(frames, 3, 3).contiguous(), (size, size))
        tracked, tracked_cameras = states, cameras
        if noise is not None:
            seen = noise.track(motion, rate)
            tracked, tracked_cameras = _states(head, seen), cameras.replace(world_to_camera=_poses(head, seen))
        scene = Scene(head, seed)
        renderer = Renderer(scene, template.faces, size, samples, seed)

        def drawn() -> Iterator[CapturedFrame]:
            for index in tqdm(range(frames), desc="drawing", unit="frame", disable=not progress):
                state = states[index]
                posed = scene.pose(state)
                camera = cameras[index]
                image, label = renderer.draw(posed, camera, Lights.seen_from(rotation[index]), _activity(motion, index))
                landmarks = camera.project(head.landmarks(state.vertices))[0][0]
                found, view = tracked[index], tracked_cameras[index]
                assert found.expression is not None
                yield CapturedFrame(
                    image=image,
                    vertices=found.vertices[0],
                    camera=view,
                    expression=found.expression[0],
                    label=label,
                    depth=renderer.depth(posed if noise is None else scene.pose(found), view),
                    landmarks=landmarks.numpy(),
                )

        write_insta(folder, drawn(), template.canonical_vertices, template.faces, test_frames)
        if noise is not None:
            assert states.expression is not None
            truth = (states.vertices, cameras.world_to_camera, states.expression)
            write_truth(folder, *(tensor.numpy() for tensor in truth))
    # Last, so that a run that was cut short is not taken for a whole capture.
    (folder / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return folder


def _someone(identity: int) -> FlameHead:
    """The procedural head with another template: one of the people that it can make."""
    arrays = flame_arrays(procedural_head_arrays(), "procedural_head()")
    drawn = HeadSampler(procedural_head()).identity(np.random.default_rng([identity, 6])).numpy()
    return FlameHead(replace(arrays, template=(arrays.template + arrays.shape_basis @ drawn).astype(np.float32)))


def _checked(frames: int, test_frames: int, size: int, seed: int, samples: int, rate: float) -> dict[str, object]:
    """The arguments that the capture depends on, as they are recorded."""
    if frames < 1:
        raise ValueError(f"write_head_capture: frames is {frames}; expected at least 1")
    if not 0 <= test_frames <= frames:
        raise ValueError(f"write_head_capture: test_frames is {test_frames}; expected 0 to {frames} (frames)")
    if size < 8:
        raise ValueError(f"write_head_capture: size is {size}; expected at least 8 pixels")
    if samples < 1 or round(samples**0.5) ** 2 != samples:
        raise ValueError(
            f"write_head_capture: samples is {samples}; expected a square number of rays a pixel (1, 4, 9, ...)"
        )
    if not rate > 0:
        raise ValueError(f"write_head_capture: rate is {rate}; expected a positive number of frames a second")
    if seed < 0:
        raise ValueError(f"write_head_capture: seed is {seed}; expected 0 or more")
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
        return path.is_file() and json.loads(path.read_text()) == record
    except ValueError:
        return False


def _states(head: FlameHead, motion: Motion) -> HeadState:
    """All frames, the head's own pose zero: jaw, eyes and expression move, the camera carries the rest."""
    weights = {name: torch.from_numpy(track).float() for name, track in motion.weights.items()}
    expression = head.expression(**weights)
    pose = torch.zeros(len(motion.angles), 5, 3)
    pose[:, _JAW, 0] = float(JAW_OPEN) * weights["mouth_open"]
    gaze = torch.from_numpy(motion.gaze).float()
    pose[:, 3:, 0] = gaze[:, 1:]
    pose[:, 3:, 1] = gaze[:, :1]
    return head(expression=expression, pose=pose)


def _rotations(motion: Motion) -> Float[Tensor, "f 3 3"]:
    """Head to room: yaw after pitch after roll."""
    angles = torch.from_numpy(motion.angles).double()

    def about(axis: int, angle: Tensor) -> Tensor:
        vector = torch.zeros(len(angle), 3, dtype=torch.float64)
        vector[:, axis] = angle
        return rotation_matrices(vector)

    return (about(1, angles[:, 0]) @ about(0, angles[:, 1]) @ about(2, -angles[:, 2])).float()


def _poses(head: FlameHead, motion: Motion) -> Float[Tensor, "f 4 4"]:
    """World-to-camera of one camera fixed in the room, seen from the turning head."""
    rotation = _rotations(motion)
    pivot = (head.joint_regressor @ head.template_vertices)[1] + torch.tensor([0.0, 0.02, 0.0])  # the upper neck
    middle = _middle(head)
    room = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # OpenCV axes, looking along -z
    shift = pivot + torch.from_numpy(motion.shift).float()
    place = torch.tensor([0.0, float(middle[1]), float(middle[2]) + _DISTANCE])
    pose = torch.zeros(len(rotation), 4, 4)
    pose[:, :3, :3] = room @ rotation
    pose[:, :3, 3] = (shift - (rotation @ pivot) - place) @ room.T
    pose[:, 3, 3] = 1
    return pose


def _shown(head: FlameHead) -> Bool[Tensor, " v"]:
    """The neck's lower end leaves the image, as it does where a capture's clothes are cut away."""
    upper_neck = (head.joint_regressor @ head.template_vertices)[1, 1]
    return head.template_vertices[:, 1] > float(upper_neck) - 0.035


def _middle(head: FlameHead) -> Float[Tensor, "3"]:
    return 0.5 * (head.template_vertices[_shown(head)].amin(0) + head.template_vertices.amax(0))


def _lens(head: FlameHead, states: HeadState, pose: Float[Tensor, "f 4 4"], size: int) -> Float[Tensor, "3 3"]:
    """Intrinsics of a lens as long as the head's movements allow."""
    # Hair reaches some 3 cm beyond the skin.
    reach = states.vertices[:, _shown(head)]
    reach = reach + 0.028 * torch.nn.functional.normalize(reach - _middle(head), dim=-1)
    seen = reach @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3]
    extent = float((seen[..., :2].abs() / seen[..., 2:]).amax())
    focal = _MARGIN * 0.5 * size / extent
    return torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])


def _activity(motion: Motion, index: int) -> Activity:
    """What the wrinkles follow."""

    def weight(name: str) -> float:
        return float(np.clip(motion.weights[name][index], 0, 1))

    inner = 0.8 * weight("brow_inner_raise")
    return Activity(
        raise_=(max(weight("brow_raise_right"), inner), max(weight("brow_raise_left"), inner)),
        frown=weight("brow_furrow"),
        squint=(weight("squint_right"), weight("squint_left")),
        smile=(weight("smile_right"), weight("smile_left")),
    )
