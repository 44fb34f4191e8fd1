"""load → write → load gives every field back bit for bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headfields.data import load_capture, save_capture
from headfields.data.formats.insta_writer import InstaWriter, write_insta
from headfields.mesh.mesh import Mesh
from tests.data.compare import differences, snapshot
from tests.data.formats.test_insta import FLIP, edit, map_matrices
from tests.data.tiny import blob, tiny_frames
from tests.shared_data import shared


def test_everything_comes_back(tiny: Path, tmp_path: Path) -> None:
    def change(content) -> None:
        content["integer_depth_scale"] = 0.00101
        content["fl_y"] = 121.00000000000003

    edit(tiny, change)
    pixels = np.array(Image.open(tiny / "images/00002.png"))
    pixels[:4] = [200, 100, 50, 0]  # a color that no one sees
    pixels[4:8, :, 3] = 97
    Image.fromarray(pixels).save(tiny / "images/00002.png")
    for name in ("depth/00003.png", "seg_mask/00004.png", "landmarks/00001.txt"):
        (tiny / name).unlink()
    text = (tiny / "canonical.obj").read_text().splitlines()
    text = [line.replace("f ", "f 1/2 ", 1).split() if line.startswith("f ") else [line] for line in text]
    text = ["f " + " ".join(f"{i}/{k}" for k, i in enumerate(row[2:], 1)) if len(row) > 1 else row[0] for row in text]
    (tiny / "canonical.obj").write_text("vt 0.1 0.2\nvt 0.3333333 0.5\nvt 1 0\n" + "\n".join(text))
    first = load_capture(tiny)
    assert first.recording.canonical.uv is not None and first.recording.decode_image(3)[2] is None
    assert save_capture(first, tmp_path / "again") == 6
    second = load_capture(tmp_path / "again")
    assert differences(snapshot(first), snapshot(second)) == []
    assert first.frame_names == second.frame_names
    assert torch.equal(first.camera(range(6)).world_to_camera, second.camera(range(6)).world_to_camera)
    save_capture(second, tmp_path / "once more")
    for path in sorted((tmp_path / "again").rglob("*.*")):  # and what is written is always the same
        assert path.read_bytes() == (tmp_path / "once more" / path.relative_to(tmp_path / "again")).read_bytes(), path


@pytest.mark.parametrize(
    "convert", [lambda m: m @ FLIP, np.linalg.inv, lambda m: FLIP @ np.linalg.inv(m)], ids=["GL", "w2c", "w2c GL"]
)
def test_from_other_camera_conventions(tiny: Path, tmp_path: Path, convert) -> None:
    map_matrices(tiny, convert)
    first = load_capture(tiny)
    save_capture(first, tmp_path / "again")
    assert differences(snapshot(first), snapshot(load_capture(tmp_path / "again"))) == []


def test_other_splits_lenses_and_no_options(tmp_path: Path) -> None:
    """Any frames in any split, a lens a frame, nothing optional."""
    frames = tiny_frames(optional=False)
    vertices, faces = blob()
    lenses = [frame.camera.intrinsics * torch.tensor([1 + 0.01 * i, 1, 1]) for i, frame in enumerate(frames)]
    frames = [
        replace(f, camera=replace(f.camera, intrinsics=k.double() / 3 * 3)) for f, k in zip(frames, lenses, strict=True)
    ]
    writer = InstaWriter(tmp_path / "odd", Mesh(vertices, faces), 0.001)
    for index, frame in enumerate(frames):
        writer.add(f"shot{index + 7}", frame, np.linalg.inv(frame.camera.world_to_camera.double().numpy()))
    writer.finish({"train": [1, 5, 2], "test": [0], "val": []})
    first = load_capture(tmp_path / "odd")
    assert [rows.tolist() for rows in first.splits.values()] == [[1, 2, 5], [0], [], [0, 1, 2, 3, 4, 5]]
    save_capture(first, tmp_path / "again")
    second = load_capture(tmp_path / "again")
    assert differences(snapshot(first), snapshot(second)) == [] and second.frame_names == first.frame_names
    assert second.frame_names[3] == "images/shot10.png"  # after shot9


def test_some_frames(written: Path, tmp_path: Path) -> None:
    capture = load_capture(written)
    assert save_capture(capture, tmp_path / "three", frames=[5, 1, 2, 5]) == 3
    fewer = load_capture(tmp_path / "three")
    assert differences(snapshot(capture, [1, 2, 5]), snapshot(fewer, range(3))) == []
    assert fewer.splits["train"].tolist() == [0, 1] and fewer.splits["test"].tolist() == [2]


def test_names_that_do_not_sort_are_numbered(tiny: Path, tmp_path: Path) -> None:
    """Frames go by their mesh; images called the other way round cannot keep their names."""
    for index in range(6):
        (tiny / f"images/0000{index}.png").rename(tiny / f"images/x{5 - index}.png")
    edit(tiny, lambda c: [f.update(file_path=f"images/x{5 - int(f['file_path'][11])}.png") for f in c["frames"]])
    first = load_capture(tiny)
    assert first.frame_names[0] == "images/x5.png"
    save_capture(first, tmp_path / "again")
    second = load_capture(tmp_path / "again")
    assert differences(snapshot(first), snapshot(second)) == [] and second.frame_names[0] == "images/00000.png"


def test_procedural(head_folder: Path, tmp_path: Path) -> None:
    first = load_capture(head_folder)
    save_capture(first, tmp_path / "again")
    assert differences(snapshot(first), snapshot(load_capture(tmp_path / "again"))) == []


@pytest.mark.slow
def test_ict_a(tmp_path: Path) -> None:
    first = load_capture(shared("captures/ict_a"))
    frames = list(range(0, 180, 12))
    save_capture(first, tmp_path / "again", frames)
    again = load_capture(tmp_path / "again")
    assert differences(snapshot(first, frames), snapshot(again, range(15))) == []


@pytest.mark.slow
def test_ict_a_whole(tmp_path: Path) -> None:
    first = load_capture(shared("captures/ict_a"))
    save_capture(first, tmp_path / "again")
    second = load_capture(tmp_path / "again")
    assert differences(snapshot(first), snapshot(second)) == [] and first.frame_names == second.frame_names


def test_refuses(written: Path, tmp_path: Path) -> None:
    capture = load_capture(written)
    with pytest.raises(FileExistsError, match=r"save_capture: folder .*tiny is not empty; name a new one"):
        save_capture(capture, written)
    with pytest.raises(FileExistsError, match="is a file"):
        save_capture(capture, written / "canonical.obj")
    with pytest.raises(IndexError, match="frame 6 is out of range"):
        save_capture(capture, tmp_path / "a", [6])
    with pytest.raises(ValueError, match="frames is empty"):
        save_capture(capture, tmp_path / "b", [])
    assert not (tmp_path / "b").exists()


def test_writer_refuses_what_the_layout_cannot_say(tmp_path: Path, unchecked: None) -> None:
    frame, mesh = tiny_frames(1)[0], blob()
    skewed = frame.camera.intrinsics.clone()
    skewed[0, 1] = 1
    bad = [
        (replace(frame, camera=replace(frame.camera, intrinsics=skewed)), "frame 0's camera.intrinsics are .* no skew"),
        (replace(frame, image=frame.image[..., :3]), r"frame 0's image has shape \(48, 40, 3\)"),
        (replace(frame, depth=frame.depth.astype(np.float32)), "frame 0's depth has .* float32; expected .* uint16"),
        (replace(frame, expression=frame.expression * float("nan")), "frame 0's expression hold a value that is not"),
        (replace(frame, vertices=frame.vertices * float("inf")), "frame 0's vertices hold a value that is not"),
        (replace(frame, landmarks=frame.landmarks[:5]), r"landmarks have shape \(5, 2\)"),
    ]
    for index, (wrong, message) in enumerate(bad):
        with pytest.raises(ValueError, match=message):
            write_insta(tmp_path / str(index), [wrong], *mesh)
    with pytest.raises(ValueError, match="frame 1 has 4 coefficients; the frames before 5"):
        write_insta(tmp_path / "width", [frame, replace(frame, expression=frame.expression[:4])], *mesh)
