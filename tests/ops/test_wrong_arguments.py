"""Every function of hf.ops with every tensor argument wrong, one at a time: the library's own error, which names the
argument, or the right answer."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import headfields as hf
from headfields.ops.antialias import mesh_edges, silhouette_crossings
from headfields.records import Samples
from headfields.records.base import Record

N = 6


def calls() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Arguments that each function takes."""
    random = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    ops = hf.ops
    points, directions = rand(N, 3), torch.nn.functional.normalize(rand(N, 3) - 0.5, dim=-1)
    vertices, faces = rand(8, 3), torch.tensor([[0, 1, 2], [2, 3, 4], [4, 5, 6], [5, 6, 7]])
    layout = ops.HashGridLayout(levels=2, features=2, log2_table_size=6, base_resolution=2, finest_resolution=8)
    ray, start = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0.1, 0.2, 0.1, 0.2, 0.3, 0.1])
    samples = Samples(ray, start, start + 0.1)
    packed = {"samples": samples, "rays": 3}
    weights, colors, background, box = rand(N), rand(N, 3), rand(3), torch.tensor([[0.0] * 3, [1.0] * 3])
    occupied = rand(4, 4, 4) < 0.5
    camera = hf.Camera.look_at((0, 0, 3), (0, 0, 0), size=(8, 8), fov=30)
    layers = [rand(4, 3), rand(2, 4)]
    row = torch.zeros(N, dtype=torch.long)
    surface = {"vertices": vertices, "faces": faces}
    uv = rand(8, 2)
    gaussians = {"means": points, "quaternions": rand(N, 4), "scales": 0.1 * points, "opacities": weights}
    triangles, seen = ops.TriangleBVH(faces, vertices), torch.ones(8, 8, dtype=torch.bool)
    crossings = silhouette_crossings(*camera.project(vertices - 0.5), mesh_edges(faces), torch.full((8, 8), 3.0), seen)
    return {
        "HashGridLayout": (ops.HashGridLayout, {}),
        "TriangleBVH": (ops.TriangleBVH, surface),
        "TriangleBVH.closest": (triangles.closest, {"points": points}),
        "TriangleBVH.raycast": (triangles.raycast, {"origins": points, "directions": directions}),
        "UVRasterizer": (ops.UVRasterizer, {"faces": faces, "uv": uv, "uv_faces": faces, "resolution": 8}),
        "VertexTree": (ops.VertexTree, {"vertices": vertices}),
        "VertexTree.nearest": (ops.VertexTree(vertices).nearest, {"points": points, "k": 2}),
        "accumulate": (ops.accumulate, {"weights": weights, "values": colors, "ray": ray, "rays": 3}),
        "antialias": (ops.antialias, {"image": rand(8, 8, 3), "crossings": crossings}),
        "blend_shapes": (ops.blend_shapes, {"coefficients": rand(2, 4), "basis": rand(4, 8, 3)}),
        "blended_map": (ops.blended_map, {
            "points": points, "directions": directions, "face": row, "mesh_index": row, "gradients": rand(1, 4, 3, 4),
            "centroids": rand(1, 4, 3), "ring": torch.arange(4)[:, None]}),
        "composite": (ops.composite, {"weights": weights, "rgb": colors, **packed, "background": background}),
        "distortion": (ops.distortion, {"weights": weights, **packed}),
        "face_normals": (ops.face_normals, surface),
        "fit_rigid": (ops.fit_rigid, {"source": points, "posed": rand(2, N, 3), "weights": rand(2, N)}),
        "frequency_encoding": (ops.frequency_encoding, {"x": points, "bands": 3, "weights": rand(3)}),
        "hash_grid": (ops.hash_grid, {"points": points, "table": rand(layout.entries, 2), "layout": layout}),
        "implicit_root": (ops.implicit_root, {
            "root": points, "residual": points, "inverse_jacobian": rand(N, 3, 3)}),
        "interlevel": (ops.interlevel, {
            "weights": weights, "coarse_weights": weights, "coarse": samples, **packed}),
        "interpolate_rows": (ops.interpolate_rows, {
            "table": rand(5, 3), "index": torch.ones(N, 2).long(), "weights": rand(N, 2)}),
        "inverse_cdf": (ops.inverse_cdf, {"weights": weights, **packed, "count": 2, "jitter": False}),
        "inverse_cdf of edges": (ops.inverse_cdf, {
            "weights": rand(3, 4), "samples": torch.linspace(0, 1, 5).repeat(3, 1), "count": 2, "jitter": False}),
        "joint_transforms": (ops.joint_transforms, {
            "pose": rand(2, 2, 3), "joints": rand(2, 3), "parents": (-1, 0)}),
        "knn": (ops.knn, {"points": points, "vertices": vertices, "k": 2}),
        "linear_blend_skinning": (ops.linear_blend_skinning, {
            "vertices": vertices, "weights": rand(8, 3), "transforms": torch.eye(4).repeat(2, 3, 1, 1)}),
        "linear_from_srgb": (ops.linear_from_srgb, {"color": colors}),
        "log_strain": (ops.log_strain, {"jacobians": torch.eye(3) + 0.1 * rand(N, 3, 3)}),
        "lookup_occupancy": (ops.lookup_occupancy, {"points": points, "occupied": occupied, "aabb": box}),
        "march_occupancy": (ops.march_occupancy, {
            "origins": points, "directions": directions, "near": torch.zeros(N), "far": torch.ones(N),
            "occupied": occupied, "aabb": box, "step": 0.1}),
        "marching_cubes": (ops.marching_cubes, {"values": rand(4, 4, 4) - 0.5, "bounds": box}),
        "merge_samples": (ops.merge_samples, {"first": samples, "second": samples, "rays": 3}),
        "mlp": (ops.mlp, {
            "x": points, "weights": layers, "biases": [rand(4), rand(2)], "start": rand(2, 4), "index": row}),
        "mlp_tangents": (ops.mlp_tangents, {"x": points, "tangents": rand(N, 2, 3), "weights": layers}),
        "neus_alpha": (ops.neus_alpha, {
            "distance": weights, "slope": -weights, "length": weights, "sharpness": 10.0}),
        "rasterize_gaussians": (ops.rasterize_gaussians, {
            **gaussians, "colors": colors, "camera": camera, "background": background}),
        "ray_box": (ops.ray_box, {"rays": hf.Rays(points, directions, row), "box": box}),
        "render_weights": (ops.render_weights, {**packed, "density": weights}),
        "render_weights of alpha": (ops.render_weights, {**packed, "alpha": weights}),
        "rotation_from_6d": (ops.rotation_from_6d, {"values": rand(N, 6), "rows": True}),
        "rotation_from_quaternion": (ops.rotation_from_quaternion, {"values": rand(N, 4)}),
        "rotation_matrices": (ops.rotation_matrices, {"axis_angle": points}),
        "sample_texture": (ops.sample_texture, {
            "texture": rand(4, 4, 3), "uv": rand(N, 2), "footprint": 0.1 * rand(N, 2, 2)}),
        "softplus": (ops.softplus, {"x": weights}),
        "spherical_harmonics": (ops.spherical_harmonics, {"directions": directions, "degree": 2}),
        "srgb_from_linear": (ops.srgb_from_linear, {"light": colors}),
        "stratified": (ops.stratified, {
            "near": torch.zeros(N), "far": torch.ones(N), "count": 2, "jitter": False}),
        "triangle_frames": (ops.triangle_frames, surface),
        "unwrap": (ops.unwrap, {"vertices": vertices, "faces": faces[:1]}),
        "vertex_normals": (ops.vertex_normals, surface),
        "volume_render": (ops.volume_render, {"rgb": colors, **packed, "density": weights, "background": background}),
        "weights_from_alpha": (ops.weights_from_alpha, {"alpha": weights, "ray": ray, "rays": 3}),
        "weights_from_density": (ops.weights_from_density, {
            "density": weights, "start": start, "end": start + 0.1, "ray": ray, "rays": 3}),
    }  # fmt: skip


LEGAL = {
    "other last axis": {
        "accumulate values", "frequency_encoding x", "interpolate_rows table", "linear_from_srgb color",
        "lookup_occupancy occupied", "march_occupancy occupied", "marching_cubes values", "sample_texture texture",
        "antialias image", "softplus x", "srgb_from_linear light", "blended_map ring",
    },
    "empty last axis": {
        "accumulate values", "frequency_encoding x", "interpolate_rows table", "linear_from_srgb color",
        "marching_cubes values", "sample_texture texture", "antialias image", "softplus x", "srgb_from_linear light",
    },
    "whole numbers": {"fit_rigid weights"},
    "bytes": {"fit_rigid weights"},
}  # fmt: skip
"""Arguments whose last axis may have any size, and weights that may be whole."""
BY_OTHERS = {
    "implicit_root root": "residual", "mlp x": "weights", "mlp_tangents x": "tangents",
    "rasterize_gaussians colors": "background",
}  # fmt: skip
"""Arguments of which another one's name tells the mistake too."""


def damages(argument: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of wrong arguments in place of this one."""
    if isinstance(argument, list):
        yield "bytes", [argument[0].byte(), *argument[1:]]
        yield "other last axis", [*argument[:-1], argument[-1][..., :-1]]
        yield "no tensor", [argument[0].numpy(), *argument[1:]]
        return
    if not isinstance(argument, Tensor):
        yield "no tensor", None
        return
    if argument.is_floating_point():
        yield "whole numbers", (argument * 10).long()
        yield "bytes", (argument * 255).clamp(0, 255).byte()
        second = torch.arange(argument.numel()).reshape(argument.shape) == 1
        yield "not finite", torch.where(second, torch.nan, argument)
        yield "double", argument.double()
        yield "half", argument.half()
        yield "complex", argument.to(torch.complex64)
        yield "tracked", argument.clone().requires_grad_()
    else:
        yield "floats", argument.float()
    yield "other last axis", torch.cat([argument, argument[..., :1]], -1)
    yield "empty last axis", argument[..., :0]
    yield "no tensor", argument.numpy()
    yield "another device", argument.to("meta")


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple | list) else vars(value).values() if hasattr(value, "replace") else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def test_wrong_arguments(unchecked: None) -> None:
    table, wrong = calls(), []
    assert {name.split()[0].split(".")[0] for name in table} == set(hf.ops.__all__)
    for name, (function, arguments) in table.items():
        wrong += misbehaviors(name, function, arguments)
    assert not wrong, "\n".join(wrong)


def misbehaviors(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> list[str]:
    """What a function does with wrong arguments and should not."""
    right = tensors_of(function(**arguments))
    alone = sum(isinstance(value, Tensor | list | Record) for value in arguments.values()) == 1
    wrong = []
    for argument, value in arguments.items():
        if isinstance(value, int | float | tuple):
            continue
        place = f"{name} {argument}"
        for damage, bad in damages(value):
            if damage == "another device" and alone and "." not in name:
                continue  # it is the only one
            try:
                found = tensors_of(function(**{**arguments, argument: bad}))
            except (TypeError, ValueError, IndexError) as error:
                own = re.match(r"[\w.]+: ", str(error))
                if not own or not re.search(rf"\b{argument}\b|\b{BY_OTHERS.get(place, argument)}\b", str(error)):
                    wrong.append(f"{place}: {damage}: {type(error).__name__}: {error}")
                continue
            except Exception as error:
                wrong.append(f"{place}: {damage}: {type(error).__name__}: {error}")
                continue
            if damage in ("double", "tracked"):
                for one, other in zip(found, right, strict=True):
                    torch.testing.assert_close(one.to(other.dtype), other, rtol=1e-3, atol=1e-4)
            elif damage not in ("half", "not finite") and place not in LEGAL.get(damage, ()):
                wrong.append(f"{place}: {damage}: an answer in silence, {[tuple(tensor.shape) for tensor in found]}")
    return wrong
