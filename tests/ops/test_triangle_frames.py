"""Triangle frames and deformation gradients, against what they are defined to be."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headfields.ops.reference import triangle_frames as reference
from headfields.ops.triangle_frames import deformation_gradients, triangle_frames
from headfields.ops.vertex_geometry import triangle_areas
from tests.backends import BACKENDS, running_on

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])


def soup(seed: int, vertices: int = 4, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(vertices, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(seed: int) -> torch.Tensor:
    q, r = torch.linalg.qr(soup(seed, 3))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_a_frame_is_a_rotation_with_the_triangle_in_its_xy_plane(batch: tuple[int, ...]) -> None:
    vertices = torch.randn(*batch, 4, 3, dtype=torch.float64)
    frames = triangle_frames(vertices, TETRAHEDRON)
    assert frames.shape == (*batch, 4, 3, 4)
    turn = frames[..., :3]
    eye = torch.eye(3, dtype=torch.float64).expand_as(turn)
    torch.testing.assert_close(turn @ turn.transpose(-1, -2), eye)
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(*batch, 4, dtype=torch.float64))
    a, b, c = (vertices[..., TETRAHEDRON[:, k], :] for k in range(3))
    normal = torch.linalg.cross(b - a, c - a)
    torch.testing.assert_close((normal * turn[..., 2]).sum(-1), normal.norm(dim=-1))
    torch.testing.assert_close(frames[..., 3], a)


@given(st.integers(0, 10_000))
def test_a_rigid_motion_is_undone_exactly(seed: int) -> None:
    canonical, turn, shift = soup(seed), rotation(seed + 1), soup(seed + 2, 1)
    gradients = deformation_gradients(canonical @ turn.T + shift, canonical, TETRAHEDRON)
    point = soup(seed + 3, 1)[0]
    moved = gradients[..., :3] @ (turn @ point + shift[0]) + gradients[..., 3]
    torch.testing.assert_close(moved, point.expand(4, 3))


@pytest.mark.parametrize(("scaling", "power"), [("none", 0), ("area", 2), ("length", 1)])
def test_scaling_divides_by_the_named_ratio(scaling: str, power: int) -> None:
    canonical = soup(0)
    gradients = deformation_gradients(1.5 * canonical, canonical, TETRAHEDRON, scaling)  # type: ignore[arg-type]
    expected = torch.eye(3, dtype=torch.float64).expand(4, 3, 3) / 1.5**power
    torch.testing.assert_close(gradients[..., :3], expected)


def test_length_scaling_undoes_a_similarity() -> None:
    canonical = soup(4)
    gradients = deformation_gradients(0.7 * canonical, canonical, TETRAHEDRON, "length")
    point = soup(5, 1)[0]
    torch.testing.assert_close(gradients[..., :3] @ (0.7 * point) + gradients[..., 3], point.expand(4, 3))


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_affine_scaling_maps_triangles_onto_triangles(seed: int) -> None:
    """Points on the surface have their place on it back, and heights above it stay."""
    canonical, weights = soup(seed), torch.rand(4, 3, dtype=torch.float64)
    weights = weights / weights.sum(-1, keepdim=True)
    stretch = torch.eye(3, dtype=torch.float64) + 0.15 * soup(seed + 1, 3).clamp(-1.5, 1.5)
    posed = canonical @ stretch @ rotation(seed + 2).T + 1
    gradients = deformation_gradients(posed, canonical, TETRAHEDRON, "affine")
    place, wanted = ((weights[..., None] * vertices[TETRAHEDRON]).sum(-2) for vertices in (posed, canonical))
    up, wanted_up = (triangle_frames(vertices, TETRAHEDRON)[..., 2] for vertices in (posed, canonical))
    within = ((gradients[..., :3] - gradients[..., :3].clamp(-9, 9)) == 0).all(-1).all(-1)  # none is clamped
    for height in (0.0, 0.3):
        point = place + height * up
        moved = (gradients[..., :3] @ point[..., None])[..., 0] + gradients[..., 3]
        torch.testing.assert_close(moved[within], (wanted + height * wanted_up)[within], atol=1e-7, rtol=1e-6)


def test_affine_scaling_of_collapsed_triangles_is_bounded() -> None:
    canonical = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    faces = torch.tensor([[0, 1, 2]])
    for flat in ([[0.0, 0, 0], [1, 0, 0], [1e-4, 1e-9, 0]], [[1.0, 1, 1]] * 3):
        posed = torch.tensor(flat, requires_grad=True)
        gradients = deformation_gradients(posed, canonical, faces, "affine")
        assert float(gradients[..., :3].detach().abs().max()) <= 20
        gradients.square().sum().backward()
        assert bool(posed.grad.isfinite().all())


@pytest.mark.parametrize("scaling", ["none", "area", "length", "affine"])
def test_gradients_to_second_order(scaling: str) -> None:
    posed, canonical = soup(1).requires_grad_(), soup(2).requires_grad_()

    def function(p: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return deformation_gradients(p, c, TETRAHEDRON[:2], scaling)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(function, (posed, canonical))
    assert torch.autograd.gradgradcheck(function, (posed, canonical), fast_mode=True)


@pytest.mark.parametrize(
    "vertices",
    [
        [[0.0, 0, 0], [1, 0, 0], [2, 0, 0]],  # a line
        [[0.0, 0, 0], [0, 0, 0], [0, 1, 0]],  # two equal corners
        [[1.0, 1, 1], [1, 1, 1], [1, 1, 1]],  # a point
    ],
)
def test_a_degenerate_triangle_has_a_rotation_and_a_finite_gradient(vertices: list[list[float]]) -> None:
    corners = torch.tensor(vertices, requires_grad=True)
    faces = torch.tensor([[0, 1, 2]])
    frames = triangle_frames(corners, faces)
    torch.testing.assert_close(frames[..., :3] @ frames[..., :3].mT, torch.eye(3)[None])
    torch.testing.assert_close(torch.linalg.det(frames[..., :3]), torch.ones(1))
    (frames.square().sum() + triangle_areas(corners, faces).sum()).backward()
    assert corners.grad is not None and bool(corners.grad.isfinite().all())


def test_nan_stays_where_it_is() -> None:
    vertices = soup(0, 6)
    vertices[0] = torch.nan
    frames = triangle_frames(vertices, torch.tensor([[0, 1, 2], [3, 4, 5]]))
    assert bool(frames[0].isnan().any()) and bool(frames[1].isfinite().all())


def test_no_faces() -> None:
    vertices = soup(0).requires_grad_()
    none = torch.empty(0, 3, dtype=torch.long)
    gradients = deformation_gradients(vertices, vertices, none)
    assert gradients.shape == (0, 3, 4) and gradients.requires_grad


def test_compiles_whole(unchecked: None) -> None:
    vertices = soup(3)
    compiled = torch.compile(triangle_frames, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(vertices, TETRAHEDRON), triangle_frames(vertices, TETRAHEDRON))


def test_errors_name_the_argument(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"vertices has shape \(4, 2\)"):
        triangle_frames(torch.zeros(4, 2), TETRAHEDRON)
    with pytest.raises(TypeError, match="faces has dtype"):
        triangle_frames(torch.zeros(4, 3), TETRAHEDRON.float())
    with pytest.raises(ValueError, match="scaling is 'volume'"):
        deformation_gradients(soup(0), soup(0), TETRAHEDRON, "volume")  # type: ignore[arg-type]


DEGENERATE = torch.tensor(
    [[[0.0, 0, 0], [1, 0.5, 0], [2, 1, 0]], [[0.0, 0, 0], [0, 0, 0], [0, 1, 0]], [[1.0, 1, 1], [1, 1, 1], [1, 1, 1]]]
)


def derivatives(function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Values, first derivatives along fixed directions, and the second and third ones along them again."""
    generator = torch.Generator().manual_seed(9)
    inputs = [x.requires_grad_() for x in inputs]
    outputs = [function(*inputs)]
    results = [*outputs]
    for _ in range(3):
        along = [torch.randn(x.shape, generator=generator).to(x) for x in outputs]
        outputs = list(torch.autograd.grad(outputs, inputs, along, create_graph=True))
        results += outputs
    return [x.detach().cpu().double() for x in results]


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("scaling", [None, "none", "area", "length"])
def test_kernels_agree_with_the_definition(backend: str, scaling: str | None) -> None:
    # A mesh in general position, and one of triangles without area or extent, which share no vertex.
    faces = torch.cat([TETRAHEDRON, torch.arange(9).reshape(3, 3) + 4])
    canonical = torch.cat([soup(11), DEGENERATE.flatten(0, 1).double()])
    posed = torch.stack([canonical, canonical + 0.3 * soup(12, 13)])
    posed[1, 4:] = canonical[4:]
    inputs = [posed] if scaling is None else [posed, canonical]

    def kernels(*meshes: torch.Tensor) -> torch.Tensor:
        on = faces.to(meshes[0].device)
        if scaling is None:
            return triangle_frames(meshes[0], on)
        return deformation_gradients(meshes[0], meshes[1], on, scaling)  # type: ignore[arg-type]

    def definition(*meshes: torch.Tensor) -> torch.Tensor:
        if scaling is None:
            return reference.triangle_frames(meshes[0], faces)
        return reference.deformation_gradients(meshes[0], meshes[1], faces, scaling)

    with running_on(backend) as device:
        # float32 numbers for both, so that degenerate is degenerate.
        have = derivatives(kernels, [x.float().to(device) for x in inputs])
    for one, other in zip(have, derivatives(definition, [x.float().double() for x in inputs]), strict=True):
        assert (one - other).abs().max() <= 2e-4 * other.abs().max()


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("batch", [(), (1, 2), (0,)])
def test_kernels_take_any_batch(backend: str, batch: tuple[int, ...]) -> None:
    posed, canonical = torch.randn(*batch, 4, 3), torch.randn(4, 3)
    with running_on(backend) as device:
        inputs = [x.to(device).requires_grad_() for x in (posed, canonical)]
        for faces in (TETRAHEDRON.to(device), TETRAHEDRON.to(device).int()[:0]):
            out = deformation_gradients(inputs[0], inputs[1], faces, "area")
            assert out.shape == (*batch, len(faces), 3, 4)
            torch.testing.assert_close(
                out.cpu(), reference.deformation_gradients(posed, canonical, faces.cpu(), "area")
            )
            assert triangle_frames(inputs[0], faces).shape == out.shape
            assert all(x.isfinite().all() for x in torch.autograd.grad(out.sum(), inputs))


@pytest.mark.parametrize("backend", [BACKENDS[0], pytest.param("warp", marks=pytest.mark.slow)])
def test_opcheck(backend: str) -> None:
    posed, canonical = (torch.randn(2, 4, 3).requires_grad_(), torch.randn(4, 3).requires_grad_())
    grad, ops = torch.randn(2, 4, 3, 4, requires_grad=True), torch.ops.headfields
    with running_on(backend):
        torch.library.opcheck(ops.triangle_frames, (posed, TETRAHEDRON))
        torch.library.opcheck(ops.deformation_gradients, (posed, canonical, TETRAHEDRON, "area"))
        if backend == "native":
            return  # by torch.func, whose tensors the check of the schema cannot read
        torch.library.opcheck(ops.triangle_frames_backward, (grad, posed, TETRAHEDRON))
        arguments = (grad, posed, canonical, TETRAHEDRON, "area", [True, False])
        torch.library.opcheck(ops.deformation_gradients_backward, arguments)
