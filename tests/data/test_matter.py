"""How far matter stands off the tracked mesh, on captures whose mesh is smaller than what the images show."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import headfields as hf
from headfields.cli.presets import arguments_for
from tests.data.tiny import blob, tiny_frames

CENTER = torch.tensor([0.0, 0.02, 0.01])


def capture(folder: Path, scale: float, labels: bool = True, **options: str) -> hf.data.Capture:
    """The blob of 16 x 22 x 18 cm in the images, and a mesh of `scale` times its size."""
    vertices, faces = blob(True)
    frames = [
        replace(
            frame,
            vertices=(frame.vertices - CENTER) * scale + CENTER,
            depth=None,
            label=frame.label if labels else None,
        )
        for frame in tiny_frames(5, True)
    ]
    hf.data.write_insta(folder, frames, (vertices - CENTER) * scale + CENTER, faces)
    return hf.data.load_capture(folder, **options)


@pytest.mark.parametrize(("scale", "stands_off"), [(1.0, 0.0), (0.75, 0.0275), (0.5, 0.055)])
def test_the_distance_of_the_matte_is_measured(tmp_path: Path, scale: float, stands_off: float) -> None:
    extent = hf.data.matter_extent(capture(tmp_path / "a", scale), outside=0.0)
    pixel = 0.01  # of the coarse images, at the head
    assert stands_off - pixel < extent < 1.2 * (stands_off + pixel)
    assert hf.data.matter_extent(capture(tmp_path / "b", scale), most=0.02) <= 0.02


def test_bodies_do_not_count(tmp_path: Path) -> None:
    """A matte that goes on below the mesh, to the image's border."""
    vertices, faces = blob(True)
    frames = []
    for frame in tiny_frames(3, True):
        image = frame.image.copy()
        image[-8:, :, 3] = 255
        frames.append(replace(frame, image=image, label=None, depth=None))
    hf.data.write_insta(tmp_path / "torso", frames, vertices, faces)
    assert hf.data.matter_extent(hf.data.load_capture(tmp_path / "torso")) < 0.03


def test_the_command_looks_as_far_as_the_mattes_show_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far, near = capture(tmp_path / "far", 0.5), capture(tmp_path / "near", 1.0)
    arguments = arguments_for("insta", [], far, torch.device("cpu"))
    assert 0.06 < arguments["shell"] < 0.09 and "off the mesh" in capsys.readouterr().err
    assert arguments_for("insta", ["shell=0.02"], far, torch.device("cpu"))["shell"] == 0.02
    assert "shell" not in arguments_for("insta", [], near, torch.device("cpu"))
    assert capsys.readouterr().err == ""
