"""Writer of INSTA's layout, for synthetic and converted captures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8, UInt16
from torch import Tensor

from headfields.data.formats.transforms import splits_from_end
from headfields.data.rigid_transforms import are_rigid
from headfields.files.atomic import write_image, write_text
from headfields.mesh.files import save_mesh
from headfields.mesh.mesh import Mesh
from headfields.records import Camera

__all__ = ["CapturedFrame", "InstaWriter", "write_insta"]


@dataclass(frozen=True)
class CapturedFrame:
    """One frame to write.

    Attributes:
        image: (H, W, 4) sRGB and matte, straight alpha, 8 bits.
        vertices: (V, 3) posed vertices, meters.
        camera: one camera (or a batch of one) of the image's size, without skew.
        expression: (E,) coefficients.
        label: (H, W) segmentation labels in INSTA's numbering.
        depth: (H, W) depth of the mesh along the optical axis in units of `depth_unit` meters, 0 for none.
        landmarks: (68, 2) pixels; NaN where unknown.
        pose: (J, 3) axis-angle of the joints, radians.
        joint_transforms: (J, 4, 4) rigid, from the canonical mesh to the vertices.
    """

    image: UInt8[np.ndarray, "h w 4"]
    vertices: Float[Tensor, "v 3"]
    camera: Camera
    expression: Float[Tensor, " e"] | None = None
    label: UInt8[np.ndarray, "h w"] | None = None
    depth: UInt16[np.ndarray, "h w"] | None = None
    landmarks: Float[np.ndarray, "68 2"] | None = None
    pose: Float[Tensor, "j 3"] | None = None
    joint_transforms: Float[Tensor, "j 4 4"] | None = None


def write_insta(
    folder: Path | str,
    frames: Iterable[CapturedFrame],
    canonical_vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    test_frames: int | None = None,
    depth_unit: float = 0.001,
) -> int:
    """Writes a capture that `load_capture` reads back bit for bit (camera poses: to the rounding of a double).

    Every float32 is written with nine digits, every double with all of its digits, images as PNG.

    Args:
        folder: created if missing; files of the same names are replaced.
        frames: written one at a time; intrinsics may differ between frames, the size may not.
        canonical_vertices: (V, 3) of `canonical.obj`, meters.
        faces: (F, 3) of all meshes; the mouth open or closed.
        test_frames: size of the test split, taken from the end; None for 350 or, if fewer, a fifth of the frames. The
            last 20 test frames are the val split.
        depth_unit: meters per unit of depth.

    Returns:
        The number of frames written.

    Raises:
        ValueError: no frames, more test frames than frames, another number of vertices, coefficients or joints, images,
            maps or joints of other sizes or types or none of them, values that are not finite, transforms that are not
            rigid, or a skewed camera.
    """
    writer = InstaWriter(folder, Mesh(canonical_vertices, faces.long()), depth_unit)
    for index, frame in enumerate(frames):
        pose = np.linalg.inv(frame.camera.world_to_camera.detach().cpu().double().reshape(4, 4).numpy())
        writer.add(f"{index:05d}", frame, pose)
    writer.finish(splits_from_end("write_insta", writer.count, test_frames) if writer.count else {})
    return writer.count


class InstaWriter:
    """Writes frames one at a time and the `transforms*.json` last, so that an incomplete capture is not read.

    Args:
        folder: created if missing.
        canonical: the canonical mesh.
        depth_unit: meters per unit of depth.
    """

    def __init__(self, folder: Path | str, canonical: Mesh, depth_unit: float) -> None:
        self.folder = Path(folder)
        self._canonical, self._depth_unit = canonical, depth_unit
        self._entries: list[dict[str, object]] = []
        self._size: tuple[int, int] | None = None
        self._widths: dict[str, int] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        save_mesh(self.folder / "canonical.obj", canonical)

    @property
    def count(self) -> int:
        """Number of frames written so far."""
        return len(self._entries)

    def add(self, stem: str, frame: CapturedFrame, camera_to_world: np.ndarray) -> None:
        """Writes one frame's files as `images/<stem>.png` and so on; the pose is `camera_to_world` (4, 4) float64.

        Raises:
            ValueError: see `write_insta`.
        """
        self._check(frame)
        files = {"file_path": f"images/{stem}.png", "mesh_path": f"meshes/{stem}.obj"}
        write_image(self.folder / files["file_path"], frame.image)
        save_mesh(self.folder / files["mesh_path"], Mesh(frame.vertices.detach().cpu(), self._canonical.faces.cpu()))
        if frame.expression is not None:
            files["exp_path"] = f"flame/exp/{stem}.txt"
            _write_numbers(self.folder / files["exp_path"], frame.expression.detach().cpu().numpy()[:, None])
        for key, folder, value in (
            ("pose_path", "pose", frame.pose),
            ("joints_path", "joints", None if frame.joint_transforms is None else frame.joint_transforms[:, :3]),
        ):
            if value is not None:
                files[key] = f"{folder}/{stem}.txt"
                _write_numbers(self.folder / files[key], value.detach().cpu().flatten(1).numpy())
        if frame.depth is not None:
            files["depth_path"] = f"depth/{stem}.png"
            write_image(self.folder / files["depth_path"], frame.depth)
        if frame.label is not None:
            files["seg_mask_path"] = f"seg_mask/{stem}.png"
            write_image(self.folder / files["seg_mask_path"], frame.label)
        if frame.landmarks is not None:
            files["landmark_path"] = f"landmarks/{stem}.txt"
            _write_numbers(self.folder / files["landmark_path"], frame.landmarks)
        k = frame.camera.intrinsics.detach().cpu().double().reshape(3, 3).tolist()
        lens = {"fl_x": k[0][0], "fl_y": k[1][1], "cx": k[0][2], "cy": k[1][2]}
        self._entries.append({**lens, "transform_matrix": camera_to_world.tolist(), **files})

    def finish(self, splits: Mapping[str, Sequence[int]]) -> None:
        """Writes `transforms.json` with all frames, and one file per split (name → frames in the order of `add`).

        Raises:
            ValueError: no frame was added.
        """
        if self._size is None:
            raise ValueError("write_insta: frames is empty; a capture has at least one")
        shared: dict[str, object] = {
            "w": self._size[1],
            "h": self._size[0],
            "integer_depth_scale": self._depth_unit,
        }
        for key in ("fl_x", "fl_y", "cx", "cy"):
            values = {entry[key] for entry in self._entries}
            if len(values) == 1:  # a global entry, as in INSTA's own files
                shared[key] = values.pop()
                for entry in self._entries:
                    del entry[key]
        for name, rows in {"": range(self.count), **{f"_{split}": rows for split, rows in splits.items()}}.items():
            content = {**shared, "frames": [self._entries[row] for row in rows]}
            write_text(self.folder / f"transforms{name}.json", json.dumps(content, indent=1))

    def _check(self, frame: CapturedFrame) -> None:
        size = self._size = self._size or frame.camera.require_pinhole("write_insta").size
        where = f"write_insta: frame {self.count}"
        if frame.camera.size != size:
            raise ValueError(f"{where}'s camera has size {frame.camera.size}; the first has {size}")
        for name, array, dtype in (
            ("image", frame.image, np.uint8),
            ("label", frame.label, np.uint8),
            ("depth", frame.depth, np.uint16),
        ):
            if array is None:
                continue
            shape = (*size, 4) if name == "image" else size
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{where}'s {name} has shape {array.shape} and dtype {array.dtype}; "
                    f"expected {shape}, as its camera's size, and {np.dtype(dtype)}"
                )
        if len(frame.vertices) != len(self._canonical.vertices):
            raise ValueError(
                f"{where} has {len(frame.vertices)} vertices; canonical_vertices has {len(self._canonical.vertices)}"
            )
        if frame.landmarks is not None and frame.landmarks.shape != (68, 2):
            raise ValueError(f"{where}'s landmarks have shape {frame.landmarks.shape}; expected (68, 2)")
        for name, plural in (("expression", "coefficients"), ("pose", "joints"), ("joint_transforms", "transforms")):
            value = getattr(frame, name)
            row = {"expression": (), "pose": (3,), "joint_transforms": (4, 4)}[name]
            if value is not None and value.shape[1:] != row:
                raise ValueError(
                    f"{where}'s {name} has shape {tuple(value.shape)}; expected {('J', *row) if row else ('E',)}"
                )
            if value is not None and not len(value):
                raise ValueError(f"{where} has no {plural} in {name}; where there are none, pass {name}=None")
            if value is not None and len(value) != self._widths.setdefault(name, len(value)):
                raise ValueError(f"{where} has {len(value)} {plural}; the frames before {self._widths[name]}")
        landmarks = None if frame.landmarks is None else torch.from_numpy(np.nan_to_num(frame.landmarks, nan=0.0))
        for name, values in (
            ("vertices", frame.vertices),
            ("expression", frame.expression),
            ("pose", frame.pose),
            ("joint_transforms", frame.joint_transforms),
            ("landmarks", landmarks),
            ("camera.world_to_camera", frame.camera.world_to_camera),
            ("camera.intrinsics", frame.camera.intrinsics),
        ):
            if values is not None and not values.isfinite().all():
                raise ValueError(f"{where}'s {name} hold a value that is not finite")
        if frame.joint_transforms is not None and not are_rigid(frame.joint_transforms.detach().cpu().numpy()):
            raise ValueError(
                f"{where}'s joint_transforms hold a matrix that is not rigid; expected a rotation, without scale and "
                "mirroring, a translation in meters, and the last row (0, 0, 0, 1)"
            )
        k = frame.camera.intrinsics.detach().cpu().double().reshape(3, 3)
        if k[0, 1] or k[1, 0] or k[2].tolist() != [0, 0, 1]:
            raise ValueError(
                f"{where}'s camera.intrinsics are {k.tolist()}; the layout has focal lengths and a center, no skew"
            )


def _write_numbers(path: Path, values: np.ndarray) -> None:
    """One row per line, with the nine digits that reproduce a float32 exactly."""
    write_text(path, "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in values.tolist()))
