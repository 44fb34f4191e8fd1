"""Parameters fitted to meshes of a head's topology."""

import copy

import pytest
import torch

from headfields.apps.export.parameter_fit import ParameterFit


@pytest.fixture(scope="module")
def fit(tiny_head):
    return ParameterFit(tiny_head)


def _random_pose(seed: int, size: float) -> torch.Tensor:
    return size * torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_parameters_of_the_heads_own_meshes_come_back(fit):
    random = torch.Generator().manual_seed(3)
    shape = torch.zeros(1, 300, dtype=torch.float64)
    shape[0, :8] = torch.randn(8, generator=random, dtype=torch.float64)
    neutral = fit.head(shape=shape, pose=_random_pose(1, 0.05)).vertices[0]
    identity = fit.identity(neutral)
    assert (fit.head(**identity).vertices[0] - neutral).abs().max() < 1e-12
    expression = torch.zeros(1, 100, dtype=torch.float64)
    expression[0, :6] = torch.randn(6, generator=random, dtype=torch.float64)
    pose, translation = _random_pose(2, 0.2), torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    posed = fit.head(shape=shape, expression=expression, pose=pose, translation=translation).vertices[0]
    fitted = fit.frame(posed, {"shape": shape})
    assert (fitted["expression"] - expression).abs().max() < 0.02
    assert (fitted["pose"] - pose).abs().max() < 2e-3 and (fitted["translation"] - translation).abs().max() < 1e-3


@pytest.mark.parametrize("size", [0.0, 0.3, 0.8])
def test_the_offset_makes_any_parameters_exact(fit, size):
    posed = 0.1 * torch.rand(len(fit.head.template_vertices), 3, generator=torch.Generator().manual_seed(1)).double()
    pose = _random_pose(5, size)
    pose[0, 0, 1] += 2.5  # a head seen from behind
    arguments = {"pose": pose, "shape": torch.ones(1, 300, dtype=torch.float64), "translation": pose[:, 0]}
    offset = fit.offset(posed, arguments)
    assert offset.abs().max() > 0.01
    assert (fit.head(**arguments, offset=offset).vertices[0] - posed).abs().max() < 1e-12


def test_a_start_that_fits_is_the_mean_of_the_prior(fit):
    expression = torch.zeros(1, 100, dtype=torch.float64)
    expression[0, -1] = 0.8
    pose = _random_pose(7, 0.1)
    posed = fit.head(expression=expression, pose=pose).vertices[0]
    fitted = fit.frame(posed, {}, [{"expression": expression, "pose": pose}])
    torch.testing.assert_close(fitted["expression"], expression)
    torch.testing.assert_close(fitted["pose"], pose)
    without_pose = fit.frame(fit.head(expression=expression).vertices[0], {}, [{"expression": expression}])
    assert (without_pose["expression"] - expression).abs().max() < 1e-6


def test_the_head_is_left_as_it_is(tiny_head):
    before = copy.deepcopy(tiny_head.state_dict())
    ParameterFit(tiny_head).identity(tiny_head.template_vertices)
    assert tiny_head.template_vertices.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in tiny_head.state_dict().items())


def test_wrong_arguments_are_named(fit):
    count = len(fit.head.template_vertices)
    with pytest.raises(ValueError, match="vertices"):
        fit.identity(torch.zeros(count + 1, 3))
    with pytest.raises(TypeError, match="vertices"):
        fit.identity(torch.zeros(count, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="not finite"):
        fit.frame(torch.full((count, 3), torch.nan), {})
    with pytest.raises(ValueError, match=r"starts has an expression \(1, 7\)"):
        fit.frame(fit.head.template_vertices, {}, [{"expression": torch.zeros(1, 7)}])
    folded = torch.zeros(1, 5, 3)
    folded[0, 2, 0] = torch.pi
    halved = copy.deepcopy(fit)
    halved.head.weights[7] = torch.tensor([0.0, 0.5, 0.5, 0.0, 0.0])
    with pytest.raises(ValueError, match="folds a vertex"):
        halved.offset(fit.head.template_vertices, {"pose": folded})
