"""Encoders on canonical points: widths, gating, normalization."""

import pytest
import torch

from headfields.encoders import Frequency, HashGrid, RegionGate
from headfields.ops.hash_grid import hash_grid
from headfields.records import Canonical, HeadState

BOX = torch.tensor([[-0.1, -0.2, -0.1], [0.1, 0.2, 0.1]])


def canonical(points: torch.Tensor, face: torch.Tensor | None = None, ambient: torch.Tensor | None = None) -> Canonical:
    count = len(points)
    return Canonical(
        points=points, directions=torch.zeros(count, 3), posed_points=points, frame=torch.arange(count) % 2,
        valid=torch.ones(count, dtype=torch.bool), face=face, ambient=ambient,
    )  # fmt: skip


def test_the_hash_grid_covers_the_box_with_a_cube() -> None:
    encoder = HashGrid(levels=2, features=2, log2_table_size=8, base_resolution=4, finest_resolution=8, initial=1.0)
    encoder.build(BOX, 0)
    points = torch.rand(9, 3) * 0.2 - 0.1
    expected = hash_grid((points - torch.tensor([-0.2, -0.2, -0.2])) / 0.4, encoder.table, encoder.layout)
    torch.testing.assert_close(encoder(canonical(points), None), expected)
    assert expected.shape == (9, encoder.width)


def test_extent_sets_the_side() -> None:
    encoder = HashGrid(levels=2, features=2, log2_table_size=8, base_resolution=4, finest_resolution=8, extent=1.0)
    encoder.build(BOX, 0)
    assert float(encoder.side) == 1.0
    torch.testing.assert_close(encoder.low, torch.full((3,), -0.5))


def test_hyper_coordinates_are_further_axes() -> None:
    encoder = HashGrid(levels=2, features=2, log2_table_size=10, base_resolution=2, finest_resolution=4, initial=1.0)
    encoder.build(BOX, 1)
    points = torch.zeros(2, 3)
    out = encoder(canonical(points, ambient=torch.tensor([[-0.5], [0.7]])), None)
    assert encoder.layout.dimensions == 4 and not torch.allclose(out[0], out[1])


def test_the_gate_opens_in_its_region_only() -> None:
    gate = RegionGate("expression", torch.tensor([True, False]), width=2)
    state = HeadState(vertices=torch.zeros(2, 3, 3), expression=torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]))
    out = gate(canonical(torch.zeros(4, 3), face=torch.tensor([0, 0, 1, -1])), gate.prepare(state))
    torch.testing.assert_close(out, torch.tensor([[0.1, 0.2], [0.4, 0.5], [1, 1], [1, 1]]))
    rows, index = gate.shared(canonical(torch.zeros(4, 3), face=torch.tensor([0, 0, 1, -1])), gate.prepare(state))
    assert rows.shape == (3, 2)
    torch.testing.assert_close(rows[index], out)


def test_the_gate_passes_gradients_to_the_state() -> None:
    gate = RegionGate("code", torch.tensor([True, False]), width=2)
    code = torch.zeros(2, 2, requires_grad=True)
    state = HeadState(vertices=torch.zeros(2, 3, 3), codes={"code": code})
    gate(canonical(torch.zeros(4, 3), face=torch.tensor([0, 0, 1, 0])), gate.prepare(state)).sum().backward()
    torch.testing.assert_close(code.grad, torch.tensor([[1.0, 1.0], [2.0, 2.0]]))


def test_the_gate_says_what_is_missing() -> None:
    gate = RegionGate("expression", torch.tensor([True]), width=5)
    with pytest.raises(ValueError, match=r"width is 5 but the state's 'expression' has shape \(1, 3\)"):
        gate.prepare(HeadState(vertices=torch.zeros(1, 3, 3), expression=torch.zeros(1, 3)))
    with pytest.raises(ValueError, match="needs 'expression'"):
        gate.prepare(HeadState(vertices=torch.zeros(1, 3, 3)))


@pytest.mark.parametrize("include_input", [True, False])
def test_frequency_width(include_input: bool) -> None:
    encoder = Frequency(bands=3, include_input=include_input)
    encoder.build(BOX, 0)
    out = encoder(canonical(torch.rand(5, 3, requires_grad=True)), None)
    assert out.shape == (5, encoder.width) and out.requires_grad
