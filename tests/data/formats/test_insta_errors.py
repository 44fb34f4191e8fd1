"""Every field broken in turn: the error names the frame and the field."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headfields.data import CaptureError, load_capture
from tests.data.formats.test_insta import edit


def in_frame(key: str, value, row: int = 1) -> Callable[[Path], None]:
    """Sets a field of one frame of transforms_train.json, the one file that is left."""

    def apply(folder: Path) -> None:
        for name in ("", "_test", "_val"):
            (folder / f"transforms{name}.json").unlink(missing_ok=True)

        def change(content):
            frame = content["frames"][row]
            frame[key] = value(frame.get(key)) if callable(value) else value

        edit(folder, change, names=("_train",))

    return apply


def matrix(function) -> Callable[[Path], None]:
    return in_frame("transform_matrix", lambda old: function(np.array(old)).tolist())


def in_all(key: str, value) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda content: content.update({key: value}))


def cut(path: str, left: int) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[:left])


def replaced(path: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_text((folder / path).read_text().replace(old, new, 1))


def image(path: str, pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: Image.fromarray(pixels).save(folder / path)


def numbers(path: str, line: int, value: str | None) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        lines = (folder / path).read_text().splitlines()
        lines[line : line + 1] = [] if value is None else [value]
        (folder / path).write_text("\n".join(lines))

    return apply


def spoiled_middle(folder: Path) -> None:
    """Header and end are in order; only decoding finds out."""
    path = folder / "images/00001.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 60] = bytes(60)
    path.write_bytes(data)


CASES = [
    ("missing image", lambda f: (f / "images/00001.png").unlink(), "1.png.*file_path.*does not exist"),
    ("missing mesh", lambda f: (f / "meshes/00001.obj").unlink(), "1.png.*mesh_path.*does not exist"),
    ("missing canonical", lambda f: (f / "canonical.obj").unlink(), "canonical.obj is missing"),
    (
        "no transforms frames",
        lambda f: edit(f, lambda c: c.update(frames=5)),
        "list of frames under 'frames'|not in INSTA's",
    ),
    ("frame is no object", lambda f: edit(f, lambda c: c["frames"].append(3)), r"frames\[\d\] is 3"),
    ("path is no text", in_frame("mesh_path", 7), "1.png.*mesh_path is 7"),
    ("path missing", in_frame("file_path", None), r"frames\[1\].*file_path is None"),
    (
        "listed twice",
        lambda f: edit(f, lambda c: c["frames"].append(c["frames"][0]), ("_train",)),
        "listed twice in transforms_train",
    ),
    (
        "matrices disagree",
        lambda f: edit(f, lambda c: c["frames"][0].update(transform_matrix=0), ("_train",)),
        "differs from the one in",
    ),
    ("malformed json", cut("transforms.json", 500), r"transforms.json: malformed JSON at line \d+, column \d+"),
    (
        "image of another size",
        image("images/00001.png", np.zeros((48, 41, 4), np.uint8)),
        "00001.png.*file_path.*41x48 pixels; expected 40x48",
    ),
    ("label of another size", image("seg_mask/00001.png", np.zeros((47, 40), np.uint8)), "1.png.*seg_mask_path.*40x47"),
    ("depth of another size", image("depth/00001.png", np.zeros((48, 42), np.uint16)), "1.png.*depth_path.*42x48"),
    (
        "depth of 8 bits",
        image("depth/00001.png", np.zeros((48, 40), np.uint8)),
        "1.png.*depth_path.*one 16-bit channel",
    ),
    (
        "alpha in some images only",
        image("images/00001.png", np.zeros((48, 40, 3), np.uint8)),
        "1.png.*3 channels, the first image 4",
    ),
    ("stated size", in_all("w", 41), "w is 41, but the images are 40x48"),
    ("cut-short png", cut("images/00001.png", 300), "1.png.*file_path.*cut short"),
    ("spoiled png", spoiled_middle, "1.png.*file_path.*cannot be decoded"),
    ("not a png", cut("images/00001.png", 0), "1.png.*file_path.*not a readable image"),
    ("nan in mesh", numbers("meshes/00001.obj", 4, "v 0 nan 0"), "1.png.*mesh_path.*vertex 4 is"),
    ("text in mesh", numbers("meshes/00001.obj", 4, "v 0 x 0"), "1.png.*mesh_path.*v line 5 reads 'v 0 x 0'"),
    ("short line in mesh", numbers("meshes/00001.obj", 4, "v 0 0"), "1.png.*mesh_path.*v line 5 reads 'v 0 0'"),
    (
        "mesh with a vertex less",
        numbers("meshes/00001.obj", 4, None),
        "mesh_path.*face .* uses vertex 362|mesh_path.*361 vertices",
    ),
    (
        "mesh with a vertex more",
        numbers("meshes/00001.obj", 0, "v 0 0 0\nv 0 0 0"),
        "1.png.*mesh_path.*363 vertices; canonical.obj has 362",
    ),
    ("mesh with other faces", numbers("meshes/00001.obj", 362, "f 1 2 3"), "1.png.*mesh_path.*other faces"),
    ("face out of range", numbers("meshes/00001.obj", 362, "f 1 2 363"), "1.png.*mesh_path.*face 1 uses vertex 363"),
    ("face of two", numbers("meshes/00001.obj", 362, "f 1 2"), "1.png.*mesh_path.*face 1 reads 'f 1 2'"),
    ("empty mesh", cut("meshes/00001.obj", 0), "1.png.*mesh_path.*no 'v' line"),
    ("nan in expression", numbers("flame/exp/00001.txt", 2, "nan"), "1.png.*exp_path.*value 3 is nan"),
    (
        "short expression",
        numbers("flame/exp/00001.txt", 2, None),
        "1.png.*exp_path.*4 coefficients; images/00000.png has 5",
    ),
    ("text in expression", numbers("flame/exp/00001.txt", 2, "smile"), "1.png.*exp_path.*not a list of numbers"),
    ("empty expression", cut("flame/exp/00000.txt", 0), "images/00000.png.*exp_path.*empty"),
    ("67 landmarks", numbers("landmarks/00001.txt", 2, None), "1.png.*landmark_path 00001.txt has 134 numbers"),
    ("nan in matrix", matrix(lambda m: m * float("nan")), "1.png.*transform_matrix holds a value that is not finite"),
    ("scaled matrix", matrix(lambda m: m * [1.1, 1.1, 1.1, 1]), "1.png.*transform_matrix is not rigid"),
    ("mirrored matrix", matrix(lambda m: m * [-1, 1, 1, 1]), "1.png.*transform_matrix is not rigid"),
    ("transposed matrix", matrix(lambda m: m.T), "1.png.*transform_matrix is not rigid"),
    ("3x3 matrix", matrix(lambda m: m[:3, :3]), r"1.png.*transform_matrix has shape \(3, 3\)"),
    ("ragged matrix", in_frame("transform_matrix", [[1, 2], [3]]), "1.png.*transform_matrix has shape"),
    (
        "no focal length",
        lambda f: edit(f, lambda c: c.pop("fl_x")),
        "images/00000.png.*none of fl_x, x_fov and camera_angle_x",
    ),
    ("negative focal length", in_all("fl_x", -120.0), "images/00000.png.*fl_x is -120"),
    ("nan focal length", in_all("fl_x", float("nan")), "images/00000.png.*fl_x is nan; expected a finite number"),
    ("text for cx", in_all("cx", "20"), "images/00000.png.*cx is '20'"),
    ("angle of 0", in_frame("x_fov", 0.0), "1.png.*x_fov is 0"),
    ("negative depth scale", in_all("integer_depth_scale", -1), "integer_depth_scale is -1"),
    ("two depth scales", in_frame("integer_depth_scale", 0.002), "integer_depth_scale differs"),
]


@pytest.mark.parametrize("break_it, message", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_broken_field_is_named(tiny: Path, break_it: Callable[[Path], None], message: str) -> None:
    break_it(tiny)
    with pytest.raises(CaptureError, match=message):
        load_capture(tiny).validate()


def test_arguments(tiny: Path) -> None:
    with pytest.raises(CaptureError, match="is not a folder"):
        load_capture(tiny / "nowhere")
    with pytest.raises(CaptureError, match="memory_budget_mb is 0"):
        load_capture(tiny, memory_budget_mb=0)
    with pytest.raises(IndexError, match="frame 6 is out of range; it has frames 0 to 5"):
        load_capture(tiny).image(6)
    (tiny / "transforms.json").write_text(json.dumps({"frames": []}))
    for name in ("_train", "_test", "_val"):
        (tiny / f"transforms{name}.json").unlink()
    with pytest.raises(CaptureError, match="whose frames have no mesh_path"):
        load_capture(tiny)
