"""Mixed precision: the networks in 16 bits, everything else in float32."""

import math

import pytest
import torch

from headfields.data import load_capture
from headfields.models import insta
from headfields.ops import hash_grid, spherical_harmonics
from headfields.ops.compositing import weights_from_density
from headfields.ops.hash_grid_layout import HashGridLayout
from headfields.runs.progress import NanLossError
from headfields.synthetic.captures import write_head_capture
from headfields.training import Trainer, evaluate, recipe_of
from tests.training.ball import BallCapture, ball_trainer
from tests.training.fakes import FakeAvatar, FakeCapture
from tests.training.test_trainer import make, same, weights

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)


@pytest.fixture(scope="module")
def full():
    torch.set_num_threads(1)
    trainer = ball_trainer(rays=128)
    return trainer.fit(steps=40).psnr


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("precision", ["bf16-mixed", pytest.param("16-mixed", marks=pytest.mark.slow)])
def test_insta_in_mixed_precision_learns_as_in_float32(full, device, precision):
    trainer = ball_trainer(rays=128, precision=precision, device=device)
    trainer.fit(steps=20)
    # Steps that overflowed taught nothing.
    skipped = 0 if trainer.scaler is None else round(math.log2(2**16 / trainer.scaler.get_scale()))
    assert trainer.fit(steps=40 + skipped).psnr == pytest.approx(full, abs=0.5)
    assert all(tensor.dtype == torch.float32 for tensor in trainer.avatar.parameters())
    assert all(bool(tensor.isfinite().all()) for tensor in trainer.avatar.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_rendering_is_close_to_that_in_float32(dtype):
    trainer, capture = ball_trainer(), BallCapture()
    avatar = trainer.avatar.eval()
    batch, frames = capture.sample_pixels(torch.tensor([0, 5]), 128, torch.Generator().manual_seed(0))
    state = capture.state(frames)
    exact = avatar(batch.rays, state, batch.background)
    with torch.autocast("cpu", dtype=dtype):
        mixed = avatar(batch.rays, state, batch.background)
        field = avatar.field(state)
        canonical = field.canonicalize(
            batch.rays.origins + 0.5 * batch.rays.directions, batch.rays.directions, batch.rays.frame
        )
        values = field.decode(canonical)
    with torch.no_grad():
        same_points = avatar.field(state).canonicalize(
            batch.rays.origins + 0.5 * batch.rays.directions, batch.rays.directions, batch.rays.frame
        )
    torch.testing.assert_close(canonical.points, same_points.points, rtol=0, atol=0)
    assert {values.rgb.dtype, values.density.dtype, canonical.points.dtype, mixed.rgb.dtype} == {torch.float32}
    torch.testing.assert_close(mixed.rgb, exact.rgb, rtol=0, atol=0.02)
    torch.testing.assert_close(mixed.depth, exact.depth, rtol=0, atol=0.02)
    (gradient,) = torch.autograd.grad(mixed.rgb.square().sum(), avatar.encoder.table)
    (expected,) = torch.autograd.grad(exact.rgb.square().sum(), avatar.encoder.table)
    assert gradient.dtype == torch.float32 and bool(gradient.isfinite().all())
    assert float((gradient - expected).norm() / expected.norm()) < 0.05


def test_what_the_operations_do_with_bfloat16(unchecked):
    layout = HashGridLayout(2, 2, 8, 4, 8)
    table = torch.rand(layout.entries, 2)
    with pytest.raises(TypeError, match=r"hash_grid: points has dtype torch.bfloat16, too coarse"):
        hash_grid(torch.rand(3, 3).bfloat16(), table, layout)
    with pytest.raises(TypeError, match=r"spherical_harmonics: directions has dtype torch.bfloat16"):
        spherical_harmonics(torch.rand(3, 3).bfloat16(), 2)
    ray, start = torch.tensor([0, 0, 1]), torch.tensor([0.1, 0.2, 0.1])
    weights = weights_from_density(torch.ones(3).bfloat16(), start, start + 0.1, ray, 2)
    torch.testing.assert_close(weights, weights_from_density(torch.ones(3), start, start + 0.1, ray, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):  # autocast leaves their float32 inputs as they are
        assert hash_grid(torch.rand(3, 3), table, layout).dtype == torch.float32
        assert spherical_harmonics(torch.rand(3, 3), 2).dtype == torch.float32


class Overflowing(FakeAvatar):
    """Its gradients overflow float16 as long as the loss is scaled by more than `bearable`."""

    bearable = 2.0**12

    def forward(self, rays, state, background):
        rendering = super().forward(rays, state, background)

        def overflow(gradient: torch.Tensor) -> torch.Tensor:
            return gradient * torch.inf if self.scaler.get_scale() > self.bearable else gradient

        if rendering.rgb.requires_grad:
            rendering.rgb.register_hook(overflow)
        return rendering


def scaled(out=None, avatar=None) -> Trainer:
    torch.manual_seed(0)
    avatar = avatar or Overflowing()
    from headfields.losses.color import HuberColor

    trainer = Trainer(
        avatar, FakeCapture(), [HuberColor(region_weight=1)], rays_per_step=64, precision="16-mixed", device="cpu",
        bar=False, out=out, ema=0.0, schedule="constant",
    )  # fmt: skip
    avatar.scaler = trainer.scaler
    return trainer


def test_steps_that_overflow_are_skipped_and_the_scale_falls(tmp_path):
    trainer = scaled(tmp_path)
    before = weights(trainer)
    trainer.fit(steps=4)
    assert trainer.scaler.get_scale() == 2.0**12
    trained = [name for name, _ in trainer.avatar.named_parameters()]
    assert all(torch.equal(before[name], weights(trainer)[name]) for name in trained)
    trainer.fit(steps=6)
    assert not torch.equal(before["table"], weights(trainer)["table"])
    resumed, through = scaled(tmp_path), scaled()
    resumed.fit(steps=9, resume=True)
    through.fit(steps=9)
    assert resumed.scaler.get_scale() == 2.0**12
    assert same(weights(resumed), weights(through))


def test_steps_that_never_stop_overflowing_end_training():
    avatar = Overflowing()
    avatar.bearable = 0.0
    with pytest.raises(NanLossError, match=r"step 25: gradient of table.*overflows float16 at any scale"):
        scaled(avatar=avatar).fit(steps=100)


def test_a_nan_is_no_overflow():
    class Bad(FakeAvatar):
        def forward(self, rays, state, background):
            rendering = super().forward(rays, state, background)
            return rendering.replace(rgb=rendering.rgb * torch.nan)

    with pytest.raises(NanLossError, match=r"step 9: loss color is not finite.*the 10th step in a row"):
        avatar = Bad()
        avatar.scaler = None
        scaled(avatar=avatar).fit(steps=30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "64-true"}, "precision is '64-true'; expected one of '32-true', 'bf16-mixed', '16-mixed'"),
        ({"strategy": "fsdp"}, "strategy is 'fsdp'; expected 'auto' or 'ddp'"),
        ({"devices": 0}, "devices is 0"),
        ({"devices": [0, 1]}, "CPUs are not numbered"),
        ({"device": "cuda:99"}, "torch sees . CUDA devices"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_torchs_choice_of_tf32_stays():
    flags = (
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision(),
    )  # fmt: skip
    ball_trainer(rays=16).fit(steps=1)
    assert flags == (
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision(),
    )  # fmt: skip


@pytest.mark.slow
def test_mixed_precision_costs_less_than_a_tenth_of_a_decibel(tmp_path):
    write_head_capture(tmp_path / "head", frames=8, test_frames=2, size=48, progress=False)
    capture, recipe, steps = load_capture(tmp_path / "head"), recipe_of("insta", "cpu"), 200
    psnr = {}
    for precision in ("32-true", "bf16-mixed", "16-mixed"):
        torch.manual_seed(0)
        avatar = insta(
            capture.template, expression_width=16, levels=6, log2_table_size=12, finest_resolution=128,
            grid_resolution=32,
        )  # fmt: skip
        options = recipe.trainer_arguments(avatar, capture, rays=512, samples=0, precision=precision)
        trainer = Trainer(avatar, capture, device="cpu", bar=False, **options)
        trainer.fit(steps=steps // 5)
        # Steps that overflowed taught nothing.
        skipped = 0 if trainer.scaler is None else round(math.log2(2**16 / trainer.scaler.get_scale()))
        trainer.fit(steps=steps + skipped)
        psnr[precision] = evaluate(trainer.avatar, capture)["psnr"]
    assert psnr["bf16-mixed"] > psnr["32-true"] - 0.1 and psnr["16-mixed"] > psnr["32-true"] - 0.1, psnr
