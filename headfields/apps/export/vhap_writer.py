"""Writer of the layout that VHAP exports and GaussianAvatars trains on; `vhap` reads it.

Field names, shapes and meanings are those of VHAP's export (Qian 2024). Numbers are float32, as VHAP's; matrices and
intrinsics have all digits of a double.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headfields.data.formats.vhap import CY_BORDER, LOWER
from headfields.files.arrays import save_arrays
from headfields.files.atomic import write_image, write_text
from headfields.records.opengl_axes import flip_y_z

__all__ = ["WIDTHS", "VhapWriter"]

WIDTHS = {
    "shape": 300, "expr": 100, "rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "translation": 3
}  # fmt: skip
"""Entries of each array of parameters."""
_PER_IMAGE = ("cx", "cy", "fl_x", "fl_y", "h", "w", "camera_angle_x", "camera_angle_y")


class VhapWriter:
    """Writes steps and images one at a time and the `transforms*.json` last: an incomplete capture is not read.

    Args:
        folder: created if missing.
        size: (height, width) of all images.
        canonical: arrays of the canonical head by VHAP's names, see `WIDTHS`, and `static_offset` (V, 3), meters.
    """

    def __init__(self, folder: Path | str, size: tuple[int, int], canonical: Mapping[str, np.ndarray]) -> None:
        self.folder, self.size = Path(folder), size
        self.folder.mkdir(parents=True, exist_ok=True)
        self._static = canonical["static_offset"]
        self._entries: list[dict[str, object]] = []
        self._steps = 0
        save_arrays(self.folder / "canonical_flame_param.npz", self._arrays(canonical))

    def add_step(self, parameters: Mapping[str, np.ndarray]) -> int:
        """Writes the parameters of the next time step and returns its index.

        Args:
            parameters: arrays by VHAP's names, see `WIDTHS`, and `dynamic_offset` (V, 3), meters, if there is one.
        """
        arrays = {**parameters, "static_offset": self._static}
        save_arrays(self.folder / _parameter_file(self._steps), self._arrays(arrays))
        self._steps += 1
        return self._steps - 1

    def add_image(
        self,
        rgba: UInt8[np.ndarray, "h w 4"],
        camera_to_world: Float[np.ndarray, "4 4"],
        intrinsics: Float[np.ndarray, "3 3"],
        camera: int,
        name: str,
    ) -> None:
        """Writes an image of the last step.

        The image keeps its straight alpha, over whose background GaussianAvatars composites, and its matte is written
        as `fg_mask_path` too.

        Args:
            rgba: (H, W, 4) sRGB and matte.
            camera_to_world: (4, 4), OpenCV axes, meters.
            intrinsics: (3, 3) pixels.
            camera: number of the camera; one image of a camera in each step.
            name: the frame's name where it came from, written as `timestep_id`.

        Raises:
            ValueError: the image has another size, or the intrinsics have skew.
        """
        height, width = self.size
        where = f"save_vhap: frame {name}"
        if rgba.shape != (height, width, 4) or rgba.dtype != np.uint8:
            raise ValueError(f"{where} has an image {rgba.shape} {rgba.dtype}; expected {(height, width, 4)} uint8")
        if intrinsics[0, 1] or intrinsics[1, 0] or intrinsics[2].tolist() != [0, 0, 1]:
            raise ValueError(
                f"{where} has intrinsics {intrinsics.tolist()}; the layout has focal lengths and a center, no skew"
            )
        step = self._steps - 1
        stem = f"{step:05d}_{camera:02d}.png"
        write_image(self.folder / "images" / stem, rgba)
        write_image(self.folder / "fg_masks" / stem, np.ascontiguousarray(rgba[..., 3]))
        focal_x, focal_y = float(intrinsics[0, 0]), float(intrinsics[1, 1])
        self._entries.append(
            {
                "timestep_index": step,
                "timestep_index_original": step,
                "timestep_id": name,
                "camera_index": camera,
                "camera_id": f"{camera:02d}",
                "cx": float(intrinsics[0, 2]),
                "cy": height - float(intrinsics[1, 2]),
                "fl_x": focal_x,
                "fl_y": focal_y,
                "h": height,
                "w": width,
                "camera_angle_x": 2 * math.atan(width / (2 * focal_x)),
                "camera_angle_y": 2 * math.atan(height / (2 * focal_y)),
                "transform_matrix": flip_y_z(camera_to_world).tolist(),
                "file_path": f"images/{stem}",
                "fg_mask_path": f"fg_masks/{stem}",
                "flame_param_path": _parameter_file(step),
            }
        )

    def finish(self, splits: Mapping[str, Sequence[int]]) -> None:
        """Writes `transforms.json` with all images, and one file a split (name → images in the order of adding).

        Raises:
            ValueError: no image was added.
        """
        if not self._entries:
            raise ValueError("save_vhap: frames is empty; a capture has at least one")
        every = range(len(self._entries))
        chosen = {"train": (), "val": (), "test": (), **{name: rows for name, rows in splits.items() if name != "all"}}
        for name, rows in {**{f"_{split}": rows for split, rows in chosen.items()}, "": every}.items():
            entries = [self._entries[row] for row in rows]
            shared = {key: self._entries[-1][key] for key in _PER_IMAGE}
            content = {
                CY_BORDER: LOWER,
                **shared,
                "timestep_indices": sorted({entry["timestep_index"] for entry in entries}),  # type: ignore[type-var]
                "camera_indices": sorted({entry["camera_index"] for entry in entries}),  # type: ignore[type-var]
                "frames": entries,
            }
            write_text(self.folder / f"transforms{name}.json", json.dumps(content, indent=1))

    @staticmethod
    def _arrays(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays in VHAP's shapes: one row a step, but for the shape."""
        arrays = {}
        for name, width in WIDTHS.items():
            row = np.zeros(width, np.float32)
            row[: parameters[name].size] = parameters[name].ravel()
            arrays[name] = row if name == "shape" else row[None]
        for name in ("static_offset", "dynamic_offset"):
            if name in parameters:
                arrays[name] = parameters[name].astype(np.float32)[None]
        return arrays


def _parameter_file(step: int) -> str:
    return f"flame_param/{step:05d}.npz"
