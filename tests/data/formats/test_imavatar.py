import json

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.data import load_capture
from headfields.data.errors import CaptureError
from headfields.records import Camera
from tests.data import broken
from tests.data.formats import vhap_folder

SIZE = (60, 64)
FRAMES = 6


def values_of(head, frame):
    """A frame's parameters under VHAP's names; the layout has neither translation nor offsets."""
    values = vhap_folder.parameters(head, frame, offsets=False)
    values["translation"][:] = 0
    values["rotation"][0] = (0.1, 0.2 * (frame - 2.5), 0.0)
    values["expr"][0, 50:] = 0
    return values


def write(folder, head, scale=4.0, old=False):
    """Writes a sequence as the layout is documented; `scale` is that of the cameras' translations."""
    (folder / "image").mkdir(parents=True)
    (folder / "mask").mkdir()
    height, width = SIZE
    intrinsics = torch.tensor([[160.0, 0, 30], [0, 170.0, 33], [0, 0, 1]])
    frames = []
    for frame in range(FRAMES):
        values = values_of(head, frame)
        vertices = vhap_folder.posed(head, values).float()
        opengl = np.eye(4)  # world to camera: the axes are the world's, the head is in front, at negative z
        opengl[:3, 3] = (0.01 * frame, -0.02, -0.9)
        view = torch.from_numpy(np.diag([1.0, -1, -1, 1]) @ opengl).float()
        corners = vertices[head.faces]
        points = torch.cat([vertices, corners.mean(1), (corners + corners.roll(1, 1)).reshape(-1, 3) / 2])
        pixels = Camera(view[None], intrinsics[None], SIZE).project(points[None])[0][0]
        column, row = pixels[((pixels >= 0) & (pixels < torch.tensor([width, height]))).all(1)].long().T
        mask = np.zeros(SIZE, np.uint8)
        mask[row.numpy(), column.numpy()] = 255
        Image.fromarray(np.where(mask[..., None] > 0, 120, 10).astype(np.uint8).repeat(3, -1)).save(
            folder / f"image/{frame + 1}.png"
        )
        Image.fromarray(mask).save(folder / f"mask/{frame + 1}.png")
        pose = np.concatenate([values[key][0] for key in ("rotation", "neck_pose", "jaw_pose", "eyes_pose")])
        matrix = opengl[:3].copy()
        matrix[:, 3] *= scale
        frames.append({"file_path": f"/image/{frame + 1}" if frame else "./image/1", "world_mat": matrix.tolist(),
                       "expression": values["expr"][0, :50].tolist(), "pose": pose.tolist(),
                       "bbox": [-1, -1, 1, 1], "flame_keypoints": []})  # fmt: skip
    normal = [-160 / width, 170 / height, 30 / width, 33 / height]
    pixels = [-160 / width * 512, 170 / height * 512, 30 / width * 512, 33 / height * 512]
    content = {"shape_params": values["shape"][:100].tolist(), "intrinsics": pixels if old else normal,
               "frames": frames}  # fmt: skip
    (folder / "flame_params.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def written(head, tmp_path_factory):
    return write(tmp_path_factory.mktemp("imavatar") / "MVI_1810", head)


@pytest.mark.parametrize(
    ("scale", "old"),
    [(1.0, False), *(pytest.param(4.0, old, marks=pytest.mark.slow) for old in (False, True))],
)
def test_meshes_and_cameras_are_those_written(tmp_path, head, scale, old):
    capture = load_capture(write(tmp_path / "a", head, scale, old), head=head, head_frame="keep", mouth="none")
    assert {key: len(value) for key, value in capture.splits.items()} == {"train": 5, "test": 1, "val": 1, "all": 6}
    for frame in range(FRAMES):
        expected = vhap_folder.posed(head, values_of(head, frame))
        assert (capture.state(frame).vertices[0] - expected).abs().max() < 2e-6
        camera = capture.camera(frame)
        assert torch.allclose(camera.world_to_camera[0, :3, 3], torch.tensor([0.01 * frame, 0.02, 0.9]), atol=1e-6)
        assert torch.allclose(camera.intrinsics[0], torch.tensor([[160.0, 0, 30], [0, 170, 33], [0, 0, 1]]), atol=1e-3)
    assert torch.equal(capture.image(0)[..., 3] > 0.5, capture.image(0)[..., 0] > 0.2)
    unit = "four times meters" if scale == 4 else "translations are meters"
    assert any(line.startswith("cameras: ") and unit in line.split("(")[0] for line in capture.report)
    assert {"mouth", "eyes", "face", "neck"} <= set(capture.template.regions)


def test_root_is_not_for_this_layout(written, head):
    with pytest.raises(CaptureError, match="root is for VHAP's layout"):
        load_capture(written, head=head, root=written.parent)


def _in_header(change):
    return broken.in_json("flame_params.json", change)


def _frame_rows():
    for key in ("world_mat", "expression", "pose", "file_path"):
        for kind, value in {"missing": ..., "text": "x y", "null": None, "object": {"a": 1}, "nan": [float("nan")] * 15,
                            "short": [0.0]}.items():  # fmt: skip
            yield key, kind, value
    yield "world_mat", "scaled", (3 * np.eye(4)[:3]).tolist()
    yield "world_mat", "mirrored", np.diag([-1.0, 1, 1, 1])[:3].tolist()
    yield "expression", "long", [1.0] * 300
    yield "pose", "in degrees rows", [[0.0, 0, 0]] * 5
    yield "file_path", "of another folder", "../other/image/1"


def _rows():
    for key, kind, value in _frame_rows():
        apply = _in_header(lambda content, key=key, value=value: broken.put(content["frames"][1], key, value))
        yield broken.Broken(f"{key}: {kind}", apply, (rf"flame_params.json, frames\[1\].*{key}",))
    for key in ("shape_params", "intrinsics", "frames"):
        for value in (..., None, "x", {}, [], [1.0], [float("inf")] * 4, [0.0] * 4, [1e9] * 4):
            if key != "shape_params" or value not in ([], [1.0], [0.0] * 4):  # fewer coefficients are legal
                apply = _in_header(lambda content, key=key, value=value: broken.put(content, key, value))
                names = ("frames|flame_params",) if key == "frames" else (key,)
                yield broken.Broken(f"{key} is {value}", apply, names)
    for name in ("image/2.png", "mask/2.png"):
        yield from broken.files(name)
    yield from broken.files("flame_params.json", missing=("layouts",))


@pytest.mark.parametrize("row", broken.params(_rows()))
def test_broken_folders_are_refused_by_name(row, written, head, tmp_path):
    broken.check(row, written, tmp_path, lambda folder: load_capture(folder, head=head).validate())
