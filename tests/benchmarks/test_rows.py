"""Rows of ablations: reuse of finished runs, differences over seeds, and PSNR by region."""

import math
from pathlib import Path

import pytest
import torch

import headfields as hf
from benchmarks.regions import FaceRegions, RegionErrors, psnr_by_region
from benchmarks.rows import difference, markdown, reused, summary
from tests.data.tiny import blob, tiny_frames


def test_a_finished_run_is_reused_and_a_failed_one_is_not(tmp_path: Path) -> None:
    def fails() -> dict[str, float]:
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        reused(tmp_path / "run", fails)
    assert reused(tmp_path / "run", lambda: {"dB": 30.0}) == {"dB": 30.0}
    assert reused(tmp_path / "run", fails) == {"dB": 30.0}


@pytest.mark.parametrize(
    ("own", "base", "mean", "determined"),
    [
        ([30.0, 30.2, 30.1], [29.0, 29.1, 29.2], 1.0, True),
        ([30.0, 30.2, 30.1], [29.9, 30.3, 30.0], 0.033, False),
        ([30.0], [29.0], 1.0, False),  # one seed tells nothing
        ([30.0, 30.0], [29.0], 1.0, False),
        ([], [], math.nan, False),
    ],
)
def test_differences_are_over_pairs_of_seeds(
    own: list[float], base: list[float], mean: float, determined: bool
) -> None:
    result = difference([{"dB": value} for value in own], [{"dB": value} for value in base], "dB")
    assert result[0] == pytest.approx(mean, abs=1e-3, nan_ok=True) and result[2] == determined


def test_the_table_marks_determined_differences() -> None:
    rows = {"base": [{"dB": 29.0}, {"dB": 29.1}], "better": [{"dB": 30.0}, {"dB": 30.1}], "one": [{"mm": 2.0}]}
    text = markdown(summary(rows, ("dB", "mm"), {"better": "base", "one": "base"}), ("dB", "mm"))
    assert text.splitlines()[2:] == [
        "| base | 29.05 ± 0.07 | – |",
        "| better | 30.05 ± 0.07 (**+1.00**) | – |",
        "| one | – | 2.00 (+nan) |",
    ]


def test_errors_of_a_region_are_those_of_its_pixels(tmp_path: Path) -> None:
    vertices, faces = blob(True)
    hf.data.formats.insta_writer.write_insta(tmp_path / "a", tiny_frames(3, True), vertices, faces)
    capture = hf.data.load_capture(tmp_path / "a")
    pixels = capture.pixels(0)
    masks = FaceRegions(capture).masks(0, pixels)
    assert bool(masks["lips and mouth"].any()) and not bool((masks["lids"] & masks["eyes"]).any())
    assert bool((masks["eyes and lids"] & masks["eyes"]).any())

    def brighter_mouth(frame: int, pixels: hf.records.PixelBatch) -> torch.Tensor:
        mouth = FaceRegions(capture).masks(frame, pixels)["lips and mouth"]
        return pixels.target - 0.1 * torch.where(pixels.target > 0.5, 1.0, -1.0) * mouth[:, None]

    psnr = psnr_by_region(capture, [0, 1], brighter_mouth)
    assert psnr["lips and mouth"] == pytest.approx(20.0, abs=1e-3)
    assert psnr["hair"] > 100 and 20 < psnr["head"] < psnr["hair"]
    assert RegionErrors().psnr() == {}
