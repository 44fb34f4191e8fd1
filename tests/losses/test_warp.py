"""The losses on learned corrections: values by hand, schedule, draws, gradients, errors."""

import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import Chain, ErrorWarp, NearSurface
from headfields.encoders import Frequency
from headfields.losses.base import Loss
from headfields.losses.warp import Elastic, WarpMagnitude
from headfields.ops.reference.log_strain import log_strain
from headfields.parts import Rendering
from headfields.records import HeadState, PixelBatch
from headfields.renderers import UniformSampler, VolumeRenderer
from tests.avatar.test_composition import CAMERA
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
COUNT = 144


def avatar(start: int = 0, spread: float = 0.02, corrected: bool = True) -> Avatar:
    torch.manual_seed(0)
    near = NearSurface(VERTICES, FACES)
    warp = ErrorWarp(near.bounds(), 2, hidden=8, layers=2, head_layers=1, start=start, coarse_to_fine=0)
    with torch.no_grad():
        for head in warp.heads.values():
            head[-1].weight.uniform_(-spread, spread)
    return Avatar(
        Chain(near, warp) if corrected else near, Frequency(2), NeRFDecoder(hidden=8, density_bias=3.0),
        VolumeRenderer(UniformSampler(8)),
    )  # fmt: skip


def rendered(made: Avatar, count: int = COUNT) -> tuple[Rendering, PixelBatch]:
    state = HeadState(VERTICES.expand(2, -1, -1), frame_id=torch.arange(2))
    rays = CAMERA.rays().replace(frame=torch.arange(COUNT) % 2)[:count]
    rendering = made(rays, state, torch.ones(count, 3))
    return rendering, PixelBatch(rays, torch.rand(count, 3), torch.ones(count), torch.ones(count, 3))


def jacobians(rendering: Rendering) -> tuple[torch.Tensor, torch.Tensor]:
    canonical = rendering.canonical
    (correction,) = rendering.field.corrections(canonical.posed_points, canonical.frame, jacobians=True)
    return correction.jacobian, correction.after - correction.before


def test_they_are_losses() -> None:
    assert isinstance(Elastic(), Loss) and isinstance(WarpMagnitude(), Loss)
    assert (Elastic().weight, Elastic().final_weight, Elastic().after, WarpMagnitude().weight) == (
        1e-4, 1e-5, 155_000, 1e-2,
    )  # fmt: skip


def test_elastic_by_hand() -> None:
    rendering, batch = rendered(avatar())
    jacobian, _ = jacobians(rendering)
    over = log_strain(jacobian).sqrt() / 0.03
    expected = (rendering.weights * 2 * over**2 / (over**2 + 4)).sum() / COUNT
    loss = Elastic(samples=10**6)(rendering, batch, 0)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-7)
    assert 1e-4 < float(loss.detach()) < 2


def test_magnitude_by_hand() -> None:
    rendering, batch = rendered(avatar())
    _, moved = jacobians(rendering)
    loss = WarpMagnitude(samples=10**6)(rendering, batch, 0)
    torch.testing.assert_close(loss, (moved / 0.01).square().sum() / COUNT, rtol=1e-4, atol=0)
    torch.testing.assert_close(WarpMagnitude(samples=10**6, unit=1.0)(rendering, batch, 0), 1e-4 * loss)
    assert float(loss.detach()) > 0


@pytest.mark.parametrize("kind", [Elastic, WarpMagnitude])
def test_a_few_drawn_samples_stand_for_all(kind: type) -> None:
    with torch.no_grad():
        rendering, batch = rendered(avatar())
        assert len(rendering.samples) > 500
        whole = kind(samples=10**6)(rendering, batch, 0)
        drawn = torch.stack([kind(samples=64)(rendering, batch, 0) for _ in range(60)])
    assert float(drawn.std()) > 0
    assert float(drawn.mean()) == pytest.approx(float(whole), abs=5 * float(drawn.std()) / 60**0.5)


def test_the_elastic_weight_falls() -> None:
    rendering, batch = rendered(avatar())
    loss = Elastic(weight=2e-3, final_weight=5e-4, after=100, samples=10**6)
    before, at = loss(rendering, batch, 99), loss(rendering, batch, 100)
    torch.testing.assert_close(at * loss.weight, before * 5e-4)
    gone = Elastic(final_weight=0.0, after=0, samples=10**6)(rendering, batch, 0)
    assert float(gone.detach()) == 0


@pytest.mark.parametrize("loss", [Elastic(), WarpMagnitude()])
def test_gradients_go_to_the_correction_alone_and_are_finite_where_it_is_rigid(loss: Loss) -> None:
    for spread in (0.02, 0.0):  # with 0 the Jacobian is I at every sample
        made = avatar(spread=spread)
        rendering, batch = rendered(made)
        loss(rendering, batch, 0).backward()
        for name, parameter in made.named_parameters():
            inside, gradient = name.startswith("deformer."), parameter.grad
            assert gradient is None or bool(gradient.isfinite().all())
            if not inside or spread == 0:
                assert gradient is None or not bool(gradient.any()), name
            elif name.endswith("weight") or name.endswith("table"):
                assert gradient is not None and bool(gradient.any()), name


@pytest.mark.parametrize("loss", [Elastic(), WarpMagnitude()])
def test_zero_but_attached_before_the_start_and_without_rays(loss: Loss) -> None:
    for made, count in ((avatar(start=10), COUNT), (avatar(), 0)):
        rendering, batch = rendered(made, count)
        value = loss(rendering, batch, 0)
        assert float(value.detach()) == 0 and value.requires_grad
        value.backward()


@pytest.mark.parametrize("loss", [Elastic(), WarpMagnitude()])
def test_errors(loss: Loss, unchecked: None) -> None:
    rendering, batch = rendered(avatar(corrected=False))
    with pytest.raises(ValueError, match=rf"{loss.name} loss: the avatar's deformer NearSurface has no learned corr"):
        loss(rendering, batch, 0)
    rendering, batch = rendered(avatar().eval())
    assert rendering.canonical is None and rendering.field is None
    with pytest.raises(ValueError, match=rf"{loss.name} loss: the rendering has no canonical samples.*training mode"):
        loss(rendering, batch, 0)
    with pytest.raises(ValueError, match="samples is 0"):
        type(loss)(samples=0)
    with pytest.raises(ValueError, match="Elastic: weight is 0"):
        Elastic(weight=0)


def test_a_weight_that_is_not_finite_shows_in_the_value() -> None:
    rendering, batch = rendered(avatar())
    bad = rendering.replace(weights=rendering.weights.detach() * torch.nan)
    assert Elastic(samples=16)(bad, batch, 0).isnan()
