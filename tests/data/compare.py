"""Every field of a capture as arrays, to compare two captures bit for bit."""

from collections.abc import Sequence

import numpy as np

from headfields.data import Capture


def snapshot(capture: Capture, frames: Sequence[int] | None = None) -> dict[str, np.ndarray | None]:
    """Name → array, the numbers as the reader gave them; of some frames, without splits, if they are named."""
    rows = list(range(len(capture))) if frames is None else list(frames)
    recording = capture.recording
    fields: dict[str, np.ndarray | None] = {
        "size": np.array(capture.size),
        "depth unit": np.array(capture.depth_unit),
        "expression width": np.array(capture.expression_width or -1),
        "camera_to_world": recording.camera_to_world[rows],
        "intrinsics": recording.intrinsics[rows],
    }
    if frames is None:
        fields |= {f"split {name}": rows.numpy() for name, rows in capture.splits.items()}
    for name in ("vertices", "faces", "uv", "uv_faces"):
        fields[f"canonical {name}"] = getattr(recording.canonical, name)
    for index, row in enumerate(rows):
        values = (*recording.decode_image(row), recording.decode_landmarks(row))
        named = dict(zip(("rgba", "label", "depth", "landmarks"), values, strict=True))
        for name, value in {**named, **vars(recording.decode_head(row))}.items():
            fields[f"frame {index} {name}"] = value
    return fields


def differences(one: dict[str, np.ndarray | None], other: dict[str, np.ndarray | None]) -> list[str]:
    """The fields that differ in any bit, or that only one has."""
    return [name for name in sorted({*one, *other}) if not _same(one.get(name), other.get(name))]


def _same(x: np.ndarray | None, y: np.ndarray | None) -> bool:
    if x is None or y is None:
        return x is y
    return x.dtype == y.dtype and np.array_equal(x, y)
