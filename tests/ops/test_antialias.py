"""Antialiasing of point-sampled images, and its gradients at outlines."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops import TriangleBVH
from headfields.ops.antialias import Crossings, MeshEdges, antialias, mesh_edges, silhouette_crossings
from headfields.ops.reference import antialias as reference
from headfields.ops.render_mesh import render_mesh
from headfields.records import Camera
from tests.shapes import rotation, uv_sphere


def camera(size, distance=4.0, focal=30.0, shift=(0.0, 0.0), dtype=torch.float32):
    """On the +z axis looking at the origin, upright; the image moved by `shift` pixels."""
    pose = torch.diag(torch.tensor([1.0, -1, -1, 1])).to(dtype)
    pose[2, 3] = distance
    lens = [[focal, 0, size[1] / 2 + shift[0]], [0, focal, size[0] / 2 + shift[1]], [0, 0, 1]]
    return Camera(pose, torch.tensor(lens, dtype=dtype), size)


def sampled(vertices, faces, view):
    """Pixels and depth of vertices, and depth and mask of the image."""
    image = render_mesh(TriangleBVH(faces, vertices.detach().float()), view.to("cpu"))
    return *view.project(vertices), image.depth.to(vertices), image.mask


def coverage(vertices, faces, view, edges=None):
    pixels, away, depth, mask = sampled(vertices, faces, view)
    crossings = silhouette_crossings(pixels, away, edges or mesh_edges(faces), depth, mask)
    return antialias(mask[..., None].to(vertices), crossings)[..., 0]


def two_spheres():
    """A small sphere before a large one, turned: outlines before the background and before the mesh itself."""
    vertices, faces = uv_sphere(5, 6)
    small = vertices * 0.45 + torch.tensor([0.7, 0.2, 1.3])
    both = torch.cat([vertices @ rotation(3).float(), small @ rotation(4).float()])
    return both, torch.cat([faces, faces + len(vertices)])


def soup(seed, dtype=torch.float64):
    """Triangles without order, some sharing edges, some before others."""
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.rand(7, 3, generator=generator, dtype=dtype) * 2.4 - 1.2
    faces = torch.stack([torch.randperm(7, generator=generator)[:3] for _ in range(5)])
    return vertices, faces


@pytest.mark.parametrize("case", ["spheres", "soup 1", "soup 2", "soup 3", "behind"])
def test_every_pixel_agrees_with_trying_every_edge(case):
    vertices, faces = two_spheres() if case == "spheres" else soup(int(case[-1]) if case[-1].isdigit() else 5)
    view = camera((11, 13), distance=0.3 if case == "behind" else 4.0, focal=14.0)
    view = Camera(view.world_to_camera.double(), view.intrinsics.double(), view.size)
    vertices = vertices.double()
    pixels, away, depth, mask = sampled(vertices, faces, view)
    assert (away.min() <= 0) == (case == "behind")
    color = torch.randn(11, 13, 2, dtype=torch.float64)
    result = antialias(color, silhouette_crossings(pixels, away, mesh_edges(faces), depth, mask))
    expected = reference.antialias(color, pixels, away, faces, depth, mask)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    if case == "spheres":
        assert (result - color).abs().sum(-1).gt(0).sum() > 15


def test_derivatives_agree_with_the_reference_and_with_differences():
    vertices, faces = two_spheres()
    view = camera((9, 9), focal=11.0, dtype=torch.float64)
    pixels, away, depth, mask = sampled(vertices.double(), faces, view)
    pixels = pixels.detach().requires_grad_()
    color = torch.randn(9, 9, 2, dtype=torch.float64, requires_grad=True)
    edges, away, depth = mesh_edges(faces), away.detach(), depth.detach()

    def ours(pixels, color):
        return antialias(color, silhouette_crossings(pixels, away, edges, depth, mask))

    weight = torch.randn(9, 9, 2, dtype=torch.float64)
    loss = lambda image: (image.square() * weight).sum()  # noqa: E731
    given = torch.autograd.grad(loss(ours(pixels, color)), (pixels, color))
    expected = torch.autograd.grad(loss(reference.antialias(color, pixels, away, faces, depth, mask)), (pixels, color))
    for mine, its in zip(given, expected, strict=True):
        assert its.abs().max() > 0
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(ours, (pixels, color), eps=1e-7, atol=1e-5, fast_mode=True)
    assert torch.autograd.gradgradcheck(ours, (pixels, color), eps=1e-7, atol=1e-4, fast_mode=True)


def shifted(vertices, amount):
    return vertices + torch.tensor([amount[0], amount[1], 0.0]).to(vertices)


@pytest.mark.parametrize(("rings", "segments"), [(6, 9), (40, 60)])  # faces larger and smaller than a pixel
def test_the_gradient_of_coverage_is_that_of_the_area(rings, segments):
    vertices, faces = uv_sphere(rings, segments)
    vertices, edges, size = vertices @ rotation(1).float(), mesh_edges(faces), (24, 24)
    offsets = [(x, y) for x in torch.linspace(0, 1, 6)[:-1].tolist() for y in torch.linspace(0, 1, 6)[:-1].tolist()]

    def mean_area(radius):
        views = [camera(size, shift=offset) for offset in offsets]
        return torch.stack([coverage(radius * vertices, faces, view, edges).sum() for view in views]).mean()

    radius = torch.tensor(1.0, requires_grad=True)
    area = mean_area(radius)
    (slope,) = torch.autograd.grad(area, radius)
    step = 0.15
    with torch.no_grad():
        difference = (mean_area(torch.tensor(1 + step)) - mean_area(torch.tensor(1 - step))) / (2 * step)
    assert float(slope) == pytest.approx(float(difference), rel=0.03)
    if rings == 40:  # all but a ball: its image is a disc of radius f / sqrt(d² - r²)
        disc = lambda r: math.pi * (30 * r) ** 2 / (16 - r**2)  # noqa: E731
        assert float(area.detach()) == pytest.approx(disc(1.0), rel=0.01)
        assert float(slope) == pytest.approx((disc(1.01) - disc(0.99)) / 0.02, rel=0.03)


def test_an_edge_moves_coverage_by_what_it_sweeps():
    faces, side = torch.tensor([[0, 1, 2], [0, 2, 3]]), 0.8
    square = torch.tensor([[-side, -side, 0], [side, -side, 0], [side, side, 0], [-side, side, 0]])
    square = square @ rotation(2).float().new_tensor([[0.96, 0.28, 0], [-0.28, 0.96, 0], [0, 0, 1]])
    view = camera((24, 24))
    areas = [float(coverage(shifted(square, (0.011 * k, 0.007 * k)), faces, view).sum()) for k in range(12)]
    hard = [float(sampled(shifted(square, (0.011 * k, 0.007 * k)), faces, view)[3].sum()) for k in range(12)]
    assert max(areas) - min(areas) < 0.8 and max(hard) - min(hard) > 3  # corners are a quarter of a pixel off
    assert sum(areas) / 12 == pytest.approx((2 * side * 30 / 4) ** 2, rel=0.004)
    assert coverage(square, faces, view).sub(0.5).abs().lt(0.49).sum() > 20


def test_what_is_hidden_and_what_is_smooth_stays_as_it_is():
    vertices, faces = uv_sphere(12, 16)
    behind = torch.cat([vertices, 0.4 * vertices - torch.tensor([0.0, 0, 3])])
    view = camera((24, 24))
    pixels, away, depth, mask = sampled(behind, torch.cat([faces, faces + len(vertices)]), view)
    crossings = silhouette_crossings(pixels, away, mesh_edges(torch.cat([faces, faces + len(vertices)])), depth, mask)
    assert len(crossings.near) > 30 and crossings.outer.all()  # none of the sphere that the other hides
    inner = antialias(depth[..., None], crossings)[..., 0]
    middle = depth[8:16, 8:16]
    torch.testing.assert_close(inner[8:16, 8:16], middle, rtol=0, atol=0)


@given(seed=st.integers(0, 10_000), focal=st.floats(3.0, 40.0))
def test_colors_stay_between_those_that_are_there(seed, focal):
    vertices, faces = soup(seed, torch.float32)
    view = camera((9, 10), focal=focal)
    pixels, away, depth, mask = sampled(vertices, faces, view)
    color = torch.rand(9, 10, 3, generator=torch.Generator().manual_seed(seed))
    crossings = silhouette_crossings(pixels, away, mesh_edges(faces), depth, mask)
    image = antialias(color, crossings)
    assert image.min() >= color.min() - 1e-6 and image.max() <= color.max() + 1e-6
    assert (crossings.position >= 0).all() and (crossings.position <= 1).all()
    assert mask.reshape(-1)[crossings.near].all()
    assert ((crossings.near - crossings.far).abs() % 10 <= 1).all()


def test_nothing_and_what_is_not_finite():
    faces = torch.zeros(0, 3, dtype=torch.long)
    pixels = torch.rand(4, 2, requires_grad=True)
    nothing = silhouette_crossings(pixels, torch.ones(4), mesh_edges(faces), torch.zeros(3, 4), torch.zeros(3, 4) > 0)
    image = torch.rand(3, 4, 2, requires_grad=True)
    out = antialias(image, nothing)
    out.sum().backward()
    assert out.equal(image) and pixels.grad.eq(0).all() and image.grad.eq(1).all()
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    for shape in ((0, 4), (3, 0), (1, 1)):
        empty = torch.zeros(shape)
        result = silhouette_crossings(torch.rand(4, 2) * 3, torch.ones(4), mesh_edges(faces), empty, empty > 0)
        assert not len(result.near) and antialias(torch.zeros(*shape, 1), result).shape == (*shape, 1)
    broken = torch.tensor([[-2.0, -2], [9, -2], [torch.nan, 5], [-2, torch.inf]])
    mask = torch.ones(5, 5) > 0
    mask[:, 3:] = False
    result = silhouette_crossings(broken, torch.ones(4), mesh_edges(faces), mask.float(), mask)
    assert result.point.isfinite().all() and result.position.isfinite().all()


def test_edges_are_each_there_once():
    vertices, faces = uv_sphere(5, 6)
    edges = mesh_edges(faces)
    assert len(edges.ends) == len(vertices) + len(faces) - 2  # Euler
    assert torch.bincount(edges.corner_edge).eq(2).all()
    corners = torch.cat([edges.ends[edges.corner_edge], edges.corner[:, None]], 1).sort(1).values
    assert corners.equal(faces.sort(1).values.repeat_interleave(3, 0))


def test_it_compiles_for_given_crossings(unchecked):
    vertices, faces = two_spheres()
    pixels, away, depth, mask = sampled(vertices, faces, camera((9, 9), focal=11.0))
    crossings = silhouette_crossings(pixels, away, mesh_edges(faces), depth, mask)
    image = torch.rand(9, 9, 3)
    compiled = torch.compile(antialias, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image, crossings), antialias(image, crossings))


def test_errors_name_the_argument(unchecked):
    edges = MeshEdges(torch.zeros(0, 2).long(), torch.zeros(0).long(), torch.zeros(0).long())
    good = (torch.zeros(4, 2), torch.ones(4), edges, torch.zeros(3, 3), torch.zeros(3, 3) > 0)
    for k, wrong, message in (
        (0, torch.zeros(4, 3), r"silhouette_crossings: pixels has shape \(4, 3\)"),
        (1, torch.ones(3), r"vertex_depth has shape \(3,\)"),
        (3, torch.zeros(3), r"depth has shape \(3,\)"),
        (4, torch.zeros(2, 3) > 0, r"mask has shape \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            silhouette_crossings(*good[:k], wrong, *good[k + 1 :])
    with pytest.raises(TypeError, match="mesh_edges: faces has dtype"):
        mesh_edges(torch.zeros(2, 3))
    crossings = silhouette_crossings(*good)
    assert isinstance(crossings, Crossings)
    with pytest.raises(ValueError, match=r"antialias: image has shape \(3, 3\)"):
        antialias(torch.zeros(3, 3), crossings)
    with pytest.raises(TypeError, match=r"image has dtype torch\.int64"):
        antialias(torch.zeros(3, 3, 1, dtype=torch.long), crossings)
