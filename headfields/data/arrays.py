"""A capture from data in memory, or from sequences that read it on demand: images, cameras and tracked meshes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.data.alignment import AlignmentFrame, convention_evidence, misalignments, out_of_view, sample_frames
from headfields.data.camera_axes import check_convention
from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.formats.transforms import splits_from_end
from headfields.data.frame_indices import Frames, frame_indices
from headfields.data.head_frame import HeadFrameChoice
from headfields.data.image_files import decode_image
from headfields.data.recording import DecodedHead, Recording
from headfields.data.rigid_transforms import are_rigid
from headfields.data.template import Mouth
from headfields.data.undistortion import Undistortion
from headfields.mesh.mesh import Mesh
from headfields.records import Camera

__all__ = ["capture_from_arrays"]

_OP = "capture_from_arrays"
PerFrame = Any
"""A value for each frame, by `len` and an integer index: a list, an array, a memory map, a class of one's own."""


def capture_from_arrays(
    images: PerFrame,
    cameras: Camera,
    vertices: PerFrame,
    canonical: Mesh,
    *,
    mattes: PerFrame | None = None,
    expression: PerFrame | None = None,
    labels: PerFrame | None = None,
    depth: PerFrame | None = None,
    depth_unit: float = 0.001,
    landmarks: PerFrame | None = None,
    pose: PerFrame | None = None,
    joint_transforms: PerFrame | None = None,
    splits: Mapping[str, Frames] | None = None,
    frame_names: Sequence[str] | None = None,
    name: str = "capture",
    memory_budget_mb: int | float = 2048,
    regions: Mapping[str, Bool[Tensor, " f"]] | None = None,
    head_frame: HeadFrameChoice = "auto",
    mouth: Mouth = "close",
    skinning: Float[Tensor, "v j"] | None = None,
) -> Capture:
    """A capture of F frames from arrays, tensors, or sequences of one's own that read a frame when it is indexed.

    A sequence has `len` and takes an integer: a list, an array with a leading axis F, a memory map, an object that
    opens files. To be pickled with the capture (workers of a `DataLoader`), its class must be importable.

    Args:
        images: F images (H, W, 4) of 8 bits, sRGB with straight alpha, the matte; or (H, W, 3); or paths of such files.
        cameras: F cameras of the images' size: world-to-camera, OpenCV axes, meters, in the frame of the meshes.
            With lens distortion, images and all that lies on them are undistorted as they are decoded.
        vertices: F tracked meshes (V, 3), meters, y up, face toward +z, in the order of the canonical mesh.
        canonical: the canonical mesh of V vertices, its mouth open or closed.
        mattes: F mattes (H, W), 8 bits or boolean, instead of the images' alpha.
        expression: F coefficient vectors (E,).
        labels: F label images (H, W) of 8 bits, in INSTA's numbering (`headfields.data.labels.Label`).
        depth: F depth maps (H, W) of 16 bits (uint16): `depth_unit` meters per step along the optical axis, 0 for none.
        depth_unit: meters per step of depth.
        landmarks: F arrays (68, 2) of iBUG landmarks in pixels, NaN where unknown; None for a frame without.
        pose: F arrays (J, 3) of the joints' rotations, axis-angle, radians.
        joint_transforms: F arrays (J, 4, 4), rigid, from the canonical mesh to the tracked one.
        splits: `"train"`, `"test"`, `"val"` → frames; None: the last fifth (at most 350) are "test", 20 of them "val".
        frame_names: F names, for messages and files; numbers if None.
        name: name of the capture.
        memory_budget_mb, regions, head_frame, mouth, skinning: as for `headfields.data.load_capture`; mouth cannot be
            `"auto"`.

    Returns:
        The capture. Its `report` says what was checked, and warns if meshes and images do not lie on one another.

    Raises:
        TypeError: a record or an array of another type.
        ValueError: numbers of frames or sizes disagree, a value is not finite, or mouth is an unknown word.
        CaptureError: meshes in millimeters; cameras under which the meshes are not on the heads, with the remedy if
            another convention fits (camera-to-world, OpenGL axes). Also later, when a frame is first used.
    """
    if not isinstance(cameras, Camera):
        raise TypeError(f"{_OP}: cameras is a {type(cameras).__name__}; pass a headfields Camera of all frames")
    if not isinstance(canonical, Mesh):
        raise TypeError(f"{_OP}: canonical is a {type(canonical).__name__}; pass headfields.Mesh(vertices, faces)")
    if cameras.world_to_camera.ndim != 3:
        raise ValueError(
            f"{_OP}: cameras.world_to_camera has shape {tuple(cameras.world_to_camera.shape)}; expected (F, 4, 4) "
            "(Camera.stack joins single ones)"
        )
    if not len(canonical.faces):
        raise ValueError(f"{_OP}: canonical has no faces; pass those of the tracked meshes")
    count = len(images)
    sequences = {
        "cameras": cameras, "vertices": vertices, "mattes": mattes, "expression": expression, "labels": labels,
        "depth": depth, "landmarks": landmarks, "pose": pose, "joint_transforms": joint_transforms,
        "frame_names": frame_names,
    }  # fmt: skip
    for key, sequence in sequences.items():
        if sequence is not None and len(sequence) != count:
            raise ValueError(f"{_OP}: {key} has {len(sequence)} frames, and images has {count}; one each")
    if not count:
        raise ValueError(f"{_OP}: images is empty; a capture has at least one frame")
    if not 0 < depth_unit < 1:
        raise ValueError(f"{_OP}: depth_unit is {depth_unit}; expected meters per step, 0.001 for millimeters")
    if mouth not in get_args(Mouth):
        raise ValueError(f"{_OP}: mouth is {mouth!r}; expected one of {', '.join(get_args(Mouth))}")
    names = [f"{index:05d}" for index in range(count)] if frame_names is None else [str(each) for each in frame_names]
    if len(set(names)) < count:
        raise ValueError(f"{_OP}: frame_names holds a name twice; expected {count} different ones")
    views = cameras.world_to_camera.detach().cpu().double().numpy()
    lens = np.ascontiguousarray(cameras.intrinsics.detach().cpu().double().numpy())
    mesh = canonical.to("cpu").detach()
    mesh = mesh.replace(vertices=mesh.vertices.float(), faces=mesh.faces.long())
    given = {"images": images, "vertices": vertices, "mattes": mattes, "expression": expression, "labels": labels,
             "depth": depth, "landmarks": landmarks, "pose": pose, "joint_transforms": joint_transforms}  # fmt: skip
    frames = _Frames(names, cameras.size, views, lens, len(mesh.vertices), given)
    if cameras.distortion is not None:
        coefficients = np.ascontiguousarray(cameras.distortion.detach().cpu().double().numpy())
        frames.lens = Undistortion(lens, coefficients, cameras.size, [f"{_OP}: frame {name}" for name in names])
    sample = sample_frames(np.linalg.inv(views))
    compared = [frames.compared(index, depth_unit) for index in sample]
    faces = mesh.faces.numpy()
    evidence = [convention_evidence(each, np.linalg.inv(views[i])) for each, i in zip(compared, sample, strict=True)]
    try:
        report = [check_convention(evidence, faces, cameras.size)]
    except CaptureError as error:
        raise CaptureError(f"{_OP}: {error}") from None
    for each, index in zip(compared, sample, strict=True):
        frames.check_view(index, each.vertices)
    report += misalignments(compared, faces)
    if frames.lens is not None:
        report.append(frames.lens.line())
    if mattes is None and all(each.alpha.all() for each in compared):
        report.append("images have no alpha and there are no mattes: the matte is 1 everywhere")
    report += [f"no {key}" for key in ("expression", "labels", "depth", "landmarks") if sequences[key] is None]
    recording = Recording(
        path=Path(name),
        size=cameras.size,
        frame_names=names,
        camera_to_world=np.linalg.inv(views),
        intrinsics=lens,
        splits=_checked_splits(splits, count),
        canonical=mesh,
        decode_image=frames.image,
        decode_head=frames.head,
        decode_landmarks=frames.landmarks,
        has_label=labels is not None,
        has_depth=depth is not None,
        expression_width=None if expression is None else len(_array(expression[0])),
        pose_joints=None if pose is None else len(_array(pose[0])),
        transform_joints=None if joint_transforms is None else len(_array(joint_transforms[0])),
        depth_scale=depth_unit,
        report=report,
        decoded_vertices={index: each.vertices for index, each in zip(sample, compared, strict=True)},
    )
    return Capture(recording, memory_budget_mb, regions, head_frame, mouth, skinning)


def _checked_splits(splits: Mapping[str, Frames] | None, count: int) -> dict[str, list[int]]:
    if splits is None:
        made = splits_from_end(_OP, count)
    else:
        made = {key: frame_indices(value, count, f"{_OP}: splits[{key!r}]") for key, value in splits.items()}
        used = {frame for frames in made.values() for frame in frames}
        made.setdefault("train", [frame for frame in range(count) if frame not in used])
        made.setdefault("test", [])
        made.setdefault("val", made["test"][-20:])
    return {**made, "all": list(range(count))}


class _Frames:
    """Decodes single frames of the sequences that a caller gave; every error names the frame and the argument."""

    def __init__(
        self, names: list[str], size: tuple[int, int], world_to_camera: np.ndarray, intrinsics: np.ndarray,
        vertex_count: int, given: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.names, self.size, self.vertex_count, self.given = names, size, vertex_count, given
        self.world_to_camera, self.intrinsics = world_to_camera, intrinsics
        self.lens: Undistortion | None = None

    def head(self, index: int) -> DecodedHead:
        """See `Recording.decode_head`."""
        optional: dict[str, np.ndarray] = {}
        for key, row in (("expression", ()), ("pose", (3,)), ("joint_transforms", (4, 4))):
            if self.given[key] is not None:
                first = self._value(key, 0)
                if first.shape[1:] != row or not first.shape or not len(first):
                    expected = str(("J", *row) if row else ("E",)).replace("'", "")
                    raise self._unfit(key, 0, first, f"{expected}, of one or more; without any, pass {key}=None")
                optional[key] = self._floats(key, index, first.shape)
        if "joint_transforms" in optional and not are_rigid(optional["joint_transforms"]):
            raise CaptureError(
                f"{_OP}: frame {self.names[index]}: joint_transforms holds a matrix that is not rigid; expected a "
                "rotation, without scale and mirroring, a translation in meters, and the last row (0, 0, 0, 1)"
            )
        return DecodedHead(self._floats("vertices", index, (self.vertex_count, 3)), **optional)

    def image(self, index: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """See `Recording.decode_image`."""
        value = self.given["images"][index]
        where = f"{_OP}: frame {self.names[index]}"
        if isinstance(value, (str, os.PathLike)):
            rgba = decode_image(Path(value), where, "images", "rgba", self.size)
        else:
            pixels = self._value("images", index)
            if pixels.shape not in ((*self.size, 3), (*self.size, 4)):
                raise self._unfit("images", index, pixels, f"({self.size[0]}, {self.size[1]}, 4), as cameras.size")
            pixels = self._bits("images", index, pixels, np.uint8)
            opaque = np.full((*self.size, 1), 255, np.uint8)
            rgba = np.concatenate([pixels, opaque], axis=2) if pixels.shape[2] == 3 else pixels
        if self.given["mattes"] is not None:
            matte = self._map("mattes", index, np.uint8, scale_masks=True)
            rgba = np.concatenate([rgba[..., :3], matte[..., None]], axis=2)
        labels = None if self.given["labels"] is None else self._map("labels", index, np.uint8)
        depth = None if self.given["depth"] is None else self._map("depth", index, np.uint16)
        decoded = np.ascontiguousarray(rgba), labels, depth
        return decoded if self.lens is None else self.lens.image(index, decoded)

    def landmarks(self, index: int) -> np.ndarray | None:
        """See `Recording.decode_landmarks`."""
        if self.given["landmarks"] is None or self.given["landmarks"][index] is None:
            return None
        points = self._floats("landmarks", index, (68, 2), missing=True)
        return points if self.lens is None else self.lens.landmarks(index, points)

    def compared(self, index: int, depth_unit: float) -> AlignmentFrame:
        """The frame for checks that its data lie on one another."""
        vertices = self.head(index).vertices
        rgba, labels, depth = self.image(index)
        self.landmarks(index)
        meters = None if depth is None else depth.astype(np.float32) * depth_unit
        return AlignmentFrame(
            self.names[index], vertices, self.world_to_camera[index], self.intrinsics[index], rgba[..., 3] > 127,
            labels, meters,
        )  # fmt: skip

    def check_view(self, index: int, vertices: np.ndarray) -> None:
        """Raises CaptureError if the frame's camera does not see its mesh."""
        outside = out_of_view(vertices, self.world_to_camera[index], self.intrinsics[index], self.size)
        if outside is not None:
            raise CaptureError(
                f"{_OP}: frame {self.names[index]}: {outside}; correct its camera or leave the frame out"
            )

    def _value(self, key: str, index: int) -> np.ndarray:
        value = self.given[key][index]
        if value is None:
            remedy = "" if key in ("images", "vertices") else f", or {key}=None if there are none"
            raise CaptureError(f"{_OP}: frame {self.names[index]}: {key} is None; pass a value for every frame{remedy}")
        return _array(value)

    def _floats(self, key: str, index: int, shape: tuple[int, ...], missing: bool = False) -> np.ndarray:
        values = self._value(key, index)
        if values.shape != shape or not np.issubdtype(values.dtype, np.floating):
            raise self._unfit(key, index, values, f"{shape} floating-point numbers")
        if not (np.isfinite(values) | (np.isnan(values) & missing)).all():
            raise CaptureError(f"{_OP}: frame {self.names[index]}: {key} holds a value that is not finite; mend it")
        return np.ascontiguousarray(values, np.float32)

    def _map(self, key: str, index: int, dtype: type, scale_masks: bool = False) -> np.ndarray:
        values = self._value(key, index)
        if values.shape != self.size:
            raise self._unfit(key, index, values, f"({self.size[0]}, {self.size[1]}), as cameras.size")
        if scale_masks and values.dtype == bool:
            return values.astype(np.uint8) * np.uint8(255)
        return self._bits(key, index, values, dtype)

    def _bits(self, key: str, index: int, values: np.ndarray, dtype: type) -> np.ndarray:
        if values.dtype != dtype:
            floating = np.issubdtype(values.dtype, np.floating) and dtype is np.uint8
            remedy = " ((values * 255).round().astype(np.uint8) of values in [0, 1])" if floating else ""
            raise self._unfit(key, index, values, f"{np.dtype(dtype)}{remedy}")
        return np.ascontiguousarray(values)

    def _unfit(self, key: str, index: int, values: np.ndarray, expected: str) -> CaptureError:
        return CaptureError(
            f"{_OP}: frame {self.names[index]}: {key} has shape {values.shape} and dtype {values.dtype}; expected "
            f"{expected}"
        )


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
