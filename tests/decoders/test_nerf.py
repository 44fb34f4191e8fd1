"""The NeRF decoder: ranges, the part that depends on the direction, gradients."""

import pytest
import torch
from torch import nn

from headfields.decoders import NeRFDecoder
from headfields.networks.mlp import MLP, mlp
from headfields.records import Features, FieldValues
from tests.points import viewed_along


def built(**options: object) -> NeRFDecoder:
    torch.manual_seed(0)
    decoder = NeRFDecoder(**options)  # type: ignore[arg-type]
    decoder.build(6)
    return decoder


def directions(count: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)


def decode(decoder: NeRFDecoder, features: torch.Tensor, along: torch.Tensor, color: bool = True) -> FieldValues:
    return decoder(Features(features), viewed_along(along), None, color)


def test_ranges_and_shapes() -> None:
    values = decode(built(), torch.randn(7, 6), directions(7))
    assert values.rgb is not None and values.density is not None
    assert values.rgb.shape == (7, 3) and bool((values.rgb > 0).all() & (values.rgb < 1).all())
    assert bool((values.density > 0).all())


def test_density_does_not_see_the_direction_and_color_does() -> None:
    decoder, features = built(), torch.randn(5, 6)
    one, other = decode(decoder, features, directions(5, 1)), decode(decoder, features, directions(5, 2))
    torch.testing.assert_close(one.density, other.density)
    assert not torch.allclose(one.rgb, other.rgb)
    flat = built(direction_degree=0)
    torch.testing.assert_close(
        decode(flat, features, directions(5, 1)).rgb, decode(flat, features, directions(5, 2)).rgb
    )


def test_density_alone_leaves_color_out() -> None:
    decoder, features = built(), torch.randn(5, 6)
    values = decode(decoder, features, directions(5), color=False)
    assert values.rgb is None
    torch.testing.assert_close(values.density, decode(decoder, features, directions(5)).density)


def test_color_may_be_asked_for_later() -> None:
    decoder, features = built(), torch.randn(5, 6)
    first, whole = decode(decoder, features, directions(5), color=False), decode(decoder, features, directions(5))
    assert first.geometry is not None
    torch.testing.assert_close(decoder.color(first, viewed_along(directions(5)), None), whole.rgb)
    assert decoder.color(first[:0], viewed_along(directions(0)), None).shape == (0, 3)


def test_huge_activations_stay_finite() -> None:
    values = decode(built(), torch.full((3, 6), 1e4), directions(3))
    assert values.density is not None and bool(values.density.isfinite().all())


def test_density_bias_is_where_training_starts() -> None:
    decoder = built(density_bias=2.0)
    values = decode(decoder, torch.zeros(1, 6), directions(1))
    torch.testing.assert_close(values.density, torch.tensor([2.0]).exp())


def test_second_derivatives() -> None:
    decoder = built().double()
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)

    def function(features: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = decode(decoder, features, direction)
        return values.rgb, values.density

    inputs = (torch.randn(2, 6, dtype=torch.float64, requires_grad=True), directions(2).double().requires_grad_())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_the_network_is_a_sequential_of_linear_and_relu() -> None:
    """Its parameters have a Sequential's names, so that files of either load into the other, and so are its values."""
    torch.manual_seed(0)
    network = mlp(6, 8, 2, 3, bias=True)
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    plain.load_state_dict(network.state_dict())
    x = torch.randn(20, 6)
    torch.testing.assert_close(network(x), plain(x))
    torch.testing.assert_close(network.double()(x.double()), plain.double()(x.double()))


def test_conditions_stand_for_the_last_features() -> None:
    decoder, features = built(), torch.randn(9, 6)
    rows, index = torch.randn(3, 2), torch.arange(9) % 3
    features[:, 4:] = rows[index]
    wanted = decode(decoder, features, directions(9))
    found = decoder(Features(features[:, :4], rows, index), viewed_along(directions(9)), None)
    torch.testing.assert_close(found.density, wanted.density)
    torch.testing.assert_close(found.rgb, wanted.rgb)


@pytest.mark.parametrize("conditioned", [False, True])
def test_compiles_without_a_break(unchecked: None, conditioned: bool) -> None:
    torch._dynamo.reset()
    decoder = built()
    shared = (torch.randn(3, 2), torch.arange(9) % 3) if conditioned else ()
    features = torch.randn(9, 4 if conditioned else 6)
    # Not the whole decoder: the constructor of its result is wrapped by the annotation checks of the test run.
    network = decoder.density_network
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, *shared), network(features, *shared))


def test_mixed_precision() -> None:
    decoder, features = built(), torch.randn(9, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = decode(decoder, features, directions(9))
    torch.testing.assert_close(found.density, decode(decoder, features, directions(9)).density, atol=0.05, rtol=0.05)


def test_no_points() -> None:
    values = decode(built(), torch.zeros(0, 6, requires_grad=True), torch.zeros(0, 3))
    assert values.rgb is not None and values.rgb.shape == (0, 3) and values.rgb.requires_grad


def test_errors() -> None:
    with pytest.raises(ValueError, match="direction_degree is 9"):
        NeRFDecoder(direction_degree=9)
    with pytest.raises(ValueError, match="must be positive"):
        mlp(0, 4, 1, 1)
    with pytest.raises(ValueError, match=r"MLP: widths are \(3,\)"):
        MLP(3)
