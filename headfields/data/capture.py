"""A captured head sequence in the library's own terms, whatever its layout on disk."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from headfields.data.alignment import Look, misalignments
from headfields.data.frame_cache import FrameStore
from headfields.data.head_frame import HeadFrameChoice, choose_head_frame
from headfields.data.joint_fit import JointFits
from headfields.data.pixels import frame_pixels, sample_pixels
from headfields.files.errors import CaptureError
from headfields.mesh.mesh import Mesh
from headfields.records import Camera, HeadState, PixelBatch, Template

if TYPE_CHECKING:
    from headfields.heads.mouth.inner import InnerMouth

Mouth = Literal["close", "interior", "none"]


@dataclass
class Recording:
    """What a reader of one layout hands to `Capture`; arrays are per frame, in the capture's order.

    Attributes:
        path: the capture's folder.
        size: (height, width) of every image, pixels.
        frame_names: one name a frame, for messages.
        camera_to_world: (F, 4, 4) float64, OpenCV axes, meters.
        intrinsics: (F, 3, 3) float64, pixels.
        splits: split name → frame indices.
        canonical: the canonical mesh.
        decode_image: frame → RGBA (H, W, 4) uint8 with straight alpha, label (H, W) uint8 or None, depth (H, W) uint16
            or None.
        decode_head: frame → vertices (V, 3) float32, expression (E,) float32 or None.
        decode_landmarks: frame → (68, 2) float32 pixels or None.
        has_label, has_depth: whether any frame has them.
        expression_width: E, or None where the capture has no expressions.
        depth_scale: meters per unit of the stored depth.
        report: what was tolerated, missing or decided.
        looked_at: frame → vertices (V, 3) of frames spread over the capture that the reader has decoded already.
    """

    path: Path
    size: tuple[int, int]
    frame_names: list[str]
    camera_to_world: np.ndarray
    intrinsics: np.ndarray
    splits: dict[str, list[int]]
    canonical: Mesh
    decode_image: Callable[[int], tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]
    decode_head: Callable[[int], tuple[np.ndarray, np.ndarray | None]]
    decode_landmarks: Callable[[int], np.ndarray | None]
    has_label: bool
    has_depth: bool
    expression_width: int | None
    depth_scale: float = 0.001
    report: list[str] = field(default_factory=list)
    looked_at: dict[int, np.ndarray] = field(default_factory=dict)


class Capture:
    """A captured head: images, cameras and the tracked mesh of every frame, decoded when they are asked for.

    Made by `headfields.data.load_capture`. All tensors are on the CPU.

    Attributes:
        name: the folder's name.
        path: the folder.
        size: (height, width) in pixels.
        frame_names: one name a frame, in the capture's order.
        splits: `"train"`, `"test"`, `"val"`, `"all"` → int64 frame indices.
        report: human-readable lines: what was tolerated or missing, and what was decided on what evidence; those that
            ask for attention begin with "warning: " (see `warnings`).
        expression_width: number of expression coefficients, or None.
        depth_unit: meters per unit of the stored depth.
        mouth: what is done with the tracked mesh's open mouth; see `load_capture`.
        skinning: (V, J) weights by which joint transforms are fitted to the meshes, or None; see `load_capture`.
        recording: what the layout's reader gave: the exact numbers on disk, and functions that decode one frame.
        head_frame: the rigid part of the head, where its motion is taken out of the vertices and put into the cameras;
            None where both are as on disk.
    """

    def __init__(
        self,
        recording: Recording,
        memory_budget_mb: int | float,
        regions: Mapping[str, Tensor] | None = None,
        head_frame: HeadFrameChoice = "keep",
        mouth: Mouth = "close",
        skinning: Float[Tensor, "v j"] | None = None,
    ) -> None:
        self.path = recording.path
        self.name = recording.path.name
        self.size = recording.size
        self.frame_names = tuple(recording.frame_names)
        self.splits: dict[str, Int64[Tensor, " n"]] = {
            key: torch.tensor(value, dtype=torch.long) for key, value in recording.splits.items()
        }
        self.report = recording.report
        self.expression_width = recording.expression_width
        self.depth_unit = recording.depth_scale
        self.recording = recording
        self.mouth = mouth
        self.skinning = skinning
        self._joints = None if skinning is None else JointFits(skinning)
        self._given_regions = regions
        self._world_to_camera = torch.from_numpy(np.linalg.inv(recording.camera_to_world).astype(np.float32))
        self._intrinsics = torch.from_numpy(recording.intrinsics.astype(np.float32))

        budget = int(memory_budget_mb * 2**20)
        head_layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "vertices": ((len(recording.canonical.vertices), 3), torch.float32)
        }
        if recording.expression_width is not None:
            head_layout["expression"] = ((recording.expression_width,), torch.float32)
        # Vertices are small beside images and slow to parse, so all of them are kept if a third of the budget allows.
        self._heads = FrameStore(len(self), head_layout, self._decode_head, budget // 3, "mesh and expression")
        budget -= self._heads.slots * self._heads.bytes_per_frame
        pixels = self.size[0] * self.size[1]
        layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"rgba": ((pixels,), torch.int32)}
        if recording.has_label:
            layout["label"] = ((pixels,), torch.uint8)
        if recording.has_depth:
            layout["depth"] = ((pixels,), torch.int16)
        self._images = FrameStore(len(self), layout, self._decode_image, budget, "image, labels and depth")
        # Poses are small and kept for good, so that a camera needs its frame's mesh once and not each time.
        self._poses = torch.full((len(self), 4, 4), torch.nan, dtype=torch.float64)
        self.head_frame = choose_head_frame(recording, head_frame, self.report)

    def __len__(self) -> int:
        return len(self.frame_names)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{key} {len(value)}" for key, value in self.splits.items())
        return f"Capture({self.name!r}, {self.size[1]}x{self.size[0]} pixels, frames: {sizes})"

    @functools.cached_property
    def template(self) -> Template:
        """The canonical mesh, its mouth as `mouth` says, with face regions; made on first use (these take seconds)."""
        from headfields.data.regions import build_template

        return build_template(self, self.recording.canonical, self._given_regions, self.report)

    @functools.cached_property
    def inner_mouth(self) -> "InnerMouth | None":
        """What extends the tracked mesh to the template's where `mouth` is "interior", else None; made on first use."""
        from headfields.data.regions import build_inner_mouth

        return build_inner_mouth(self, self.recording.canonical, self.report) if self.mouth == "interior" else None

    def tracked(self, frames: Int[Tensor, " b"] | Sequence[int]) -> Float[Tensor, "b v 3"]:
        """Vertices of the given frames' meshes as tracked, without an inside of the mouth.

        Raises:
            IndexError, CaptureError: as `state`.
        """
        return self._state(frames).vertices

    def state(self, frames: Int[Tensor, " b"] | Sequence[int]) -> HeadState:
        """Vertices (B, V, 3) of the template's mesh and expression (B, E) of frames; their indices are the `frame_id`.

        With `skinning`, joint transforms (B, J, 4, 4) from the template's canonical mesh too.

        Raises:
            IndexError: a frame is out of range.
            CaptureError: a mesh or expression file cannot be read.
        """
        state = self._state(frames)
        if self.inner_mouth is not None:
            state = state.replace(vertices=self.inner_mouth.extend(state.vertices))
        return state if self._joints is None else self._joints.added(state, self._canonical)

    @functools.cached_property
    def _canonical(self) -> Float[Tensor, "v 3"]:
        """The template's canonical vertices, without its regions, which take states to find."""
        vertices = self.recording.canonical.vertices
        return vertices if self.inner_mouth is None else self.inner_mouth.extend(vertices[None])[0]

    def _state(self, frames: Int[Tensor, " b"] | Sequence[int]) -> HeadState:
        wanted = self.frame_indices(frames)
        count = len(wanted)
        vertices = torch.empty(count, len(self.recording.canonical.vertices), 3)
        expression = None if self.expression_width is None else torch.empty(count, self.expression_width)
        for positions in groups(wanted, self._heads.slots):

            def take(arrays: dict[str, Tensor], rows: Tensor, positions: list[int] = positions) -> None:
                vertices[positions] = arrays["vertices"][rows]
                if expression is not None:
                    expression[positions] = arrays["expression"][rows]

            self._heads.gather([wanted[position] for position in positions], take)
        return HeadState(vertices=vertices, expression=expression, frame_id=torch.tensor(wanted, dtype=torch.long))

    @property
    def warnings(self) -> list[str]:
        """The lines of `report` that ask for attention, without the word that marks them."""
        mark = "warning: "
        return [line[len(mark) :] for line in self.report if line.startswith(mark)]

    def camera(self, frames: Int[Tensor, " b"] | Sequence[int]) -> Camera:
        """The cameras of the given frames: a batch of B, world-to-camera, OpenCV axes, meters."""
        wanted = torch.tensor(self.frame_indices(frames), dtype=torch.long)
        if self.head_frame is None:
            return Camera(self._world_to_camera[wanted], self._intrinsics[wanted], self.size)
        views = torch.from_numpy(np.linalg.inv(self.recording.camera_to_world[wanted.numpy()]))
        return Camera((views @ self._head_poses(wanted.tolist())).float(), self._intrinsics[wanted], self.size)

    def head_pose(self, frames: Int[Tensor, " b"] | Sequence[int]) -> Float[Tensor, "b 4 4"]:
        """What has been taken out of the vertices and put into the cameras: head frame to the frame on disk, (B, 4, 4).

        Float64; the identity where the capture is as on disk (`head_frame` is None).

        Raises:
            IndexError: a frame is out of range.
            CaptureError: a mesh cannot be read.
        """
        wanted = self.frame_indices(frames)
        if self.head_frame is None:
            return torch.eye(4, dtype=torch.float64).repeat(len(wanted), 1, 1)
        return self._head_poses(wanted)

    def image(self, frame: int) -> Float[Tensor, "h w 4"]:
        """Color and matte of the frame of that index, (H, W, 4), straight alpha, sRGB in [0, 1]."""
        rgba = self._pixel_rows([frame])["rgba"][0]
        return rgba.view(torch.uint8).reshape(*self.size, 4).float() / 255

    def label(self, frame: int) -> UInt8[Tensor, "h w"] | None:
        """Segmentation labels in INSTA's numbering, or None where the capture has none."""
        rows = self._pixel_rows([frame])
        return rows["label"][0].reshape(self.size) if "label" in rows else None

    def depth(self, frame: int) -> Float[Tensor, "h w"] | None:
        """Depth of the tracked mesh along the optical axis, meters, 0 where there is none; None without depth maps."""
        rows = self._pixel_rows([frame])
        return self.meters(rows["depth"][0]).reshape(self.size) if "depth" in rows else None

    def landmarks(self, frame: int) -> Float[Tensor, "68 2"] | None:
        """68 landmarks (iBUG) in pixels (x right, y down), NaN those that are not known; None where there are none."""
        points = self.recording.decode_landmarks(self.frame_indices([frame])[0])
        return None if points is None else torch.from_numpy(points)

    def sample_pixels(
        self,
        frames: Int[Tensor, " b"] | Sequence[int],
        count: int,
        generator: torch.Generator,
        background: Literal["random", "white", "black"] = "random",
        weights: Mapping[int | str, float | int] | None = None,
    ) -> tuple[PixelBatch, Int64[Tensor, " b"]]:
        """Pixels drawn (with replacement) over the given frames, uniformly or by what they show.

        Args:
            frames: (B,) frame indices.
            count: N, how many pixels.
            generator: of the random numbers, on the CPU.
            background: behind the foreground; `"random"` draws a color for each pixel.
            weights: how often pixels of a label, or of a region of `headfields.data.REGION_LABELS`, are drawn, beside 1
                for all others: `{"mouth": 4, "background": 0.5}`.

        Returns:
            The batch, whose `rays.frame` indexes `frames`, and `frames` as a tensor, for `state(...)`.
        """
        wanted = self.frame_indices(frames)
        batch = sample_pixels(self, wanted, count, generator, background, weights)
        return batch, torch.tensor(wanted, dtype=torch.long)

    def pixels(self, frame: int, background: float | int = 1.0) -> PixelBatch:
        """Every pixel of a frame in row-major order, over a gray `background`; `rays.frame` is 0."""
        return frame_pixels(self, self.frame_indices([frame])[0], background)

    def validate(self) -> None:
        """Decodes every file of every frame once, so that a broken one is found now and not in the middle of a run.

        Frames whose mesh, matte, labels and depth do not lie on one another add a warning to `report`, as the sample of
        frames does that is looked at when the capture is opened.

        Raises:
            CaptureError: names the frame and the field.
        """
        lines = misalignments((self._look(frame) for frame in range(len(self))), self.recording.canonical.faces.numpy())
        self.report += [line for line in lines if line not in self.report]

    def _look(self, frame: int) -> Look:
        recording = self.recording
        vertices, _ = recording.decode_head(frame)
        rgba, label, depth = recording.decode_image(frame)
        recording.decode_landmarks(frame)
        return Look(
            self.frame_names[frame],
            vertices,
            np.linalg.inv(recording.camera_to_world[frame]),
            recording.intrinsics[frame],
            rgba[..., 3] > 127,
            label,
            None if depth is None else depth.astype(np.float32) * recording.depth_scale,
        )

    def meters(self, stored: Tensor) -> Tensor:
        """Depth as stored (uint16 bits in int16) to meters."""
        return (stored.int() & 0xFFFF).float() * self.depth_unit

    def gather_pixels(self, frames: Sequence[int], frame: Tensor, pixel: Tensor) -> dict[str, Tensor]:
        """Raw `"rgba"` (packed int32), `"label"` and `"depth"` (as stored) at `pixel` (N,) of `frames[frame]` (N,)."""
        stacks = self._images.arrays
        out = {name: torch.empty(frame.shape, dtype=stack.dtype) for name, stack in stacks.items()}
        pixels = self.size[0] * self.size[1]
        for positions in groups(list(frames), self._images.slots):
            everything = len(positions) == len(frames)
            here = slice(None) if everything else torch.isin(frame, torch.tensor(positions)).nonzero()[:, 0]

            def take(
                arrays: dict[str, Tensor], rows: Tensor, positions: list[int] = positions, here: slice | Tensor = here
            ) -> None:
                row = torch.zeros(len(frames), dtype=torch.long)
                row[positions] = rows
                flat = row[frame[here]] * pixels + pixel[here]
                for name, stack in arrays.items():
                    out[name][here] = stack.view(-1)[flat]

            self._images.gather([frames[position] for position in positions], take)
        return out

    def _pixel_rows(self, frames: Sequence[int]) -> dict[str, Tensor]:
        """Copies of whole frames' stored pixels."""
        out: dict[str, Tensor] = {}
        self._images.gather(
            self.frame_indices(frames),
            lambda arrays, rows: out.update({name: stack[rows] for name, stack in arrays.items()}),
        )
        return out

    def frame_indices(self, frames: Int[Tensor, " b"] | Sequence[int]) -> list[int]:
        """Frames as a list of integers.

        Raises:
            IndexError: one is out of range.
        """
        wanted = [int(frame) for frame in (frames.tolist() if isinstance(frames, Tensor) else frames)]
        bad = [frame for frame in wanted if not 0 <= frame < len(self)]
        if bad:
            raise IndexError(
                f"Capture {self.name!r}: frame {bad[0]} is out of range; it has frames 0 to {len(self) - 1}"
            )
        return wanted

    def _head_poses(self, frames: list[int]) -> Float[Tensor, "b 4 4"]:
        unknown = [frame for frame in dict.fromkeys(frames) if bool(self._poses[frame, 0, 0].isnan())]
        for positions in groups(unknown, self._heads.slots):
            self._heads.gather([unknown[position] for position in positions], lambda arrays, rows: None)
        return self._poses[frames]

    def _decode_head(self, frame: int) -> dict[str, np.ndarray]:
        vertices, expression = self.recording.decode_head(frame)
        if self.head_frame is not None:
            posed = torch.from_numpy(vertices)[None]
            pose = self.head_frame.pose(posed)
            vertices = self.head_frame.take(posed, pose)[0].numpy()
            self._poses[frame] = pose[0]
        return {"vertices": vertices} if expression is None else {"vertices": vertices, "expression": expression}

    def _decode_image(self, frame: int) -> dict[str, np.ndarray]:
        rgba, label, depth = self.recording.decode_image(frame)
        arrays = {"rgba": np.ascontiguousarray(rgba).view(np.int32).reshape(-1)}
        if self.recording.has_label:
            arrays["label"] = np.zeros(arrays["rgba"].shape, np.uint8) if label is None else label.reshape(-1)
        if self.recording.has_depth:
            stored = np.zeros(arrays["rgba"].shape, np.uint16) if depth is None else depth.reshape(-1)
            arrays["depth"] = stored.view(np.int16)
        return arrays


def groups(frames: Sequence[int], slots: int) -> list[list[int]]:
    """Positions of `frames` in groups of at most `slots` distinct frames, in order of first appearance."""
    order: dict[int, int] = {}
    for frame in frames:
        order.setdefault(frame, len(order))
    if len(order) <= slots:
        return [list(range(len(frames)))] if frames else []
    out: list[list[int]] = [[] for _ in range(-(-len(order) // slots))]
    for position, frame in enumerate(frames):
        out[order[frame] // slots].append(position)
    return out


__all__ = ["Capture", "CaptureError", "Mouth", "Recording"]
