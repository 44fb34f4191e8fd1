"""Inverses of deformers: found, reported where they are not, and their gradient next to finite differences."""

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad

import headfields as hf
from headfields import Deformer
from headfields.deformers import SurfaceCanonicalizer, invert
from headfields.records import Inverse
from tests.deformers.test_hyper import FRAMES, deformer, points_in, state
from tests.shapes import uv_sphere


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_deformer_takes_away_comes_back(dtype):
    part = deformer(2).to(dtype)
    prepared = part.prepare(state(part, dtype))
    points, frame = points_in(200, dtype)
    there = part(points, points, frame, prepared).points.detach()
    moved = float((there - points).norm(dim=-1).max())
    assert moved > 0.02, "the test is of a deformation worth the name"
    found = invert(part, prepared, there, frame)
    assert bool(found.converged.all()) and float(found.residual.max()) <= 1.25e-5
    assert float((found.points - points).detach().norm(dim=-1).max()) < 1e-5  # a Newton step beyond the tolerance
    with torch.no_grad():
        again = invert(part, prepared, there, frame, chunk=64)
    assert bool(again.converged.all()) and not again.points.requires_grad
    assert float((again.points - points).norm(dim=-1).max()) < 1e-4


def test_the_gradient_to_points_codes_and_weights():
    part = deformer(1, hidden=6).double()
    points, frame = points_in(4, torch.float64)
    codes = state(part, torch.float64).codes
    weight = part.out.weight.detach().clone()
    inputs = [t.clone().requires_grad_() for t in (points, codes["geometry"], codes["expression_code"], weight)]

    def function(x, geometry, expression, weight):
        given = hf.HeadState(x.new_zeros(FRAMES, 0, 3), codes={"geometry": geometry, "expression_code": expression})
        prepared = part.prepare(given)
        part.out._parameters["weight"] = weight
        try:
            found = invert(part, prepared, x, frame, tolerance=1e-13, steps=100)
        finally:
            part.out._parameters["weight"] = torch.nn.Parameter(weight.detach())
        assert bool(found.converged.all())
        return found.points

    assert torch.autograd.gradcheck(function, inputs)
    (first,) = torch.autograd.grad(function(*inputs).square().sum(), inputs[1], create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        first.sum().backward()


@pytest.mark.parametrize("starts", [1, 6])
def test_a_search_without_waits_gives_the_same_points(monkeypatch: pytest.MonkeyPatch, starts: int) -> None:
    """All points in all steps, as on a GPU; guesses that are too far off are searched again."""
    part = deformer(2)
    prepared = part.prepare(state(part))
    points, frame = points_in(60)
    there = part(points, points, frame, prepared).points.detach()
    guess = there + 0.04 * torch.randn(there.shape, generator=torch.Generator().manual_seed(1))
    guess[0], there[1] = torch.nan, 9.0

    def search() -> Inverse:
        return invert(part, prepared, there, frame, guess=guess, starts=starts, steps=2, spread=0.01)

    with torch.no_grad():
        packed = search()
        monkeypatch.setattr("headfields.deformers.inverse._leaves_out", lambda like, count: False)
        masked = search()
    lost = int((~packed.converged).sum())
    assert 2 <= lost < 50 and bool(masked.converged[packed.converged].all())
    if starts == 1:  # further searches draw numbers for the lost points, or for all
        assert torch.equal(masked.converged, packed.converged)
        torch.testing.assert_close(masked.points, packed.points, rtol=1e-5, atol=1e-6, equal_nan=True)
        torch.testing.assert_close(masked.residual, packed.residual, rtol=1e-3, atol=1e-6)
    else:
        assert int((~masked.converged).sum()) < 25


def test_forward_mode_is_an_error_and_no_lost_tangent():
    part = deformer(1, hidden=6)
    points, frame = points_in(4)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="implicit_root: no derivative in forward"):
        invert(part, part.prepare(state(part)), forward_ad.make_dual(points, torch.ones_like(points)), frame)


class Fold(Deformer):
    """x ↦ (x² + lift, y, z): two posed points for each canonical one with x > lift, and none below."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = torch.nn.Parameter(torch.tensor(0.0))

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: None
    ) -> hf.Canonical:
        x = points[:, :1].square() + self.lift
        valid = torch.ones(len(points), dtype=torch.bool)
        return hf.Canonical(torch.cat([x, points[:, 1:]], dim=-1), directions, points, frame, valid)


def test_what_has_no_inverse_is_said_and_has_no_gradient():
    fold, frame = Fold(), torch.zeros(3, dtype=torch.long)
    wanted = torch.tensor([[0.04, 0.1, 0.0], [-0.04, 0.1, 0.0], [0.04, 0.0, 0.0]], requires_grad=True)
    guess = torch.tensor([[0.15, 0.0, 0.0], [0.15, 0.1, 0.0], [-0.15, 0.0, 0.0]])
    found = invert(fold, None, wanted, frame, guess)
    assert found.converged.tolist() == [True, False, True]
    torch.testing.assert_close(found.points[0], torch.tensor([0.2, 0.1, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.points[2], torch.tensor([-0.2, 0.0, 0.0]), atol=1e-4, rtol=0)  # the guess's side
    assert bool(found.points[1].isfinite().all()) and float(found.residual[1]) > 0.03
    found.points[:, 0].sum().backward()
    torch.testing.assert_close(wanted.grad[:, 0], torch.tensor([2.5, 0.0, -2.5]), atol=1e-3, rtol=0)  # 1 / 2x
    assert not bool(wanted.grad[1].any()) and bool(fold.lift.grad.isfinite())


def test_further_starts_find_what_the_guess_does_not():
    fold, frame = Fold(), torch.zeros(1, dtype=torch.long)
    wanted, guess = torch.tensor([[0.01, 0.0, 0.0]]), torch.zeros(1, 3)  # the Jacobian at the guess is singular
    one = invert(fold, None, wanted, frame, guess, starts=1, steps=1)
    many = invert(fold, None, wanted, frame, guess, starts=32, spread=0.02)
    assert not bool(one.converged.any()) and bool(many.converged.all())
    again = invert(fold, None, wanted, frame, guess, starts=32, spread=0.02)
    assert torch.equal(many.points, again.points), "the same each time"


def test_any_deformer_and_gradients_to_what_it_stands_on():
    vertices, faces = uv_sphere(8, 12, radius=0.1)
    surface = SurfaceCanonicalizer(vertices, faces)
    bend = torch.stack([0 * vertices[:, 0], 0.2 * vertices[:, 1], 0 * vertices[:, 0]], dim=-1)
    posed = (vertices + bend)[None].requires_grad_()
    prepared = surface.prepare(hf.HeadState(posed))
    frame = torch.zeros(len(vertices), dtype=torch.long)
    wanted = 1.02 * vertices
    found = invert(surface, prepared, wanted, frame)
    assert float(found.converged.float().mean()) > 0.9
    there = surface(found.points.detach(), wanted, frame, prepared).points
    torch.testing.assert_close(there[found.converged], wanted[found.converged], atol=2e-5, rtol=0)
    found.points.sum().backward()
    assert bool(posed.grad.isfinite().all()) and bool(posed.grad.any())


def test_a_field_poses_points():
    avatar = small_avatar()
    field = avatar.field(codes_of(avatar))
    points = torch.tensor([[0.03, 0.02, 0.08], [0.0, -0.05, 0.07]])
    found = field.invert(points, torch.tensor([0, 1]))
    assert bool(found.converged.all())
    back = field.canonicalize(found.points, points, torch.tensor([0, 1])).points
    torch.testing.assert_close(back, points, atol=2e-5, rtol=0)


def small_avatar() -> hf.Avatar:
    part = deformer(2)
    decoder = hf.decoders.AnchoredDecoder(
        part.anchors, hidden=4, layers=1, neighbors=3, reach=2, appearance_hidden=4, appearance_layers=1
    )
    renderer = hf.renderers.SurfaceRenderer(hf.renderers.UniformSampler(4))
    return hf.Avatar(part, hf.encoders.Coordinates(points=False), decoder, renderer)


def codes_of(avatar: hf.Avatar) -> hf.HeadState:
    widths = hf.models.code_widths(avatar)
    return hf.HeadState(torch.zeros(2, 0, 3), codes={name: torch.randn(2, width) for name, width in widths.items()})


@pytest.mark.parametrize("with_graph", [True, False])
def test_no_points(with_graph):
    part = deformer()
    prepared = part.prepare(state(part))
    with torch.set_grad_enabled(with_graph):
        found = invert(part, prepared, torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert found.points.shape == (0, 3) and found.converged.shape == (0,) and found.points.requires_grad == with_graph
    if with_graph:
        found.points.sum().backward()


def test_errors(unchecked):
    part = deformer()
    prepared, points, frame = part.prepare(state(part)), torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"invert: frame has shape \(2,\); expected \(3\)"):
        invert(part, prepared, torch.zeros(3, 3), frame)
    with pytest.raises(TypeError, match=r"invert: points has dtype torch\.int64"):
        invert(part, prepared, points.long(), frame)
    with pytest.raises(ValueError, match="starts=0"):
        invert(part, prepared, points, frame, starts=0)
    with pytest.raises(ValueError, match=r"guess has shape \(1, 3\)"):
        invert(part, prepared, points, frame, guess=points[:1])
