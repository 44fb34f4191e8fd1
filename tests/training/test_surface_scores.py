"""Depth, normals and flicker of a made-up avatar whose errors are known."""

from pathlib import Path
from typing import Any

import pytest
import torch

from headfields.data import load_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.parts import Rendering
from headfields.training.evaluation import evaluate
from headfields.training.region_scores import RegionMasks
from headfields.training.surface_scores import SurfaceScores
from tests.data.tiny import blob, tiny_frames


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Any:
    folder: Path = tmp_path_factory.mktemp("surface") / "blob"
    write_insta(folder, tiny_frames(4, True), *blob(True))
    return load_capture(folder)


def rendering_of(capture: Any, frame: int, color: float = 0.0, depth: float = 0.0, tilt: float = 0.0) -> Rendering:
    """The truth with an error of color, and of depth in meters, with `tilt` also meters a column."""
    pixels = capture.pixels(frame, background=0.5)
    columns = torch.arange(capture.size[1]).expand(capture.size)
    along = (pixels.depth * pixels.depth_scale).reshape(capture.size) + depth + tilt * columns
    opacity = (pixels.depth > 0).float().reshape(capture.size) * 0.8
    return Rendering(
        rgb=pixels.target.reshape(*capture.size, 3) * 0.5 + 0.2 + color, opacity=opacity, depth=along * opacity
    )


def scores_of(capture: Any, errors: dict[int, dict[str, float]]) -> list[dict[str, float | None]]:
    scores, masks = SurfaceScores(capture), RegionMasks(capture)
    found = []
    for frame, given in errors.items():
        truth = capture.pixels(frame, background=0.5).target.reshape(*capture.size, 3) * 0.5 + 0.2
        alpha = capture.image(frame)[..., 3]
        found.append(scores(frame, rendering_of(capture, frame, **given), truth, masks(frame, alpha)))
    return found


def test_an_error_that_stays_has_no_flicker_and_one_that_alternates_has_its_change(capture) -> None:
    steady = scores_of(capture, {frame: {"color": 0.1} for frame in range(4)})
    assert [row["flicker"] for row in steady] == [None, *[pytest.approx(0, abs=0.01)] * 3]
    wild = scores_of(capture, {frame: {"color": 0.1 * (-1) ** frame} for frame in range(4)})
    assert [row["flicker"] for row in wild[1:]] == [pytest.approx(0.2 * 255, abs=0.01)] * 3
    assert [row["flicker"] for row in scores_of(capture, {0: {}, 2: {}})] == [None, None]  # none follows another


def test_depth_and_normals(capture) -> None:
    exact, far, slanted = (scores_of(capture, {0: given})[0] for given in ({}, {"depth": 0.003}, {"tilt": 0.002}))
    assert exact["depth"] == pytest.approx(0, abs=1e-3) and exact["normal"] == pytest.approx(0, abs=0.1)
    assert far["depth"] == pytest.approx(3, abs=1e-2) and far["normal"] < 3
    assert slanted["normal"] > 10


def test_a_surface_that_is_not_there_has_no_depth(capture) -> None:
    masks = RegionMasks(capture)(0, capture.image(0)[..., 3])
    empty = rendering_of(capture, 0).replace(opacity=torch.zeros(capture.size), depth=torch.zeros(capture.size))
    scores = SurfaceScores(capture)(0, empty, empty.rgb, masks)
    assert scores == {"depth": None, "normal": None, "flicker": None}


def test_evaluation_has_them(capture) -> None:
    class Truth:
        def render(self, camera: Any, state: Any, background: float) -> Rendering:
            self.frame = getattr(self, "frame", -1) + 1
            return rendering_of(capture, self.frame, depth=0.001)

    found = evaluate(Truth(), capture, frames=[0, 1], background=0.5, device="cpu", regions=True)
    assert found["depth"] == pytest.approx(1, abs=1e-2) and found["normal"] < 3 and found["flicker"] is not None
