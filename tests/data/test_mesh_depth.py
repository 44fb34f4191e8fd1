"""Depth rendered from the tracked mesh where a capture has no depth maps, and the depth prior that it feeds."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headfields.data import Capture, JoinedCaptures, load_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.data.labels import Label
from headfields.losses import DepthPrior
from headfields.models import insta, vp360
from headfields.training import Trainer, insta_losses, train
from tests.data.moving import put_pose_into_vertices
from tests.data.tiny import SIZE, blob, tiny_frames
from tests.shared_data import shared


def without_maps(tmp_path: Path, keep: tuple[int, ...] = ()) -> Capture:
    """The tiny capture; only the frames of `keep` have a depth map."""
    frames = [frame if row in keep else replace(frame, depth=None) for row, frame in enumerate(tiny_frames())]
    write_insta(tmp_path / "bare", frames, *blob(), test_frames=2)
    return load_capture(tmp_path / "bare")


def shifted(mask: torch.Tensor) -> torch.Tensor:
    """The mask without its border of one pixel."""
    padded = torch.nn.functional.pad(mask[None, None].float(), (1, 1, 1, 1))
    return -torch.nn.functional.max_pool2d(-padded, 3, 1)[0, 0] > 0


def test_it_is_the_meshs_depth(tmp_path: Path) -> None:
    """The maps of the tiny capture are of points spread over the faces: of the nearest one anywhere in a pixel."""
    bare, frames = without_maps(tmp_path), tiny_frames()
    assert any("depth is rendered from the tracked meshes" in line for line in bare.report)
    for row in range(3):
        depth, drawn = bare.depth(row), torch.from_numpy(frames[row].depth.astype(np.float32)) / 1000
        assert depth.shape == SIZE and bool(((depth == 0) | (depth > 0.5)).all())
        inside = shifted((depth > 0) & (drawn > 0))
        assert int(inside.sum()) > 200
        assert float((depth - drawn)[inside].abs().median()) < 3e-3


def test_batches_have_it_and_draw_the_same_pixels(tmp_path: Path, unchecked: None) -> None:
    bare, stored = without_maps(tmp_path), tmp_path / "stored"
    write_insta(stored, tiny_frames(), *blob(), test_frames=2)
    for draw in (
        lambda c, g: c.sample_pixels([4, 0, 4], 300, g),
        lambda c, g: c.sample_patches([4, 0], 3, 8, g),
        lambda c, g: c.sample_pixels([1], 0, g),
    ):
        batch, frames = draw(bare, torch.Generator().manual_seed(1))
        same, _ = draw(load_capture(stored), torch.Generator().manual_seed(1))
        assert torch.equal(batch.rgb, same.rgb) and torch.equal(batch.rays.directions, same.rays.directions)
        points = batch.rays.origins + batch.rays.directions
        camera = bare.camera(frames)
        for row, frame in enumerate(frames.tolist()):
            mine = batch.rays.frame == row
            x, y = camera[row].project(points[mine][None])[0][0].floor().long().unbind(-1)
            depth = bare.depth(frame)
            assert depth is not None
            torch.testing.assert_close(batch.depth[mine], depth[y, x], atol=1e-6, rtol=0)
    again = pickle.loads(pickle.dumps(bare))
    assert torch.equal(again.depth(2), bare.depth(2))


def test_frames_without_a_map_are_rendered_and_the_others_kept(tmp_path: Path) -> None:
    some, frames = without_maps(tmp_path, keep=(0, 2)), tiny_frames()
    for row in (0, 2):
        np.testing.assert_allclose(some.depth(row).numpy(), frames[row].depth * 0.001, rtol=1e-6)
    (tmp_path / "none").mkdir()
    bare = without_maps(tmp_path / "none")
    assert torch.equal(some.depth(3), bare.depth(3))
    joined = JoinedCaptures([some, bare])
    batch, _ = joined.sample_pixels([2, 9], 64, torch.Generator().manual_seed(0))
    assert batch.depth is not None and bool((batch.depth > 0).any())


def test_it_does_not_depend_on_where_head_motion_is_kept(tmp_path: Path) -> None:
    bare = without_maps(tmp_path)
    moving = load_capture(put_pose_into_vertices(bare, tmp_path / "moving"))
    assert moving.head_frame is not None
    difference = (moving.depth(3) - bare.depth(3)).abs()
    assert int((difference > 1e-5).sum()) <= 2 and float(difference.median()) == 0


@pytest.mark.slow
def test_ict_a_has_the_depth_of_its_files() -> None:
    """Equal to the rounding of its unit, but for edges."""
    capture = load_capture(shared("captures/ict_a"))
    bare = load_capture(shared("captures/ict_a"))
    bare.recording.has_depth = False
    bare = Capture(bare.recording, 512)
    for frame in (0, 75, 170):
        stored, rendered, label = capture.depth(frame), bare.depth(frame), capture.label(frame)
        mouth = (label == Label.MOUTH_INTERIOR) | (label == Label.UPPER_LIP) | (label == Label.LOWER_LIP)
        assert int(((stored > 0) != (rendered > 0))[~mouth].sum()) <= 3
        assert bool((rendered[label == Label.NOSE] > 0).float().mean() > 0.99)
        both = (stored > 0) & (rendered > 0)
        off = (stored - rendered)[both]
        assert int(both.sum()) > 20_000 and float((off.abs() > 0.00051).float().mean()) < 1e-3
        assert abs(float(off.median())) < 5e-5, "neither distance along the ray, nor shifted"


def test_the_depth_prior_is_not_zero(tmp_path: Path, unchecked: None) -> None:
    """INSTA on a capture without depth maps: the loss is that with the maps, to their precision."""
    values = {}
    for name in ("bare", "stored"):
        torch.manual_seed(0)
        frames = [replace(frame, depth=None) if name == "bare" else frame for frame in tiny_frames()]
        write_insta(tmp_path / name, frames, *blob(), test_frames=2)
        capture = load_capture(tmp_path / name)
        avatar = insta(capture.template, 5, levels=2, log2_table_size=8, finest_resolution=16, grid_resolution=8)
        logged: list[float] = []

        class Watched(DepthPrior):
            def __call__(self, *given, logged=logged) -> torch.Tensor:
                value = super().__call__(*given)
                logged.append(float(value))
                return value

        losses = [insta_losses(depth=0)[0], Watched(start=0, weight=0.1)]
        Trainer(avatar, capture, losses, rays_per_step=512, bar=False, device="cpu").fit(steps=1)
        values[name] = logged[0]
    assert values["bare"] > 0.01
    assert values["bare"] == pytest.approx(values["stored"], rel=0.05), "the maps are coarse"


def test_without_labels_the_trainer_says_that_it_is_zero(tmp_path: Path) -> None:
    write_insta(tmp_path / "bare", tiny_frames(optional=False), *blob(), test_frames=2)
    capture = load_capture(tmp_path / "bare")
    avatar = vp360(capture.template, fields=0, levels=2, log2_table_size=8, finest_resolution=16, grid_resolution=8)
    with pytest.warns(
        UserWarning, match="Trainer: the depth prior is zero, because capture 'bare' has no segmentation"
    ):
        Trainer(avatar, capture, insta_losses(), bar=False, device="cpu")
    small = {"fields": 0, "levels": 2, "log2_table_size": 8}
    with pytest.raises(ValueError, match=r"depth=2\.0 would change nothing: the capture has no segmentation labels"):
        train("vp360", capture, tmp_path / "run", steps=1, depth=2.0, depth_start=0, arguments=small, bar=False)
