"""The regularizers of blendfields: values, gradients, empty renderings, errors."""

from typing import Any

import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import BlendedColor, NeRFDecoder
from headfields.deformers import Blendfield, Chain, SurfaceCanonicalizer
from headfields.encoders import ColorFields, HashGrid
from headfields.losses.blendfield import BlendSmoothness, BlendSparsity, CoefficientSmoothness
from headfields.networks.field_basis import BlendCoefficients
from headfields.records import HeadState, PixelBatch, Rays
from headfields.renderers import UniformSampler, VolumeRenderer
from headfields.training.preset_losses import blendfield_losses, vp360_losses
from tests.shapes import uv_sphere
from tests.tables import table

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
LOSSES = [BlendSparsity, BlendSmoothness, CoefficientSmoothness]


def avatar(blend: bool = True) -> Avatar:
    torch.manual_seed(0)
    surface = SurfaceCanonicalizer(VERTICES, FACES)
    options = {"levels": 2, "features": 2, "base_resolution": 2, "finest_resolution": 4}
    fine = Blendfield(surface.bounds(), BlendCoefficients({"expression": 2}, fields=3, hidden=8), options=options)
    with torch.no_grad():
        fine.basis.table.normal_()
        fine.coefficients.trunk[0].weight.normal_()
    deformer = Chain(surface, fine) if blend else surface
    return Avatar(
        deformer, HashGrid(2, 2, 8, 4, 16), NeRFDecoder(8, density_bias=3.0), VolumeRenderer(UniformSampler(8))
    )


def colors() -> Avatar:
    """The same fields and coefficients for colors."""
    deforming = avatar()
    fine = deforming.deformer.deformers[1]  # type: ignore[union-attr,index]
    options = {"levels": 2, "features": 2, "base_resolution": 2, "finest_resolution": 4}
    made = Avatar(
        SurfaceCanonicalizer(VERTICES, FACES),
        HashGrid(2, 2, 8, 4, 16),
        BlendedColor(NeRFDecoder(8, density_bias=3.0)),
        VolumeRenderer(UniformSampler(8)),
        condition=ColorFields(fine.coefficients, options=options),
    )
    made.conditions[0].basis.load_state_dict(fine.basis.state_dict())
    return made


def rendered(model: Avatar, count: int = 64, frames: int = 2) -> tuple[Any, PixelBatch]:
    origins = torch.tensor([0.0, 0.0, 0.6]).expand(count, 3)
    aim = 0.05 * torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    rays = Rays(origins, torch.nn.functional.normalize(aim - origins, dim=-1), torch.arange(count) % frames)
    expression = torch.tensor([[0.5, -1.0], [1.0, 0.3]])[:frames]
    state = HeadState(VERTICES.expand(frames, -1, -1), expression=expression)
    batch = PixelBatch(rays, torch.zeros(count, 3), torch.ones(count), torch.ones(count, 3))
    return model(rays, state, batch.background), batch


@table("make", [avatar, colors])
@table("loss", LOSSES)
def test_gradients_go_to_the_blendfield_alone(loss: Any, make: Any) -> None:
    model = make()
    rendering, batch = rendered(model)
    value = loss()(rendering, batch, 0)
    assert value.ndim == 0 and float(value.detach()) > 0
    value.backward()
    for name, parameter in model.named_parameters():
        touched = parameter.grad is not None and bool(parameter.grad.any())
        assert touched == name.startswith(("deformer", "conditions")), name


@pytest.mark.parametrize("loss", LOSSES)
def test_colors_cost_what_displacements_cost(loss: Any) -> None:
    """One field's values, as colors and as displacements, at the same points."""
    values = []
    for model in (avatar(), colors()):
        rendering, _ = rendered(model)
        torch.manual_seed(3)
        points = 0.08 * torch.randn(200, 3).clamp(-1, 1)
        part = next(each for each in model.modules() if isinstance(each, Blendfield | ColorFields))
        values.append(loss().sum_over(part, points, torch.arange(200) % 2, rendering.field.state).detach())
    torch.testing.assert_close(values[0], values[1])


def test_values() -> None:
    """On a field that is the same everywhere, and on one that is linear in x."""
    model = avatar()
    blend = model.deformer.deformers[1]  # type: ignore[union-attr,index]
    rendering, batch = rendered(model)
    state = rendering.field.state
    same = torch.tensor([[0.3, 0.0, 0.4], [0.0, 0.0, 0.0], [0.0, -1.0, 0.0]])

    def constant(points: torch.Tensor) -> torch.Tensor:
        return same.expand(len(points), 3, 3)

    def linear(points: torch.Tensor) -> torch.Tensor:
        return same * points[:, :1, None] / blend.scale

    blend.basis.forward = constant
    alpha = blend.coefficients(state).detach()
    drawn = BlendSparsity(unit=0.01)(rendering, batch, 0).detach()
    by_frame = alpha.abs() @ torch.tensor([0.5, 0.0, 1.0]) * blend.scale / 0.01
    assert float(by_frame.min()) <= float(drawn) <= float(by_frame.max())
    assert float(BlendSmoothness()(rendering, batch, 0).detach()) < 1e-10
    blend.basis.forward = linear
    value = float(BlendSmoothness(samples=20_000)(rendering, batch, 0).detach())
    strain = (alpha @ same).square().sum(-1) / 3  # one of three directions stretches
    assert 0.9 * float(strain.min()) <= value <= 1.1 * float(strain.max())
    line = BlendCoefficients({"expression": 2}, fields=3, layers=0)
    blend.coefficients = line
    assert float(CoefficientSmoothness()(rendering, batch, 0).detach()) < 1e-10, "linear coefficients do not bend"
    assert float(CoefficientSmoothness()(*rendered(model, frames=1), 0).detach()) < 1e-12, "nor does one frame"


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_rendered(loss: Any) -> None:
    rendering, batch = rendered(avatar(), count=0)
    value = loss()(rendering, batch, 0)
    assert float(value.detach()) == 0 and value.requires_grad


def test_which_losses_an_avatar_has() -> None:
    assert [type(loss) for loss in blendfield_losses(colors())] == LOSSES
    assert [type(loss) for loss in blendfield_losses(avatar())] == LOSSES and blendfield_losses(avatar(False)) == []
    names = [loss.name for loss in vp360_losses(avatar(), depth=0.1)]
    assert names == ["color", "depth", "sparsity", "smoothness", "coefficients"]
    assert [loss.name for loss in vp360_losses(avatar(False), depth=0)] == ["color"]


@pytest.mark.parametrize("loss", LOSSES)
def test_errors(loss: Any) -> None:
    with pytest.raises(ValueError, match="no Blendfield, and its conditions no ColorFields"):
        loss()(*rendered(avatar(False)), 0)
    with pytest.raises(ValueError, match=r"training mode"):
        loss()(*rendered(avatar().eval()), 0)
    with pytest.raises(ValueError, match="samples is 0"):
        loss(samples=0)
