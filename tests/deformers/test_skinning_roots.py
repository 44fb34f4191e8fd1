"""Inverse skinning with a field of weights: the field, one pass, and roots with their gradients and what has none."""

from typing import Any

import pytest
import torch
from torch import Tensor

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import WeightFieldSkinning, jacobian
from headfields.deformers.skinning import SkinningRoots
from headfields.deformers.skinning_weights import SkinningWeights
from headfields.encoders import HashGrid
from headfields.losses.skinning import SkinningPrior
from headfields.ops.interpolate_rows import interpolate_rows
from headfields.records import HeadState, PixelBatch, Rays
from headfields.renderers import UniformSampler, VolumeRenderer
from tests.deformers.skeleton import bend, posed, tube

VERTICES, FACES, WEIGHTS = tube()
DIRECTION = torch.tensor([0.0, 0.6, 0.8])


def field(**options: Any) -> SkinningWeights:
    return SkinningWeights(VERTICES, FACES, WEIGHTS, **({"cell": 0.02, "learned": False} | options))


def cloud(count: int = 60, seed: int = 4) -> Tensor:
    """Canonical points within 1 cm of the tube."""
    generator = torch.Generator().manual_seed(seed)
    chosen = VERTICES[torch.randint(len(VERTICES), (count,), generator=generator)]
    return chosen + 0.005 * torch.randn(count, 3, generator=generator).clamp(-2, 2)


def test_the_field_starts_as_the_mesh_has_it_and_learns() -> None:
    fine = field(cell=0.005, smoothing=0)
    torch.testing.assert_close(fine(VERTICES), WEIGHTS, atol=0.02, rtol=0)
    assert float(fine.deviation()) < 1e-3 < float(field(cell=0.1).deviation())
    far = torch.tensor([[0.0, 9.0, 0.0], [float("nan"), 0.0, 0.0]])
    assert bool(fine(far).isfinite().all())
    torch.testing.assert_close(fine(far).sum(-1), torch.ones(2))
    assert fine(far[:0]).shape == (0, 3) and not list(fine.parameters())
    learner = field(cell=0.05, learned=True)
    before = learner.deviation().item()
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        learner.deviation().backward()
        optimizer.step()
    assert learner.deviation().item() < 0.5 * before


@pytest.mark.parametrize("expression", [None, torch.tensor([[1.0], [-0.5]])])
def test_roots_of_skinned_points_are_where_they_came_from(expression: Tensor | None) -> None:
    state = posed(bend(), expression)
    deformer = SkinningRoots(field())
    prepared = deformer.prepare(state)
    points, frame = cloud(), torch.arange(2).repeat_interleave(30)
    there, maps = deformer.pose_points(points, frame, prepared)
    solution = deformer.solve(there, frame, prepared)
    assert int(solution.within_shell.sum()) == 60 and solution.unconverged <= 1
    assert float(solution.residual[solution.converged].max()) <= 1e-5
    same = (solution.points - points).norm(dim=-1) < 1e-4
    other = solution.converged & ~same  # where space folds, another point is posed to the same place
    assert int(same.sum()) >= 57 and bool((solution.distinct[other] >= 1).all())
    out = deformer(there, DIRECTION.expand(60, 3), frame, prepared)
    assert torch.equal(out.valid, solution.converged)
    torch.testing.assert_close(out.points[same], points[same], atol=1e-4, rtol=0)
    back = torch.nn.functional.normalize((maps[..., :3] @ out.directions[..., None])[..., 0], dim=-1)
    torch.testing.assert_close(back[same], DIRECTION.expand(60, 3)[same], atol=1e-3, rtol=0)


def test_both_roots_of_parts_that_touch_are_found() -> None:
    """Two flat lips, one a joint's each: the lower is moved up against the upper one until they overlap."""
    x, z = torch.meshgrid(torch.linspace(-0.03, 0.03, 7), torch.linspace(-0.03, 0.03, 7), indexing="ij")
    sheet = torch.stack([x, torch.zeros_like(x), z], dim=-1).reshape(-1, 3)
    cells = [(r * 7 + c, r * 7 + c + 1, (r + 1) * 7 + c) for r in range(6) for c in range(6)]
    cells += [(r * 7 + c + 1, (r + 1) * 7 + c + 1, (r + 1) * 7 + c) for r in range(6) for c in range(6)]
    faces = torch.tensor(cells)
    gap = torch.tensor([0.0, 0.04, 0.0])
    vertices, faces = torch.cat([sheet + gap, sheet - gap]), torch.cat([faces, faces + 49])
    weights = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(49, 1), torch.tensor([[0.0, 1.0]]).repeat(49, 1)])
    transforms = torch.eye(4).repeat(1, 2, 1, 1)
    transforms[0, 1, 1, 3] = 0.08
    state = HeadState(vertices=vertices[None] + 2 * gap * weights[:, 1:], joint_transforms=transforms)
    deformer = SkinningRoots(SkinningWeights(vertices, faces, weights, cell=0.01, smoothing=0, learned=False))
    points = torch.tensor([[0.0, 0.039, 0.0], [0.01, 0.043, 0.01]])
    frame = torch.zeros(2, dtype=torch.long)
    solution = deformer.solve(points, frame, deformer.prepare(state))
    assert solution.distinct.tolist() == [2, 2] and bool(solution.is_root.all())
    torch.testing.assert_close(solution.candidates[:, 1], points - torch.tensor([0, 0.08, 0]), atol=1e-5, rtol=0)
    assert solution.unconverged == 0


def test_what_is_not_within_the_shell_is_not_sought_and_what_has_no_root_is_not_valid() -> None:
    state = posed(bend())
    deformer = SkinningRoots(field(), shell=0.02)
    prepared = deformer.prepare(state)
    points = torch.cat([torch.tensor([[1.0, 0, 0]]), state.vertices[0, :3]])
    solution = deformer.solve(points, torch.zeros(4, dtype=torch.long), prepared)
    assert solution.within_shell.tolist() == [False, True, True, True] and not bool(solution.converged[0])
    torch.testing.assert_close(solution.points[0], points[0])
    strict = SkinningRoots(field(), steps=1, tolerance=1e-12)
    found = strict.solve(state.vertices[0], torch.zeros(len(VERTICES), dtype=torch.long), strict.prepare(state))
    assert found.unconverged > 100
    out = strict(state.vertices[0], state.vertices[0], torch.zeros(len(VERTICES), dtype=torch.long), prepared)
    assert int((~out.valid).sum()) == found.unconverged and bool(out.points.isfinite().all())
    assert bool((out.face[~out.valid] == -1).all())  # type: ignore[index]


@pytest.mark.parametrize(
    "kind", ["roots, twice", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("one pass", "roots"))]
)
def test_derivatives(kind: str) -> None:
    """Against finite differences, in float64, of the posed point, the transforms and the field."""
    weights = field(learned=True)
    deformer: Any = {
        "one pass": lambda: WeightFieldSkinning(weights),
        "roots": lambda: SkinningRoots(weights, tolerance=1e-12, steps=50),
        "roots, twice": lambda: SkinningRoots(weights, tolerance=1e-12, steps=50, derivatives=2),
    }[kind]().double()
    with torch.no_grad():
        start = posed(bend(2, 0.2), torch.tensor([[1.0], [-0.5]]), torch.float64)
    assert start.joint_transforms is not None
    corners, shares = FACES[[40, 101, 160]], torch.tensor([[0.3, 0.45, 0.25]]).repeat(3, 1).double()
    canonical = interpolate_rows(VERTICES.double(), corners, shares) * torch.tensor([1.07, 1.0, 1.07]).double()
    canonical = canonical + torch.tensor([0.003, 0.003, 0.002]).double()
    assert bool(
        (((canonical - weights.low) / weights.cell % 1 - 0.5).abs() < 0.45).all()
    )  # inside a cell, off its faces
    frame = torch.tensor([0, 1, 1])
    points = SkinningRoots(weights).double().pose_points(canonical, frame, deformer.prepare(start))[0].detach()
    directions = DIRECTION.double().repeat(3, 1)
    table = weights.logits_table

    def function(points: Tensor, push: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        weights._parameters["logits_table"] = table.detach() + shift  # type: ignore[assignment]
        assert start.joint_transforms is not None
        pushed = torch.nn.functional.pad(push[:, None], (3, 0, 0, 1)) * torch.tensor([0, 1, 0])[:, None, None]
        prepared = deformer.prepare(start.replace(joint_transforms=start.joint_transforms + pushed))
        out = deformer(points, directions, frame, prepared)
        assert bool(out.valid.all())
        return out.points, out.directions

    zero = torch.zeros(3, dtype=torch.float64)
    leaves = [x.clone().requires_grad_() for x in (points, zero, zero)]
    assert torch.autograd.gradcheck(function, leaves, atol=1e-5, rtol=1e-3)
    if kind == "roots":
        moved = function(*leaves)[0].sum()
        (first,) = torch.autograd.grad(moved, leaves[0], create_graph=True)
        with pytest.raises((NotImplementedError, RuntimeError), match=r"differentiable once|does not require grad"):
            torch.autograd.grad(first.square().sum(), leaves[0])
    else:
        one = leaves[0].detach()[:1].requires_grad_()
        rest = leaves[0].detach()[1:]
        assert torch.autograd.gradgradcheck(
            lambda x: function(torch.cat([x, rest]), zero, zero)[0], one, atol=1e-4, rtol=1e-3, fast_mode=True
        )
    function(*leaves)
    prepared = deformer.prepare(start)
    value, slope = jacobian(deformer, points, frame, prepared)
    numeric = torch.autograd.functional.jacobian(
        lambda x: deformer(x, directions, frame, prepared).points, points
    )  # (3, 3, 3, 3)
    expected = torch.stack([numeric[m, :, m] for m in range(3)])
    torch.testing.assert_close(slope, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(value, deformer(points, directions, frame, prepared).points)


def test_one_pass_undoes_a_joint_of_its_own_exactly_and_a_bend_nearly() -> None:
    pose = torch.zeros(1, 3, 3)
    pose[0, 0] = torch.tensor([0.2, 0.5, -0.3])
    deformer = WeightFieldSkinning(field())
    reference = SkinningRoots(field())
    frame = torch.zeros(60, dtype=torch.long)
    points = cloud()
    for amount, tolerance in ((pose, 2e-6), (bend(1, 0.15), 6e-3)):
        state = posed(amount)
        there = reference.pose_points(points, frame, reference.prepare(state))[0]
        out = deformer(there, there, frame, deformer.prepare(state))
        assert bool(out.valid.all())
        torch.testing.assert_close(out.points, points, atol=tolerance, rtol=0)


@pytest.mark.parametrize("make", [WeightFieldSkinning, SkinningRoots])
def test_no_points(make: Any) -> None:
    deformer = make(field(learned=True))
    state = posed(bend())
    assert state.joint_transforms is not None
    transforms = state.joint_transforms.clone().requires_grad_()
    out = deformer(
        torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long),
        deformer.prepare(state.replace(joint_transforms=transforms)),
    )  # fmt: skip
    out.points.sum().backward()
    assert len(out) == 0 and transforms.grad is not None and not bool(transforms.grad.any())


def test_errors(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"joints is \[7\]; expected some of 0 to 2"):
        SkinningRoots(field(), joints=(7,))
    with pytest.raises(ValueError, match="derivatives=3"):
        SkinningRoots(field(), derivatives=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"cell=0\.0"):
        field(cell=0.0)
    with pytest.raises(ValueError, match="take larger cells"):
        field(cell=0.0005)
    with pytest.raises(ValueError, match="one row for each vertex"):
        SkinningWeights(VERTICES, FACES, WEIGHTS[:5])
    with pytest.raises(TypeError, match="points has dtype"):
        field()(torch.zeros(2, 3, dtype=torch.long))


def test_the_prior_pulls_a_field_back_to_the_mesh() -> None:
    torch.manual_seed(0)
    learner = field(cell=0.05, learned=True)
    with torch.no_grad():
        learner.logits_table += torch.randn_like(learner.logits_table)
    avatar = Avatar(
        WeightFieldSkinning(learner), HashGrid(2, 2, 8, 4, 16), NeRFDecoder(8), VolumeRenderer(UniformSampler(4))
    )
    rays = Rays(torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[0.0, 0.0, -1.0]]), torch.zeros(1, dtype=torch.long))
    batch = PixelBatch(rays, torch.zeros(1, 3), torch.ones(1), torch.ones(1, 3))
    rendering = avatar(rays, posed(torch.zeros(1, 3, 3)), batch.background)
    prior = SkinningPrior()
    before = prior(rendering, batch, 0)
    before.backward()
    assert learner.logits_table.grad is not None
    with torch.no_grad():
        learner.logits_table -= 20 * learner.logits_table.grad
    assert float(prior(rendering, batch, 0).detach()) < float(before.detach())
    with pytest.raises(ValueError, match="no SkinningWeights"):
        prior(rendering.replace(field=None), batch, 0)
    with pytest.raises(ValueError, match="points is 0"):
        SkinningPrior(points=0)
