"""Samples in buffers of a fixed size: the rendering and its gradients are those of packed samples."""

import math

import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.encoders import HashGrid
from headfields.losses.color import HuberColor
from headfields.models import insta
from headfields.ops import occupancy
from headfields.ops.dispatch import use_cpu_backend
from headfields.ops.occupancy import march_occupancy, march_padded
from headfields.records import PixelBatch, Rays
from headfields.renderers import (
    CoarseToFineRenderer,
    OccupancySampler,
    SurfaceSampler,
    UnclampedAlpha,
    UniformSampler,
    VolumeRenderer,
    padded,
)
from headfields.renderers.lighting import ColorAffine, SHLighting
from headfields.renderers.padded import GRANULE, NAMES, Buffers
from tests.renderers.test_surface import CAMERA, STATE, sharp
from tests.renderers.test_surface import ball as surface_ball
from tests.renderers.test_surface_band import band, sphere
from tests.training.ball import BallCapture


def ball(grid: str = "posed", early_stop: float = 1e-4, cull: bool = False) -> Avatar:
    """INSTA on a ball, with a density that makes some of its samples opaque."""
    torch.manual_seed(0)
    avatar = insta(BallCapture().template, expression_width=1, levels=4, log2_table_size=10, grid_resolution=16)
    sampler = OccupancySampler(grid=grid, resolution=16, step=0.005)
    avatar = avatar.replace(renderer=VolumeRenderer(sampler, early_stop=early_stop))
    with torch.no_grad():
        avatar.encoder.table.uniform_(-3, 3)
    avatar.train()
    if cull:
        sampler.grid.occupied.copy_(torch.rand(16, 16, 16) > 0.5)
    return avatar


def batch_of(capture: BallCapture, rays: int, seed: int = 1) -> tuple[PixelBatch, torch.Tensor]:
    return capture.sample_pixels(torch.tensor([0, 5]), rays, torch.Generator().manual_seed(seed))


def step(avatar: Avatar, batch: PixelBatch, frames: torch.Tensor, seed: int = 3):
    """Rendering, loss and gradients of a training step; zeros where there is no gradient."""
    torch.manual_seed(seed)
    avatar.zero_grad()
    rendering = avatar(batch.rays, BallCapture().state(frames), batch.background)
    loss = HuberColor()(rendering, batch, 1000) + 0.1 * rendering.depth.mean()
    if rendering.coarse is not None:
        loss = loss + rendering.coarse.rgb.square().mean() + rendering.coarse.depth.mean()
    if loss.requires_grad:
        loss.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in avatar.parameters()]
    return rendering, float(loss.detach()), gradients


def compare(avatar: Avatar, batch: PixelBatch, frames: torch.Tensor) -> Buffers:
    """Asserts that both ways agree, observations of the grid among them; returns the buffers."""
    state = {name: tensor.clone() for name, tensor in avatar.state_dict().items()}
    packed, loss, gradients = step(avatar, batch, frames)
    observed = {name: tensor.clone() for name, tensor in avatar.named_buffers()}
    avatar.load_state_dict(state)
    avatar.renderer.sample_buffers = buffers = Buffers(torch.device("cpu"), avatar.renderer.buffer_names)
    padded, padded_loss, padded_gradients = step(avatar, batch, frames)
    assert not bool(buffers.overflow())
    assert int(padded.samples.count) == len(packed.samples)
    for name in ("rgb", "opacity", "depth"):
        torch.testing.assert_close(getattr(padded, name), getattr(packed, name), rtol=1e-5, atol=2e-6)
    count = len(packed.samples)
    assert not padded.weights[count:].any(), "padding has no weight"
    for name in ("ray", "start", "end"):
        assert torch.equal(getattr(padded.samples, name)[:count], getattr(packed.samples, name))
    assert padded_loss == pytest.approx(loss, rel=1e-5)
    for own, other in zip(padded_gradients, gradients, strict=True):
        assert bool(own.isfinite().all())
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6 * max(float(other.abs().max()), 1e-6))
    for name, buffer in avatar.named_buffers():
        torch.testing.assert_close(buffer, observed[name], rtol=1e-5, atol=1e-6, equal_nan=True)
    return buffers


@pytest.mark.parametrize(
    ("grid", "early_stop", "cull", "rays"),
    [("posed", 0.0, False, 97), ("posed", 0.5, True, 97), ("canonical", 1e-4, True, 97), ("canonical", 0.0, False, 1),
     ("posed", 1e-4, False, 1), ("posed", 1e-4, True, 500)],
)  # fmt: skip
def test_a_step_is_that_of_packed_samples(grid: str, early_stop: float, cull: bool, rays: int) -> None:
    avatar = ball(grid, early_stop, cull)
    batch, frames = batch_of(BallCapture(), rays)
    assert rays == 1 or ((batch.alpha > 0).any() and not (batch.alpha > 0).all()), "some rays miss"
    buffers = compare(avatar, batch, frames)
    names = {"marched", "samples", "visible"} if early_stop else {"marched", "samples"}
    assert set(buffers.rows) == names and all(rows % GRANULE == 0 for rows in buffers.rows.values())


def test_all_rays_hit() -> None:
    batch, frames = batch_of(BallCapture(), 400)
    inside = ((batch.rays.directions[:, :2].abs() < 0.08).all(dim=1)).nonzero()[:, 0]
    batch = batch[inside]
    avatar = ball()
    buffers = compare(avatar, batch, frames)
    assert len(batch) > 20 and bool(
        (avatar(batch.rays, BallCapture().state(frames), batch.background).opacity > 0).all()
    )
    assert not bool(buffers.overflow())


def by_quantiles(kind: str) -> Avatar:
    """The ball with samples at equal distances, or with a coarse network whose weights place more of them."""
    avatar = ball()
    if kind == "uniform":
        return avatar.replace(renderer=VolumeRenderer(UniformSampler(9), early_stop=0.1)).train()
    torch.manual_seed(2)
    renderer = CoarseToFineRenderer(HashGrid(2, 2, 8, 4, 16), NeRFDecoder(hidden=8, density_bias=3.0), 7, 5, 0.1)
    avatar = avatar.replace(renderer=renderer)
    with torch.no_grad():
        renderer.encoder.table.uniform_(-2, 2)
    return avatar.train()


@pytest.mark.parametrize("kind", ["uniform", "coarse to fine"])
def test_a_fixed_number_of_samples_for_each_ray(kind: str) -> None:
    capture, avatar = BallCapture(), by_quantiles(kind)
    every, frames = batch_of(capture, 300)
    with torch.no_grad():
        near, far = avatar.field(capture.state(frames)).near_far(every.rays)
    hits = near < far
    assert bool(hits.any()) and not bool(hits.all())
    # Where some rays miss, those that hit would be moved by other random numbers.
    buffers = compare(avatar, every[hits.nonzero()[:, 0]], frames)
    assert set(buffers.rows) == set(avatar.renderer.buffer_names)
    avatar.eval()
    with torch.no_grad():
        packed = avatar.renderer(every.rays, avatar.field(capture.state(frames)), every.background)
        avatar.renderer._piece_buffers = Buffers(torch.device("cpu"), avatar.renderer.buffer_names)
        padded = avatar.renderer(every.rays, avatar.field(capture.state(frames)), every.background)
    assert int(padded.samples.count) == len(packed.samples)
    for name in ("rgb", "opacity", "depth"):
        torch.testing.assert_close(getattr(padded, name), getattr(packed, name), rtol=1e-5, atol=2e-6)
    assert torch.equal(padded.rgb[~hits], every.background[~hits])


def test_rays_that_are_not_finite_beside_others() -> None:
    avatar = by_quantiles("coarse to fine")
    batch, frames = batch_of(BallCapture(), 200)
    origins = batch.rays.origins.clone()
    origins[::2] = math.nan
    avatar.renderer.sample_buffers = Buffers(torch.device("cpu"), avatar.renderer.buffer_names)
    field = avatar.field(BallCapture().state(frames))
    rendering = avatar.renderer(batch.rays.replace(origins=origins), field, batch.background)
    assert torch.equal(rendering.rgb[::2], batch.background[::2]) and bool((rendering.opacity[1::2] > 0).any())
    (rendering.rgb.sum() + rendering.coarse.rgb.sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in avatar.parameters() if p.grad is not None)


@pytest.mark.parametrize("why", ["rays miss", "no cell is occupied", "rays are not finite", "no rays"])
def test_no_samples(why: str) -> None:
    avatar = ball()
    batch, frames = batch_of(BallCapture(), 40)
    rays = batch.rays
    if why == "rays miss":
        batch = batch.replace(rays=rays.replace(directions=-rays.directions))
    elif why == "no cell is occupied":
        avatar.renderer.sampler.grid.occupied.zero_()
        avatar.renderer.sampler.grid.box.mul_(2)  # the larger ball too is inside
    elif why == "no rays":
        avatar.renderer.sample_buffers = Buffers(torch.device("cpu"))
        rendering, loss, _ = step(avatar, batch[torch.zeros(0, dtype=torch.long)], frames)
        assert rendering.rgb.shape == (0, 3) and not avatar.renderer.sample_buffers.rows and loss != loss
        return
    elif why == "rays are not finite":  # as on a GPU, where they are not looked at
        avatar.renderer.sample_buffers = Buffers(torch.device("cpu"))
        field = avatar.field(BallCapture().state(frames))
        rays = rays.replace(origins=torch.full_like(rays.origins, math.nan))
        rendering = avatar.renderer(rays, field, batch.background)
        assert int(rendering.samples.count) == 0 and torch.equal(rendering.rgb, batch.background)
        rendering.rgb.sum().backward()
        assert all(bool(p.grad.eq(0).all()) for p in avatar.parameters() if p.grad is not None)
        return
    buffers = compare(avatar, batch, frames)
    assert buffers.needed[1:].tolist() == [0, 0]
    assert all(rows == GRANULE for rows in buffers.rows.values())


def test_a_head_that_leaves_the_box_of_the_grid_is_not_culled() -> None:
    avatar = ball(cull=True)
    avatar.renderer.sampler.grid.box.copy_(torch.tensor([[-0.05, -0.2, -0.2], [0.0, 0.2, 0.2]]))
    compare(avatar, *batch_of(BallCapture(), 97))


def test_overflow_leaves_out_the_last_samples_and_says_so() -> None:
    avatar = ball()
    batch, frames = batch_of(BallCapture(), 600)
    packed, _, _ = step(avatar, batch, frames)
    avatar.renderer.sample_buffers = buffers = Buffers(torch.device("cpu"))
    step(avatar, batch, frames)
    needed = dict(zip(NAMES, buffers.needed.tolist(), strict=True))
    fitting = dict(buffers.rows)
    assert needed["visible"] == len(packed.samples) > GRANULE and not bool(buffers.overflow())
    for name in ("visible", "samples", "marched"):
        buffers.resize({**fitting, name: GRANULE})
        cut, loss, gradients = step(avatar, batch, frames)
        assert bool(buffers.overflow()) and buffers.needed[NAMES.index(name)] == needed[name], "the number to raise"
        whole = packed.samples.ray[GRANULE - 1] if name == "visible" else cut.samples.ray[int(cut.samples.count) - 1]
        whole = int(whole)  # rays before it have all of their samples
        torch.testing.assert_close(cut.rgb[:whole], packed.rgb[:whole], rtol=1e-5, atol=2e-6)
        assert torch.equal(cut.rgb[whole + 1 :], batch.background[whole + 1 :])
        assert math.isfinite(loss) and all(bool(each.isfinite().all()) for each in gradients)
        assert buffers.fit(needed) and buffers.rows[name] >= needed[name], "grows"
        assert set(buffers.rows) == set(NAMES[: NAMES.index(name) + 1]), "what follows is counted anew"
        assert not buffers.fit(needed)
    buffers.resize(fitting)
    half = {name: most // 2 for name, most in needed.items()}
    assert buffers.fit(half) and all(half[name] <= rows < fitting[name] for name, rows in buffers.rows.items())
    buffers.resize({})
    again, _, _ = step(avatar, batch, frames)
    assert not bool(buffers.overflow()) and int(again.samples.count) == len(packed.samples)


def test_evaluation_and_pictures_have_no_buffers() -> None:
    avatar = ball()
    avatar.renderer.sample_buffers = Buffers(torch.device("cpu"))
    capture = BallCapture()
    avatar.render(capture.camera(torch.tensor([0]))[0], capture.state(torch.tensor([0])))
    assert not avatar.renderer.sample_buffers.rows


@pytest.mark.parametrize("backend", ["native", "warp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_march_padded_is_march(backend: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(50, 3, generator=generator, dtype=dtype)
    directions = torch.nn.functional.normalize(-origins + 0.3 * torch.randn(50, 3, generator=generator, dtype=dtype))
    near, far = torch.full((50,), 0.1, dtype=dtype), torch.full((50,), 6.0, dtype=dtype)
    near[3], far[4], origins[5, 0] = math.inf, 0.05, math.nan
    occupied = torch.rand(8, 9, 10, generator=generator) > 0.5
    box = torch.tensor([[-9.0, -9, -9], [9, 9, 9]], dtype=dtype)
    jitter = torch.rand(50, generator=generator, dtype=dtype)
    with use_cpu_backend(backend):
        expected = march_occupancy(origins, directions, near, far, occupied, box, 0.05, jitter=jitter)
        total = len(expected)
        assert total > 500
        for capacity in (1, 100, total, total + 77):
            samples, offsets, needed = march_padded(
                origins, directions, near, far, 0.05, capacity, occupied, box, jitter
            )  # fmt: skip
            count = min(capacity, total)
            assert int(needed) == total and len(samples) == capacity
            assert offsets.shape == (51,) and int(offsets[-1]) == count
            for name in ("ray", "start", "end"):
                own = getattr(samples, name)
                assert torch.equal(own[:count], getattr(expected, name)[:count])
                assert not own[count:].any()
            assert torch.equal(offsets.diff(), torch.bincount(samples.ray[:count], minlength=50))
        small, origins = box / 3, origins.nan_to_num(0.5)
        samples, _, needed = march_padded(origins, directions, near, far, 0.05, 6000, occupied, small, jitter)
        beyond, _, most = march_padded(origins, directions, near, far, 0.05, 6000, None, None, jitter)
        assert total < int(most) and int(needed) < int(most), "space outside the grid is kept, empty cells are not"
        kept = march_occupancy(origins, directions, near, far, occupied, small, 0.05, jitter=jitter)
        places = lambda s: origins[s.ray] + s.middle[:, None] * directions[s.ray]  # noqa: E731
        inside = ((places(beyond) >= small[0]) & (places(beyond) < small[1])).all(dim=1)[: int(most)]
        assert int(needed) == len(kept) + int((~inside).sum())


def test_march_padded_works_on_a_few_rays_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far, jitter = torch.rand(20), 1 + torch.rand(20), torch.rand(20)
    arguments = (torch.zeros(20, 3), torch.eye(3)[torch.arange(20) % 3], near, far, 0.05)
    at_once = march_padded(*arguments, 300, jitter=jitter)
    monkeypatch.setattr(occupancy, "DEFAULT_BUDGET", 100)
    in_pieces = march_padded(*arguments, 300, jitter=jitter)
    assert int(at_once[2]) > 300
    for own, other in zip((*vars(at_once[0]).values(), *at_once[1:]), (*vars(in_pieces[0]).values(), *in_pieces[1:]),
                          strict=True):  # fmt: skip
        assert torch.equal(own, other)
    for backend in ("native", "warp"):
        with (
            use_cpu_backend(backend),
            pytest.raises(ValueError, match=r"march_padded: a ray has .* steps of 1e-08 m; lengthen step"),
        ):
            march_padded(*arguments[:4], 1e-8, 64)
    with pytest.raises(ValueError, match=r"jitter has values outside \[0, 1\]"):
        march_padded(*arguments, 64, jitter=jitter - 1e30)


def test_an_image_in_buffers_is_that_of_packed_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image measures its pieces; those of a head that comes nearer overflow and are drawn again."""
    capture, avatar = BallCapture(), ball(cull=False)
    avatar.eval()
    state = capture.state(torch.tensor([0]))
    near = capture.camera(torch.tensor([0]))[0]
    far = near.replace(world_to_camera=near.world_to_camera + 0.6 * torch.eye(4)[2][:, None] * torch.eye(4)[3])
    expected = {name: avatar.render(camera, state, chunk=200) for name, camera in (("near", near), ("far", far))}
    own = VolumeRenderer.draw_pieces

    def as_on_a_gpu(self, pieces, draw, device):
        monkeypatch.setattr(padded, "Buffers", lambda _, names: Buffers(torch.device("cpu"), names))
        return own(self, pieces, draw, torch.device("cuda"))

    monkeypatch.setattr(VolumeRenderer, "draw_pieces", as_on_a_gpu)
    monkeypatch.setattr(padded, "GRANULE", 8)
    drawn = []
    avatar.renderer.register_forward_hook(lambda *_: drawn.__setitem__(-1, drawn[-1] + 1))
    for name in ("far", "far", "near", "far"):
        drawn.append(0)
        image = avatar.render(far if name == "far" else near, state, chunk=200)
        for field in ("rgb", "opacity", "depth"):
            torch.testing.assert_close(getattr(image, field), getattr(expected[name], field), rtol=1e-5, atol=2e-6)
    assert expected["near"].opacity.sum() > 2 * expected["far"].opacity.sum() > 0
    assert drawn[0] == drawn[1] == 6 and drawn[2] > 6, "pieces that overflow are drawn once more"
    assert avatar.renderer._piece_buffers is None and avatar.renderer.sample_buffers is None


@pytest.mark.parametrize("sampler", ["rounds", "quantiles", "band"])
def test_a_surface_is_that_of_packed_samples(sampler: str) -> None:
    """Distances, normals and light, with gradients; some rays miss, and some samples are behind the surface."""
    samplers = {
        "rounds": lambda: SurfaceSampler(8, 8, rounds=2), "quantiles": lambda: band(None),
        "band": lambda: band(sphere()),
    }  # fmt: skip
    lighting = [SHLighting(), ColorAffine()]
    avatar = surface_ball("neus", UnclampedAlpha(sharp(400.0)), lighting).eval()
    avatar.renderer.sampler = samplers[sampler]().eval()
    rays = CAMERA.rays()
    results = []
    for buffers in (None, Buffers(torch.device("cpu"))):
        avatar.renderer.sample_buffers = buffers
        avatar.zero_grad()
        rendering = avatar.renderer(rays, avatar.field(STATE), torch.ones_like(rays.origins))
        assert rendering.normal is not None
        (rendering.rgb.square().mean() + rendering.depth.mean() + rendering.normal[:, 0].square().mean()).backward()
        results.append((rendering, [p.grad.clone() for p in avatar.parameters() if p.grad is not None]))
    (packed, gradients), (padded, padded_gradients) = results
    assert buffers is not None and not bool(buffers.overflow()) and int(padded.samples.count) == len(packed.samples)
    limit = len(rays) * avatar.renderer.sampler.most
    assert int(buffers.needed[0]) <= limit and (sampler == "band" or len(packed.samples) < int(buffers.needed[1]))
    for name in ("rgb", "opacity", "depth", "normal"):
        torch.testing.assert_close(getattr(padded, name), getattr(packed, name), rtol=1e-5, atol=2e-6)
    assert len(gradients) == len(padded_gradients) > 4
    for own, other in zip(padded_gradients, gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_a_surface_that_no_ray_meets() -> None:
    avatar = surface_ball("neus").eval()
    avatar.renderer.sample_buffers = Buffers(torch.device("cpu"))
    rays = Rays(torch.full((3, 3), 9.0), torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3), torch.zeros(3, dtype=torch.long))
    rendering = avatar.renderer(rays, avatar.field(STATE), torch.ones(3, 3))
    assert torch.equal(rendering.rgb, torch.ones(3, 3)) and not rendering.opacity.any()
    (rendering.rgb.sum() + rendering.depth.sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in avatar.parameters() if p.grad is not None)
