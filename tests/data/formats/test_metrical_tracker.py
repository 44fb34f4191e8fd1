"""metrical-tracker's checkpoints, written in its layout."""

import os
import pickle
import warnings

import numpy as np
import pytest
import torch

from headfields.data import CaptureError
from headfields.data.formats.metrical_tracker import read_metrical_frame, read_metrical_frames
from headfields.files.unpickler import UnsafePickleError
from headfields.ops import rotation_matrices
from headfields.synthetic.head.model import procedural_head
from tests.tables import table


def six(matrices):
    """6D rotations as PyTorch3D writes them: the first two rows."""
    return matrices[..., :2, :].reshape(*matrices.shape[:-2], 6)


def frame(index=0, size=(480, 640), **changes):
    """The content of one `.frame`, with a batch axis of 1 as the tracker has it."""
    generator = torch.Generator().manual_seed(index)
    jaw = torch.randn(1, 3, generator=generator) * 0.1
    eyes = torch.randn(2, 3, generator=generator) * 0.1
    turn = rotation_matrices(torch.randn(1, 3, generator=generator) * 0.2)
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    height, width = size
    content = {
        "flame": {
            "exp": torch.randn(1, 100, generator=generator).numpy(),
            "shape": torch.randn(1, 300, generator=torch.Generator().manual_seed(99)).numpy(),
            "tex": np.zeros((1, 140), np.float32),
            "sh": np.zeros((1, 9, 3), np.float32),
            "eyes": six(rotation_matrices(eyes)).reshape(1, 12).numpy(),
            "eyelids": np.array([[0.25, 0.5]], np.float32) * (index + 1),
            "jaw": six(rotation_matrices(jaw)).numpy(),
        },
        "camera": {
            "R": six(turn).numpy(),
            "t": np.zeros((1, 3), np.float32),
            "fl": np.array([[9.0]]),
            "pp": np.zeros((1, 2)),
        },
        "opencv": {
            "R": (flip @ turn).numpy(),
            "t": np.array([[0.01, -0.02, 1.1]], np.float32),
            "K": np.array([[[1500.0, 0, width / 2 + 5], [0, 1500.0, height / 2 - 3], [0, 0, 1]]], np.float32),
        },
        "img_size": np.array([height, width]),
        "frame_id": f"{index:05d}",
        "global_step": 120 + index,
    }
    for field, value in changes.items():
        group, _, key = field.rpartition("__")
        table = content[group] if group else content
        if value is None:
            del table[key]
        else:
            table[key] = value
    return content, torch.cat([torch.zeros(2, 3), jaw, eyes])


def save(folder, index=0, zipped=True, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    content, pose = frame(index, **changes)
    path = folder / f"{index:05d}.frame"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path, pose


@pytest.fixture(scope="module")
def flame_head():
    return procedural_head()


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_the_tracker_writes(tmp_path, zipped):
    path, pose = save(tmp_path, 3, zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path)  # weights_only: the arrays are numpy's
    loaded, truth = read_metrical_frame(path), torch.load(path, weights_only=False)
    assert loaded.frame_id == "00003" and loaded.global_step == 123 and loaded.path == path
    torch.testing.assert_close(loaded.pose, pose, atol=1e-6, rtol=0)
    for name, key in (
        ("expression", "exp"),
        ("shape", "shape"),
        ("texture", "tex"),
        ("lighting", "sh"),
        ("eyelids", "eyelids"),
    ):
        torch.testing.assert_close(getattr(loaded, name), torch.from_numpy(truth["flame"][key][0]))
    assert loaded.camera.size == (480, 640) and loaded.camera.world_to_camera.shape == (1, 4, 4)
    point = torch.tensor([[[0.03, -0.05, 0.02]]])
    local = truth["opencv"]["R"][0] @ point[0, 0].numpy() + truth["opencv"]["t"][0]
    pixel = truth["opencv"]["K"][0] @ local
    image, depth = loaded.camera.project(point)
    np.testing.assert_allclose(image[0, 0], pixel[:2] / pixel[2], rtol=1e-5)
    assert depth.item() == pytest.approx(local[2], rel=1e-6)


def test_tensors_do_as_well_as_arrays(tmp_path):
    path, _ = save(tmp_path, flame__exp=torch.ones(1, 100), img_size=torch.tensor([480, 640]))
    loaded = read_metrical_frame(path)
    assert torch.equal(loaded.expression, torch.ones(100)) and loaded.camera.size == (480, 640)


def test_what_may_be_missing(tmp_path):
    path, _ = save(tmp_path, flame__eyelids=None, flame__tex=None, flame__sh=None, frame_id=None, global_step=None)
    loaded = read_metrical_frame(path)
    assert torch.equal(loaded.eyelids, torch.zeros(2)) and loaded.texture is None and loaded.lighting is None
    assert loaded.frame_id == "00000" and loaded.global_step is None


def test_the_order_of_the_image_size(tmp_path, unchecked):
    path, _ = save(tmp_path)
    assert read_metrical_frame(path, "hw").camera.size == (480, 640)
    with pytest.raises(CaptureError, match=r"00000\.frame: img_size \[480, 640\], read as 'wh'.*pass size_order='hw'"):
        read_metrical_frame(path, "wh")
    other, _ = save(tmp_path / "wh", img_size=np.array([640, 480]))
    assert read_metrical_frame(other, "wh").camera.size == (480, 640)
    with pytest.raises(CaptureError, match="pass size_order='wh'"):
        read_metrical_frame(other)
    square, _ = save(tmp_path / "square", size=(512, 512))
    assert read_metrical_frame(square).camera.size == read_metrical_frame(square, "wh").camera.size == (512, 512)
    with pytest.raises(CaptureError, match="size_order is 'xy'"):
        read_metrical_frame(path, "xy")


@table(
    ("changes", "reason"),
    [
        ({"flame": None}, r"00000\.frame: flame\.jaw is missing"),
        ({"flame": 3}, "flame is a int; expected a dict"),
        ({"opencv": None}, r"opencv\.R is missing"),
        ({"flame__exp": None}, r"flame\.exp is missing.*this one has shape"),
        ({"flame__jaw": np.zeros((1, 3))}, r"flame\.jaw has shape \(1, 3\)"),
        ({"flame__jaw": np.zeros((1, 6))}, r"flame\.jaw has a 6D rotation"),
        ({"flame__eyes": np.full((1, 12), np.nan)}, r"flame\.eyes has numbers that are not finite"),
        ({"flame__shape": np.array([["a"]])}, r"flame\.shape has shape \(1, 1\) and dtype"),
        ({"flame__exp": np.zeros((2, 100))}, r"flame\.exp has shape \(2, 100\)"),
        ({"opencv__R": np.eye(3)[None] * 2}, r"opencv\.R is no rotation"),
        ({"opencv__R": -np.eye(3)[None]}, r"opencv\.R is no rotation"),
        ({"opencv__K": np.diag([-1.0, 1, 1])[None]}, r"opencv\.K is"),
        ({"opencv__t": np.zeros((1, 4))}, r"opencv\.t has shape \(1, 4\)"),
        ({"img_size": np.array([0, 640])}, "img_size is"),
        ({"img_size": None}, "img_size is missing"),
    ],
)
def test_bad_fields_are_named(tmp_path, changes, reason):
    path, _ = save(tmp_path, **changes)
    with pytest.raises(CaptureError, match=reason):
        read_metrical_frame(path)


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"echo > {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_name(tmp_path, zipped):
    mark = tmp_path / "ran"
    path, _ = save(tmp_path, 0, zipped, frame_id=Runs(mark))
    with pytest.raises(UnsafePickleError, match=r"00000\.frame: the file names .*os\.system"):
        read_metrical_frame(path)
    assert not mark.exists()


def test_a_folder_becomes_a_batch(tmp_path, flame_head):
    poses = [save(tmp_path / "checkpoint", index)[1] for index in (0, 2, 10)]
    lids = torch.randn(2, *flame_head.template_vertices.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    for name, shape in zip("lr", lids, strict=True):
        np.save(tmp_path / f"{name}_eyelid.npy", shape.numpy())
    loaded = read_metrical_frames(tmp_path, flame_head, eyelids=(tmp_path / "l_eyelid.npy", tmp_path / "r_eyelid.npy"))
    assert [f.frame_id for f in loaded.frames] == ["00000", "00002", "00010"]
    assert len(loaded.state) == 3 and len(loaded.camera) == 3 and loaded.camera.size == (480, 640)
    for row, (pose, tracked) in enumerate(zip(poses, loaded.frames, strict=True)):
        alone = flame_head(tracked.shape[None], tracked.expression[None], pose[None]).vertices[0]
        moved = alone + tracked.eyelids[0] * lids[0] + tracked.eyelids[1] * lids[1]
        torch.testing.assert_close(loaded.state.vertices[row], moved, atol=2e-6, rtol=0)
    _, depth = loaded.camera.project(loaded.state.vertices)
    assert (depth > 0.5).all()
    assert torch.equal(loaded.state.codes["eyelids"], torch.stack([f.eyelids for f in loaded.frames]))
    with pytest.warns(UserWarning, match=r"moves the eyelids \(by up to 5\.50\)"):
        last = read_metrical_frames(tmp_path / "checkpoint", flame_head, frames=slice(-1, None))
    assert [f.frame_id for f in last.frames] == ["00010"]


def test_still_lids_need_no_shapes(tmp_path, flame_head):
    save(tmp_path, flame__eyelids=np.zeros((1, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_metrical_frames(tmp_path, flame_head)


def test_folders_that_do_not_fit(tmp_path, flame_head):
    with pytest.raises(FileNotFoundError, match=r"has no \.frame files"):
        read_metrical_frames(tmp_path, flame_head)
    save(tmp_path, 0)
    save(tmp_path, 1, size=(512, 512))
    with pytest.raises(CaptureError, match=r"00001\.frame: img_size gives \(512, 512\)"):
        read_metrical_frames(tmp_path, flame_head)
    with pytest.raises(CaptureError, match="takes none of the 2 files"):
        read_metrical_frames(tmp_path, flame_head, frames=slice(5, 9))
    save(tmp_path, 1, flame__exp=np.zeros((1, 50)))
    with pytest.raises(CaptureError, match=r"00001\.frame: expression has 50 coefficients, but 00000\.frame has 100"):
        read_metrical_frames(tmp_path, flame_head)
    many = tmp_path / "many"
    save(many, 0, flame__exp=np.zeros((1, 200)))
    with pytest.raises(CaptureError, match="expression has 200 coefficients, but the head has 100"):
        read_metrical_frames(many, flame_head)
    np.save(tmp_path / "lid.npy", np.zeros((5023, 3)))
    with pytest.raises(CaptureError, match=r"lid\.npy has shape \(5023, 3\)"):
        read_metrical_frames(
            tmp_path, flame_head, frames=slice(1), eyelids=(tmp_path / "lid.npy", tmp_path / "lid.npy")
        )
