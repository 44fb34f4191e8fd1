"""What holds for each operation under each way to differentiate or transform it: observed, never merely stated.

`python -m tests.ops.derivative_table` writes the table in docs/operations.md; `test_derivative_table.py` fails where
the page says something else, and where a result is wrong instead of an error.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

import headfields as hf
from headfields import ops
from headfields.ops.affine import affine_inverse, apply_affine, skin_points
from headfields.ops.antialias import Crossings, mesh_edges, silhouette_crossings
from headfields.ops.compositing import exclusive_sum, ray_offsets
from headfields.ops.frequency import frequency_window
from headfields.ops.grouped import group_rows
from headfields.ops.interpolate_rows import scatter_rows
from headfields.ops.mesh_topology import edge_neighbors
from headfields.ops.nearest_vertices import inverse_distance_weights
from headfields.ops.ray_box import ray_sphere
from headfields.ops.render_mesh import render_mesh
from headfields.ops.rigid import nearest_rotation, rigid_transform
from headfields.ops.rotations import axis_angle, left_jacobian, rotation_from_log_quaternion, rotations_from
from headfields.ops.sampling import uniform_step
from headfields.ops.similarity import fit_similarity
from headfields.ops.skinning import pose_features
from headfields.ops.surface_alpha import laplace_density, unclamped_alpha
from headfields.ops.texture import fill_texels, mip_pyramid, pad_charts
from headfields.ops.triangle_frames import deformation_gradients
from headfields.ops.undistort import undistort_image, undistort_pixels
from headfields.ops.vertex_geometry import triangle_areas, vertex_areas
from tests.shapes import uv_sphere

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
BEGIN, END = "<!-- derivatives: begin -->\n", "<!-- derivatives: end -->\n"
COLUMNS = ("first", "second", "forward", "`torch.func`", "`vmap`", "`compile`", "float64", "autocast")

NETWORKS = {"mlp", "mlp_tangents", "GroupedRows.linear"}  # which autocast computes in low precision

# Records that operations give or take, and layouts: nothing to differentiate.
RECORDS = {
    "ClosestPoint",
    "Crossings",
    "HashGridLayout",
    "Isosurface",
    "MeshEdges",
    "MipPyramid",
    "NearestVertices",
    "Similarity",
    "RasterizedGaussians",
}


@dataclass
class Row:
    """An operation as a function of tensors that may be differentiated."""

    name: str
    function: Callable[..., Tensor | tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]  # float64
    named: str = ""  # what its errors call it
    loose: float = field(default=2e-3)  # of float32 against float64, relative

    def __call__(self, *inputs: Tensor) -> Tensor:
        """All results as one vector."""
        results = self.function(*inputs)
        results = (results,) if isinstance(results, Tensor) else results
        return torch.cat(
            [result.reshape(-1).to(torch.promote_types(result.dtype, inputs[0].dtype)) for result in results]
        )

    def loss(self, *inputs: Tensor) -> Tensor:
        """A smooth scalar with first and second derivatives by every result."""
        out = self(*inputs)
        weight = torch.linspace(0.5, 1.5, len(out), dtype=out.dtype)
        return (weight * out + 0.3 * (weight * out).sin()).sum()


def rows() -> list[Row]:
    """One row for each public operation, or several for a class with several."""
    g = torch.Generator().manual_seed(3)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def unit(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(normal(*shape), dim=-1)

    ball, faces = uv_sphere(4, 5)
    ball = ball.double() + 0.05 * normal(*ball.shape)
    layout = ops.HashGridLayout(levels=2, features=2, log2_table_size=6, base_resolution=2, finest_resolution=5)
    offsets = torch.tensor([0, 3, 3, 6])
    ray = torch.tensor([0, 0, 0, 2, 2, 2])
    start = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    index = torch.tensor([[0, 2], [1, -1], [3, 3]])
    points, table = rand(5, 3), normal(layout.entries, 2)
    fine_weights = 0.2 + rand(6)
    group = group_rows(torch.tensor([1, 0, 1]), groups=2, block=2)
    occupied, box = rand(4, 4, 4) < 0.6, torch.tensor([[0.0] * 3, [1.0] * 3], dtype=torch.float64)
    near, far = rand(5) * 0.1, 1 + rand(5)
    frame = torch.zeros(5, dtype=torch.long)
    uv = 0.1 + 0.8 * rand(len(ball), 2)
    rasterizer = ops.UVRasterizer(faces, uv, faces, resolution=6)
    on_face = torch.tensor([0, 5, 2, 7, 1])
    camera_pose = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    camera_pose[2, 3] = 4.0
    lens = torch.tensor([[9.0, 0, 4], [0, 9, 4], [0, 0, 1]], dtype=torch.float64)
    neighbors = torch.cat([torch.arange(len(faces))[:, None], edge_neighbors(faces)], dim=1)
    edges = mesh_edges(faces)
    image = render_mesh(ops.TriangleBVH(faces, ball), hf.Camera(camera_pose, lens, (8, 8)))
    seen = hf.Camera(camera_pose, lens, (8, 8)).project(ball)
    bent = hf.Camera(camera_pose, lens, (8, 8), torch.tensor([-0.1, 0.02, 0.001, 0.002, 0.0]).to(lens))
    crossings = silhouette_crossings(*seen, edges, image.depth, image.mask)
    spread = torch.eye(3, dtype=torch.float64) + 0.3 * normal(4, 3, 3)
    rotation = ops.rotation_matrices(0.8 * normal(4, 3))
    grid = (torch.stack(torch.meshgrid(*3 * [torch.linspace(-1, 1, 4, dtype=torch.float64)], indexing="ij"), -1)).norm(
        dim=-1
    ) - 0.7
    jitter = 0.03 * normal(4, 4, 4)
    mlp_sizes = [normal(8, 3), normal(8, 8), normal(2, 8)]
    mlp_biases = [normal(8), normal(8), normal(2)]
    parents, joints = [-1, 0, 1], normal(2, 3, 3)
    transforms = ops.joint_transforms(0.5 * normal(2, 3, 3), joints, parents)
    skin = rand(5, 3).softmax(-1)

    tree, cloud = ops.TriangleBVH(faces, ball), ops.VertexTree(ball)
    toward = (lambda o: (3 * o + 0.1 * normal(5, 3), 0.1 * normal(5, 3) - o))(unit(5, 3))

    def rays(origins: Tensor, directions: Tensor) -> hf.Rays:
        return hf.Rays(origins, directions, frame)

    def samples(begin: Tensor, end: Tensor) -> hf.Samples:
        return hf.Samples(ray, begin, end)

    def of_samples(result: hf.Samples) -> tuple[Tensor, ...]:
        return result.start, result.end

    unit_z = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(5, 3)
    known = rand(4, 4) < 0.5
    table_rows = [
        Row("TriangleBVH.closest", lambda p, v: (lambda c: (c.point, c.distance, c.barycentric))(
            tree.posed(v).closest(p)), (1.5 * normal(5, 3), ball), "closest_triangle"),
        Row("TriangleBVH.raycast", lambda o, d, v: (lambda hit: torch.where(hit.face >= 0, hit.distance, 0.0))(
            tree.posed(v).raycast(o, d)), (*toward, ball), "raycast"),
        Row("TriangleBVH.interval", lambda o, d, v: tree.posed(v).interval(o, d, 0.1)[0],
            (*toward, ball), "interval"),
        Row("VertexTree.nearest", lambda p, v: cloud.posed(v).nearest(p, 3).distance, (normal(5, 3), ball),
            "nearest_vertices"),
        Row("knn", lambda p, v: ops.knn(p, v, 3).distance, (normal(5, 3), ball), "nearest_vertices"),
        Row("inverse_distance_weights", inverse_distance_weights, (rand(4, 3) + 0.1,)),
        Row("render_mesh", lambda v, a: (lambda m: (m.depth, m.attributes, m.normal))(
            render_mesh(ops.TriangleBVH(faces, v), hf.Camera(camera_pose.to(v), lens.to(v), (8, 8)), a)),
            (ball, normal(len(ball), 2)), "raycast"),
        Row("mesh_edges", lambda v: mesh_edges(faces).ends.to(v), (ball,)),
        Row("silhouette_crossings", lambda p, d: silhouette_crossings(
            p, d, edges, image.depth.to(p), image.mask).position, seen),
        Row("antialias", lambda i, p: ops.antialias(i, Crossings(
            crossings.near, crossings.far, p, crossings.point.to(p), crossings.edge, crossings.outer)),
            (rand(8, 8, 2), crossings.position)),
        Row("vertex_normals", lambda v: ops.vertex_normals(v, faces), (ball,)),
        Row("face_normals", lambda v: ops.face_normals(v, faces), (ball,)),
        Row("triangle_areas", lambda v: triangle_areas(v, faces), (ball,)),
        Row("vertex_areas", lambda v: vertex_areas(v, faces), (ball,)),
        Row("edge_neighbors", lambda v: edge_neighbors(faces).to(v), (ball,)),
        Row("triangle_frames", lambda v: ops.triangle_frames(v, faces), (ball,)),
        Row("deformation_gradients", lambda p, c: deformation_gradients(p, c, faces),
            (ball + 0.1 * normal(*ball.shape), ball)),
        Row("blended_map", lambda p, d, m, c: ops.blended_map(p, d, on_face, frame, m, c, neighbors),
            (points, unit(5, 3), normal(1, len(faces), 3, 4), normal(1, len(faces), 3))),
        Row("ray_box", lambda o, d, b: ops.ray_box(rays(o, d), b), (0.5 + toward[0], toward[1], box)),
        Row("ray_sphere", lambda o, c: ray_sphere(rays(o, unit_z.to(o)), c, 1.0),
            (0.3 * normal(5, 3) - torch.tensor([0.0, 0, 3], dtype=torch.float64), 0.1 * normal(3))),
        Row("stratified", lambda n, f: of_samples(ops.stratified(n, f, 3, jitter=False)), (near, far)),
        Row("inverse_cdf", lambda e, w: of_samples(ops.inverse_cdf(w, e, 3, jitter=False)),
            (rand(2, 4).sort().values, rand(2, 3))),
        Row("merge_samples", lambda a, b: of_samples(ops.merge_samples(samples(a, a + 0.01), samples(b, b + 0.01), 3)),
            (start, start + 0.005)),
        Row("uniform_step", lambda n, f: of_samples(uniform_step(n, f, 0.3)), (near, far)),
        Row("march_occupancy",
            lambda o, d: of_samples(ops.march_occupancy(o, d, near.to(o), far.to(o), occupied, box.to(o), 0.1)),
            (points, unit(5, 3))),
        Row("lookup_occupancy", lambda p: ops.lookup_occupancy(p, occupied, box.to(p)).to(p), (points,)),
        Row("ray_offsets", lambda v: ray_offsets(ray, 3).to(v), (start,)),
        Row("exclusive_sum", lambda v: exclusive_sum(v, offsets=offsets), (start,)),
        Row("accumulate", lambda w, v: ops.accumulate(w, v, offsets=offsets), (rand(6), normal(6, 3))),
        Row("weights_from_density", lambda d, s, e: ops.weights_from_density(d, s, e, offsets=offsets),
            (5 * rand(6), start, start + 0.1)),
        Row("weights_from_alpha", lambda a: ops.weights_from_alpha(a, offsets=offsets), (rand(6),)),
        Row("composite", lambda w, c, b: ops.composite(
            w, c, samples(start.to(w), start.to(w) + 0.1), 3, b, offsets=offsets), (rand(6) / 6, rand(6, 3), rand(3))),
        Row("render_weights", lambda d: ops.render_weights(samples(start.to(d), start.to(d) + 0.1), 3, density=d),
            (rand(6),)),
        Row("volume_render", lambda d, c, b: (lambda i: (i.rgb, i.opacity, i.depth, i.weights))(ops.volume_render(
            c, samples(start.to(d), start.to(d) + 0.1), 3, density=d, background=b)), (rand(6), rand(6, 3), rand(3))),
        Row("distortion", lambda w: ops.distortion(w, samples(start.to(w), start.to(w) + 0.1), 3), (rand(6) / 6,)),
        Row("interlevel", lambda c: (lambda s: ops.interlevel(
            fine_weights.to(c), samples(s, s + 0.1), c, samples(s, s + 0.13), 3))(start.to(c)), (rand(6) / 20,)),
        Row("neus_alpha", lambda d, s, l, b: ops.neus_alpha(d, s, l, b),
            (0.1 * normal(5), -rand(5), 0.1 * rand(5), 10 + rand(1)[0])),
        Row("unclamped_alpha", lambda d, s, l, b: unclamped_alpha(d, s, l, b),
            (0.1 * normal(5), -rand(5), 0.1 * rand(5), 10 + rand(1)[0])),
        Row("laplace_density", laplace_density, (0.1 * normal(5), 5 + rand(1)[0])),
        Row("hash_grid", lambda p, t: ops.hash_grid(p, t, layout, "smoothstep"), (points, table)),
        Row("frequency_encoding", lambda x: ops.frequency_encoding(x, 3), (points,)),
        Row("frequency_window", lambda x: frequency_window(3, 0.5).to(x), (points,)),
        Row("spherical_harmonics", lambda d: ops.spherical_harmonics(d, 4), (unit(5, 3),)),
        Row("mlp", lambda x, *p: ops.mlp(x, p[:3], p[3:]), (points, *mlp_sizes, *mlp_biases)),
        Row("mlp_tangents", lambda x, t, *p: ops.mlp_tangents(x, t, p[:3], p[3:]),
            (points, normal(5, 2, 3), *mlp_sizes, *mlp_biases)),
        Row("GroupedRows.linear", lambda x, w, b: group.scatter(group.linear(group.gather(x), w, b)),
            (normal(3, 4), normal(2, 4, 2), normal(2, 2)), "group_rows"),
        Row("group_rows", lambda x: group_rows(torch.tensor([1, 0, 1]), 2).place.to(x), (points,)),
        Row("softplus", ops.softplus, (0.02 * normal(7),)),
        Row("interpolate_rows", lambda t, w: ops.interpolate_rows(t, index, w), (normal(4, 3), normal(3, 2))),
        Row("scatter_rows", lambda v, w: scatter_rows(v, index, w, 4), (normal(3, 3), normal(3, 2))),
        Row("UVRasterizer.vertices_to_map", lambda v: rasterizer.vertices_to_map(v), (normal(1, len(ball), 2),),
            "interpolate_rows"),
        Row("UVRasterizer.map_to_vertices", lambda m: rasterizer.map_to_vertices(m), (normal(1, 2, 6, 6),),
            "interpolate_rows"),
        Row("UVRasterizer.sample", lambda m, b: rasterizer.sample(m, on_face, b), (normal(1, 2, 6, 6), skin),
            "interpolate_rows", loose=1e-2),
        Row("undistort_image", lambda i: undistort_image(i, bent.map(lambda t: t.to(i))), (rand(8, 8, 2),)),
        Row("undistort_pixels", lambda p: undistort_pixels(p, bent.map(lambda t: t.to(p))), (8 * rand(5, 2),)),
        Row("sample_texture", lambda t, p: ops.sample_texture(t, p), (normal(6, 6, 2), 0.2 + 0.6 * rand(5, 2))),
        Row("mip_pyramid", lambda t: mip_pyramid(t).table, (normal(4, 4, 2),)),
        Row("fill_texels", lambda t: fill_texels(t, known), (normal(4, 4, 2),)),
        Row("pad_charts", lambda t: pad_charts(t, uv.float(), faces), (normal(6, 6, 2),)),
        Row("unwrap", lambda v: ops.unwrap(v, faces)[0], (ball,)),
        Row("rotation_matrices", ops.rotation_matrices, (normal(4, 3),)),
        Row("axis_angle", axis_angle, (rotation,)),
        Row("left_jacobian", left_jacobian, (normal(4, 3),)),
        Row("rotation_from_6d", lambda v: ops.rotation_from_6d(v, rows=True), (normal(4, 6),)),
        Row("rotation_from_quaternion", ops.rotation_from_quaternion, (normal(4, 4),)),
        Row("rotation_from_log_quaternion", rotation_from_log_quaternion, (normal(4, 3),)),
        Row("rotations_from", lambda v: rotations_from(v, "quaternion"), (normal(4, 4),)),
        Row("joint_transforms", lambda p, j: ops.joint_transforms(p, j, parents), (0.5 * normal(2, 3, 3), joints)),
        Row("linear_blend_skinning", ops.linear_blend_skinning, (normal(5, 3), skin, transforms)),
        Row("skin_points", lambda p, w, t: skin_points(p, w, t, torch.tensor([0, 1, 1, 0, 1])),
            (points, skin, transforms)),
        Row("blend_shapes", ops.blend_shapes, (normal(2, 3), normal(3, 5, 3))),
        Row("pose_features", pose_features, (rotation[None],)),
        Row("affine_inverse", lambda m: affine_inverse(m)[0], (torch.cat([spread, normal(4, 3, 1)], -1),)),
        Row("apply_affine", apply_affine, (normal(4, 3, 4), normal(4, 3))),
        Row("fit_rigid", lambda s, p: ops.fit_rigid(s, p),
            (points, (points @ rotation[0].mT + 0.05 * normal(5, 3))[None])),
        Row("fit_similarity", lambda s, p: (lambda m: (m.rotation, m.translation, m.scale))(fit_similarity(s, p)),
            (points, 1.3 * points @ rotation[0].mT + 0.05 * normal(5, 3)), "fit_rigid"),
        Row("nearest_rotation", lambda c: nearest_rotation(c)[0], (spread,)),
        Row("rigid_transform", rigid_transform, (rotation, normal(4, 3))),
        Row("log_strain", ops.log_strain, (spread,)),
        Row("implicit_root", lambda r: ops.implicit_root(points.to(r), r, spread[[0, 1, 2, 3, 0]].to(r)),
            (0.1 * normal(5, 3),)),
        Row("rasterize_gaussians",
            lambda m, q, s, o, c: (lambda i: (i.color, i.opacity, i.depth, i.normal))(ops.rasterize_gaussians(
            m, q, s, o, c, hf.Camera(camera_pose.to(m), lens.to(m), (8, 8)))),
            (0.6 * normal(7, 3), normal(7, 4), 0.1 + 0.4 * rand(7, 3), 0.2 + 0.6 * rand(7), rand(7, 3))),
        Row("marching_cubes", lambda v: ops.marching_cubes(v).vertices, (grid + jitter,)),
        Row("srgb_from_linear", ops.srgb_from_linear, (0.1 + 0.8 * rand(5),)),
        Row("linear_from_srgb", ops.linear_from_srgb, (0.1 + 0.8 * rand(5),)),
    ]  # fmt: skip
    return table_rows


class Wrong(AssertionError):
    """A result that is neither right nor an error."""


def require(holds: bool, row: Row, what: str) -> None:
    if not holds:
        raise Wrong(f"{row.name}: {what}")


def near(a: Tensor, b: Tensor, relative: float) -> bool:
    scale = max(float(b.abs().max()), 1e-3) if b.numel() else 1.0
    return a.shape == b.shape and bool((a.double() - b.double()).abs().max() <= relative * scale) if a.numel() else True


def gradients(row: Row, inputs: tuple[Tensor, ...], create_graph: bool = False) -> tuple[Tensor, ...]:
    out = torch.autograd.grad(row.loss(*inputs), inputs, create_graph=create_graph, allow_unused=True)
    return tuple(torch.zeros_like(x) if one is None else one for one, x in zip(out, inputs, strict=True))


def flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])


class Observation:
    """One row of the table: each cell computed and compared, float64 with differences and float32 with float64."""

    step = 1e-6
    has_func = False

    def __init__(self, row: Row) -> None:
        self.row = row
        self.doubles = tuple(x.clone() for x in row.inputs)
        self.floats = tuple(x.float() for x in row.inputs)
        generator = torch.Generator().manual_seed(1)
        self.along = tuple(torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in row.inputs)
        self.differentiable = row(*(x.clone().requires_grad_() for x in self.doubles)).requires_grad

    def at(self, move: float) -> tuple[Tensor, ...]:
        return tuple((x + move * v).requires_grad_() for x, v in zip(self.doubles, self.along, strict=True))

    def cells(self, without: str = "") -> list[str]:
        functions = (
            self.first,
            self.second,
            self.forward,
            self.func,
            self.vmap,
            self.compile,
            self.float64,
            self.autocast,
        )
        return ["" if function.__name__ == without else self.cell(function) for function in functions]

    def cell(self, function: Callable[[], str | None]) -> str:
        try:
            return function() or "yes"
        except Wrong:
            raise
        except Exception as error:
            message = str(error)
            names = self.row.named or self.row.name
            if names in message.split("\n")[0]:
                require(len(message.strip().split("\n")) == 1, self.row, f"an error of several lines: {message}")
                return "error"
            if function in (self.compile, self.vmap):  # PyTorch says what it does not trace, or batch
                return "no"
            raise Wrong(f"{self.row.name}, {function.__name__}: {type(error).__name__}: {message}") from error

    def first(self) -> str | None:
        if not self.differentiable:
            return "–"
        gradient = flat(gradients(self.row, self.at(0.0)))
        with torch.no_grad():
            slope = (self.row.loss(*self.at(self.step)) - self.row.loss(*self.at(-self.step))) / (2 * self.step)
        self.slope = float(slope)
        scale = max(abs(float(slope)), float((gradient * flat(self.along)).abs().sum()), 1e-3)
        require(abs(float(gradient @ flat(self.along) - slope)) < 1e-6 * scale, self.row, "first derivative")
        self.gradient = gradient
        single = flat(gradients(self.row, tuple(x.clone().requires_grad_() for x in self.floats)))
        require(near(single, gradient, self.row.loose), self.row, "first derivative in float32")
        return None

    def curve(self) -> Tensor:
        """The second derivative along a direction, by differences of first ones."""
        ahead, behind = (flat(gradients(self.row, self.at(move))) for move in (self.step, -self.step))
        return (ahead - behind) / (2 * self.step)

    def second(self) -> str | None:
        if not self.differentiable:
            return "–"
        inputs = self.at(0.0)
        first = gradients(self.row, inputs, create_graph=True)
        product = sum((one * v).sum() for one, v in zip(first, self.along, strict=True))
        found = torch.autograd.grad(product, inputs, allow_unused=True)
        second = flat(tuple(torch.zeros_like(x) if one is None else one for one, x in zip(found, inputs, strict=True)))
        require(near(second, self.curve(), 1e-4), self.row, "second derivative")
        return None

    def forward(self) -> str | None:
        """By dual tensors and by `jvp`, both float types; and forward over reverse where there is a second order."""
        for inputs, tolerance in ((self.doubles, 1e-6), (self.floats, self.row.loose)):
            along = tuple(v.to(x) for v, x in zip(self.along, inputs, strict=True))
            with forward_ad.dual_level():
                duals = tuple(forward_ad.make_dual(x, v) for x, v in zip(inputs, along, strict=True))
                tangent = forward_ad.unpack_dual(self.row.loss(*duals)).tangent
            other = torch.func.jvp(self.row.loss, inputs, along)[1]
            if not self.differentiable:
                require(tangent is None and not bool(other.abs().max()), self.row, "a tangent of a constant")
                continue
            scale = max(float((self.gradient * flat(self.along)).abs().sum()), 1e-3)
            for found in (tangent, other):
                require(found is not None, self.row, "forward mode lost the tangent")
                require(abs(float(found) - self.slope) <= tolerance * scale, self.row, "forward mode")
        if not self.differentiable:
            return "–"
        every = tuple(range(len(self.doubles)))
        turned = torch.func.jvp(torch.func.grad(self.row.loss, every), self.doubles, self.along)
        require(near(flat(turned[1]), self.curve(), 1e-4), self.row, "forward over reverse")
        return None

    def func(self) -> str | None:
        every = tuple(range(len(self.doubles)))
        for inputs, tolerance in ((self.doubles, 1e-9), (self.floats, self.row.loose)):
            found = flat(torch.func.grad(self.row.loss, every)(*inputs))
            if self.differentiable:
                require(near(found, self.gradient, tolerance), self.row, "torch.func.grad")
            else:
                require(not bool(found.abs().max()), self.row, "a gradient of a constant")
        if not self.differentiable:
            return "–"
        self.has_func = True
        return None

    def vmap(self) -> str | None:
        for inputs, tolerance in ((self.doubles, 1e-9), (self.floats, 1e-4)):
            one = self.row(*inputs)
            both = torch.func.vmap(self.row.__call__)(*(torch.stack([x, x]) for x in inputs))
            require(both.shape == (2, *one.shape) and near(both[1], one, tolerance), self.row, "vmap of every argument")
            only_first = (0, *(None for _ in inputs[1:]))
            some = torch.func.vmap(self.row.__call__, only_first)(torch.stack([inputs[0]] * 2), *inputs[1:])
            require(near(some[1], one, tolerance), self.row, "vmap of one argument")
        if self.has_func:
            each = torch.func.vmap(torch.func.grad(self.row.loss))(*(torch.stack([x, x]) for x in self.doubles))
            require(near(each[1].reshape(-1), self.gradient[: each[1].numel()], 1e-8), self.row, "vmap of a gradient")
        return None

    def compile(self) -> str | None:
        torch._dynamo.reset()
        inputs = tuple(x.clone().requires_grad_() for x in self.floats)
        traced = torch.compile(self.row.loss, fullgraph=True, backend="aot_eager")
        loss = traced(*inputs)
        require(near(loss.detach(), self.row.loss(*inputs).detach(), 1e-4), self.row, "a compiled value")
        if self.differentiable:
            found = torch.autograd.grad(loss, inputs, allow_unused=True)
            filled = tuple(torch.zeros_like(x) if one is None else one for one, x in zip(found, inputs, strict=True))
            require(near(flat(filled), self.gradient, self.row.loose), self.row, "a compiled gradient")
        return None

    def float64(self) -> str | None:
        double, single = self.row(*self.doubles), self.row(*self.floats)
        require(double.dtype == torch.float64 and near(single, double, 1e-3), self.row, "float64 against float32")
        fine = float((double - double.float().double()).abs().max()) if double.numel() else 0.0
        return None if fine > 0 or not self.differentiable else "float32"

    def autocast(self) -> str | None:
        inputs = tuple(x.clone().requires_grad_() for x in self.floats)
        network = self.row.name in NETWORKS
        for kind in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", kind):
                out, loss, constant = self.row(*inputs), self.row.loss(*inputs), self.row(*self.floats)
            for value, of in ((out.detach(), inputs), (constant, self.floats)):
                exact = self.row(*of).detach()
                fits = near(value, exact, 0.05) if network else torch.equal(value, exact)
                require(fits and value.dtype == exact.dtype, self.row, f"a value under {kind} autocast")
            if self.differentiable and not network:  # the backward pass outside, as PyTorch asks
                found = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
                exact = flat(gradients(self.row, inputs))
                require(near(flat(found), exact, 1e-6), self.row, f"a gradient of a {kind} autocast")
        if self.differentiable:
            with torch.autocast("cpu", torch.bfloat16):
                found = flat(gradients(self.row, inputs))
            difference = (found - self.gradient).norm() / self.gradient.norm().clamp_min(1e-6)
            require(bool(difference < 0.1), self.row, "a gradient under autocast")
        return None


def observed_line(row: Row, without: str = "") -> str:
    """The line of an operation in the table; the cell of the column `without` is left empty."""
    try:
        return f"| `{row.name}` | " + " | ".join(Observation(row).cells(without)) + " |\n"
    except Wrong as error:
        return f"| `{row.name}` | WRONG: {error}\n"


def header() -> str:
    return "| operation | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|\n"


def stated() -> dict[str, str]:
    """The lines of the page's table, by operation."""
    text = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    return {text_line.split("`")[1]: text_line + "\n" for text_line in text.splitlines()[2:]}


def public() -> set[str]:
    """Names that a row must have; a class stands for its rows `Class.method`."""
    return {name for name in ops.__all__ if name not in RECORDS and not inspect.ismodule(getattr(ops, name))}


def main(arguments: list[str]) -> None:
    """Prints the table, of all operations or of those named. Without arguments, writes it into the page too.

    The column on torch.compile takes a minute, the others seconds.
    """
    names = {argument for argument in arguments if not argument.startswith("--")}
    lines = []
    for row in rows():
        if names and row.name not in names:
            continue
        lines.append(observed_line(row))
        print(lines[-1], end="", flush=True)
    if not arguments:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(before + BEGIN + header() + "".join(lines) + END + rest.split(END)[1])


if __name__ == "__main__":
    main(sys.argv[1:])
