"""Writing INSTA's layout, so that synthetic and converted captures go through the same reader as recorded ones."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt16
from PIL import Image
from torch import Tensor

from headfields.data.insta_json import TEST_FRAMES, VAL_FRAMES
from headfields.data.meshes import write_obj
from headfields.records import Camera


@dataclass(frozen=True)
class CapturedFrame:
    """One frame to write.

    Attributes:
        image: (H, W, 4) sRGB and matte, straight alpha, 8 bits.
        vertices: (V, 3) posed vertices, metres.
        camera: one camera (or a batch of one) of the image's size.
        expression: (E,) coefficients.
        label: (H, W) segmentation labels in INSTA's numbering.
        depth: (H, W) depth of the mesh along the optical axis in units of `depth_unit` metres, 0 for none.
        landmarks: (68, 2) pixels.
    """

    image: UInt8[np.ndarray, "h w 4"]
    vertices: Float[Tensor, "v 3"]
    camera: Camera
    expression: Float[Tensor, " e"] | None = None
    label: UInt8[np.ndarray, "h w"] | None = None
    depth: UInt16[np.ndarray, "h w"] | None = None
    landmarks: Float[np.ndarray, "68 2"] | None = None


def write_insta(
    folder: Path | str,
    frames: Iterable[CapturedFrame],
    canonical_vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    test_frames: int | None = None,
    depth_unit: float = 0.001,
) -> int:
    """Writes a capture that `load_capture` reads back bit for bit (camera poses: to the rounding of a double).

    Args:
        folder: made if it is not there; files of the same names are replaced.
        frames: any number of them, written as they come; intrinsics may differ between frames, the size may not.
        canonical_vertices: (V, 3) of `canonical.obj`, metres.
        faces: (F, 3) of all meshes; the mouth open or closed.
        test_frames: how many of the last frames are the test split; None for 350 or, if fewer, a fifth of them. The
            last 20 of these are the val split.
        depth_unit: metres per unit of depth.

    Returns:
        The number of frames written.

    Raises:
        ValueError: no frames, more test frames than frames, another number of vertices, or images and maps of
            different sizes.
    """
    folder = Path(folder)
    topology = faces.detach().cpu().numpy()
    entries: list[dict[str, object]] = []
    size: tuple[int, int] | None = None
    folder.mkdir(parents=True, exist_ok=True)
    write_obj(folder / "canonical.obj", canonical_vertices.detach().cpu().numpy(), topology)
    for index, frame in enumerate(frames):
        size = size or frame.camera.size
        _check(frame, index, size, len(canonical_vertices))
        stem = f"{index:05d}"
        files = {"file_path": f"images/{stem}.png", "mesh_path": f"meshes/{stem}.obj"}
        _save(folder / files["file_path"], frame.image)
        (folder / "meshes").mkdir(exist_ok=True)
        write_obj(folder / files["mesh_path"], frame.vertices.detach().cpu().numpy(), topology)
        if frame.expression is not None:
            files["exp_path"] = f"flame/exp/{stem}.txt"
            _numbers(folder / files["exp_path"], frame.expression.detach().cpu().numpy()[:, None])
        if frame.depth is not None:
            files["depth_path"] = f"depth/{stem}.png"
            _save(folder / files["depth_path"], frame.depth)
        if frame.label is not None:
            files["seg_mask_path"] = f"seg_mask/{stem}.png"
            _save(folder / files["seg_mask_path"], frame.label)
        if frame.landmarks is not None:
            files["landmark_path"] = f"landmarks/{stem}.txt"
            _numbers(folder / files["landmark_path"], frame.landmarks)
        pose = np.linalg.inv(frame.camera.world_to_camera.detach().cpu().double().reshape(4, 4).numpy())
        k = frame.camera.intrinsics.detach().cpu().double().reshape(3, 3).tolist()
        lens = {"fl_x": k[0][0], "fl_y": k[1][1], "cx": k[0][2], "cy": k[1][2]}
        entries.append({**lens, "transform_matrix": pose.tolist(), **files})
    if size is None:
        raise ValueError("write_insta: frames is empty; a capture has at least one")
    count = len(entries)
    tests = min(TEST_FRAMES, count // 5) if test_frames is None else test_frames
    if not 0 <= tests <= count:
        raise ValueError(f"write_insta: test_frames is {tests}; expected 0 to {count}, the number of frames")
    shared: dict[str, object] = {"w": size[1], "h": size[0], "integer_depth_scale": depth_unit}
    for key in ("fl_x", "fl_y", "cx", "cy"):
        values = {entry[key] for entry in entries}
        if len(values) == 1:  # as the format's own files have it: one lens for all frames
            shared[key] = values.pop()
            for entry in entries:
                del entry[key]
    test = entries[count - tests :]
    for name, chosen in (
        ("", entries),
        ("_train", entries[: count - tests]),
        ("_test", test),
        ("_val", test[-VAL_FRAMES:]),
    ):
        (folder / f"transforms{name}.json").write_text(json.dumps({**shared, "frames": chosen}, indent=1))
    return count


def _check(frame: CapturedFrame, index: int, size: tuple[int, int], vertices: int) -> None:
    if frame.camera.size != size:
        raise ValueError(f"write_insta: frame {index}'s camera has size {frame.camera.size}; the first has {size}")
    for name, array in (("image", frame.image), ("label", frame.label), ("depth", frame.depth)):
        if array is not None and array.shape[:2] != size:
            raise ValueError(f"write_insta: frame {index}'s {name} has shape {array.shape}; its camera has size {size}")
    if len(frame.vertices) != vertices:
        raise ValueError(
            f"write_insta: frame {index} has {len(frame.vertices)} vertices; canonical_vertices has {vertices}"
        )


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _numbers(path: Path, values: np.ndarray) -> None:
    """One row a line, with the nine digits that give float32 back exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in values.tolist()))
