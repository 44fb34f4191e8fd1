import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headfields.losses.base import Loss
from headfields.losses.color import HuberColor
from headfields.losses.silhouette import OpacityLoss, SoftJaccard
from headfields.losses.surface import DepthPrior, Eikonal, SurfacePrior
from headfields.parts import Rendering
from headfields.records import Canonical, FieldValues, HeadState, PixelBatch, Rays
from headfields.training.preset_losses import insta_losses
from tests.formula_field import FormulaField
from tests.shapes import uv_sphere

ALL = [HuberColor(), DepthPrior(start=0), OpacityLoss(), SoftJaccard()]


def make(n: int, seed: int = 0, labels: bool = True, depth: bool = True, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    rays = Rays(random(n, 3), torch.nn.functional.normalize(random(n, 3), dim=-1), torch.zeros(n, dtype=torch.long))
    batch = PixelBatch(
        rays,
        random(n, 3),
        random(n),
        random(n, 3),
        torch.randint(0, 256, (n,), generator=generator) if labels else None,
        random(n) if depth else None,
        1 + random(n) if depth else None,
    )
    leaves = [random(n, 3).requires_grad_(), random(n).requires_grad_(), random(n).requires_grad_()]
    return Rendering(*leaves), batch, leaves


def test_they_are_losses_by_name():
    assert all(isinstance(loss, Loss) for loss in ALL)
    assert [loss.name for loss in insta_losses()] == ["color", "depth"]


def test_huber_color_by_hand():
    rendering, batch, _ = make(2)
    target = batch.target
    rendering = rendering.replace(rgb=target + torch.tensor([[0.05, 0.0, 0.0], [0.0, -0.4, 0.0]]))
    quadratic, linear = 0.5 * 0.05**2, 0.1 * (0.4 - 0.05)
    loss = HuberColor(region_weight=1)(rendering, batch, 0)
    assert loss.item() == pytest.approx((quadratic + linear) / 0.1 / 5 / 2, rel=1e-4)


def test_gradient_of_huber_is_a_fifth_at_most():
    rendering, batch, (rgb, _, _) = make(50)
    loss = HuberColor(region_weight=1)(rendering.replace(rgb=rgb * 10), batch, 0)
    (gradient,) = torch.autograd.grad(loss, rgb)
    assert gradient.abs().max() == pytest.approx(10 / 5 / 50, rel=1e-4)


def test_the_mouth_counts_more_from_its_step_on():
    rendering, batch, _ = make(8)
    label = torch.tensor([120, 130, 140, 150, 0, 250, 119, 141])
    batch = batch.replace(label=label)
    loss = HuberColor(region_weight=40, region_start=500)
    before, after = loss(rendering, batch, 499), loss(rendering, batch, 500)
    mouth = HuberColor(region_weight=1)(rendering[:3], batch[:3], 0) * 3
    rest = HuberColor(region_weight=1)(rendering[3:], batch[3:], 0) * 5
    torch.testing.assert_close(before, (mouth + rest) / 8)
    torch.testing.assert_close(after, (40 * mouth + rest) / 8)
    torch.testing.assert_close(loss(rendering, batch.replace(label=None), 500), before)
    torch.testing.assert_close(loss(rendering, batch.replace(label=label.int()), 500), after)


def test_depth_prior_by_hand():
    rendering, batch, (_, _, depth) = make(6)
    batch = batch.replace(
        label=torch.tensor([250, 100, 90, 251, 150, 150]),
        alpha=torch.tensor([1.0, 0.001, 1.0, 1.0, 0.0005, 1.0]),
        depth=torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.0]),
        depth_scale=torch.full((6,), 1.2),
    )
    loss = DepthPrior(start=0)(rendering, batch, 0)
    expected = (rendering.depth[:2] - 0.6).abs().sum() / 6
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, depth)
    assert (gradient[2:] == 0).all() and (gradient[:2].abs() > 0.1).all()


def test_a_nan_outside_the_mask_does_not_reach_the_depth_prior():
    rendering, batch, (_, _, depth) = make(2)
    batch = batch.replace(label=torch.tensor([0, 250]), alpha=torch.ones(2))
    broken = rendering.replace(depth=torch.stack([torch.tensor(torch.nan), depth[1]]))
    loss = DepthPrior(start=0)(broken, batch, 0)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, depth)[0].isfinite().all()


@pytest.mark.parametrize("missing", [{"labels": False}, {"depth": False}])
def test_a_capture_without_labels_or_depth_adds_nothing_but_keeps_the_graph(missing):
    rendering, batch, (_, _, depth) = make(5, **missing)
    loss = DepthPrior(start=0)(rendering, batch, 0)
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, depth)[0] == 0).all()


def test_opacity_by_hand():
    rendering, batch, _ = make(3)
    rendering = rendering.replace(opacity=batch.alpha + torch.tensor([0.1, -0.2, 0.0]))
    assert OpacityLoss()(rendering, batch, 0).item() == pytest.approx((0.01 + 0.04) / 3, rel=1e-4)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_no_rays_is_zero_with_a_gradient(loss):
    rendering, batch, leaves = make(0)
    value = loss(rendering, batch, 1000)
    assert value.shape == () and value.item() == 0 and value.requires_grad
    torch.autograd.grad(value, leaves, allow_unused=True)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
@settings(max_examples=6)
@given(n=st.integers(1, 16), seed=st.integers(0, 1000), step=st.sampled_from([0, 500]))
def test_gradients_in_float64(loss, n, seed, step):
    _, batch, leaves = make(n, seed, dtype=torch.float64)

    def value(rgb, opacity, depth):
        return loss(Rendering(rgb, opacity, depth), batch, step)

    assert value(*leaves) >= 0
    assert torch.autograd.gradcheck(value, leaves)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_another_number_of_rays_is_an_error(loss):
    rendering, _, _ = make(4)
    _, batch, _ = make(5)
    with pytest.raises(ValueError, match=rf"{loss.name} loss: rendering.opacity has shape \(4,\)"):
        loss(rendering, batch, 0)


def test_the_depth_prior_waits_for_its_start():
    rendering, batch, (_, _, depth) = make(4)
    batch = batch.replace(
        label=torch.full((4,), 250), alpha=torch.ones(4), depth=torch.full((4,), 0.5), depth_scale=torch.ones(4)
    )
    early = DepthPrior(start=10)(rendering, batch, 9)
    assert early == 0 and not torch.autograd.grad(early, depth)[0].any()
    assert DepthPrior(start=10)(rendering, batch, 10) > 0


def test_soft_jaccard_by_hand():
    rendering, batch, _ = make(3)
    rendering = rendering.replace(opacity=torch.tensor([1.0, 0.5, 0.0]))
    batch = batch.replace(alpha=torch.tensor([1.0, 1.0, 1.0]))
    assert SoftJaccard()(rendering, batch, 0).item() == pytest.approx(5 * (1 - (1.5 + 5) / (3 + 5)))
    assert SoftJaccard()(rendering.replace(opacity=batch.alpha), batch, 0).item() == 0
    with pytest.raises(ValueError, match="SoftJaccard: smooth is 0"):
        SoftJaccard(smooth=0)


def test_eikonal_by_hand():
    rendering, batch, _ = make(3)
    gradient = torch.tensor([[2.0, 0, 0], [0, 0.6, 0.8], [0, 0, 0]], requires_grad=True)
    loss = Eikonal()(rendering.replace(gradient=gradient), batch, 0)
    assert loss.item() == pytest.approx((1 + 0 + 1) / 3, rel=1e-4)
    (second,) = torch.autograd.grad(loss, gradient)
    assert second.isfinite().all() and second[0, 0] > 0
    nothing = torch.zeros(0, 3, requires_grad=True)
    Eikonal()(rendering.replace(gradient=nothing), batch, 0).backward()
    with pytest.raises(ValueError, match="eikonal loss: the rendering has no gradients"):
        Eikonal()(rendering, batch, 0)
    with pytest.raises(ValueError, match="eikonal loss: the rendering has no canonical samples"):
        Eikonal(elsewhere=5)(rendering.replace(gradient=gradient), batch, 0)
    with pytest.raises(ValueError, match="elsewhere is -1"):
        Eikonal(elsewhere=-1)


def test_the_surface_prior_finds_the_mesh():
    """Zero on a field whose surface is the mesh; the offset of one that is too large; nothing after `until`."""
    vertices, faces = uv_sphere(24, 32, radius=0.1)

    class Round(FormulaField):
        def __init__(self, radius):
            self.state, self.radius = HeadState(vertices[None]), torch.tensor(radius, requires_grad=True)

        def signed_distance(self, points, frame):
            length = points.norm(dim=-1)
            at = Canonical(points, points, points, frame, torch.ones(len(points), dtype=torch.bool))
            return at, FieldValues(distance=length - self.radius, normal=points / length[:, None])

    rendering, batch, _ = make(2)
    values = []
    for radius in (0.0993, 0.12):
        field = Round(radius)
        at = field.signed_distance(vertices, torch.zeros(len(vertices), dtype=torch.long))[0]
        seen = rendering.replace(field=field, canonical=at, weights=torch.ones(len(at)))
        loss = SurfacePrior(faces, until=100)(seen, batch, 0)
        loss.backward()
        assert field.radius.grad != 0
        values.append(loss.item())
        assert SurfacePrior(faces, until=100)(seen, batch, 50).item() == pytest.approx(values[-1] / 2, rel=0.2)
        assert SurfacePrior(faces, until=100)(seen, batch, 100) == 0
    assert values[0] < 0.06 and values[1] == pytest.approx(2.07, abs=0.06)
    with pytest.raises(ValueError, match="mesh loss: the rendering has no canonical samples"):
        SurfacePrior(faces)(rendering, batch, 0)
    with pytest.raises(ValueError, match="SurfacePrior: until is 0"):
        SurfacePrior(faces, until=0)
