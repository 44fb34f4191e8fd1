"""The occupancy grid: what it culls, keeps, and forgets."""

import math

import pytest
import torch

from headfields.renderers.occupancy_grid import OccupancyGrid

STEP = 0.1


def grid(resolution: int = 4, **options: float) -> OccupancyGrid:
    made = OccupancyGrid(resolution, STEP, **options)
    made.box.copy_(torch.tensor([[0.0, 0, 0], [2.0, 1.0, 1.0]]))
    return made


def centers(made: OccupancyGrid) -> torch.Tensor:
    """The middle of every cell, in the order of the flat index."""
    unit = torch.stack(torch.meshgrid(*[torch.arange(n) for n in made.opacity.shape], indexing="ij"), -1) + 0.5
    return made.box[0] + unit.reshape(-1, 3) / torch.tensor(made.opacity.shape) * (made.box[1] - made.box[0])


def density_for(opacity: float) -> float:
    return -math.log1p(-opacity) / STEP


def test_cells_are_numbered_as_they_are_stored() -> None:
    made = grid()
    flat, inside = made.cells(centers(made))
    assert flat.tolist() == list(range(64)) and bool(inside.all())
    outside = torch.tensor([[-0.1, 0.5, 0.5], [2.0, 0.5, 0.5], [1.0, 0.5, math.nan], [math.inf, 0.5, 0.5]])
    flat, inside = made.cells(outside)
    assert flat.tolist() == [0] * 4 and not bool(inside.any())


def test_unknown_cells_stay_occupied() -> None:
    made = grid()
    made.refresh()
    assert bool(made.occupied.all())
    made.observe(centers(made)[:10], torch.zeros(10))
    made.refresh()
    assert made.occupied.view(-1).tolist() == [False] * 10 + [True] * 54
    assert made.lookup(centers(made)).tolist() == [False] * 10 + [True] * 54


def test_empty_cells_are_culled_and_full_ones_kept() -> None:
    made = grid()
    points = centers(made)
    full = points[:, 0] > 1.0
    made.observe(points, torch.where(full, density_for(0.5), 1e-6))
    made.refresh()
    assert bool((made.occupied.view(-1) == full).all())
    assert not bool(made.lookup(torch.tensor([[3.0, 0.5, 0.5]]))), "outside the box is empty"


def test_a_thin_field_is_not_culled_whole() -> None:
    made = grid()
    points = centers(made)
    opacity = torch.linspace(1e-5, 1e-3, len(points))  # all far below the threshold, half above the mean
    made.observe(points, -torch.log1p(-opacity) / STEP)
    made.refresh()
    assert made.occupied.view(-1).tolist() == [False] * 32 + [True] * 32


def test_observe_decays_once_per_cell_and_call() -> None:
    made = grid(decay=0.9)
    here = centers(made)[[5]]
    made.observe(here, torch.tensor([density_for(0.5)]))
    assert float(made.opacity.view(-1)[5]) == pytest.approx(0.5, abs=1e-6), "the first observation is not decayed"
    made.observe(here.expand(100, 3), torch.zeros(100))
    assert float(made.opacity.view(-1)[5]) == pytest.approx(0.45, abs=1e-6)
    made.observe(here.expand(3, 3), torch.tensor([density_for(value) for value in (0.1, 0.8, 0.3)]))
    assert float(made.opacity.view(-1)[5]) == pytest.approx(0.8, abs=1e-6), "the largest of the call"
    untouched = made.opacity.view(-1)[torch.arange(64) != 5]
    assert bool((untouched == -1).all())


def test_points_outside_and_no_points_change_nothing() -> None:
    made = grid()
    made.observe(torch.tensor([[5.0, 5, 5], [math.nan, 0, 0]]), torch.full((2,), 1e3))
    made.observe(torch.zeros(0, 3), torch.zeros(0))
    assert bool((made.opacity == -1).all())


def test_it_is_saved_with_the_state() -> None:
    made, again = grid(), OccupancyGrid(4, STEP)
    made.observe(centers(made), torch.linspace(0, 5, 64))
    made.refresh()
    again.load_state_dict(made.state_dict())
    assert bool((again.occupied == made.occupied).all()) and not bool(again.occupied.all())
