import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.data import load_capture
from headfields.data.errors import CaptureError
from headfields.records import Camera
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


@pytest.fixture
def folder(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "one"))


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


def _mutations():
    for key in ("world_mat", "expression", "pose", "file_path"):
        for kind, value in {"missing": ..., "text": "x y", "null": None, "object": {"a": 1}, "nan": [float("nan")] * 15,
                            "short": [0.0]}.items():  # fmt: skip
            yield f"{key} {kind}", key, value
    yield "world_mat scaled", "world_mat", (3 * np.eye(4)[:3]).tolist()
    yield "world_mat mirrored", "world_mat", np.diag([-1.0, 1, 1, 1])[:3].tolist()
    yield "expression long", "expression", [1.0] * 300
    yield "pose in degrees rows", "pose", [[0.0, 0, 0]] * 5
    yield "file_path of another folder", "file_path", "../other/image/1"


@pytest.mark.parametrize(("key", "value"), [pytest.param(k, v, id=name) for name, k, v in _mutations()])
def test_broken_fields_are_named(folder, head, key, value):
    path = folder / "flame_params.json"
    content = json.loads(path.read_text())
    if value is ...:
        del content["frames"][1][key]
    else:
        content["frames"][1][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(CaptureError, match=rf"flame_params.json, frames\[1\].*{key}"):
        load_capture(folder, head=head).validate()


@pytest.mark.parametrize("key", ["shape_params", "intrinsics", "frames"])
@pytest.mark.parametrize("value", [..., None, "x", {}, [], [1.0], [float("inf")] * 4, [0.0] * 4, [1e9] * 4])
def test_broken_headers_are_named(folder, head, key, value):
    path = folder / "flame_params.json"
    content = json.loads(path.read_text())
    if value is ...:
        del content[key]
    else:
        content[key] = value
    if key == "shape_params" and value in ([], [1.0], [0.0] * 4):
        return  # fewer coefficients are legal
    path.write_text(json.dumps(content))
    with pytest.raises(CaptureError, match=key if key != "frames" else "frames|flame_params"):
        load_capture(folder, head=head).validate()


@pytest.mark.parametrize("name", ["image/2.png", "mask/2.png", "flame_params.json"])
@pytest.mark.parametrize("kind", ["missing", "empty", "half", "noise"])
def test_broken_files_are_named(folder, head, name, kind):
    path = folder / name
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "noise": bytes(range(256))}[kind])
    with pytest.raises(CaptureError, match=path.name if kind != "missing" or "flame" not in name else "layouts"):
        load_capture(folder, head=head).validate()
