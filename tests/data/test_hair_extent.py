"""How far matter stands off the tracked mesh, on captures whose mesh is smaller than what the images show."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import headfields as hf
from headfields.data.formats.insta_writer import CapturedFrame
from headfields.training import recipe_of
from headfields.training.presets import preset_arguments
from tests.data.tiny import blob, camera, tiny_frames

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
    hf.data.formats.insta_writer.write_insta(folder, frames, (vertices - CENTER) * scale + CENTER, faces)
    return hf.data.load_capture(folder, **options)


@pytest.mark.parametrize(
    ("scale", "stands_off"),
    [
        pytest.param(1.0, 0.0, marks=pytest.mark.slow),
        (0.75, 0.0275),
        pytest.param(0.5, 0.055, marks=pytest.mark.slow),
    ],
)
def test_the_distance_of_the_matte_is_measured(tmp_path: Path, scale: float, stands_off: float) -> None:
    extent = hf.data.hair_extent.matter_extent(capture(tmp_path / "a", scale), outside=0.0)
    pixel = 0.01  # of the coarse images, at the head
    assert stands_off - pixel < extent < 1.2 * (stands_off + pixel)
    assert hf.data.hair_extent.matter_extent(capture(tmp_path / "b", scale), most=0.02) <= 0.02


Balls = list[tuple[tuple[float, float, float], float]]
SKULL = (CENTER.tolist(), 0.09)


def photographed(folder: Path, balls: list[Balls], turn: float = 1.2, opaque: bool = False) -> hf.data.Capture:
    """One frame for each list of balls, which its matte shows over the skull; the tracked mesh is the blob."""
    vertices, faces = blob(False)
    frames = []
    for index, shown in enumerate(balls):
        view = camera(turn * math.sin(2 * index + 0.4), 0.2 * math.cos(1.7 * index))
        view = view.replace(intrinsics=torch.tensor([[110.0, 0, 48], [0, 110, 48], [0, 0, 1]]), size=(96, 96))
        rays = view.rays()
        alpha = torch.full((len(rays),), opaque)
        for center, radius in shown:
            toward = torch.tensor(center) - rays.origins
            along = (toward * rays.directions).sum(dim=-1, keepdim=True)
            alpha |= (along * rays.directions - toward).norm(dim=-1) < radius
        image = torch.full((96 * 96, 4), 128, dtype=torch.uint8)
        image[:, 3] = alpha * 255
        frames.append(CapturedFrame(image.view(96, 96, 4).numpy(), vertices, view))
    hf.data.formats.insta_writer.write_insta(folder, frames, vertices, faces, 0)
    return hf.data.load_capture(folder)


BUN = ((0.0, 0.02, -0.13), 0.06)  # behind the head, to 9 cm off the mesh
HAND = ((0.15, 0.05, 0.02), 0.05)


@pytest.mark.parametrize(
    ("balls", "least", "most"),
    [
        ([[SKULL]] * 6, 0.0, 0.02),
        ([[SKULL, BUN]] * 6, 0.045, 0.1),
        ([[SKULL, ((0.0, 0.17, 0.0), 0.06)]] * 6, 0.07, 0.11),  # a hat: the mesh ends at y = 0.13
        ([[SKULL, HAND], *[[SKULL]] * 7], 0.0, 0.03),
        ([[SKULL, ((-0.3, 0.2, 0.0), 0.04)]] * 6, 0.0, 0.02),  # apart from the head in every image
        ([[SKULL]], 0.0, 0.02),
        ([[SKULL, HAND]], 0.06, 0.13),  # one frame alone cannot tell a hand from a bun
        ([[]] * 3, 0.0, 0.0),
    ],
    ids=["head", "bun", "hat", "hand", "blob", "one-frame", "hand-in-one", "empty"],
)
def test_matter_that_the_frames_agree_on_counts(tmp_path: Path, balls: list[Balls], least: float, most: float) -> None:
    assert least <= hf.data.hair_extent.matter_extent(photographed(tmp_path / "a", balls)) <= most


def test_a_matte_without_background_is_none(tmp_path: Path) -> None:
    assert hf.data.hair_extent.matter_extent(photographed(tmp_path / "a", [[SKULL]] * 4, opaque=True)) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"most": 0}, "matter_extent: most is 0; expected more than 0 meters"),
        ({"most": math.nan}, "matter_extent: most is nan"),
        ({"outside": 1.5}, "matter_extent: outside is 1.5; expected a share"),
        ({"frames": 0}, "matter_extent: frames is 0; expected 1 or more"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hf.data.hair_extent.matter_extent(capture(tmp_path / "a", 1.0), **options)


def test_the_head_may_turn_in_the_vertices(tmp_path: Path) -> None:
    """A capture whose camera stands still: points are compared in the head's frame."""
    moving = photographed(tmp_path / "a", [[SKULL, BUN]] * 6)
    vertices, faces = blob(False)
    still = camera(0.0, 0.0).replace(intrinsics=moving.camera(0).intrinsics[0], size=(96, 96))
    frames = []
    for frame in range(len(moving)):
        motion = torch.linalg.inv(still.world_to_camera) @ moving.camera(frame).world_to_camera[0]
        posed = vertices @ motion[:3, :3].mT + motion[:3, 3]
        image = (moving.image(frame) * 255).round().to(torch.uint8).numpy()
        frames.append(CapturedFrame(image, posed, still))
    hf.data.formats.insta_writer.write_insta(tmp_path / "b", frames, vertices, faces, 0)
    turned = hf.data.load_capture(tmp_path / "b", head_frame="keep")
    assert hf.data.hair_extent.matter_extent(turned) == pytest.approx(
        hf.data.hair_extent.matter_extent(moving), abs=2e-3
    )


def test_bodies_do_not_count(tmp_path: Path) -> None:
    """A matte that goes on below the mesh, to the image's border."""
    vertices, faces = blob(True)
    frames = []
    for frame in tiny_frames(3, True):
        image = frame.image.copy()
        image[-8:, :, 3] = 255
        frames.append(replace(frame, image=image, label=None, depth=None))
    hf.data.formats.insta_writer.write_insta(tmp_path / "torso", frames, vertices, faces)
    assert hf.data.hair_extent.matter_extent(hf.data.load_capture(tmp_path / "torso")) < 0.03


def test_the_command_looks_as_far_as_the_mattes_show_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far, near = capture(tmp_path / "far", 0.5), capture(tmp_path / "near", 1.0)
    recipe = recipe_of("insta", "cpu")
    arguments = preset_arguments("insta", {}, far, recipe)
    assert 0.06 < arguments["shell"] < 0.09 and "off the mesh" in capsys.readouterr().err
    assert preset_arguments("insta", {"shell": 0.02}, far, recipe)["shell"] == 0.02
    assert "shell" not in preset_arguments("insta", {}, near, recipe)
    assert capsys.readouterr().err == ""
