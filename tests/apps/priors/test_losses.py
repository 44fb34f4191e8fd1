"""Terms of a prior's loss on numbers computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from headfields.apps.priors import losses
from headfields.apps.priors.losses import PriorWeights
from headfields.apps.priors.schedule import PriorSchedule
from tests.tables import table


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)


def test_surface_counts_front_and_back_by_their_numbers() -> None:
    assert losses.surface_error(torch.tensor([0.5, -1.5]), torch.tensor([1.0])).item() == pytest.approx(1.0)


def test_normals_in_front_count_fully_and_on_the_back_a_clamped_quarter() -> None:
    front, true = rows((0, 0, 1.0), (0, 1.0, 0)), rows((0, 0, 1.0), (0, 0, 1.0))
    back, back_true = rows((0.0, 0, 1.0), (0.0, 0, 0.8)), rows((0.0, 0, -1.0), (0.0, 0, 1.0))
    expected = (0 + math.sqrt(2) + 0.75 / 4 + 0.2 / 4) / 4
    assert losses.normal_error(front, true, back, back_true).item() == pytest.approx(expected)


def test_eikonal_is_the_distance_of_the_gradients_length_from_one() -> None:
    assert losses.eikonal_error(rows((3.0, 4.0, 0.0), (0.0, 0.0, 0.5))).item() == pytest.approx((4 + 0.5) / 2)


def test_empty_space_falls_off_with_the_distance() -> None:
    expected = (math.exp(-1) + math.exp(-2)) / 2
    assert losses.empty_space(torch.tensor([0.1, -0.2])).item() == pytest.approx(expected)


def test_colors_off_the_surface_count_a_fifth() -> None:
    on, near = rows((0.0, 0.0, 0.6)), rows((1.0, 0.0, 0.0))
    expected = (0.6 + 0.2 * 2) / 6
    found = losses.color_error(on, torch.zeros(1, 3), near, rows((0.0, 0.0, 1.0)))
    assert found.item() == pytest.approx(expected)


def test_correspondences_anchors_and_offsets_are_mean_squares_per_coordinate() -> None:
    found, true = rows((0.3, 0, 0), (0, 0.6, 0)), torch.zeros(2, 3)
    assert losses.correspondence_error(found, true).item() == pytest.approx((0.09 + 0.36) / 6)
    assert losses.anchor_error(found[None], true[None]).item() == pytest.approx((0.09 + 0.36) / 6)
    assert losses.offset_size(found).item() == pytest.approx((0.09 + 0.36) / 6)


def test_hyper_coordinates_of_neutral_scans_count_ten_times() -> None:
    assert losses.hyper_size(rows((0.1, -0.3)), rows((0.5, 0.0))).item() == pytest.approx(0.2 + 10 * 0.25)


def test_codes_count_by_their_squared_norm() -> None:
    assert losses.code_size(rows((3.0, 4.0), (0.0, 1.0))).item() == pytest.approx((25 + 1) / 2)


def test_known_distances_pull_from_the_wrong_side_however_far() -> None:
    found = torch.tensor([0.05, -0.4, 0.5, 0.3], requires_grad=True)
    true, known = torch.tensor([0.02, 0.2, 0.3, -9.0]), torch.tensor([True, True, True, False])
    loss = losses.distance_error(found, true, known)
    assert loss.item() == pytest.approx((0.03 + 0.5 + 0.0) / 3)
    loss.backward()
    assert torch.allclose(found.grad, torch.tensor([1.0, -1.0, 0.0, 0.0]) / 3)


@table(
    ("term", "shapes"),
    [
        (losses.surface_error, [(0,), (0,)]),
        (losses.normal_error, [(0, 3), (0, 3), (0, 3), (0, 3)]),
        (losses.eikonal_error, [(0, 3)]),
        (losses.empty_space, [(0,)]),
        (losses.color_error, [(0, 3), (0, 3), (0, 3), (0, 3)]),
        (losses.correspondence_error, [(0, 3), (0, 3)]),
        (losses.anchor_error, [(0, 5, 3), (0, 5, 3)]),
        (losses.hyper_size, [(0, 2), (0, 2)]),
        (losses.offset_size, [(0, 3)]),
        (losses.code_size, [(0, 4)]),
    ],
)
def test_no_points_give_a_zero_with_a_gradient(term, shapes) -> None:
    inputs = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    value = term(*inputs)
    assert value.item() == 0
    value.backward()
    assert inputs[0].grad is not None


@table("selected", [[True, False, True], [False] * 3])
@table(
    ("term", "masked", "whole"),
    [
        (losses.normal_error, (2, 3), (0, 1)),
        (losses.color_error, (2, 3), (0, 1)),
        (losses.correspondence_error, (0, 1), ()),
        (losses.anchor_error, (0, 1), ()),
        (losses.hyper_size, (1,), (0,)),
        (losses.offset_size, (0,), ()),
    ],
)
def test_a_mask_leaves_out_what_indexing_by_it_would(term, masked, whole, selected) -> None:
    """Of NaN too, in values and gradients."""
    torch.manual_seed(0)
    mask, inputs = torch.tensor(selected), [torch.randn(3, 4, 3) for _ in range(len(masked) + len(whole))]
    for i in masked:
        inputs[i][~mask] = math.nan
    inputs = [values.requires_grad_() for values in inputs]
    value = term(*inputs, mask)
    indexed = term(*(values[mask] if i in masked else values for i, values in enumerate(inputs)))
    assert torch.allclose(value, indexed)
    pairs = zip(*(torch.autograd.grad(loss, inputs) for loss in (value, indexed)), strict=True)
    assert all(torch.allclose(a, b) for a, b in pairs)


@pytest.mark.parametrize("term", [losses.eikonal_error, losses.normal_error])
def test_lengths_of_nothing_have_finite_derivatives(term) -> None:
    zero = torch.zeros(2, 3, requires_grad=True)
    value = term(zero) if term is losses.eikonal_error else term(zero, torch.zeros(2, 3), zero, torch.zeros(2, 3))
    (first,) = torch.autograd.grad(value, zero, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), zero, allow_unused=True, materialize_grads=True)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()


def test_weights_are_the_published_ones_and_refuse_nonsense() -> None:
    weights = PriorWeights()
    published = {
        "surface": 1, "normals": 0.3, "eikonal": 0.15, "empty": 0.01, "color": 1, "correspondence": 1000,
        "anchors": 7.5, "hyper": 0.05, "still": 0.0025, "neutral": 0.001, "shape": 0.01, "appearance": 0.005,
        "expression": 0.05, "symmetry": 0.01, "appearance_symmetry": 1e-4, "distance": 0,
    }  # fmt: skip
    assert {name: weights.of(name) for name in published} == published
    with pytest.raises(ValueError, match="PriorWeights: hyper is -1"):
        PriorWeights(hyper=-1)


def test_the_schedule_has_the_published_shape_whatever_the_length() -> None:
    schedule = PriorSchedule()
    for epoch, halvings in ((0, 0), (349, 0), (350, 1), (700, 2), (1050, 3), (1299, 3), (1300, 4), (2499, 8)):
        assert schedule.factor(epoch / 2500) == 0.5**halvings, epoch
    assert schedule.correspondence(0.3) == 1
    assert schedule.correspondence(751 / 2500) == 0.25
    rising = PriorSchedule(warm_up=0.1, halvings=(0.5,))
    assert [rising.factor(f) for f in (0, 0.05, 0.1, 0.5)] == pytest.approx([0, 0.5, 1, 0.5])
    with pytest.raises(ValueError, match="not a fraction"):
        PriorSchedule(halvings=(2.0,))
