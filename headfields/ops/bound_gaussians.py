"""Gaussians that ride on triangles (GaussianAvatars): the similarity of each triangle, and Gaussians moved by it.

In float32, kernels (C++ on a CPU, Warp elsewhere) compute the similarities where no derivative by the mesh may be
taken, and move the Gaussians where none by the similarities may; the other cases are PyTorch's, of the definition.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_index, check_integer, check_shape, require_shapes
from headfields.ops.dispatch import native, use_native, use_warp
from headfields.ops.functorch_rules import may_be_differentiated
from headfields.ops.reference import bound_gaussians as reference
from headfields.ops.registration import register_op
from headfields.ops.rotations import quaternion_product
from headfields.ops.warp_launch import launch


def triangle_similarities(vertices: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "b f 17"]:
    """The similarity from the coordinates of each triangle to space: T the centroid, R the rotation with the direction
    of the first edge, the normal, and the cross product of the two as columns, k the mean of the length of that edge
    and of the triangle's height over it.

    Args:
        vertices: (B, V, 3), meters.
        faces: (F, 3) vertex indices.

    Returns:
        (B, F, 17): k R row by row, T, R as a quaternion (w, x, y, z), k (meters, at least 1e-7). A triangle without
        area has the axes of `headfields.ops.triangle_frames`. Differentiable in the vertices to any order.

    Raises:
        TypeError: vertices are not floating point, or faces not integers.
        ValueError, IndexError: a shape does not fit, or a face has a vertex that there is not.

    Source: GaussianAvatars (Qian et al. 2024), section 3.2.
    """
    check_floating("triangle_similarities", "vertices", vertices)
    check_shape("triangle_similarities", "vertices", vertices, "b v 3")
    check_integer("triangle_similarities", "faces", faces)
    check_shape("triangle_similarities", "faces", faces, "f 3")
    if not _kernel(vertices) or may_be_differentiated(vertices):
        return reference.triangle_similarities(vertices, faces)
    return _similarities(vertices.detach(), faces.long())


def bind_gaussians(
    means: Float[Tensor, "*lead n 3"],
    quaternions: Float[Tensor, "*lead n 4"],
    scales: Float[Tensor, "*lead n 3"],
    table: Float[Tensor, "b f 17"],
    face: Int[Tensor, " n"],
) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n 4"], Float[Tensor, "b n 3"]]:
    """Gaussians in the coordinates of triangles, in the space of these: μ' = k R μ + T, r' = R r, s' = k s.

    Args:
        means, quaternions, scales: (N, ...), or (B, N, ...) for those of each frame.
        table: (B, F, 17), as `triangle_similarities` gives them.
        face: (N,) the triangle of each.

    Returns:
        (B, N, ...) means, quaternions and scales. Differentiable in the Gaussians and the table to any order.

    Raises:
        TypeError: a tensor is not floating point, or `face` not integers.
        ValueError, IndexError: a shape does not fit, or there is no such triangle.
    """
    for name, tensor in (("means", means), ("quaternions", quaternions), ("scales", scales), ("table", table)):
        check_floating("bind_gaussians", name, tensor)
    check_integer("bind_gaussians", "face", face)
    check_shape("bind_gaussians", "table", table, "b f 17")
    means, quaternions, scales = (x if x.ndim == 3 else x[None] for x in (means, quaternions, scales))
    dtypes = {x.dtype for x in (means, quaternions, scales, table)}
    if not _kernel(table) or len(dtypes) > 1 or may_be_differentiated(table):
        return reference.bind_gaussians(means, quaternions, scales, table, face)
    lead = max(len(x) for x in (means, quaternions, scales))
    means, quaternions, scales = (x.expand(lead, *x.shape[1:]) for x in (means, quaternions, scales))
    moved: _Moved = _bind(means, quaternions, scales, table.detach(), face.long())
    return moved


def _kernel(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and (use_native(tensor, "bind_gaussians") or use_warp(tensor))


_Moved = tuple[Tensor, Tensor, Tensor]


def _checked(op: str, own: int, tensors: _Moved, table: Tensor, face: Tensor) -> list[Tensor]:
    """The arguments as kernels take them, their shapes and indices checked."""
    n, frames = len(face), len(table)
    fits = table.ndim == 3 and table.shape[2] == reference.ROW and face.ndim == 1 and own in (1, frames)
    for tensor, width in zip(tensors, (3, 4, 3), strict=True):
        fits = fits and tensor.shape == (own, n, width)
    means, quaternions, scales = tensors
    require_shapes(op, fits, means=means, quaternions=quaternions, scales=scales, table=table, face=face)
    check_index(op, "face", face, table.shape[1])
    return [x.detach().contiguous() for x in (*tensors, table, face)]


@torch.library.custom_op("headfields::triangle_similarities", mutates_args=())
def _similarities(vertices: Tensor, faces: Tensor) -> Tensor:
    if not _kernel(vertices):
        return reference.triangle_similarities(vertices, faces)
    fits = vertices.ndim == 3 and vertices.shape[2] == 3 and faces.ndim == 2 and faces.shape[1] == 3
    require_shapes("triangle_similarities", fits, vertices=vertices, faces=faces)
    check_index("triangle_similarities", "faces", faces, vertices.shape[1])
    out = vertices.new_empty(len(vertices), len(faces), reference.ROW)
    inputs = vertices.contiguous(), faces.contiguous()
    if use_warp(vertices):
        launch("bound_gaussians.similarities", (len(vertices), len(faces)), *inputs, out)
    else:
        native.triangle_similarities(*inputs, out, torch.get_num_threads())
    return out


@torch.library.custom_op("headfields::bind_gaussians", mutates_args=())
def _bind(means: Tensor, quaternions: Tensor, scales: Tensor, table: Tensor, face: Tensor) -> _Moved:
    tensors = means, quaternions, scales
    if not _kernel(table):
        moved = reference.bind_gaussians(*tensors, table, face)
        return moved[0].clone(), moved[1].clone(), moved[2].clone()
    inputs = _checked("bind_gaussians", len(means), tensors, table, face)
    first, second, third = (x.new_empty(len(table), *x.shape[1:]) for x in inputs[:3])
    if use_warp(table):
        launch("bound_gaussians.bind", (len(table), len(face)), *inputs, first, second, third)
    else:
        native.bind_gaussians(*inputs, first, second, third, torch.get_num_threads())
    return first, second, third


@torch.library.custom_op("headfields::bind_gaussians_backward", mutates_args=())
def _bind_backward(
    means: Tensor, quaternions: Tensor, scales: Tensor, table: Tensor, face: Tensor, own: int
) -> _Moved:  # fmt: skip
    """The gradients of Gaussians of `own` frames (1 or B) for those of what was moved."""
    tensors = means, quaternions, scales
    if not _kernel(table):
        pulled = _transposed(*tensors, table, face, own)
        return pulled[0].clone(), pulled[1].clone(), pulled[2].clone()
    inputs = _checked("bind_gaussians_backward", len(means), tensors, table, face)
    require_shapes("bind_gaussians_backward", own in (1, len(table)), means=means, table=table)
    first, second, third = (x.new_empty(own, *x.shape[1:]) for x in inputs[:3])
    if use_warp(table):
        launch("bound_gaussians.bind_gradient", (own, len(face)), *inputs, first, second, third)
    else:
        native.bind_gaussians_backward(*inputs, first, second, third, torch.get_num_threads())
    return first, second, third


def _transposed(
    means: Tensor, quaternions: Tensor, scales: Tensor, table: Tensor, face: Tensor, own: int
) -> tuple[Tensor, ...]:
    """The transposed map in PyTorch."""
    size, linear, _, rotation = reference.similarity_parts(table[:, face])
    back = rotation * rotation.new_tensor([1.0, -1.0, -1.0, -1.0])
    pulled = (
        (linear * means[..., None]).sum(-2), quaternion_product(back, quaternions), scales * size
    )  # fmt: skip
    return pulled if own == len(table) else tuple(x.sum(0, keepdim=True) for x in pulled)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[3:5])
    ctx.own = len(inputs[0])


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return *_bind_backward(*grads, *ctx.saved_tensors, ctx.own), None, None


def _backward_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """The map again, without the shift: both are linear in the Gaussians."""
    table, face = ctx.saved_tensors
    still = torch.cat([table[..., :9], torch.zeros_like(table[..., 9:12]), table[..., 12:]], dim=-1)
    return *_bind(*grads, still, face), None, None, None


def _rows(inputs: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(rows, *x.shape[1:]) for x in inputs[:3])


register_op(
    _similarities, lambda vertices, faces: vertices.new_empty(len(vertices), len(faces), reference.ROW),
    reference.triangle_similarities, rows=(0,),
)  # fmt: skip
register_op(
    _bind, lambda *inputs: _rows(inputs, len(inputs[3])), reference.bind_gaussians, derivative=_backward, setup=_save,
)  # fmt: skip
register_op(
    _bind_backward, lambda *inputs: _rows(inputs, inputs[5]), _transposed, derivative=_backward_backward, keep=(3, 4),
)  # fmt: skip
