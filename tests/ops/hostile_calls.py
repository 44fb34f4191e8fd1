"""Calls every registered operation with damaged arguments: `python -m tests.ops.hostile_calls SEED CALLS [warp]`.

`test_hostile_calls.py` runs this in a process of its own, because what it looks for ends the process: a read or write
outside an array. A call may raise any exception and may return any value; the last line printed counts both. A call
that takes longer than `MOST_SECONDS` ends the process with the line of the package where it is.
"""

import contextlib
import faulthandler
import os
import random
import resource
import sys
from typing import Any

import torch

import headfields as hf
from headfields.ops import blur, bound_gaussians, grouped, l1_dssim, splat_excess  # noqa: F401 (they register)
from headfields.ops import ray_length as _ray_length  # noqa: F401
from headfields.ops.lazy_adam import lazy_adam_step  # noqa: F401 (registers the operation)
from headfields.ops.marching_cubes import _crossed_edges
from headfields.ops.sparse_system import SymmetricSystem


def valid_calls() -> dict[str, tuple[Any, ...]]:
    """Arguments of each registered operation that it accepts."""
    torch.manual_seed(0)
    n, faces, vertices = 9, 20, 12
    points, directions = torch.rand(n, 3), torch.nn.functional.normalize(torch.randn(n, 3), dim=-1)
    layout = hf.ops.HashGridLayout(levels=2, features=2, log2_table_size=6, base_resolution=2, finest_resolution=8)
    table, features = torch.rand(layout.entries, layout.features), torch.rand(n, layout.width)
    grid = (layout.key, False)
    weights = [torch.randn(8, 3), torch.randn(8, 8), torch.randn(2, 8)]
    biases = [torch.randn(2, 8), torch.randn(1, 8), torch.zeros(0, 2)]
    row_of = torch.randint(0, 2, (n,))
    index, share = torch.randint(-1, 5, (n, 4)), torch.rand(n, 4)
    offsets, samples = torch.tensor([0, 3, 3, n]), torch.rand(n).sort().values
    near, far = torch.full((n,), 0.1), torch.full((n,), 2.0)
    heights = torch.rand(4, 5, 6)
    occupied, box = torch.rand(4, 5, 6) < 0.5, torch.tensor([[0.0] * 3, [1.0] * 3])
    tree = hf.ops.TriangleBVH(torch.randint(0, vertices, (faces, 3)), torch.rand(2, vertices, 3))
    mesh = torch.randint(0, 2, (n,), dtype=torch.int32)
    cloud = hf.ops.VertexTree(torch.rand(2, vertices, 3))
    ring = torch.randint(-1, faces, (faces, 4))
    ring[:, 0] = torch.arange(faces)
    face = torch.randint(0, faces, (n,))
    corners, triangles = torch.rand(2, vertices, 3), torch.randint(0, vertices, (faces, 3))
    system = SymmetricSystem(torch.eye(n).numpy())
    valid_calls.system = system  # type: ignore[attr-defined] # keeps it alive
    rows = torch.rand(2, faces, 17)
    degree, harmonics = 3, torch.rand(n, 9)
    camera = hf.Camera.look_at(torch.tensor([[0.1, 0.0, 3.0], [0.0, 0.1, 3.0]]), (0, 0, 0), size=(20, 35), fov=30)
    gaussians = (points[None], torch.rand(2, n, 4), 0.1 * torch.rand(1, n, 3), torch.rand(2, n))
    lens = (camera.world_to_camera, camera.intrinsics, 20, 35, 0.01, 0.3, True)
    splats = torch.ops.headfields.splat_project(*gaussians, *lens)[0]
    carried, shift = torch.rand(1, n, 2), torch.rand(2, n, 2)
    images = torch.ops.headfields.splat_rasterize(splats, carried, shift, None, 20, 35, 64)
    color, light, depth, normal, _, last, *_ = images
    symmetric = (lambda m: m @ m.mT)(torch.rand(n, 3, 3).double())
    return {
        "grouped_linear": (torch.rand(2, n, 3), torch.rand(2, 3, 4), torch.rand(2, 4), torch.tensor([0, 1])),
        "grouped_outer": (torch.rand(2, n, 3), torch.rand(2, n, 4), torch.tensor([0, 1]), 2),
        "hash_grid": (points, table, *grid),
        "hash_grid_rounded": (points, table, table.half(), *grid),
        "hash_grid_rounded_backward": (features, points, table, table.half(), *grid, [True, True]),
        "hash_grid_backward": (features, points, table, *grid, [True, True]),
        "hash_grid_backward_backward": (features, points, table, points, table, *grid, [True, True, True]),
        "lazy_adam_step": (*torch.rand(5, n, 3), *torch.rand(3, 1), 0.9, 0.99, 1e-15),
        "mlp": (points, weights, biases, row_of),
        "mlp_backward": (torch.rand(n, 2), points, weights, biases, row_of, [True] * 7),
        "softplus": (points, 100.0),
        "softplus_derivative": (points, directions, 100.0, True),
        "spherical_harmonics": (directions, degree),
        "spherical_harmonics_backward": (harmonics, directions, degree),
        "spherical_harmonics_backward_backward": (harmonics, directions, points, degree),
        "ray_offsets": (torch.tensor([0, 0, 2, 2]), 3),
        "exclusive_sum": (samples, offsets, False),
        "weighted_sum": (samples, points, offsets, True),
        "weighted_sum_backward": (torch.rand(3, 4), samples, points, offsets, True),
        "ray_weights": (samples, offsets, False),
        "ray_weights_backward": (samples, samples, offsets, True),
        "ray_weights_double": (samples, samples, samples, offsets, False),
        "inverse_cdf": (samples, samples + 0.1, samples, offsets, torch.rand(3, 4).sort().values),
        "merge_samples": (offsets, samples, samples + 0.01, offsets, samples + 0.02, samples + 0.03),
        "march_padded": (points, directions, near, far, far * 0.1, occupied, box, 0.05, 64),
        "march": (points, directions, near, far, far * 0.1, occupied, box, 0.05, 0.0, 10000, "march"),
        "occupancy_lookup": (points, occupied, box),
        "interpolate_rows": (torch.rand(5, 3), index, share),
        "scatter_rows": (points, index, share, 5),
        "dot_rows": (torch.rand(5, 3), index, points),
        "blended_map": (points, directions, face, mesh.long(), torch.rand(2, faces, 3, 4), torch.rand(2, faces, 3),
                        ring, 4.0),
        "triangle_frames": (corners, triangles),
        "triangle_frames_backward": (torch.rand(2, faces, 3, 4), corners, triangles),
        "deformation_gradients": (corners, corners[0], triangles, "area"),
        "deformation_gradients_backward": (torch.rand(2, faces, 3, 4), corners, corners[0], triangles, "area",
                                           [True, True]),
        "crossed_edges": (heights, torch.tensor(0.5)),
        "edge_vertices": (heights, torch.tensor(0.5), _crossed_edges(heights, torch.tensor(0.5))[0]),
        "symmetric_eigen": (symmetric,),
        "log_strain": (symmetric,),
        "log_strain_backward": (symmetric[:, 0, 0], symmetric),
        "log_strain_double_backward": (symmetric, symmetric[:, 0, 0], symmetric),
        "implicit_root": (points, directions, torch.rand(n, 3, 3)),
        "implicit_root_backward": (points, torch.rand(n, 3, 3)),
        "symmetric_solve": (torch.rand(n, 2), system.key),
        "blur": (torch.rand(2, 9, 12), torch.rand(5)),
        "triangle_similarities": (corners, triangles),
        "bind_gaussians": (points[None], torch.rand(1, n, 4), points[None], rows, face),
        "bind_gaussians_backward": (torch.rand(2, n, 3), torch.rand(2, n, 4), torch.rand(2, n, 3), rows, face, 1),
        "l1_dssim": (torch.rand(2, 5, 6, 3), torch.rand(2, 5, 6, 3), 0.2),
        "l1_dssim_backward": (torch.rand(()), torch.rand(2, 5, 6, 3), torch.rand(2, 5, 6, 3),
                              torch.rand(2, 5, 6, 3, 3), 0.2),
        "splat_excess": (points[None], torch.rand(2, n) < 0.5, 0.3, True),
        "splat_excess_backward": (torch.rand(()), torch.ones(()), points[None],
                                  torch.rand(2, n) < 0.5, 0.3, False),
        "ray_length": (lens[1], 20, 35),
        "rotation_matrices": (points,),
        "splat_colors": (points[None], torch.rand(2, n, 4, 3), points[:2]),
        "splat_colors_backward": (torch.rand(2, n, 3), points[None], torch.rand(2, n, 4, 3), points[:2]),
        "splat_project": (*gaussians, *lens),
        "splat_project_backward": (splats, *gaussians, *lens),
        "splat_rasterize": (splats, carried, shift, None, 20, 35, 64),
        "splat_rasterize_backward": (color, light, depth, normal, splats, carried, shift, shift, light, last,
                                     *images[8:], 20, 35),
        "bvh_refit": (torch.rand(2, vertices, 3), *tree._tree[1:5], tree._levels),
        "closest_triangle": (points, mesh, *tree._tree, 1.0, True),
        "raycast": (points, directions, mesh, *tree._tree, 10.0, True),
        "ray_interval": (points, directions, mesh, *tree._tree, 0.1),
        "vertex_refit": (torch.rand(2, vertices, 3), *cloud._topology, cloud._levels),
        "nearest_vertices": (points, mesh, *cloud._tree, 3, 1.0, True),
    }  # fmt: skip


MOST_SECONDS = 120
"""Of one call; they take milliseconds, and the machine may be busy."""

NUMBERS = (0, 1, -1, 2, 5, -7, 1000, 2**31 - 1, -(2**31), 2**31, 2**40, -(2**63), 2**63 - 1)
REALS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-30, 1e-45)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.int32, torch.int64, torch.bool, torch.uint8)


def damage_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    if tensor.is_meta:
        return tensor
    kind = rng.choice(("rows", "axis", "dtype", "values", "values", "values", "layout", "rank", "device"))
    axis = rng.randrange(tensor.ndim) if tensor.ndim else 0
    if kind in ("rows", "axis") and tensor.ndim:
        axis = 0 if kind == "rows" else axis
        size = rng.choice((0, 1, tensor.shape[axis] - 1, tensor.shape[axis] + 1, 3 * tensor.shape[axis]))
        if not tensor.shape[axis]:
            shape = list(tensor.shape)
            shape[axis] = 2
            return tensor.new_zeros(shape)
        return tensor.index_select(axis, torch.arange(max(size, 0)) % tensor.shape[axis])
    if kind == "dtype":
        return tensor.to(rng.choice(DTYPES))
    if kind == "layout" and tensor.ndim:
        strided = torch.stack([tensor, tensor], dim=-1)[..., 0]
        turned = tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor.flip(0)
        expanded = tensor.narrow(axis, 0, min(1, tensor.shape[axis])).expand(tensor.shape)
        return rng.choice((strided, turned, expanded))
    if kind == "rank":
        return rng.choice((tensor[None], tensor[..., None], tensor.reshape(-1)))
    if kind == "device":
        return tensor.to("meta")
    out = tensor.clone()
    flat = out.reshape(-1) if out.is_contiguous() else out.flatten()
    for _ in range(rng.choice((1, 1, 3))):
        if not flat.numel():
            break
        at = rng.randrange(flat.numel())
        if out.is_floating_point():
            flat[at] = rng.choice(REALS)
        elif out.dtype == torch.bool:
            out.view(torch.uint8).reshape(-1)[at] = rng.choice((0, 1, 2, 255))
        else:
            info = torch.iinfo(out.dtype)
            value = rng.choice((*NUMBERS, flat[at].item() + 1, flat[at].item() - 1, *out.shape[:1]))
            flat[at] = min(max(int(value), info.min), info.max)
    return flat.reshape(out.shape)


def damage(argument: Any, rng: random.Random) -> Any:
    if isinstance(argument, torch.Tensor):
        return damage_tensor(argument, rng)
    if isinstance(argument, bool):
        return not argument
    if isinstance(argument, int):
        return rng.choice((*NUMBERS, argument + 1, argument - 1))
    if isinstance(argument, float):
        return rng.choice(REALS)
    if isinstance(argument, list) and argument:
        at = rng.randrange(len(argument))
        return rng.choice((argument[:at], argument + argument[at:],
                           [*argument[:at], damage(argument[at], rng), *argument[at + 1 :]]))  # fmt: skip
    return argument


def main(seed: int, calls: int, backend: Any = None) -> None:
    chosen = hf.use_cpu_backend(backend) if backend else contextlib.nullcontext()
    with chosen:
        run(seed, calls)


def run(seed: int, calls: int) -> None:
    if "ASAN_OPTIONS" not in os.environ:  # a sanitizer reserves more addresses than any machine has memory
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # a size that nothing backs is an error, not a kill
    torch.set_num_threads(2)
    rng = random.Random(seed)
    valid = valid_calls()
    for name, arguments in valid.items():
        getattr(torch.ops.headfields, name)(*arguments)
    returned = raised = 0
    for number in range(calls):
        name = sorted(valid)[number % len(valid)]
        arguments = list(valid[name])
        for _ in range(rng.choice((1, 1, 1, 2))):
            at = rng.randrange(len(arguments))
            arguments[at] = damage(arguments[at], rng)
        print(number, name, flush=True)
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
        try:
            getattr(torch.ops.headfields, name)(*arguments)
            returned += 1
        except Exception:
            raised += 1
    faulthandler.cancel_dump_traceback_later()
    print(f"{returned} returned, {raised} raised", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
