"""Pixel batches agree with images and cameras, whatever the memory budget; the frame cache evicts and recovers."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from headfields.data import CaptureError, load_capture
from headfields.data.frame_cache import FrameCache
from tests.data.tiny import SIZE
from tests.shared_data import shared


def test_whole_frame(written: Path) -> None:
    capture = load_capture(written)
    batch, camera, image = capture.pixels(2, background=0.25), capture.camera([2]), capture.image(2)
    rays = camera.rays()
    torch.testing.assert_close(batch.rays.directions, rays.directions)
    torch.testing.assert_close(batch.rays.origins, rays.origins)
    assert torch.equal(batch.rgb.reshape(*SIZE, 3), image[..., :3]) and torch.equal(
        batch.alpha.reshape(SIZE), image[..., 3]
    )
    assert torch.equal(batch.label.reshape(SIZE), capture.label(2).long())
    assert torch.equal(batch.depth.reshape(SIZE), capture.depth(2))
    torch.testing.assert_close(batch.target[0], torch.full((3,), 0.25))


def test_depth_scale_gives_the_distance_along_the_ray(written: Path) -> None:
    capture = load_capture(written)
    batch, camera = capture.pixels(1), capture.camera([1])
    points = batch.rays.origins + batch.rays.directions * (batch.depth_scale * 0.8)[:, None]
    pixels, depth = camera.project(points[None])
    torch.testing.assert_close(depth[0], torch.full_like(depth[0], 0.8))
    row, column = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    torch.testing.assert_close(pixels[0], torch.stack([column, row], dim=-1).reshape(-1, 2) + 0.5, rtol=0, atol=1e-3)


def test_sampled_pixels_are_the_frames_own(written: Path) -> None:
    capture = load_capture(written)
    frames = [4, 1, 1, 3]
    batch, used = capture.sample_pixels(frames, 500, torch.Generator().manual_seed(0), background="black")
    assert used.tolist() == frames and len(batch) == 500 and set(batch.rays.frame.tolist()) == {0, 1, 2, 3}
    camera = capture.camera(frames)
    point = batch.rays.origins + batch.rays.directions
    for row, frame in enumerate(frames):
        mine = batch.rays.frame == row
        pixels, _ = camera[row].project(point[mine][None])
        column, line = pixels[0].floor().long().unbind(-1)
        assert torch.equal(batch.rgb[mine], capture.image(frame)[line, column, :3])
        assert torch.equal(batch.alpha[mine], capture.image(frame)[line, column, 3])
        assert torch.equal(batch.label[mine], capture.label(frame)[line, column].long())
        assert torch.equal(batch.depth[mine], capture.depth(frame)[line, column])
    assert batch.background.max() == 0


def test_sampling_is_uniform_and_repeatable(written: Path) -> None:
    capture = load_capture(written)
    first, _ = capture.sample_pixels(range(6), 60_000, torch.Generator().manual_seed(3))
    again, _ = capture.sample_pixels(range(6), 60_000, torch.Generator().manual_seed(3))
    assert torch.equal(first.rays.directions, again.rays.directions) and torch.equal(first.background, again.background)
    assert (first.rays.frame.bincount(minlength=6) - 10_000).abs().max() < 500
    expected = torch.stack([capture.image(i)[..., 3].mean() for i in range(6)]).mean()
    torch.testing.assert_close(first.alpha.mean(), expected, rtol=0, atol=0.01)
    torch.testing.assert_close(first.background.mean(dim=0), torch.full((3,), 0.5), rtol=0, atol=0.01)
    white, _ = capture.sample_pixels([0], 5, torch.Generator(), background="white")
    assert white.background.min() == 1


def test_no_pixels_and_no_frames(written: Path) -> None:
    capture = load_capture(written)
    for frames in ([], [1]):
        batch, used = capture.sample_pixels(frames, 0, torch.Generator())
        assert len(batch) == 0 and batch.target.shape == (0, 3) and len(used) == len(frames)
    assert capture.state([]).vertices.shape == (0, 362, 3) and len(capture.camera([])) == 0
    with pytest.raises(ValueError, match="cannot draw 3 pixels from 0 frames"):
        capture.sample_pixels([], 3, torch.Generator())


def test_a_small_budget_changes_nothing_but_speed(written: Path) -> None:
    roomy, tight = load_capture(written), load_capture(written)
    for name, budget in (("_images", 2 * 13440), ("_heads", 5000)):
        cache = getattr(tight, name)
        layout = {key: (tuple(stack.shape[1:]), stack.dtype) for key, stack in cache._stacks.items()}
        setattr(tight, name, FrameCache(6, layout, cache._decode, budget, name))
    assert tight._images.slots == 2 and tight._heads.slots == 1
    frames = [5, 0, 3, 3, 1, 5, 2]
    for _ in range(2):
        one, _ = roomy.sample_pixels(frames, 300, torch.Generator().manual_seed(1))
        other, _ = tight.sample_pixels(frames, 300, torch.Generator().manual_seed(1))
        for name in ("rgb", "alpha", "label", "depth"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert torch.equal(roomy.state(frames).vertices, tight.state(frames).vertices)
        assert torch.equal(roomy.state(frames).expression, tight.state(frames).expression)
    assert len(tight._images._slot) == 2


def test_least_recently_used_frame_goes_first() -> None:
    decoded: list[int] = []

    def decode(frame: int):
        decoded.append(frame)
        return {"a": torch.full((1,), float(frame)).numpy()}

    cache = FrameCache(5, {"a": ((1,), torch.float32)}, decode, 8, "frames")
    values = [cache.rows(frames)["a"][:, 0].tolist() for frames in ([0], [1], [0], [2], [0], [1])]
    assert decoded == [0, 1, 2, 1] and values == [[0.0], [1.0], [0.0], [2.0], [0.0], [1.0]]
    with pytest.raises(CaptureError, match="raise memory_budget_mb"):
        FrameCache(5, {"a": ((1,), torch.float32)}, decode, 3, "frames")


def test_ict_a(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = load_capture(shared("captures/ict_a"))
    assert {name: len(rows) for name, rows in capture.splits.items()} == {
        "train": 150,
        "test": 30,
        "val": 20,
        "all": 180,
    }
    assert capture.size == (256, 256) and capture.expression_width == 57
    assert any("camera-to-world, OpenCV axes (scores" in line for line in capture.report)
    # Where the depth map has a value, the tracked mesh is there: vertices in view are nowhere in front of it.
    for frame in (0, 90, 179):
        state, camera, depth = capture.state([frame]), capture.camera([frame]), capture.depth(frame)
        pixels, z = (value[0] for value in camera.project(state.vertices))
        column, row = pixels.long().clamp(0, 255).unbind(-1)
        measured = depth[row, column]
        assert ((z - measured)[measured > 0] > -0.02).float().mean() > 0.97
        assert ((z - measured)[measured > 0].abs() < 0.004).float().mean() > 0.4
    generator, frames = torch.Generator().manual_seed(0), torch.arange(16)
    first, _ = capture.sample_pixels(frames, 4096, generator)
    monkeypatch.setattr(capture._images, "_decode", None)  # from now on everything is in memory
    second, _ = capture.sample_pixels(frames, 4096, generator)
    assert len(first) == len(second) == 4096


def test_a_file_that_changes_while_it_is_in_use(tiny: Path) -> None:
    """A frame that no longer fits is refused by name, and the frames in memory keep their pixels."""
    capture = load_capture(tiny, memory_budget_mb=0.045)  # two frames of pixels: 4 and 5, in the end
    assert capture._images.slots == 2
    images = [capture.image(frame) for frame in range(6)]
    pixels = (tiny / "images/00002.png").read_bytes()
    Image.new("RGBA", (41, 48)).save(tiny / "images/00002.png")
    for _ in range(3):
        with pytest.raises(CaptureError, match=r"00002\.png.*41x48 pixels; expected 40x48"):
            capture.image(2)
        for frame in (0, 1, 0, 4, 1, 5, 3):
            assert torch.equal(capture.image(frame), images[frame])
    (tiny / "images/00002.png").write_bytes(pixels)
    assert torch.equal(capture.image(2), images[2])


def test_a_decoder_that_fails_leaves_no_hole() -> None:
    """Whatever a decoder raises or returns, no two frames share a row afterwards."""

    def decode(frame: int) -> dict:
        if frame == 3:
            raise CaptureError("frame 3 is broken")
        return {} if frame == 5 else {"x": torch.full((4 + (frame == 4),), float(frame)).numpy()}

    cache = FrameCache(8, {"x": ((4,), torch.float32)}, decode, 2 * 16, "x")
    for frames in ([0, 1], [3], [2], [4], [1], [5], [0, 4], [6], [7, 3], [7], [0], [2, 6], [5, 1], [1, 2], [6, 2]):
        try:
            rows = cache.rows(frames)["x"][:, 0].tolist()
        except (CaptureError, ValueError, KeyError):
            assert {3, 4, 5} & {*frames}
        else:
            assert rows == frames
    assert len(cache._slot) == 2
