"""One call for packed samples: it is the composition of the parts that it calls."""

import pytest
import torch

import headfields as hf
from headfields.ops.compositing import composite, weights_from_alpha, weights_from_density
from headfields.ops.nearest_vertices import knn
from headfields.ops.volume_render import render_weights, volume_render
from headfields.records import Samples
from tests.tables import table

SAMPLES = Samples(torch.tensor([0, 0, 2]), torch.tensor([0.0, 1.0, 0.5]), torch.tensor([1.0, 2.0, 3.0]))
RGB = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
DENSITY, ALPHA = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([0.5, 1.0, 0.25])
WHITE = torch.ones(3)


@pytest.mark.parametrize("given", ["density", "alpha"])
def test_it_is_weights_and_compositing(given: str) -> None:
    values = {"density": DENSITY, "alpha": ALPHA}[given]
    image = volume_render(RGB, SAMPLES, 3, **{given: values}, background=WHITE)
    if given == "density":
        weights = weights_from_density(DENSITY, SAMPLES.start, SAMPLES.end, SAMPLES.ray, 3)
    else:
        weights = weights_from_alpha(ALPHA, SAMPLES.ray, 3)
    rgb, opacity, depth = composite(weights, RGB, SAMPLES, 3, WHITE)
    for found, expected in zip((image.rgb, image.opacity, image.depth), (rgb, opacity, depth), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(image.weights, weights) and torch.equal(render_weights(SAMPLES, 3, **{given: values}), weights)
    assert image.rgb[1].tolist() == [1, 1, 1] and image.opacity[1] == 0  # a ray without samples


def test_no_samples_keep_the_graph() -> None:
    none = Samples(torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(0))
    density = torch.zeros(0, requires_grad=True)
    volume_render(torch.zeros(0, 3), none, 2, density=density).opacity.sum().backward()
    assert density.grad is not None
    assert volume_render(torch.zeros(0, 3), none, 0, density=density).rgb.shape == (0, 3)


def test_second_derivatives() -> None:
    density = DENSITY.double().requires_grad_()
    samples = Samples(SAMPLES.ray, SAMPLES.start.double(), SAMPLES.end.double())

    def render(density: torch.Tensor) -> torch.Tensor:
        return volume_render(RGB.double(), samples, 3, density=density).rgb

    assert torch.autograd.gradcheck(render, density) and torch.autograd.gradgradcheck(render, density, fast_mode=True)


REFUSED = {
    "neither": ({}, "neither of density and alpha"),
    "both": ({"density": DENSITY, "alpha": ALPHA}, "both of density and alpha"),
    "a short density": ({"density": DENSITY[:2]}, r"density has shape \(2,\)"),
    "a short alpha": ({"alpha": ALPHA[:2]}, r"alpha has shape \(2,\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused(case: str) -> None:
    values, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        render_weights(SAMPLES, 3, **values)


RAYS = hf.Rays(torch.zeros(3, 3), torch.ones(3, 3), torch.zeros(3, dtype=torch.long))

MISPLACED = {
    "volume_render's order of before": (lambda: volume_render(SAMPLES, 3, RGB, density=DENSITY), "samples is an int"),
    "rays in place of their number": (
        lambda: volume_render(RGB, SAMPLES, RAYS, density=DENSITY), r"rays is a Rays; .* of rays \(len\(rays\)\)"
    ),
    "rays for samples": (lambda: composite(ALPHA, RGB, RAYS, SAMPLES), "samples is a Rays; expected hf.Samples"),
    "no number of rays": (lambda: composite(ALPHA, RGB, SAMPLES, None), "composite: rays is None"),
    "a tensor of the number": (lambda: render_weights(SAMPLES, torch.tensor(3.0), alpha=ALPHA), r"rays is a tensor"),
    "samples before the weights": (lambda: hf.ops.distortion(SAMPLES, ALPHA, 3), r"is a tensor of shape \(3,\)"),
    "interlevel by records": (lambda: hf.ops.interlevel(ALPHA, ALPHA, SAMPLES, SAMPLES, 3), "samples is a tensor"),
    "merged with weights": (lambda: hf.ops.merge_samples(SAMPLES, ALPHA, 3), "second is a tensor"),
    "inverse_cdf's order of before": (lambda: hf.ops.inverse_cdf(SAMPLES, ALPHA, 4, 3), r"\(weights, samples, "),
    "a record of rays for inverse_cdf": (lambda: hf.ops.inverse_cdf(ALPHA, SAMPLES, 4, RAYS), "rays is a Rays"),
    "samples for ray": (lambda: hf.ops.accumulate(ALPHA, RGB, SAMPLES, 3), "pass samples.ray"),
    "rays for ray": (lambda: hf.ops.weights_from_alpha(ALPHA, RAYS, 3), "Samples.ray holds it"),
}  # fmt: skip


@table("case", MISPLACED)
def test_misplaced_records_are_told_where_they_belong(case: str, unchecked: None) -> None:
    call, message = MISPLACED[case]
    with pytest.raises(TypeError, match=message):
        call()


def test_knn_finds_what_a_distance_matrix_finds(unchecked: None) -> None:
    generator = torch.Generator().manual_seed(1)
    points, vertices = torch.randn(20, 3, generator=generator), torch.randn(50, 3, generator=generator)
    near = knn(points, vertices, 4)
    expected = torch.cdist(points, vertices).topk(4, largest=False)
    assert torch.equal(near.index, expected.indices)
    torch.testing.assert_close(near.distance, expected.values)
    with pytest.raises(ValueError, match=r"knn: vertices has shape \(1, 50, 3\)"):
        knn(points, vertices[None], 4)
