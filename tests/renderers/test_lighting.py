"""Light and color of a camera."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import normalize

from headfields.records import Rays
from headfields.renderers.lighting import ColorAffine, SHLighting
from tests.shapes import rotation


def rays(count: int, dtype: torch.dtype = torch.float32) -> Rays:
    turns = torch.stack([rotation(seed) for seed in range(count)]) if count else torch.zeros(0, 3, 3)
    zeros = torch.zeros(count, 3, dtype=dtype)
    return Rays(zeros, zeros, torch.zeros(count, dtype=torch.long), turns.to(dtype))


def test_they_start_as_nothing() -> None:
    rgb, normals, ray = torch.rand(7, 3), normalize(torch.randn(7, 3), dim=-1), torch.randint(3, (7,))
    for shading in (SHLighting(), ColorAffine()):
        torch.testing.assert_close(shading(rgb, normals, ray, rays(3)), rgb)
        assert shading(rgb[:0], normals[:0], ray[:0], rays(0)).shape == (0, 3)


def test_the_nine_terms_by_hand() -> None:
    light, (x, y, z) = SHLighting(), normalize(torch.tensor([0.3, -0.5, 0.8]), dim=0).tolist()
    lambert = [math.sqrt(1 / (4 * math.pi)), 2 * math.pi / 3 * math.sqrt(3 / (4 * math.pi)),
               3 * math.pi / 4 * math.sqrt(5 / (12 * math.pi)), math.pi / 8 * math.sqrt(5 / (4 * math.pi))]  # fmt: skip
    wanted = [lambert[0], lambert[1] * x, lambert[1] * y, lambert[1] * z, lambert[2] * x * y, lambert[2] * x * z,
              lambert[2] * y * z, lambert[2] / 2 * (x * x - y * y), lambert[3] * (3 * z * z - 1)]  # fmt: skip
    for term, value in enumerate(wanted):
        with torch.no_grad():
            light.coefficients.zero_()
            light.coefficients[term] = torch.tensor([1.0, 2.0, 0.0])
        found = light.shading(torch.tensor([[x, y, z]]))
        torch.testing.assert_close(found, torch.tensor([[value, 2 * value, 0.0]]))


def test_light_stays_with_the_camera() -> None:
    """Turning head and camera together changes nothing; the light comes from where the camera says."""
    light = SHLighting()
    with torch.no_grad():
        light.coefficients[2] = -0.4  # from above: y goes down in the camera's frame
    rgb, normals, ray = torch.full((5, 3), 0.5), normalize(torch.randn(5, 3), dim=-1), torch.arange(5) % 2
    seen, turn = rays(2), rotation(9).float()
    turned = seen.replace(camera_rotation=seen.camera_rotation @ turn.T)
    torch.testing.assert_close(light(rgb, normals @ turn.T, ray, turned), light(rgb, normals, ray, seen))
    level = seen.replace(camera_rotation=torch.diag(torch.tensor([1.0, -1, -1])).expand(2, 3, 3))
    up, down = light(rgb[:2], torch.tensor([[0.0, 1, 0], [0, -1, 0]]), ray[:2], level)
    assert bool((up > 0.5).all()) and bool((down < 0.5).all())


def test_the_affine_map_is_the_documented_one() -> None:
    affine = ColorAffine()
    with torch.no_grad():
        affine.matrix[0, 1], affine.offset[2] = 0.5, 0.1
    out = affine(torch.tensor([[0.2, 0.4, 0.6]]), torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), rays(1))
    torch.testing.assert_close(out, torch.tensor([[0.2, 0.5, 0.7]]))


@pytest.mark.parametrize("shading", [SHLighting, ColorAffine])
def test_derivatives(shading: type) -> None:
    made = shading().double()
    rgb, normals = torch.rand(3, 3).double().requires_grad_(), torch.randn(3, 3).double().requires_grad_()
    ray = torch.tensor([0, 0, 1])
    names, values = zip(*made.named_parameters(), strict=True)

    def run(rgb, normals, *parameters):
        given = (rgb, normals, ray, rays(2, torch.float64))
        return torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), given)

    inputs = [rgb, normals, *(value.detach().requires_grad_() for value in values)]
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs, fast_mode=True)


def test_rays_without_a_rotation_are_refused() -> None:
    with pytest.raises(ValueError, match="SHLighting: the rays have no camera_rotation"):
        SHLighting()(torch.ones(1, 3), torch.ones(1, 3), torch.zeros(1, dtype=torch.long),
                     rays(1).replace(camera_rotation=None))  # fmt: skip
