"""A captured head: images, cameras and the tracked mesh of every frame, whatever the layout on disk."""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from headfields.data.alignment import AlignmentFrame, misalignments
from headfields.data.errors import CaptureError
from headfields.data.frame_cache import FrameCache
from headfields.data.frame_indices import Frames, frame_index, frame_indices
from headfields.data.head_frame import HeadFrame, HeadFrameChoice, choose_head_frame
from headfields.data.joint_fit import JointFits
from headfields.data.mesh_depth import MeshDepth
from headfields.data.pixels import (
    decode_pixels,
    draw_images,
    draw_patches,
    draw_pixels,
    is_depth,
    pixel_batch,
    pixel_layout,
    straight_rgba,
)
from headfields.data.recording import Recording
from headfields.data.regions import LabeledView
from headfields.data.template import Mouth, build_inner_mouth, build_template
from headfields.heads.mouth.inner import InnerMouth
from headfields.ops.background import check_background
from headfields.records import Camera, HeadState, ImageBatch, PixelBatch, Template, check_meters
from headfields.records.display import Displayed

__all__ = ["Capture"]

_LARGEST_COEFFICIENT = 100
_VOTING_FRAMES = 40
_WARNING = "warning: "


class Capture(Displayed):
    """A captured head: images, cameras and the tracked mesh of every frame, decoded on demand and kept in memory.

    Made by `headfields.data.load_capture` from a folder, and by `headfields.data.capture_from_arrays` from data in
    memory. All tensors are on the CPU. Frames are named by index.

    A capture can be pickled, for the workers of a `DataLoader`: without its decoded frames, so each copy decodes its
    own and may fill the memory budget once more.

    Attributes:
        name: the folder's name.
        path: the folder.
        size: (height, width) in pixels.
        frame_names: one name per frame, in the capture's order.
        splits: `"train"`, `"test"`, `"val"`, `"all"` → int64 frame indices.
        report: human-readable lines on what was tolerated or missing, and on decisions with their evidence; those
            that need attention begin with "warning: " (see `warnings`).
        expression_width: number of expression coefficients, or None.
        depth_unit: meters per unit of the stored depth.
        mouth: treatment of the tracked mesh's open mouth; see `load_capture`.
        skinning: (V, J) weights by which joint transforms are fitted to the meshes, or None; see `load_capture`.
        recording: the reader's result: the exact numbers on disk, and functions that decode one frame.
        head_frame: the rigid part of the head, if its motion is moved from the vertices into the cameras; None if both
            are as on disk.
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
        _check_unit(recording)
        _check_joints(recording, skinning)
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
        self.mouth: Mouth = mouth
        self.skinning = skinning
        self._joints = None if skinning is None else JointFits(skinning)
        self._regions = regions
        self._world_to_camera = torch.from_numpy(np.linalg.inv(recording.camera_to_world).astype(np.float32))
        self._intrinsics = torch.from_numpy(recording.intrinsics.astype(np.float32))
        self._decoder = _HeadDecoder(recording)

        budget = int(memory_budget_mb * 2**20)
        # Vertices are smaller than images and slow to parse, so all of them are kept if a third of the budget allows.
        layout = self._decoder.layout()
        most = self._most_frames()
        self._heads = FrameCache(most, layout, self._decoder, budget // 3, "mesh and expression")
        budget -= self._heads.slots * self._heads.bytes_per_frame
        decode = functools.partial(decode_pixels, recording)
        self._images = FrameCache(most, pixel_layout(recording), decode, budget, "image, labels and depth")
        self.head_frame = self._decoder.head_frame = choose_head_frame(recording, head_frame, self.report)

    def __len__(self) -> int:
        return len(self.frame_names)

    def _most_frames(self) -> int:
        """The number of frames that there can be."""
        return len(self)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{key} {len(value)}" for key, value in self.splits.items())
        return f"Capture({self.name!r}, {self.size[1]}x{self.size[0]} pixels, frames: {sizes})"

    @functools.cached_property
    def template(self) -> Template:
        """The canonical mesh, its mouth treated as `mouth` says, with face regions; built on first use, in seconds."""
        template = build_template(
            self.recording.canonical, self.mouth, self.inner_mouth, self._regions, self._labeled_views(), self.report
        )
        return template.replace(expression_width=self.expression_width or 0)

    @functools.cached_property
    def inner_mouth(self) -> InnerMouth | None:
        """Extends the tracked mesh by the inner mouth if `mouth` is "interior", else None; built on first use."""
        if self.mouth != "interior":
            return None
        frames = self._voting_frames()
        names = [self.frame_names[frame] for frame in frames]
        return build_inner_mouth(self.recording.canonical, self.tracked(frames), names, self.report)

    @property
    def warnings(self) -> list[str]:
        """The lines of `report` that need attention, without the prefix "warning: "."""
        return [line[len(_WARNING) :] for line in self.report if line.startswith(_WARNING)]

    def frame_indices(self, frames: Frames) -> list[int]:
        """Frames as a list of integers.

        Args:
            frames: an integer, integers in a list, range, tensor or array, a slice, or a boolean mask (F,).

        Raises:
            TypeError: an index is no integer.
            IndexError: one is out of range; negative ones are.
        """
        return frame_indices(frames, len(self), f"Capture {self.name!r}")

    def state(self, frames: Frames) -> HeadState:
        """Vertices (B, V, 3) of the template's mesh, and what the capture records of expression (B, E), the joints'
        rotations `pose` (B, J, 3) and joint transforms (B, J, 4, 4) of B frames; `frame_id` is their indices. Weights
        of the lids' blendshapes, where a tracker has them, are the code `"eyelids"` (B, 2).

        Joint transforms lead from the template's canonical mesh to the vertices, so a skinning deformer on the template
        needs no `canonical_transforms`; with `skinning` they are fitted to the meshes. `state(3)` is a batch of one
        frame.

        Args:
            frames: see `frame_indices`; as for all methods on several frames.

        Raises:
            TypeError, IndexError: a frame is no integer, or out of range.
            CaptureError: a mesh or expression file cannot be read.
        """
        indices = self.frame_indices(frames)
        rows = self._heads.rows(indices)
        state = HeadState(
            vertices=self._extended(rows["vertices"]),
            expression=rows.get("expression"),
            pose=rows.get("pose"),
            joint_transforms=rows.get("joint_transforms"),
            codes={"eyelids": rows["eyelids"]} if "eyelids" in rows else {},
            frame_id=torch.tensor(indices, dtype=torch.long),
        )
        return state if self._joints is None else self._joints.added(state, self._canonical)

    def tracked(self, frames: Frames) -> Float[Tensor, "b v 3"]:
        """Vertices of the tracked meshes of B frames, without an inside of the mouth.

        Raises:
            IndexError, CaptureError: as `state`.
        """
        return self._heads.rows(self.frame_indices(frames))["vertices"]

    def camera(self, frames: Frames) -> Camera:
        """The B cameras of B frames: world-to-camera, OpenCV axes, meters.

        Raises:
            IndexError, CaptureError: as `head_pose`.
        """
        indices = self.frame_indices(frames)
        index = torch.tensor(indices, dtype=torch.long)
        if self.head_frame is None:
            return Camera(self._world_to_camera[index], self._intrinsics[index], self.size)
        views = torch.from_numpy(np.linalg.inv(self.recording.camera_to_world[indices]))
        return Camera((views @ self.head_pose(indices)).float(), self._intrinsics[index], self.size)

    def head_pose(self, frames: Frames) -> Float[Tensor, "b 4 4"]:
        """The motion moved from the vertices into the cameras: head frame to the frame on disk, (B, 4, 4) float64.

        The identity if the capture is as on disk (`head_frame` is None).

        Raises:
            IndexError: a frame is out of range.
            CaptureError: a mesh cannot be read.
        """
        indices = self.frame_indices(frames)
        if self.head_frame is None:
            return torch.eye(4, dtype=torch.float64).repeat(len(indices), 1, 1)
        self._heads.load(self._decoder.unknown_poses(indices))
        return self._decoder.poses[indices]

    def decode_ahead(self, stop: Callable[[], bool]) -> None:
        """Decodes the training frames one after the other, as far as memory has room for them, until `stop` says so.

        For a thread of its own: others use the capture meanwhile. A frame that cannot be read is left to them, and so
        are those of videos.
        """
        if not self.recording.in_videos:
            self._images.load_ahead(self.splits["train"].tolist(), stop)

    def image(self, frame: int) -> Float[Tensor, "h w 4"]:
        """Color and matte of a frame, straight alpha, sRGB in [0, 1]."""
        packed = self._images.rows([self._one(frame)])["rgba"][0]
        return straight_rgba(packed).reshape(*self.size, 4)

    def label(self, frame: int) -> UInt8[Tensor, "h w"] | None:
        """Segmentation labels of a frame (`headfields.data.labels.Label`), or None if the capture has none."""
        rows = self._images.rows([self._one(frame)])
        return rows["label"][0].reshape(self.size) if "label" in rows else None

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Depth of the tracked mesh along the optical axis, meters, 0 where there is none.

        Of a frame without a depth map it is rendered from the mesh at the pixels' centers; a pixel that shows a face
        which closes the mouth has none.
        """
        depth = self.pixels(frame).depth
        assert depth is not None
        return depth.reshape(self.size)

    def landmarks(self, frame: int) -> Float[Tensor, "68 2"] | None:
        """68 iBUG landmarks of a frame in pixels (x right, y down), NaN where unknown; None if the frame has none."""
        points = self.recording.decode_landmarks(self._one(frame))
        return None if points is None else torch.from_numpy(points)

    def sample_pixels(
        self,
        frames: Frames,
        count: int,
        generator: torch.Generator,
        background: Literal["random", "white", "black"] = "random",
        weights: Mapping[int | str, float | int] | None = None,
    ) -> tuple[PixelBatch, Int64[Tensor, " b"]]:
        """Pixels drawn with replacement over B frames, uniformly or by their labels.

        Args:
            frames: B frames; see `frame_indices`.
            count: N, number of pixels; 0 is legal.
            generator: a CPU generator; the same state gives the same batch.
            background: behind the foreground; `"random"` draws a color for each pixel.
            weights: sampling weights of pixels by label, or by region of `headfields.data.labels.REGION_LABELS`,
                relative to 1 for all others: `{"mouth": 4, "background": 0.5}`.

        Returns:
            The batch, whose `rays.frame` indexes `frames`, and `frames` as a tensor, for `state(...)`.

        Raises:
            TypeError, IndexError: a frame is no integer, or out of range.
            ValueError: no frames, a negative count or an unknown background; with weights, the capture has no labels,
                there is no such label or region, or no pixel of these frames has a weight.
            CaptureError: a file cannot be read.
        """
        row, pixel, colors, drawn = self.draw_indices(frames, count, generator, background, weights)
        return self._batch(drawn.tolist(), row, pixel, colors), drawn

    def draw_indices(
        self,
        frames: Frames,
        count: int,
        generator: torch.Generator,
        background: Literal["random", "white", "black"] = "random",
        weights: Mapping[int | str, float | int] | None = None,
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, "n 3"], Int64[Tensor, " b"]]:
        """Which pixels `sample_pixels` draws, of the same arguments and with its errors.

        Returns:
            The row of `frames` of each pixel, its row-major index in the image, the color behind it, and `frames`.
        """
        indices = self.frame_indices(frames)
        row, pixel, colors = draw_pixels(self._images, indices, self.size, count, generator, background, weights)
        return row, pixel, colors, torch.tensor(indices, dtype=torch.long)

    def stored_pixels(self, frames: Frames) -> dict[str, Tensor]:
        """All pixels of B frames as they are stored, (B, H W) by name: see `headfields.data.pixels.decode_pixels`.

        Raises:
            TypeError, IndexError: a frame is no integer, or out of range.
            CaptureError: a file cannot be read.
        """
        return self._images.rows(self.frame_indices(frames) if len(frames) else [])

    def sample_patches(
        self,
        frames: Frames,
        count: int,
        side: int,
        generator: torch.Generator,
        background: Literal["random", "white", "black"] = "random",
    ) -> tuple[PixelBatch, Int64[Tensor, " b"]]:
        """Square patches over B frames, around random pixels of the head, for losses on images.

        Args:
            frames: B frames; see `frame_indices`.
            count: P, number of patches; 0 is legal.
            side: S, their side in pixels.
            generator: a CPU generator; the same state gives the same batch.
            background: behind the foreground; `"random"` draws a color for each patch.

        Returns:
            The batch of P S S pixels, whose `patches` are the images and whose `rays.frame` indexes `frames`; and
            `frames` as a tensor, for `state(...)`.

        Raises:
            IndexError: a frame is out of range.
            ValueError: no frames, a negative count, a side larger than the image, or an unknown background.
            CaptureError: a file cannot be read.
        """
        indices = self.frame_indices(frames)
        row, pixel, colors = draw_patches(self._images, indices, self.size, count, side, generator, background)
        batch = self._batch(indices, row, pixel, colors)
        patches = torch.arange(len(batch)).reshape(count, side, side)
        return batch.replace(patch_rays=patches), torch.tensor(indices, dtype=torch.long)

    def sample_images(
        self,
        frames: Frames,
        generator: torch.Generator,
        background: Literal["random", "white", "black"] = "random",
    ) -> tuple[ImageBatch, Int64[Tensor, " b"]]:
        """Whole images of B frames, for avatars that are rendered image by image.

        Args:
            frames: B frames; see `frame_indices`.
            generator: a CPU generator; the same state gives the same colors.
            background: behind the foreground; `"random"` draws a color for each image.

        Returns:
            The batch, and `frames` as a tensor, for `state(...)`.

        Raises:
            TypeError, IndexError: a frame is no integer, or out of range.
            ValueError: no frames, or an unknown background.
            CaptureError: a file cannot be read.
        """
        indices = self.frame_indices(frames)
        return draw_images(self._images, indices, self.camera(indices), generator, background), torch.tensor(indices)

    def pixels(self, frame: int, background: float | int = 1.0) -> PixelBatch:
        """Every pixel of a frame in row-major order, over a gray `background` in [0, 1]; `rays.frame` is 0."""
        check_background("Capture.pixels", background)
        count = self.size[0] * self.size[1]
        row, pixel = torch.zeros(count, dtype=torch.long), torch.arange(count)
        return self._batch([self._one(frame)], row, pixel, torch.full((count, 3), float(background)))

    def validate(self) -> None:
        """Decodes every file of every frame once, so that a broken one is found now and not in the middle of a run.

        Frames whose mesh, matte, labels and depth do not align add a warning to `report`. Opening a capture checks only
        a sample of them.

        Raises:
            CaptureError: names the frame and the field.
        """
        frames = (self._alignment_frame(frame) for frame in range(len(self)))
        lines = misalignments(frames, self.recording.canonical.faces.numpy())
        self.report += [line for line in lines if line not in self.report]

    def _one(self, frame: int) -> int:
        return frame_index(frame, len(self), f"Capture {self.name!r}")

    @functools.cached_property
    def _canonical(self) -> Float[Tensor, "v 3"]:
        """The template's canonical vertices; `template` needs states for its regions, and states need these."""
        return self._extended(self.recording.canonical.vertices[None])[0]

    def _extended(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "b w 3"]:
        """Vertices of the tracked mesh as those of the template."""
        return vertices if self.inner_mouth is None else self.inner_mouth.extend(vertices)

    def _batch(self, frames: list[int], row: Tensor, pixel: Tensor, background: Tensor) -> PixelBatch:
        stored = self._images.gather(frames, row, pixel)
        batch = pixel_batch(stored, self.camera(frames), row, pixel, background, self.depth_unit)
        unknown = ~is_depth(stored["depth"]) if "depth" in stored else torch.ones(len(row), dtype=torch.bool)
        if batch.depth is not None and not bool(unknown.any()):
            return batch
        assert batch.depth_scale is not None
        depth = torch.zeros(len(row)) if batch.depth is None else batch.depth.clone()
        vertices = self.state(frames).vertices
        depth[unknown] = self._mesh_depth(vertices, batch.rays[unknown], batch.depth_scale[unknown])
        return batch.replace(depth=depth)

    @functools.cached_property
    def _mesh_depth(self) -> MeshDepth:
        return MeshDepth(self.template)

    def _voting_frames(self) -> list[int]:
        """Up to 40 frames, evenly over the training frames (over all if there are none)."""
        train = self.splits["train"] if len(self.splits["train"]) else self.splits["all"]
        picks = np.unique(np.linspace(0, len(train) - 1, min(_VOTING_FRAMES, len(train))).round().astype(int))
        return train[picks].tolist()

    def _labeled_views(self) -> Iterator[LabeledView]:
        for frame in self._voting_frames():
            label = self.label(frame)
            if label is not None and label.any():
                yield LabeledView(self.state([frame]).vertices[0], self.camera([frame]), label)

    def _alignment_frame(self, frame: int) -> AlignmentFrame:
        recording = self.recording
        vertices = recording.decode_head(frame).vertices
        rgba, label, depth = recording.decode_image(frame)
        recording.decode_landmarks(frame)
        return AlignmentFrame(
            self.frame_names[frame],
            vertices,
            np.linalg.inv(recording.camera_to_world[frame]),
            recording.intrinsics[frame],
            rgba[..., 3] > 127,
            label,
            None if depth is None else depth.astype(np.float32) * recording.depth_scale,
        )


class _HeadDecoder:
    """Decodes the mesh of a frame, without the head's motion if there is a head frame, and keeps the pose taken out."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.head_frame: HeadFrame | None = None
        self.warned = False
        # Poses are small and kept for good, so that a camera needs its frame's mesh once and not each time.
        self.poses = torch.full((len(recording.frame_names), 4, 4), torch.nan, dtype=torch.float64)

    def layout(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of a frame's arrays by name, for `FrameCache`."""
        layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "vertices": ((len(self.recording.canonical.vertices), 3), torch.float32)
        }
        if self.recording.expression_width is not None:
            layout["expression"] = ((self.recording.expression_width,), torch.float32)
        if self.recording.pose_joints is not None:
            layout["pose"] = ((self.recording.pose_joints, 3), torch.float32)
        if self.recording.transform_joints is not None:
            layout["joint_transforms"] = ((self.recording.transform_joints, 4, 4), torch.float32)
        if self.recording.has_eyelids:
            layout["eyelids"] = ((2,), torch.float32)
        return layout

    def __call__(self, frame: int) -> dict[str, np.ndarray]:
        head = self.recording.decode_head(frame)
        arrays = {name: value for name, value in vars(head).items() if value is not None}
        if head.expression is not None and len(head.expression) and not self.warned:
            largest = int(np.abs(head.expression).argmax())
            if abs(head.expression[largest]) > _LARGEST_COEFFICIENT:
                self.warned = True
                warnings.warn(
                    f"frame {self.recording.frame_names[frame]}: expression coefficient {largest} "
                    f"is {head.expression[largest]:g}; those of trackers stay below {_LARGEST_COEFFICIENT} (standard "
                    "deviations, or weights up to 1). Leave out frames whose tracking failed",
                    stacklevel=2,
                )
        if self.head_frame is not None:
            posed = torch.from_numpy(head.vertices)[None]
            pose = self.head_frame.pose(posed)
            arrays["vertices"] = self.head_frame.without_pose(posed, pose)[0].numpy()
            self.poses[frame] = pose[0]
            if head.joint_transforms is not None:
                moved = np.linalg.inv(pose[0].numpy()) @ head.joint_transforms
                arrays["joint_transforms"] = moved.astype(np.float32)
        return arrays

    def unknown_poses(self, frames: list[int]) -> list[int]:
        """Those of the frames, each once, whose pose is not known yet."""
        return [frame for frame in dict.fromkeys(frames) if bool(self.poses[frame, 0, 0].isnan())]


def _check_joints(recording: Recording, skinning: Tensor | None) -> None:
    given = {"poses": recording.pose_joints, "joint transforms": recording.transform_joints}
    if skinning is not None:
        given = {"poses": recording.pose_joints, "skinning weights": skinning.shape[-1]}
    counts = {name: count for name, count in given.items() if count is not None}
    if len(set(counts.values())) > 1:
        listing = " and ".join(f"{name} of {count} joints" for name, count in counts.items())
        raise CaptureError(f"Capture {recording.path.name!r}: it has {listing}; expected those of one skeleton")


def _check_unit(recording: Recording) -> None:
    try:
        check_meters(f"Capture {recording.path.name!r}", "the canonical mesh", recording.canonical.vertices)
    except ValueError as error:
        raise CaptureError(f"{error} (and the translations of the cameras with it)") from None
