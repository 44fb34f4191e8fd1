"""Self-check: every kernel, on every backend that can run here, against a plain definition.

To add an operation, append `(name, check)` to `CHECKS`. A check takes a device, computes values (and gradients, where
there are some) through the public function, and returns pairs to compare: results of the kernel, and of the
definition in float64.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headfields.ops.dispatch import native, use_cpu_backend, warp

TOLERANCE = 1e-4
"""Largest error allowed, relative to the largest value (float32 kernels, a few thousand operations deep)."""

Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CheckResult:
    """One check on one backend.

    Attributes:
        name: name of the operation.
        backend: `"cpu native"`, `"cpu warp"` or `"cuda warp"`.
        passed: whether the error is within `TOLERANCE`.
        seconds: run time, compilation included.
        detail: the error, or the exception that prevented it.
    """

    name: str
    backend: str
    passed: bool
    seconds: float
    detail: str

    def __str__(self) -> str:
        mark = "ok    " if self.passed else "FAILED"
        return f"{mark} {self.name:20s} {self.backend:11s} {self.detail}, {self.seconds:.2f} s"


def run() -> Iterator[CheckResult]:
    """Runs `CHECKS` on every backend, and yields each result as it comes. A check that raises counts as failed."""
    for backend in _backends():
        device, _, kind = backend.partition(" ")
        for name, check in CHECKS:
            began = time.perf_counter()
            try:
                if device == "cpu":
                    with use_cpu_backend(kind):  # type: ignore[arg-type]
                        pairs = check(torch.device("cpu"))
                else:
                    pairs = check(torch.device("cuda"))
                # torch's max, unlike Python's, propagates a NaN, which does not pass
                error = float(torch.tensor([_error(computed, expected) for computed, expected in pairs]).max())
                passed, detail = error <= TOLERANCE, f"error {error:.1e}"
            except Exception as problem:  # any exception is the result of the check
                passed, detail = False, f"{type(problem).__name__}: {' '.join(str(problem).split())}"
            yield CheckResult(name, backend, passed, time.perf_counter() - began, detail)


def check_closest_triangle(device: torch.device) -> Pairs:
    """Distances to a crumpled sheet, and their gradient by the query."""
    from headfields.ops.reference.closest_triangle import closest_face, closest_on_face
    from headfields.ops.triangle_bvh import TriangleBVH

    side = 12
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-0.1, 0.1, side)
    sheet = torch.stack([*torch.meshgrid(line, line, indexing="ij"), torch.zeros(side, side)], dim=-1).reshape(-1, 3)
    vertices = sheet + 0.004 * torch.randn(sheet.shape, generator=generator)
    corner = (torch.arange(side - 1)[:, None] * side + torch.arange(side - 1)).reshape(-1, 1)
    faces = torch.cat([corner + torch.tensor([0, side, 1]), corner + torch.tensor([1, side, side + 1])])
    points = 0.1 * torch.randn(500, 3, generator=generator)

    query = points.to(device).requires_grad_()
    computed = TriangleBVH(faces.to(device), vertices.to(device)).closest(query).distance
    (gradient,) = torch.autograd.grad(computed.sum(), query)
    exact, mesh = points.double().requires_grad_(), vertices.double()[None]
    face = closest_face(exact, mesh, faces)
    expected = closest_on_face(exact, mesh, faces, None, face)[2]
    (expected_gradient,) = torch.autograd.grad(expected.sum(), exact)
    # Where two faces are equally near, either gradient is right: the mean over queries lets a few differ.
    difference = (gradient.cpu().double() - expected_gradient).norm(dim=-1).median()
    return [(computed, expected), (difference, torch.zeros_like(difference)), (gradient.norm(dim=-1), torch.ones(500))]


def check_compositing(device: torch.device) -> Pairs:
    """Weights of packed samples on rays of random length, one of them empty, from densities and from opacities; colors
    and sums along the rays; and all their first and second derivatives."""
    from headfields.ops.compositing import (
        composite,
        exclusive_sum,
        ray_offsets,
        weights_from_alpha,
        weights_from_density,
    )
    from headfields.records import Samples

    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 40, (64,), generator=generator)
    counts[0] = 0
    ray = torch.repeat_interleave(torch.arange(64), counts)
    start = torch.rand(len(ray), generator=generator)
    end = start + 0.05
    density = 20 * torch.rand(len(ray), generator=generator)
    alpha, rgb = 0.9 * torch.rand(len(ray), generator=generator), torch.rand(len(ray), 3, generator=generator)
    offsets = ray_offsets(ray.to(device), 64)

    def by_kernels(density: Tensor, alpha: Tensor, rgb: Tensor) -> list[Tensor]:
        samples = Samples(ray.to(device), start.to(device), end.to(device))
        weights = weights_from_density(density, samples.start, samples.end, offsets=offsets)
        before = exclusive_sum(density, offsets=offsets)
        color, _, depth = composite(weights, rgb, samples, 64, offsets=offsets)
        return [weights, weights_from_alpha(alpha, offsets=offsets), before, color, depth]

    def by_definition(density: Tensor, alpha: Tensor, rgb: Tensor) -> list[Tensor]:  # a ray at a time
        lengths, middle = (end - start).double(), (0.5 * (start + end)).double()
        rays = [torch.where(ray == r)[0] for r in range(64)]
        depth = [density[rows] * lengths[rows] for rows in rays]
        weights = [torch.exp(piece - piece.cumsum(0)) * -torch.expm1(-piece) for piece in depth]
        hidden = [(1 - alpha[rows]).cumprod(0) / (1 - alpha[rows]) * alpha[rows] for rows in rays]
        before = [density[rows].cumsum(0) - density[rows] for rows in rays]
        colors = [w @ rgb[rows] for w, rows in zip(weights, rays, strict=True)]
        depths = [w @ middle[rows] for w, rows in zip(weights, rays, strict=True)]
        return [torch.cat(weights), torch.cat(hidden), torch.cat(before), torch.stack(colors), torch.stack(depths)]

    return _derivatives(by_kernels, by_definition, [density, alpha, rgb], device)


def check_hash_grid(device: torch.device) -> Pairs:
    """A dense level of a grid, against PyTorch's `grid_sample`, with the first derivatives by points and table; and the
    second ones of two levels, one of them hashed, against the reference."""
    from torch.nn.functional import grid_sample

    from headfields.ops.hash_grid import hash_grid
    from headfields.ops.hash_grid_layout import HashGridLayout
    from headfields.ops.reference.hash_grid import hash_grid as definition

    generator = torch.Generator().manual_seed(2)
    cells = 8
    layout = HashGridLayout(1, 4, 14, cells, cells)
    points = torch.rand(700, 3, generator=generator)
    table = torch.randn(layout.entries, 4, generator=generator)

    def by_torch(points: Tensor, table: Tensor) -> list[Tensor]:
        volume = table.T.reshape(1, 4, cells + 1, cells + 1, cells + 1)
        # Rows run with x fastest (Instant-NGP), as grid_sample's last axis does.
        place = (2 * points - 1)[None, :, None, None]
        return [grid_sample(volume, place, align_corners=True)[0, :, :, 0, 0].T]

    pairs = _derivatives(lambda x, rows: [hash_grid(x, rows, layout)], by_torch, [points, table], device, order=1)
    two = HashGridLayout(2, 2, 6, 3, 8)
    rows = torch.randn(two.entries, 2, generator=generator)
    pairs += _derivatives(
        lambda x, rows: [hash_grid(x, rows, two)], lambda x, rows: [definition(x, rows, two)], [points, rows], device
    )
    half, exact = rows.half(), rows.half().double()  # tables may be stored in 16 bits, or read so
    pairs += _derivatives(
        lambda x, rows: [hash_grid(x, rows, two, rounded=half.to(device))],
        lambda x, rows: [definition(x, rows + (exact.to(rows) - rows).detach(), two)], [points, rows], device,
    )  # fmt: skip
    return pairs + _derivatives(
        lambda x: [hash_grid(x, half.to(device), two)], lambda x: [definition(x, exact, two)], [points], device, order=1
    )


def check_interpolate_rows(device: torch.device) -> Pairs:
    """Weighted sums of rows of a table, and the sums scattered back, against a matrix of the weights."""
    from headfields.ops.interpolate_rows import interpolate_rows, scatter_rows

    generator = torch.Generator().manual_seed(7)
    table, weights = torch.randn(40, 6, generator=generator), torch.rand(200, 3, generator=generator)
    index = torch.randint(40, (200, 3), generator=generator)

    def by_kernels(table: Tensor, weights: Tensor) -> list[Tensor]:
        rows = interpolate_rows(table, index.to(device), weights)
        return [rows, scatter_rows(rows, index.to(device), weights, 40)]

    def by_definition(table: Tensor, weights: Tensor) -> list[Tensor]:
        one_hot = torch.nn.functional.one_hot(index, 40).to(table)
        matrix = torch.einsum("nk,nkr->nr", weights, one_hot)
        return [matrix @ table, matrix.T @ (matrix @ table)]

    return _derivatives(by_kernels, by_definition, [table, weights], device)


def check_nearest_vertices(device: torch.device) -> Pairs:
    """The three nearest of 300 vertices, against all distances."""
    from headfields.ops.nearest_vertices import VertexTree

    generator = torch.Generator().manual_seed(8)
    vertices, points = torch.randn(300, 3, generator=generator), torch.randn(200, 3, generator=generator)
    nearest = VertexTree(vertices.to(device)).refit(1.5 * vertices.to(device)).nearest(points.to(device), 3)
    expected, index = torch.cdist(points.double(), 1.5 * vertices.double()).topk(3, largest=False)
    return [(nearest.distance, expected), (nearest.index, index)]


def check_softplus(device: torch.device) -> Pairs:
    """Softplus with beta = 100, near its bend and far from it, and two derivatives."""
    from headfields.ops.softplus import softplus

    x = torch.cat([torch.linspace(-0.1, 0.1, 300), torch.linspace(-3, 3, 100)])
    return _derivatives(
        lambda x: [softplus(x)], lambda x: [torch.logaddexp(100 * x, torch.zeros_like(x)) / 100], [x], device
    )


def check_eigenvectors(device: torch.device) -> Pairs:
    """`symmetric_eigen` against PyTorch's values, and the matrices that its vectors put together again."""
    from headfields.ops.eigen import symmetric_eigen

    factors = torch.rand(64, 3, 3, dtype=torch.float64)
    matrices = factors.mT @ factors
    matrices[:8] = torch.diag_embed(matrices[:8].diagonal(dim1=-2, dim2=-1).floor())  # equal values, and zero
    values, vectors = (result.cpu() for result in symmetric_eigen(matrices.to(device)))
    return [
        (values, torch.linalg.eigvalsh(matrices)),
        ((vectors * values[:, None]) @ vectors.mT, matrices),
        (vectors.mT @ vectors, torch.eye(3, dtype=torch.float64).expand(64, 3, 3)),
    ]


def check_mesh_rays(device: torch.device) -> Pairs:
    """First hits on a fan of triangles, and the interval within a margin of it, against the plane's equation."""
    from headfields.ops.triangle_bvh import TriangleBVH

    vertices = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    generator = torch.Generator().manual_seed(3)
    origins = torch.cat([torch.rand(300, 2, generator=generator) - 0.5, torch.ones(300, 1)], dim=1)
    directions = torch.randn(300, 3, generator=generator) * torch.tensor([0.1, 0.1, 0.0]) - torch.tensor([0.0, 0, 1])
    directions = torch.nn.functional.normalize(directions, dim=-1)
    tree = TriangleBVH(faces.to(device), vertices.to(device))
    hit = tree.raycast(origins.to(device), directions.to(device))
    near, far = tree.interval(origins.to(device), directions.to(device), 0.1)
    slope = -1.0 / directions[:, 2].double()
    return [(hit.distance, slope), (near, 0.9 * slope), (far, 1.1 * slope)]


def check_occupancy(device: torch.device) -> Pairs:
    """Marching through a grid whose lower half is occupied, and looking up points in it."""
    from headfields.ops.occupancy import lookup_occupancy, march_occupancy

    occupied = torch.zeros(8, 8, 8, dtype=torch.bool)
    occupied[:, :, :4] = True
    box = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    origins = torch.cat([torch.linspace(-0.9, 0.9, 50)[:, None].expand(50, 2), torch.full((50, 1), 2.0)], dim=1)
    directions = torch.tensor([[0.0, 0, -1]]).expand(50, 3).contiguous()
    near, far, jitter = (torch.full((50,), value, device=device) for value in (1.0, 3.0, 0.5))
    origins, directions, full, box = origins.to(device), directions.to(device), occupied.to(device), box.to(device)
    samples = march_occupancy(origins, directions, near, far, full, box, 0.125, jitter=jitter)
    length = torch.zeros(50, dtype=torch.float64).index_add(
        0, samples.ray.cpu(), (samples.end - samples.start).cpu().double()
    )
    points = torch.tensor([[0.0, 0, -0.5], [0, 0, 0.5], [0, 0, -1.5]])
    computed = lookup_occupancy(points.to(device), full, box).double()
    # Half a step of either end of the lattice may fall outside.
    return [(computed, torch.tensor([1.0, 0, 0])), ((length - 1).abs().gt(0.13).double(), torch.zeros(50))]


def check_sampling(device: torch.device) -> Pairs:
    """Importance sampling of a ramp, whose quantiles are square roots, and the union with even samples."""
    from headfields.ops.sampling import inverse_cdf, merge_samples, stratified

    near, far = torch.zeros(4, device=device), torch.ones(4, device=device)
    even = stratified(near, far, 400, jitter=False)
    drawn = inverse_cdf(even.middle, even, 16, rays=4, jitter=False)
    expected = (torch.arange(1, 17, dtype=torch.float64) / 16).sqrt().repeat(4)
    union = merge_samples(even, drawn, 4)
    covered = torch.zeros(4, dtype=torch.float64).index_add(
        0, union.ray.cpu(), (union.end - union.start).cpu().double()
    )
    return [(drawn.end, expected), (covered, torch.ones(4))]


def check_spherical_harmonics(device: torch.device) -> Pairs:
    """Degree 8 against the polynomials, and two derivatives by the direction."""
    from headfields.ops.reference.spherical_harmonics import spherical_harmonics as definition
    from headfields.ops.spherical_harmonics import spherical_harmonics

    directions = torch.randn(300, 3, generator=torch.Generator().manual_seed(4))
    directions = torch.nn.functional.normalize(directions, dim=-1)
    return _derivatives(lambda d: [spherical_harmonics(d, 8)], lambda d: [definition(d, 8)], [directions], device)


def check_blended_map(device: torch.device) -> Pairs:
    """Points under three random affine maps each, against the weighted sum written out."""
    from headfields.ops.blended_map import blended_map

    generator = torch.Generator().manual_seed(5)
    points, directions = (torch.randn(200, 3, generator=generator) for _ in range(2))
    gradients = torch.randn(1, 30, 3, 4, generator=generator)
    centroids = torch.randn(1, 30, 3, generator=generator)
    ring = torch.randint(30, (30, 3), generator=generator)
    face = torch.randint(30, (200,), generator=generator)
    mesh = torch.zeros(200, dtype=torch.long)
    inputs = [x.to(device) for x in (points, directions, face, mesh, gradients, centroids, ring)]
    x, d, nearest, which, maps, centers, around = inputs
    computed, turned = blended_map(x, d, nearest, which, maps, centers, around, sharpness=2.0)
    near = ring[face]
    weight = torch.exp(-2 * (points[:, None] - centroids[0, near]).double().norm(dim=-1))
    matrix = (weight / weight.sum(1, keepdim=True))[..., None, None] * gradients[0, near].double()
    homogeneous = torch.cat([points, torch.ones(200, 1)], dim=1).double()
    expected = torch.einsum("mkij,mj->mi", matrix, homogeneous)
    direction = torch.einsum("mkij,mj->mi", matrix[..., :3], directions.double())
    return [(computed, expected), (turned, direction / direction.norm(dim=1, keepdim=True))]


def check_mlp(device: torch.device) -> Pairs:
    """A network with biases and shared values, and all its gradients, layer by layer."""
    from headfields.ops.mlp import mlp_kernel

    generator = torch.Generator().manual_seed(6)

    def whole(*shape: int) -> Tensor:  # sums of small whole numbers are exact, so that no ReLU can go the other way
        return torch.randint(-2, 3, shape, generator=generator).float()

    x, condition, index = whole(500, 20), whole(3, 7), torch.randint(3, (500,), generator=generator)
    weights, biases = [whole(40, 27), whole(33, 40), whole(3, 33)], [whole(40), whole(33), whole(3)]
    cotangent = whole(500, 3)
    inputs = [tensor.to(device).requires_grad_() for tensor in (x, condition, *weights, *biases)]
    computed = mlp_kernel(inputs[0], inputs[2:5], inputs[5:], inputs[1], index.to(device))
    gradients = torch.autograd.grad(computed, inputs, cotangent.to(device))
    exact = [tensor.double().requires_grad_() for tensor in (x, condition, *weights, *biases)]
    expected = torch.cat([exact[0], exact[1][index]], dim=1)
    for layer in range(3):
        expected = (expected.relu() if layer else expected) @ exact[2 + layer].T + exact[5 + layer]
    expected_gradients = torch.autograd.grad(expected, exact, cotangent.double())
    return [(computed, expected), *zip(gradients, expected_gradients, strict=True)]


def check_grouped_layers(device: torch.device) -> Pairs:
    """A layer of five networks, of which four have rows, and its gradients; the definition copies weights to rows."""
    from headfields.ops.grouped import group_rows

    random = torch.Generator().manual_seed(0)
    group = torch.randint(4, (300,), generator=random)  # of five
    inputs = [torch.randn(*shape, generator=random) for shape in ((300, 40), (5, 40, 24), (5, 24))]

    def kernels(x: Tensor, weights: Tensor, bias: Tensor) -> list[Tensor]:
        rows = group_rows(group.to(device), 5)
        return [rows.scatter(rows.linear(rows.gather(x), weights, bias))]

    def definition(x: Tensor, weights: Tensor, bias: Tensor) -> list[Tensor]:
        return [(x[:, None] @ weights[group])[:, 0] + bias[group]]

    return _derivatives(kernels, definition, inputs, device)


def check_marching_cubes(device: torch.device) -> Pairs:
    """A ball on a grid: the radius of its vertices and their derivative, its volume and Euler characteristic."""
    from headfields.ops.marching_cubes import marching_cubes

    line = torch.linspace(-1, 1, 64, device=device)
    distance = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).norm(dim=-1)
    radius = torch.tensor(0.7, device=device, requires_grad=True)
    surface = marching_cubes(distance, radius, torch.tensor([[-1.0] * 3, [1.0] * 3], device=device))
    vertices, faces = surface.vertices.double(), surface.faces
    a, b, c = vertices.detach()[faces].unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    coarse = 2e-3  # of the grid, not of the kernel: rounded away below
    lengths = vertices.detach().norm(dim=-1)
    closed = torch.tensor([float(len(vertices) - len(faces) // 2)], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(vertices.square().sum(), radius)
    return [
        (((lengths - 0.7).abs() < coarse).double(), torch.ones(len(vertices), dtype=torch.float64)),
        (((volume / (4 / 3 * torch.pi * 0.7**3) - 1).abs() < 5e-3).double(), torch.ones((), dtype=torch.float64)),
        (closed, torch.full((1,), 2.0, dtype=torch.float64)),
        ((gradient / len(vertices) / 1.4 - 1).abs().lt(0.05).double(), torch.ones((), dtype=torch.float64)),
    ]


def check_blur(device: torch.device) -> Pairs:
    """Two images in a window of seven pixels, against the sum of shifted images."""
    from headfields.ops.blur import blur

    generator = torch.Generator().manual_seed(17)
    images, weights = torch.rand(2, 19, 23, generator=generator), torch.tensor([1.0, 2, 4, 5, 4, 2, 1]) / 19

    def by_kernels(images: Tensor) -> list[Tensor]:
        return [blur(images, weights.to(images))]

    def by_definition(images: Tensor) -> list[Tensor]:
        padded, wide = torch.nn.functional.pad(images, (3, 3, 3, 3)), weights.to(images)
        rows = sum(wide[i] * padded[:, i : i + 19] for i in range(7))
        return [sum((wide[i] * rows[..., i : i + 23] for i in range(7)), torch.zeros_like(images))]  # type: ignore

    return _derivatives(by_kernels, by_definition, [images], device)


def check_bound_gaussians(device: torch.device) -> Pairs:
    """Gaussians on the triangles of two meshes, in space, against the reference."""
    from headfields.ops.bound_gaussians import bind_gaussians, triangle_similarities
    from headfields.ops.reference import bound_gaussians as definition

    generator = torch.Generator().manual_seed(19)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    vertices, faces = random(2, 30, 3), torch.arange(30).reshape(10, 3)
    face = torch.randint(0, 10, (50,), generator=generator)

    def by_kernels(means: Tensor, quaternions: Tensor, scales: Tensor) -> list[Tensor]:
        table = triangle_similarities(vertices.to(means), faces.to(device))
        return [table, *bind_gaussians(means, quaternions, scales, table, face.to(device))]

    def by_definition(means: Tensor, quaternions: Tensor, scales: Tensor) -> list[Tensor]:
        table = definition.triangle_similarities(vertices.to(means), faces)
        return [table, *definition.bind_gaussians(means[None], quaternions[None], scales[None], table, face)]

    return _derivatives(by_kernels, by_definition, [random(50, 3), random(50, 4), random(50, 3)], device, order=1)


def check_splat(device: torch.device) -> Pairs:
    """Some Gaussians in two cameras, of colors and of harmonics: images and their gradients by everything, the cameras
    among them."""
    from headfields.ops.rasterize_gaussians import rasterize_gaussians
    from headfields.records import Camera

    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    camera = Camera.look_at(torch.tensor([[0.1, 0.0, 0.6], [-0.1, 0.1, 0.7]]), (0, 0, 0), size=(40, 50), fov=24)
    inputs = [
        0.05 * random(200, 3),
        random(200, 4),
        0.006 * random(200, 3).exp(),
        random(200).sigmoid(),
        random(200, 3),
    ]
    inputs += [camera.world_to_camera, camera.intrinsics]

    def images(*tensors: Tensor) -> list[Tensor]:
        means, quaternions, scales, opacities, colors, pose, lens = tensors
        view = Camera(pose, lens, camera.size)
        image = rasterize_gaussians(
            means, quaternions, scales, opacities, colors, view, antialiased=True, harmonics=colors.ndim == 3
        )
        return [image.color, image.opacity, image.depth, image.normal]

    harmonics = [*inputs[:4], random(200, 4, 3), *inputs[5:]]
    return [
        *_derivatives(images, images, inputs, device, order=1),
        *_derivatives(images, images, harmonics, device, order=1),
    ]


def check_images_of_gaussians(device: torch.device) -> Pairs:
    """The loss of Gaussians' images, what holds Gaussians to triangles, lengths of rays and rotations, against the
    references."""
    from headfields.ops import l1_dssim, ray_length, rotations, splat_excess
    from headfields.ops.reference import l1_dssim as loss
    from headfields.ops.reference import splat_excess as excess

    generator = torch.Generator().manual_seed(23)
    images, truths = (torch.rand(2, 15, 18, 3, generator=generator) for _ in range(2))
    vectors, visible = torch.randn(40, 3, generator=generator), torch.rand(2, 40, generator=generator) < 0.5
    lens = torch.tensor([[20.0, 0, 8], [0, 21, 9], [0, 0, 1]])[None]

    def by_kernels(images: Tensor, vectors: Tensor) -> list[Tensor]:
        seen = visible.to(device)
        values = [splat_excess.splat_excess(vectors, seen, 0.4, each) for each in (False, True)]
        lengths = ray_length.ray_length(lens.to(vectors), 15, 18)
        turns = rotations.rotation_matrices(vectors.detach())
        return [turns, l1_dssim.l1_dssim(images, truths.to(images), 0.2), *values, lengths]

    def by_definition(images: Tensor, vectors: Tensor) -> list[Tensor]:
        values = [excess.splat_excess(vectors, visible, 0.4, each)[0] for each in (False, True)]
        lengths = ray_length.plain_ray_length(lens.to(vectors), 15, 18)
        turns = rotations.rotation_matrices(vectors.detach())  # in float64, in PyTorch
        return [turns, loss.l1_dssim(images, truths.to(images), 0.2)[0], *values, lengths]

    return _derivatives(by_kernels, by_definition, [images, vectors], device, order=1)


def check_triangle_frames(device: torch.device) -> Pairs:
    """Frames and maps of the triangles of a mesh, against the reference."""
    from headfields.ops.reference import triangle_frames as definition
    from headfields.ops.triangle_frames import deformation_gradients, triangle_frames

    generator = torch.Generator().manual_seed(13)
    posed, canonical = torch.randn(2, 40, 3, generator=generator), torch.randn(40, 3, generator=generator)
    faces = torch.arange(39).reshape(13, 3)

    def by_kernels(posed: Tensor, canonical: Tensor) -> list[Tensor]:
        on = faces.to(device)
        return [triangle_frames(posed, on), deformation_gradients(posed, canonical, on, "area")]

    def by_definition(posed: Tensor, canonical: Tensor) -> list[Tensor]:
        maps = definition.deformation_gradients(posed, canonical, faces, "area")
        return [definition.triangle_frames(posed, faces), maps]

    return _derivatives(by_kernels, by_definition, [posed, canonical], device, order=1)


CHECKS: list[tuple[str, Callable[[torch.device], Pairs]]] = [
    ("blended_map", check_blended_map),
    ("blur", check_blur),
    ("bound_gaussians", check_bound_gaussians),
    ("closest_triangle", check_closest_triangle),
    ("compositing", check_compositing),
    ("grouped_linear", check_grouped_layers),
    ("hash_grid", check_hash_grid),
    ("interpolate_rows", check_interpolate_rows),
    ("marching_cubes", check_marching_cubes),
    ("mlp", check_mlp),
    ("nearest_vertices", check_nearest_vertices),
    ("occupancy", check_occupancy),
    ("rays", check_mesh_rays),
    ("sampling", check_sampling),
    ("softplus", check_softplus),
    ("spherical_harmonics", check_spherical_harmonics),
    ("splat", check_splat),
    ("splat_losses", check_images_of_gaussians),
    ("symmetric_eigen", check_eigenvectors),
    ("triangle_frames", check_triangle_frames),
]
"""The registry: name and check of every operation that has kernels."""


def _backends() -> list[str]:
    names = ["cpu native"] if native is not None else []
    try:
        warp()
    except Exception:  # `headfields doctor` prints the reason with the list of backends
        return names
    return [*names, "cpu warp", *(["cuda warp"] if torch.cuda.is_available() else [])]


def _derivatives(
    kernels: Callable[..., list[Tensor]],
    definition: Callable[..., list[Tensor]],
    inputs: list[Tensor],
    device: torch.device,
    order: int = 2,
) -> Pairs:
    """Values, first and, with `order` 2, second derivatives: of the kernels on a device, and of the definition in
    float64. The derivatives are those along random directions, the same for both."""

    def evaluated(function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)

        def along(tensors: list[Tensor]) -> list[Tensor]:
            return [torch.randn(tensor.shape, generator=generator).to(tensor) for tensor in tensors]

        values = function(*inputs)
        results, outputs = list(values), values
        for _ in range(order):
            smooth = [output for output in outputs if output.requires_grad]
            outputs = list(
                torch.autograd.grad(smooth, inputs, along(smooth), create_graph=True, materialize_grads=True)
            )
            results += outputs
        return results

    computed = evaluated(kernels, [tensor.to(device).requires_grad_() for tensor in inputs])
    return list(zip(computed, evaluated(definition, [x.double().requires_grad_() for x in inputs]), strict=True))


def _error(computed: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value; NaN if there is one anywhere."""
    computed, expected = computed.detach().cpu().double(), expected.detach().double()
    if computed.shape != expected.shape:
        raise AssertionError(f"shape {tuple(computed.shape)} instead of {tuple(expected.shape)}")
    scale = max(float(expected.abs().max()), 1.0) if expected.numel() else 1.0
    return float((computed - expected).abs().max() / scale) if expected.numel() else 0.0
