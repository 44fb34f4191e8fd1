"""A recorded sequence as the reader of a layout passes it to `Capture`: arrays per frame and decoders of one frame."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from headfields.heads.skinned import SkinnedHead
from headfields.mesh.mesh import Mesh

__all__ = ["ConventionScores", "DecodedHead", "HeadArguments", "Recording"]


@dataclass(frozen=True)
class DecodedHead:
    """The tracked head of one frame, in the frame of the mesh files.

    Attributes:
        vertices: (V, 3) float32, meters.
        expression: (E,) float32, or None if the capture has none.
        pose: (J, 3) float32, axis-angle of the joints, or None.
        joint_transforms: (J, 4, 4) float32, canonical mesh to posed, or None.
        eyelids: (2,) float32, weights of the left and the right lid's blendshape, or None.
    """

    vertices: np.ndarray
    expression: np.ndarray | None = None
    pose: np.ndarray | None = None
    joint_transforms: np.ndarray | None = None
    eyelids: np.ndarray | None = None


@dataclass(frozen=True)
class HeadArguments:
    """The arguments of a head model by which a capture's heads are posed, where the files have them.

    Attributes:
        head: the model.
        of_frame: frame → the arguments of `head`, each with a batch of one; `displacement` (1, V, 3), if it is among
            them, is added to the posed vertices.
        canonical: those of the canonical mesh.
    """

    head: SkinnedHead
    of_frame: Callable[[int], Mapping[str, Tensor]]
    canonical: Mapping[str, Tensor]


@dataclass(frozen=True)
class ConventionScores:
    """One thing that files leave open, the ways in which it was read, and how well the heads then fit the images.

    Attributes:
        subject: what is open, "camera convention".
        scores: way of reading → score in [0, 1]; NaN if nothing fits.
        chosen: the one that was taken.
        evidence: what was compared.
    """

    subject: str
    scores: Mapping[str, float]
    chosen: str
    evidence: str = ""

    def line(self) -> str:
        """A line for the report."""
        tried = ", ".join(f"{name} {score:.3f}" if score == score else f"{name} no fit"
                          for name, score in self.scores.items())  # fmt: skip
        return f"{self.subject}: {self.chosen} (scores: {tried}{f'; {self.evidence}' if self.evidence else ''})"


@dataclass
class Recording:
    """Arrays are per frame, in the capture's order.

    Attributes:
        path: the capture's folder.
        size: (height, width) of every image, pixels.
        frame_names: one name per frame, for messages.
        camera_to_world: (F, 4, 4) float64, OpenCV axes, meters.
        intrinsics: (F, 3, 3) float64, pixels.
        splits: split name → frame indices.
        canonical: the canonical mesh.
        decode_image: frame → RGBA (H, W, 4) uint8 with straight alpha, label (H, W) uint8 or None, depth (H, W) uint16
            or None.
        decode_head: frame → the tracked head.
        decode_landmarks: frame → (68, 2) float32 pixels or None.
        has_label, has_depth: whether any frame has them.
        expression_width: E, or None if the capture has no expressions.
        pose_joints: number of joints with rotations, or None if the capture has no poses.
        transform_joints: number of joints with transforms, or None if the capture has no joint transforms.
        has_eyelids: whether heads have weights of the lids' blendshapes.
        depth_scale: meters per unit of the stored depth.
        report: lines on what the reader tolerated, missed or decided.
        decoded_vertices: frame → vertices (V, 3) of a sample of frames that the reader has decoded already.
        conventions: the readings of the files that were tried, with their scores.
        head_arguments: the head model and its arguments, of layouts that have these in place of meshes; None for
            others.
        in_videos: whether frames are those of videos, which start again where others are read in between.
    """

    path: Path
    size: tuple[int, int]
    frame_names: list[str]
    camera_to_world: np.ndarray
    intrinsics: np.ndarray
    splits: dict[str, list[int]]
    canonical: Mesh
    decode_image: Callable[[int], tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]
    decode_head: Callable[[int], DecodedHead]
    decode_landmarks: Callable[[int], np.ndarray | None]
    has_label: bool
    has_depth: bool
    expression_width: int | None
    pose_joints: int | None = None
    transform_joints: int | None = None
    has_eyelids: bool = False
    depth_scale: float = 0.001
    report: list[str] = field(default_factory=list)
    decoded_vertices: dict[int, np.ndarray] = field(default_factory=dict)
    conventions: list[ConventionScores] = field(default_factory=list)
    head_arguments: HeadArguments | None = None
    in_videos: bool = False
