"""Blended deformation gradients: points moved with their nearest triangle and its neighbors, the last step of INSTA's
warp.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import (
    check_floating,
    check_index,
    check_integer,
    check_same_device,
    check_shape,
    promoted,
    require_shapes,
)
from headfields.ops.dispatch import native, use_native
from headfields.ops.functorch_rules import may_be_differentiated
from headfields.ops.reference import blended_map as reference
from headfields.ops.registration import like, register_op
from headfields.ops.warp_launch import launch
from headfields.records.precision import full_precision


@torch.library.custom_op("headfields::blended_map", mutates_args=())
def _blended_map(
    points: Tensor,
    directions: Tensor,
    face: Tensor,
    mesh_index: Tensor,
    gradients: Tensor,
    centroids: Tensor,
    ring: Tensor,
    sharpness: float,
) -> tuple[Tensor, Tensor]:
    inputs = [x.contiguous() for x in (points, directions, face, mesh_index, gradients, centroids, ring)]
    moved, turned = torch.empty_like(inputs[0]), torch.empty_like(inputs[1])
    if use_native(points):
        native.blended_map(*inputs, sharpness, moved, turned, torch.get_num_threads())
    else:
        m, (b, f) = len(points), gradients.shape[:2] if gradients.ndim == 4 else (0, 0)
        fits = points.shape == directions.shape == (m, 3) and face.shape == mesh_index.shape == (m,)
        fits = fits and gradients.shape == (b, f, 3, 4) and centroids.shape == (b, f, 3)
        fits = fits and ring.ndim == 2 and len(ring) == f
        require_shapes("blended_map", fits, points=points, directions=directions, face=face, mesh_index=mesh_index,
                       gradients=gradients, centroids=centroids, ring=ring)  # fmt: skip
        check_rows(inputs[2], inputs[3], inputs[4], inputs[6])
        launch("blended_map.blended_map", len(points), *inputs, sharpness, moved, turned)
    return moved, turned


register_op(_blended_map, like(0, 0), reference.blended_map, rows=(0, 1, 2, 3))


def blended_map(
    points: Float[Tensor, "m 3"],
    directions: Float[Tensor, "m 3"],
    face: Int[Tensor, " m"],
    mesh_index: Int[Tensor, " m"],
    gradients: Float[Tensor, "b f 3 4"],
    centroids: Float[Tensor, "b f 3"],
    ring: Int[Tensor, "f k"],
    sharpness: float | int = 4.0,
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3"]]:
    """Points and directions under the weighted mean of the deformation gradients around each point's face.

    The weight of a triangle is exp(−`sharpness` ‖x − its posed centroid‖), normalized over the ring. The direction is
    turned by the same 3×3 matrix and normalized.

    If nothing requires a gradient and all is float32, a kernel computes it in one pass; otherwise PyTorch does,
    differentiable to second order in points, directions, gradients and centroids. Under autocast too in full precision.

    Args:
        points, directions: (M, 3) posed points, meters, and unit directions.
        face: (M,) the triangle nearest to each point, in [0, F).
        mesh_index: (M,) the mesh of each point, in [0, B).
        gradients: (B, F, 3, 4) of `deformation_gradients`.
        centroids: (B, F, 3) of the posed triangles, meters.
        ring: (F, K) the triangle itself and its neighbors (`edge_neighbors`); -1 for none. K = 1 moves
            each point rigidly with its triangle.
        sharpness: 1/m (INSTA: 4).

    Returns:
        canonical points (M, 3) and unit directions (M, 3).

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or devices differ.
        IndexError: face, mesh_index or ring is out of range (checked on the CPU only; of `ring` the compiled kernel
            reads, and checks, the rows of the faces that occur).

    Source: INSTA (Zielonka et al. 2023), section 3.2.
    """
    _check(points, directions, face, mesh_index, gradients, centroids, ring)
    face, mesh_index, ring = face.long(), mesh_index.long(), ring.long()
    inputs = (points, directions, gradients, centroids)
    fused = all(x.dtype == torch.float32 for x in inputs)
    if fused and not may_be_differentiated(*inputs):
        moved, turned = _blended_map(points, directions, face, mesh_index, gradients, centroids, ring, float(sharpness))
        return moved, turned
    check_rows(face, mesh_index, gradients, ring)
    points, directions, gradients, centroids = promoted(*inputs)
    with full_precision(points):
        return reference.blended_map(points, directions, face, mesh_index, gradients, centroids, ring, sharpness)


def check_rows(face: Tensor, mesh_index: Tensor, gradients: Tensor, ring: Tensor) -> None:
    """The index checks of the compiled kernel, which reads only the rings of the faces that occur."""
    check_index("blended_map", "face", face, gradients.shape[1])
    check_index("blended_map", "mesh_index", mesh_index, len(gradients))
    check_index("blended_map", "ring", ring, gradients.shape[1], least=None)


def _check(
    points: Tensor,
    directions: Tensor,
    face: Tensor,
    mesh_index: Tensor,
    gradients: Tensor,
    centroids: Tensor,
    ring: Tensor,
) -> None:
    op = "blended_map"
    floating = {"points": points, "directions": directions, "gradients": gradients, "centroids": centroids}
    integers = {"face": face, "mesh_index": mesh_index, "ring": ring}
    for name, tensor in floating.items():
        check_floating(op, name, tensor)
    for name, tensor in integers.items():
        check_integer(op, name, tensor)
    check_shape(op, "points", points, "m 3")
    check_shape(op, "gradients", gradients, "b f 3 4")
    m = len(points)
    b, f = gradients.shape[:2]
    for name, tensor, shape in (
        ("points", points, "m 3"), ("directions", directions, f"{m} 3"), ("face", face, f"{m}"),
        ("mesh_index", mesh_index, f"{m}"), ("centroids", centroids, f"{b} {f} 3"),
        ("ring", ring, f"{f} k"),
    ):  # fmt: skip
        check_shape(op, name, tensor, shape)
    if m and not ring.shape[1]:
        raise ValueError(f"{op}: ring has shape {tuple(ring.shape)}; expected (F, K), the triangle itself at least")
    check_same_device(op, **floating, **integers)
