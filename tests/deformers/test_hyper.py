"""The hyper-dimensional deformation next to one that joins everything at every point, and what it refuses."""

import pytest
import torch
from torch.nn import functional

import headfields as hf
from headfields.deformers import HyperDeformer
from headfields.networks import Anchors
from headfields.ops.ray_box import ray_sphere
from tests.tables import table

FRAMES = 3


def anchors(**options) -> Anchors:
    return Anchors(0.1 * torch.randn(5, 3), 2, global_width=4, local_width=3, hidden=6, **options)


def deformer(ambient=2, skip=1, lively=True, **options) -> HyperDeformer:
    sizes = {"expression_width": 5, "identity_width": 3, "hidden": 12, "layers": 3, "beta": 20.0}
    made = HyperDeformer(anchors(center=torch.tensor([0.0, 0.02, 0.0])), ambient, skip=skip, **(sizes | options))
    if lively:
        with torch.no_grad():
            made.out.weight *= 100
    return made


def state(part: HyperDeformer, dtype=torch.float32, frames=FRAMES) -> hf.HeadState:
    codes = {name: torch.randn(frames, width, dtype=dtype) for name, width in part.code_widths.items()}
    return hf.HeadState(torch.zeros(frames, 0, 3, dtype=dtype), codes=codes)


def joined(part: HyperDeformer, points, frame, given: hf.HeadState):
    """The definition: [x, identity, expression] of each point, through all layers."""
    geometry, expression = given.codes["geometry"], given.codes["expression_code"]
    places = part.anchors.normalized(part.anchors(geometry)).flatten(1)
    codes = torch.cat([part.identity(torch.cat([geometry, places], -1)), expression], -1)
    x = torch.cat([part.anchors.normalized(points), codes[frame]], -1)
    hidden = x
    for index, layer in enumerate(part.layers):
        if index == part.skip:
            hidden = torch.cat([hidden, x], -1) / 2**0.5
        hidden = functional.softplus(layer(hidden), part.beta)
    out = part.out(hidden)
    return points + out[:, :3] / part.anchors.scale, out[:, 3:]


def points_in(count, dtype=torch.float32):
    return 0.3 * (torch.rand(count, 3, dtype=dtype) - 0.5), torch.randint(FRAMES, (count,))


@table("ambient", [0, 1, 2])
@table("skip", [None, 1, 2])
def test_codes_folded_into_the_layers_change_nothing(ambient, skip):
    part = deformer(ambient, skip).double()
    given = state(part, torch.float64)
    points, frame = points_in(40, torch.float64)
    found = part(points, points, frame, part.prepare(given))
    where, hyper = joined(part, points, frame, given)
    torch.testing.assert_close(found.points, where)
    assert part.ambient_width == ambient
    if ambient:
        torch.testing.assert_close(found.ambient, hyper)
    else:
        assert found.ambient is None
    assert torch.equal(found.directions, points) and found.face is None
    alone = part(points, points, 0 * frame, part.prepare(given[1]))  # one frame: its row is a bias
    torch.testing.assert_close(alone.points, joined(part, points, torch.ones_like(frame), given)[0])


def test_it_starts_near_the_identity():
    part = HyperDeformer(Anchors(torch.randn(65, 3) * 0.1, 30))
    assert part.code_widths == {"geometry": 2176, "expression_code": 100} and part.bounds().abs().max() == 0.175
    points, _ = points_in(50)
    codes = {name: torch.zeros(1, width) for name, width in part.code_widths.items()}
    prepared = part.prepare(hf.HeadState(torch.zeros(1, 0, 3), codes=codes))
    found = part(points, points, torch.zeros(50, dtype=torch.long), prepared)
    assert 0 < float((found.points - points).detach().norm(dim=-1).max()) < 0.002
    assert [layer.in_features for layer in part.layers] == [119, 400, 400, 519, 400, 400]


def test_derivatives_of_points_codes_and_weights():
    part = deformer(1, 1, hidden=4).double()
    points, frame = points_in(3, torch.float64)
    codes = state(part, torch.float64).codes
    inputs = [t.clone().requires_grad_() for t in (points, codes["geometry"], codes["expression_code"])]
    inputs.append(part.out.weight.detach().clone().requires_grad_())

    def function(x, geometry, expression, weight):
        given = hf.HeadState(x.new_zeros(FRAMES, 0, 3), codes={"geometry": geometry, "expression_code": expression})
        prepared = part.prepare(given)
        found = torch.func.functional_call(part, {"out.weight": weight}, (x, x, frame, prepared))
        return found.points, found.ambient

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_every_parameter_learns_and_nothing_is_legal():
    part = deformer(lively=False)
    points, frame = points_in(20)
    found = part(points, points, frame, part.prepare(state(part)))
    (found.points.square().sum() + found.ambient.sum()).backward()
    assert all(bool(parameter.grad.any()) for parameter in part.parameters())
    part.zero_grad()
    none = part(points[:0], points[:0], frame[:0], part.prepare(state(part)))
    none.points.sum().backward()
    assert len(none) == 0 and none.ambient.shape == (0, 2) and part.out.weight.grad is not None


def test_the_sphere():
    part = deformer(radius=0.2)
    center = part.anchors.center
    points = center + torch.tensor([[0.0, 0.0, 0.19], [0.0, 0.21, 0.0]])
    ready = part.prepare(state(part))
    assert part(points, points, torch.zeros(2, dtype=torch.long), ready).valid.tolist() == [True, False]
    torch.testing.assert_close(part.bounds(), torch.stack([center - 0.2, center + 0.2]))
    torch.testing.assert_close(part.posed_bounds(ready), part.bounds())
    frame = torch.zeros(4, dtype=torch.long)
    origins = center + torch.tensor([[0.0, 0.0, 1.0], [0.1, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.1]])
    rays = hf.Rays(origins, torch.tensor([[0.0, 0, -1], [0, 0, -1], [0, 0, 1], [0, 0, -1]]), frame)
    near, far = part.near_far(rays, ready)
    half = (0.2**2 - 0.1**2) ** 0.5
    torch.testing.assert_close(near, torch.tensor([0.8, 1 - half, 0.0, 0.0]))
    torch.testing.assert_close(far, torch.tensor([1.2, 1 + half, 0.0, 0.3]))


def test_rays_and_spheres_have_derivatives_and_no_nan():
    origins = torch.tensor([[0.1, 0.0, 1.0], [0.5, 0.0, 1.0], [0.2, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    directions = torch.tensor([[0.0, 0.0, -1.0]] * 3, dtype=torch.float64)
    frame, center = torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.float64)

    def function(x):
        near, far = ray_sphere(hf.Rays(x, directions, frame), center, 0.2)  # hits, misses, touches
        return near[:1], far[:1]

    assert torch.autograd.gradcheck(function, origins)
    near, far = ray_sphere(hf.Rays(origins, directions, frame), center, 0.2)
    (near[0] + far[0] + 0 * near[1:].sum()).backward()
    assert bool(origins.grad.isfinite().all()) and bool((near[1:] == 0).all())


def test_errors(unchecked):
    for options, message in (
        ({"ambient": -1}, "ambient is -1"), ({"skip": 3}, "skip is 3; expected 1 to 2 with 3 layers"),
        ({"beta": 0}, "beta is 0"), ({"radius": -1}, "radius -1"), ({"hidden": 0}, "hidden is 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            deformer(**options)
    part = deformer()
    given = state(part)
    with pytest.raises(ValueError, match="HyperDeformer needs 'expression_code'"):
        part.prepare(given.replace(codes={"geometry": given.codes["geometry"]}))
    with pytest.raises(ValueError, match="'expression_code' of the HeadState has 4 numbers, and expression_width is 5"):
        part.prepare(given.replace(codes={**given.codes, "expression_code": torch.zeros(FRAMES, 4)}))
    with pytest.raises(ValueError, match="HyperDeformer: the code 'geometry' of the HeadState has 3 numbers"):
        part.prepare(given.replace(codes={**given.codes, "geometry": torch.zeros(FRAMES, 3)}))
