"""Images with cameras of nerfstudio and its kin: what is read, what a still head's cameras say, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.apps.capturing.detectors.files import DetectionFiles
from headfields.apps.capturing.posed import prepare_posed
from headfields.apps.capturing.posed_images import posed_transforms, read_posed_frames
from headfields.apps.capturing.recording_files import load_untracked
from headfields.data import CaptureError
from headfields.ops.rotations import rotation_matrices
from headfields.records import Camera
from headfields.records.lens import distort
from tests.tables import table

SIZE, COUNT = (60, 80), 6
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
POINTS = torch.randn(68, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.03, 0.04, 0.025])
POINTS[36], POINTS[45] = torch.tensor([-0.045, 0.0, 0.0]), torch.tensor([0.045, 0.0, 0.0])
WORLD = np.array([[1.0, 0, 0, 0.3], [0, 0, -1, 1.0], [0, 1, 0, -2.0], [0, 0, 0, 1]])
"""A converter's world: z up, away from the head."""
UNIT = 0.25  # meters
NECK = torch.tensor([0.0, -0.12, -0.08])


def orbit(aim=0.0):
    """Cameras around the points; with an aim, they look past them by so many meters."""
    base, out = Camera.orbit(torch.zeros(3), 0.7, yaw=torch.linspace(-40, 40, COUNT), size=SIZE, fov=24), []
    for row in range(COUNT):
        eye = torch.linalg.inv(base[row].world_to_camera.reshape(4, 4))[:3, 3].tolist()
        past = [aim * math.sin(2.1 * row), aim * math.cos(1.7 * row), 0.0]
        out.append(Camera.look_at(eye, past, size=SIZE, fov=24))
    return out


def written(folder, axes=FLIP, aim=0.0, sway=0.0, smile=0.0, lens=None, change=lambda content: None, alpha=True):
    """A folder as ns-process-data writes it, with landmarks."""
    (folder / "images").mkdir(parents=True)
    (folder / "landmarks").mkdir()
    frames, cameras = [], orbit(aim)
    for row, camera in enumerate(cameras):
        turn = rotation_matrices(torch.tensor([0.0, sway * math.sin(1.3 * row), 0.0])).float()
        points = POINTS.clone()
        points[48:, 1] -= smile * row / COUNT
        points = (points - NECK) @ turn.T + NECK
        local = points @ camera.world_to_camera.reshape(4, 4)[:3, :3].T
        local = local + camera.world_to_camera.reshape(4, 4)[:3, 3]
        if lens is not None:
            local = distort((local / local[:, 2:]).double(), torch.tensor(lens, dtype=torch.float64)).float()
            local = torch.nn.functional.pad(local[:, :2], (0, 1), value=1.0)
        pixels = (local @ camera.intrinsics.reshape(3, 3).T)[:, :2] / local[:, 2:]
        stem = f"frame_{row + 1:05d}"
        np.save(folder / "landmarks" / f"{stem}.npy", pixels.numpy())
        image = np.full((*SIZE, 4), 200, np.uint8)
        image[:3, :, 3] = 0
        Image.fromarray(image if alpha else image[..., :3]).save(folder / "images" / f"{stem}.png")
        to_world = WORLD @ np.linalg.inv(camera.world_to_camera.reshape(4, 4).double().numpy())
        to_world[:3, 3] /= UNIT
        frames.append({"file_path": f"./images/{stem}.png", "transform_matrix": (to_world @ axes).tolist()})
    matrix = cameras[0].intrinsics.reshape(3, 3)
    content = {
        "camera_model": "OPENCV", "fl_x": float(matrix[0, 0]), "fl_y": float(matrix[1, 1]), "cx": SIZE[1] / 2,
        "cy": SIZE[0] / 2, "w": SIZE[1], "h": SIZE[0], "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0, "aabb_scale": 16,
        "applied_transform": WORLD[:3].tolist(), "frames": frames,
    }  # fmt: skip
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def prepared(folder, out, crop="none", side=64, **options):
    files = DetectionFiles(folder / "landmarks")
    return prepare_posed(read_posed_frames(folder), out, files, crop=crop, side=side, **options)


def scaled(factor):
    return lambda content: content.update(fl_x=factor * content["fl_x"], fl_y=factor * content["fl_y"])


def test_a_still_head_is_one_moment_of_many_cameras_in_meters(tmp_path):
    recording = prepared(written(tmp_path / "in"), tmp_path / "out", "auto")
    assert len(recording) == 1 and len(recording.cameras) == COUNT
    report = "\n".join(recording.report)
    assert "the head is still: rays of its landmarks meet within 0.0 %" in report
    truth = orbit()
    order = [int(own.name.split("_")[0]) for own in recording.cameras]
    first = truth[order[0]].world_to_camera.reshape(4, 4).double()
    for number, own in zip(order, recording.cameras, strict=True):
        relative = truth[number].world_to_camera.reshape(4, 4).double() @ torch.linalg.inv(first)
        assert np.allclose(recording.camera_in_first(own, 0), relative, atol=2e-3)  # the eyes are 9 cm apart
        camera = own.camera([0]).replace(world_to_camera=truth[number].world_to_camera.reshape(1, 4, 4))
        assert torch.allclose(camera.project(POINTS[None])[0].reshape(-1, 2), own.landmarks(0), atol=2e-2)
    again = prepared(tmp_path / "in", tmp_path / "out")
    assert again.report == recording.report == load_untracked(tmp_path / "out").report
    given = prepared(tmp_path / "in", tmp_path / "given", scale=UNIT)
    assert any("scaled by 0.25, as given" in line for line in given.report)


@pytest.mark.parametrize(("sway", "smile"), [(0.4, 0.0), (0.0, 0.1)])
def test_a_head_that_moves_or_talks_has_the_lenses_alone(tmp_path, sway, smile):
    folder = written(tmp_path / "in", sway=sway, smile=smile)
    recording = prepared(folder, tmp_path / "out")
    assert len(recording) == COUNT and not recording.others and recording.world_to_camera is None
    assert recording.intrinsics is not None and "the head moves between the images" in recording.report[0]
    matrix = orbit()[0].intrinsics.reshape(3, 3).double().numpy().copy()
    matrix[:2] *= 64 / SIZE[1]
    assert np.allclose(recording.intrinsics[0], matrix, rtol=1e-4)
    with pytest.raises(CaptureError, match="said to be still, and rays of its landmarks miss each other"):
        prepared(folder, tmp_path / "still", motion="still")
    with pytest.raises(CaptureError, match="scale is 1, and the head moves"):
        prepared(folder, tmp_path / "scaled", scale=1.0)


def test_a_convention_is_stated_found_or_contradicted(tmp_path):
    folder = written(tmp_path / "in", axes=np.eye(4))
    found = prepared(folder, tmp_path / "found")
    assert "as camera-to-world, OpenCV axes, which is taken" in found.report[0]
    stated = prepared(folder, tmp_path / "stated", convention="opencv")
    for one, other in zip(found.cameras, stated.cameras, strict=True):
        assert np.allclose(one.world_to_camera, other.world_to_camera)
    with pytest.raises(CaptureError, match=r"convention is 'opengl'.*Pass 'opencv', or leave convention out"):
        prepared(folder, tmp_path / "wrong", convention="opengl")


@pytest.mark.parametrize(
    ("factor", "said"), [(1.8, r"1\.[78] times too wide"), (0.5, r"(1\.9|2\.[01]) times too narrow")]
)
def test_a_wrong_focal_length_is_called_one(tmp_path, factor, said):
    """Cameras that look past the head see it; those that look at its middle see it with a known scale."""
    past = written(tmp_path / "past", aim=0.06, change=scaled(factor))
    with pytest.raises(CaptureError, match=f"the focal length is wrong: the projected landmarks are {said}"):
        prepared(past, tmp_path / "a")
    at = written(tmp_path / "at", change=scaled(factor))
    with pytest.raises(
        CaptureError, match=f"or the focal length is: the projected landmarks are .* times too {said.split()[-1]}"
    ):
        prepared(at, tmp_path / "b", scale=UNIT)


@pytest.mark.parametrize(
    ("lens", "keys"),
    [
        ([0.15, -0.05, 0.004, -0.003, 0.02], {"k1": 0.15, "k2": -0.05, "p1": 0.004, "p2": -0.003, "k3": 0.02}),
        (
            [0.05, -0.02, 0.003, 0.001],
            {"k1": 0.05, "k2": -0.02, "k3": 0.003, "k4": 0.001, "camera_model": "OPENCV_FISHEYE"},
        ),
    ],
)
def test_distortion_is_taken_out(tmp_path, lens, keys):
    folder = written(tmp_path / "in", lens=lens, change=lambda content: content.update(keys))
    recording = prepared(folder, tmp_path / "out")
    assert any("lens distortion is taken out" in line for line in recording.report)
    for own in recording.cameras:
        number = int(own.name.split("_")[0])
        camera = own.camera([0]).replace(world_to_camera=orbit()[number].world_to_camera.reshape(1, 4, 4))
        assert torch.allclose(camera.project(POINTS[None])[0].reshape(-1, 2), own.landmarks(0), atol=0.05)


def test_intrinsics_of_single_images_and_of_smaller_copies(tmp_path):
    def per_frame(content):
        for frame in content["frames"]:
            frame.update({key: content[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1")})
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1"):
            del content[key]
        content["frames"][2]["fl_x"] *= 2

    folder = written(tmp_path / "in", change=per_frame)
    posed = read_posed_frames(folder)
    assert posed.intrinsics[2, 0, 0] == pytest.approx(2 * posed.intrinsics[1, 0, 0])
    (folder / "images_2").mkdir()
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            image.resize((SIZE[1] // 2, SIZE[0] // 2)).save(folder / "images_2" / path.name)
    half = read_posed_frames(folder / "images_2")
    assert half.sizes[0] == (30, 40) and np.allclose(half.intrinsics[:, :2], posed.intrinsics[:, :2] / 2)
    assert any("scaled to the images' 40x30" in line for line in half.report)
    for path in (folder / "images").iterdir():
        path.unlink()
    assert read_posed_frames(folder).images == half.images


def test_a_blender_set_has_an_angle_and_names_without_suffix(tmp_path):
    def angle(content):
        width = content["w"]
        content["camera_angle_x"] = 2 * math.atan(width / 2 / content["fl_x"])
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_model", "k1", "k2", "p1", "p2"):
            del content[key]
        for frame in content["frames"]:
            frame["file_path"] = frame["file_path"].removesuffix(".png")

    folder = written(tmp_path / "in", change=angle)
    plain = read_posed_frames(written(tmp_path / "plain"))
    posed = read_posed_frames(folder)
    assert np.allclose(posed.intrinsics, plain.intrinsics) and posed.distortion is None
    (folder / "transforms.json").rename(folder / "transforms_train.json")
    assert posed_transforms(folder) == [folder / "transforms_train.json"] and len(read_posed_frames(folder)) == COUNT


def _turn_exif(folder):
    path = folder / "images" / "frame_00002.png"
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(path, exif=exif)


@table(
    ("change", "after", "message"),
    [
        (lambda c: c.update(camera_model="EQUIRECTANGULAR"), None, "camera_model is 'EQUIRECTANGULAR'"),
        (lambda c: c.update(k4=0.1), None, "k4 is 0.1, and the camera_model OPENCV has"),
        (lambda c: c.update(w=90), None, "80x60 pixels, and its intrinsics are for 90x60; the image was cropped"),
        (lambda c: c.update(w=60, h=80), None, "the image was turned"),
        (lambda c: c["frames"][1].pop("transform_matrix"), None, "transform_matrix is missing"),
        (lambda c: c["frames"][1].update(file_path="images/none.jpg"), None, "file_path 'images/none.jpg' is no file"),
        (lambda c: c["frames"].append(c["frames"][0]), None, "frame_00001.png has two frames"),
        (lambda c: c["frames"][0].update(mask_path="masks/1.png"), None, "mask_path .*masks/1.png is no file"),
        (lambda c: c.pop("fl_x"), None, "none of fl_x, x_fov and camera_angle_x is given"),
        (lambda c: None, _turn_exif, "frame_00002.png is turned by its EXIF"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(tmp_path, change, after, message):
    folder = written(tmp_path / "in", change=change)
    if after is not None:
        after(folder)
    with pytest.raises(CaptureError, match=message):
        read_posed_frames(folder)


def test_images_without_a_camera_and_masks_are_told(tmp_path):
    def masked(content):
        del content["frames"][5]
        for frame in content["frames"]:
            frame["mask_path"] = "mask.png"

    folder = written(tmp_path / "in", change=masked, alpha=False)
    mask = np.zeros(SIZE, np.uint8)
    mask[5:55, 10:70] = 1
    Image.fromarray(mask).save(folder / "mask.png")
    recording = prepared(folder, tmp_path / "out")
    assert "1 of 6 images in images have no camera and are left out (frame_00006.png)" in recording.report
    assert float(recording.image(0)[..., 3].mean()) == pytest.approx(float(mask.mean()), abs=0.03)


def test_no_landmarks_and_too_few_are_said_before_anything_else(tmp_path):
    folder = written(tmp_path / "in")
    posed = read_posed_frames(folder)
    with pytest.raises(CaptureError, match="no landmarks were given, and there is no detector"):
        prepare_posed(posed, tmp_path / "out")
    bare = read_posed_frames(written(tmp_path / "bare", alpha=False))
    with pytest.raises(CaptureError, match="no mattes were given, the images have no alpha"):
        prepare_posed(bare, tmp_path / "out", DetectionFiles(folder / "landmarks"))
    with pytest.raises(CaptureError, match="2 of 2 images have a face"):
        prepared(folder, tmp_path / "out", limit=2)
    assert not (tmp_path / "out").exists()
