"""The same seed on the same backend gives the same bits; pictures and checkpoints do not change them."""

import pytest
import torch

from headfields import use_cpu_backend
from headfields.ops.dispatch import native
from tests.training.ball import ball_trainer
from tests.training.test_trainer import same, weights

NATIVE = pytest.param("native", marks=pytest.mark.skipif(native is None, reason="the compiled module is not installed"))


def trained(steps: int, threads: int = 1, rays: int = 96, **options) -> dict[str, torch.Tensor]:
    torch.set_num_threads(threads)
    trainer = ball_trainer(rays, **options)
    trainer.fit(steps=steps)
    return weights(trainer)


@pytest.mark.parametrize(
    ("backend", "steps", "threads"),
    [pytest.param(*NATIVE.values, steps, threads, marks=NATIVE.marks) for steps, threads in ((18, 1), (4, 2))]
    + [("warp", 3, 1)],
)
def test_two_runs_are_the_same_to_the_bit(backend, steps, threads):
    with use_cpu_backend(backend):
        assert same(trained(steps, threads), trained(steps, threads))


def test_pictures_and_checkpoints_do_not_change_what_insta_learns(tmp_path, monkeypatch):
    monkeypatch.setattr("headfields.training.outputs.OVERHEAD_SHARE", 1.0)  # due at every step, however slow they are
    quiet = trained(8)
    busy = trained(8, out=tmp_path, picture_seconds=0.0, checkpoint_seconds=0.0)
    assert len(list((tmp_path / "images").iterdir())) >= 2
    assert same(quiet, busy)


def test_indexing_backward_is_deterministic_while_training(tmp_path):
    from headfields.losses.color import HuberColor
    from headfields.training import Trainer
    from tests.training.fakes import FakeAvatar, FakeCapture

    class Watching(HuberColor):
        def __call__(self, rendering, batch, step):
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().__call__(rendering, batch, step)

    seen: list[bool] = []
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    Trainer(FakeAvatar(), FakeCapture(), [Watching()], rays_per_step=8, device="cpu", bar=False).fit(steps=1)
    assert seen == [True]
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)


def kernels() -> list[torch.Tensor]:
    """Values and gradients of every operation of an INSTA step, at sizes that several threads share."""
    from headfields.ops import TriangleBVH, hash_grid, spherical_harmonics
    from headfields.ops.compositing import composite, weights_from_density
    from headfields.ops.hash_grid_layout import HashGridLayout
    from headfields.ops.occupancy import march_occupancy
    from tests.shapes import uv_sphere

    generator = torch.Generator().manual_seed(0)
    vertices, faces = uv_sphere(24, 32)
    rays = 6000
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, generator=generator), dim=-1)
    origins = -2 * directions + 0.5 * torch.randn(rays, 3, generator=generator)
    bvh = TriangleBVH(faces, vertices)
    near, far = bvh.interval(origins, directions, 0.2)
    hit = bvh.raycast(origins, directions)
    occupied, box = torch.rand(16, 16, 16, generator=generator) > 0.3, torch.tensor([[-2.0] * 3, [2.0] * 3])
    samples = march_occupancy(
        origins, directions, near, far, occupied, box, 0.05, 1 << 20, torch.rand(rays, generator=generator)
    )
    points = origins[samples.ray] + directions[samples.ray] * samples.middle[:, None]
    closest = bvh.closest(points)
    layout = HashGridLayout(4, 2, 12, 8, 64)
    table = torch.rand(layout.entries, 2, generator=generator).requires_grad_()
    unit = (0.25 * points + 0.5).requires_grad_()
    features = hash_grid(unit, table, layout)
    harmonics = spherical_harmonics(directions[samples.ray], 4)
    density = features.sum(-1).exp()
    weights_ = weights_from_density(density, samples.start, samples.end, samples.ray, rays)
    rgb, opacity, depth = composite(weights_, harmonics[:, 1:4] + features[:, :3], samples, rays)
    gradients = torch.autograd.grad((rgb.square().sum() + opacity.sum() + depth.sum()), [table, unit])
    tensors = [near, far, hit.face, hit.distance, samples.ray, samples.start, closest.face, closest.distance, features]
    assert len(samples) > 50_000
    return [tensor.detach() for tensor in (*tensors, harmonics, weights_, rgb, opacity, depth, *gradients)]


@pytest.mark.skipif(native is None, reason="the compiled module is not installed")
def test_the_compiled_kernels_do_not_depend_on_the_number_of_threads():
    torch.set_num_threads(1)
    alone = kernels()
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for _ in range(2):
            for index, (first, second) in enumerate(zip(alone, kernels(), strict=True)):
                assert torch.equal(first, second), f"output {index} with {threads} threads"
