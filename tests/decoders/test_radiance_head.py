"""The head of NeRF's network: its formulas, what it sees, derivatives, sizes."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from headfields.decoders import RadianceHead
from headfields.ops import frequency_encoding
from headfields.records import Features, FieldValues
from tests.points import viewed_along


def built(width: int = 6, **options) -> RadianceHead:
    torch.manual_seed(0)
    head = RadianceHead(hidden=5, **options)
    head.build(width)
    return head


def decode(head: RadianceHead, features: Tensor, directions: Tensor, color: bool = True) -> FieldValues:
    return head(Features(features), viewed_along(directions), None, color)


def test_the_formulas() -> None:
    head = built(density_bias=2.0)
    features, directions = torch.randn(7, 6), torch.nn.functional.normalize(torch.randn(7, 3), dim=-1)
    values = decode(head, features, directions)
    torch.testing.assert_close(values.density, (features @ head.density_layer.weight[0] + 2.0).exp())
    hidden, last = head.color_network[0], head.color_network[2]
    seen = torch.cat([features, frequency_encoding(directions, 4)], dim=-1)
    assert seen.shape[1] == hidden.in_features == 6 + 27
    torch.testing.assert_close(values.rgb, last(hidden(seen).relu()).sigmoid())


def test_the_papers_sizes() -> None:
    head = RadianceHead()
    head.build(128)
    assert sum(p.numel() for p in head.parameters()) == 129 + (155 * 64 + 64) + (64 * 3 + 3)


def test_color_can_be_left_out_and_directions_too() -> None:
    features, directions = torch.randn(4, 6), torch.randn(4, 3)
    assert decode(built(), features, directions, color=False).rgb is None
    head = built(direction_bands=0)
    torch.testing.assert_close(decode(head, features, directions).rgb, decode(head, features, -directions).rgb)
    with_directions = built()
    assert not torch.allclose(
        decode(with_directions, features, directions).rgb, decode(with_directions, features, -directions).rgb
    )


def test_derivatives() -> None:
    head = built(color_layers=2).double()
    given = [torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)]
    given = [x.requires_grad_() for x in given]

    def run(features, directions):
        values = decode(head, features, directions)
        return values.density, values.rgb

    assert gradcheck(run, given) and gradgradcheck(run, given, fast_mode=True)


def test_no_points_and_huge_features() -> None:
    head = built()
    empty = torch.zeros(0, 6, requires_grad=True)
    values = decode(head, empty, torch.zeros(0, 3))
    (values.rgb.sum() + values.density.sum()).backward()
    assert empty.grad is not None and values.rgb.shape == (0, 3)
    assert decode(head, torch.full((2, 6), 1e6), torch.zeros(2, 3)).density.isfinite().all()


def test_bad_sizes(unchecked: None) -> None:
    for options in ({"hidden": 0}, {"color_layers": -1}, {"direction_bands": -1}):
        with pytest.raises(ValueError, match="RadianceHead: hidden="):
            RadianceHead(**options)
