"""Orthonormal frames of triangles, and deformation gradients from posed triangles to their canonical ones (INSTA).

Warp has one kernel for the values and one for the first derivatives of each; the second ones are PyTorch's, of the
definition.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, Sequence, get_args  # noqa: UP035 (ops/registration.py)

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import (
    check_faces,
    check_floating,
    check_index,
    check_same_device,
    check_shape,
    require_shapes,
)
from headfields.ops.dispatch import use_warp
from headfields.ops.functorch_rules import pullback
from headfields.ops.needed_gradients import needed_gradients
from headfields.ops.reference import triangle_frames as reference
from headfields.ops.registration import like, register_op, where_needed
from headfields.ops.warp_launch import launch
from headfields.records.precision import full_precision

Scaling = Literal["none", "area", "length", "affine"]
_SCALINGS = ("none", "area", "length")  # those that the kernels know; "affine" is plain PyTorch on every device


def triangle_frames(vertices: Float[Tensor, "*batch v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "*batch f 3 4"]:
    """The frame `[T B n | a]` of every triangle (a, b, c), as a 3×4 matrix from triangle to world coordinates.

    n is the unit normal of (b−a)×(c−a), T the direction of b−a, B = n×T; the origin is vertex a. INSTA's released
    code negates both T and B, a half turn about n, which cancels in every map between two frames of one triangle.
    A triangle without area keeps T and gets any n perpendicular to it; a triangle without extent gets the world's axes.
    So a frame is always a rotation, and its gradient is finite.

    Args:
        vertices: (..., V, 3), meters.
        faces: (F, 3) vertex indices.

    Returns:
        (..., F, 3, 4). Differentiable in the vertices to any order.

    Raises:
        TypeError: vertices are not floating point, or faces not integers.
        ValueError: a shape does not fit, or devices differ.
        IndexError: faces is out of range (checked on the CPU only).

    Source: INSTA (Zielonka et al. 2023), section 3.2, "deformation gradient".
    """
    check_floating("triangle_frames", "vertices", vertices)
    check_shape("triangle_frames", "vertices", vertices, "... v 3")
    check_faces("triangle_frames", vertices, faces)
    if not use_warp(vertices):
        return reference.triangle_frames(vertices, faces)
    frames = torch.ops.headfields.triangle_frames(_flat(vertices), faces.long())
    return frames.reshape(*vertices.shape[:-2], len(faces), 3, 4)


def deformation_gradients(
    posed: Float[Tensor, "*batch v 3"],
    canonical: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    scaling: Scaling = "none",
) -> Float[Tensor, "*batch f 3 4"]:
    """Each posed triangle's map to its canonical one: x_c = F [x, 1], F = L_canonical Λ L_posed⁻¹.

    Args:
        posed: (..., V, 3) posed vertices, meters.
        canonical: (V, 3) canonical vertices, meters.
        faces: (F, 3).
        scaling: Λ. `"none"`: the identity. `"area"` and `"length"`: an isotropic scale 1/s, where s is the ratio of the
            areas, posed over canonical, as in INSTA's released code (which applies it in the eye region only), or the
            square root of that, a ratio of lengths; our own choice, as the paper leaves the exponent open. The ratio
            of areas is clamped to [0.01, 100], beyond which it has no gradient: a triangle that has collapsed (a shut
            eyelid) would blow space up without bound. `"affine"`: the map of the triangle's plane that takes it onto
            its canonical one, corner to corner, while lengths along the normal stay; our own choice. Its stretch is
            clamped to [0.1, 10] and its shear to ±10 in the same way.

    Returns:
        (..., F, 3, 4). Differentiable in both meshes to second order.

    Raises:
        TypeError: a mesh is not floating point, or faces not integers.
        ValueError: the meshes differ in their number of vertices, devices differ, or scaling is none of the four.
        IndexError: faces is out of range (checked on the CPU only).

    Source: INSTA (Zielonka et al. 2023), section 3.2.

    >>> import torch, headfields as hf
    >>> canonical, faces = torch.eye(3), torch.tensor([[0, 1, 2]])
    >>> from headfields.ops.triangle_frames import deformation_gradients
    >>> gradients = deformation_gradients(canonical + torch.tensor([0.0, 1.0, 0.0]), canonical, faces)
    >>> posed_point = torch.tensor([0.5, 1.5, 0.0, 1.0])  # homogeneous
    >>> (gradients[0] @ posed_point).round(decimals=4).tolist()
    [0.5, 0.5, 0.0]
    """
    if scaling not in get_args(Scaling):
        raise ValueError(
            f"deformation_gradients: scaling is {scaling!r}; expected one of {', '.join(get_args(Scaling))}"
        )
    for name, mesh, shape in (("posed", posed, "... v 3"), ("canonical", canonical, "v 3")):
        check_floating("deformation_gradients", name, mesh)
        check_shape("deformation_gradients", name, mesh, shape)
    if posed.shape[-2:] != canonical.shape:
        raise ValueError(
            f"deformation_gradients: posed has shape {tuple(posed.shape)} and canonical {tuple(canonical.shape)}; "
            "both must hold the same V vertices"
        )
    check_same_device("deformation_gradients", posed=posed, canonical=canonical)
    check_faces("deformation_gradients", canonical, faces)
    if scaling not in _SCALINGS or not (use_warp(posed) and canonical.dtype == torch.float32):
        with full_precision(posed):
            return reference.deformation_gradients(posed, canonical, faces, scaling)
    maps = torch.ops.headfields.deformation_gradients(_flat(posed), canonical, faces.long(), scaling)
    return maps.reshape(*posed.shape[:-2], len(faces), 3, 4)


def _flat(vertices: Tensor) -> Tensor:
    return vertices.reshape(math.prod(vertices.shape[:-2]), *vertices.shape[-2:])


def _checked(op: str, meshes: Tensor, canonical: Tensor | None, faces: Tensor, grad: Tensor | None) -> list[Tensor]:
    """The arguments of a registered operation as its kernel takes them, or an error."""
    fits = meshes.ndim == 3 and meshes.shape[2] == 3 and faces.ndim == 2 and faces.shape[1] == 3
    fits = fits and (canonical is None or canonical.shape == meshes.shape[1:])
    fits = fits and (grad is None or grad.shape == (len(meshes), len(faces), 3, 4))
    require_shapes(op, fits, vertices=meshes, canonical=canonical, faces=faces, grad=grad)
    check_index(op, "faces", faces, meshes.shape[1])
    return [x.detach().contiguous() for x in (grad, meshes, canonical, faces) if x is not None]


@torch.library.custom_op("headfields::triangle_frames", mutates_args=())
def _triangle_frames(vertices: Tensor, faces: Tensor) -> Tensor:
    inputs = _checked("triangle_frames", vertices, None, faces, None)
    if not use_warp(vertices):
        return reference.triangle_frames(*inputs)
    out = vertices.new_empty(len(vertices), len(faces), 3, 4)
    launch("triangle_frames.frames", (len(vertices), len(faces)), *inputs, out)
    return out


@torch.library.custom_op("headfields::triangle_frames_backward", mutates_args=())
def _triangle_frames_backward(grad: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    inputs = _checked("triangle_frames_backward", vertices, None, faces, grad)
    if not use_warp(vertices):
        return _plain_frames_backward(*inputs).clone()
    total = torch.zeros_like(inputs[1])
    launch("triangle_frames.frames_gradient", (len(vertices), len(faces)), *inputs, total)
    return total


@torch.library.custom_op("headfields::deformation_gradients", mutates_args=())
def _deformation_gradients(posed: Tensor, canonical: Tensor, faces: Tensor, scaling: str) -> Tensor:
    inputs = _checked("deformation_gradients", posed, canonical, faces, None)
    if not use_warp(posed):
        return reference.deformation_gradients(inputs[0], inputs[1], inputs[2], scaling)
    out = posed.new_empty(len(posed), len(faces), 3, 4)
    inputs[1] = inputs[1][None]
    launch("triangle_frames.gradients", (len(posed), len(faces)), *inputs, _SCALINGS.index(scaling), out)
    return out


@torch.library.custom_op("headfields::deformation_gradients_backward", mutates_args=())
def _deformation_gradients_backward(
    grad: Tensor, posed: Tensor, canonical: Tensor, faces: Tensor, scaling: str, needs: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of both meshes; an empty one where it is not needed."""
    inputs = _checked("deformation_gradients_backward", posed, canonical, faces, grad)
    if not use_warp(posed):
        grad, posed, canonical, faces = inputs
        to_posed, to_canonical = _plain_gradients_backward(grad, posed, canonical, faces, scaling, needs)
        return to_posed.clone(), to_canonical.clone()
    totals = [torch.zeros_like(x) if need else x.new_empty(0) for x, need in zip(inputs[1:3], needs, strict=True)]
    inputs[2] = inputs[2][None]
    # An array that is not written is any of its shape.
    into = [totals[0] if needs[0] else inputs[1], totals[1][None] if needs[1] else inputs[2]]
    launch(
        "triangle_frames.gradients_gradient", (len(posed), len(faces)), *inputs, _SCALINGS.index(scaling),
        *(int(need) for need in needs), *into,
    )  # fmt: skip
    return totals[0], totals[1]


def _plain_frames_backward(grad: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    return pullback(reference.triangle_frames, 1)(grad, vertices, faces)[0]


def _plain_gradients_backward(
    grad: Tensor, posed: Tensor, canonical: Tensor, faces: Tensor, scaling: str, needs: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    to_posed, to_canonical = pullback(reference.deformation_gradients, 2)(grad, posed, canonical, faces, scaling)
    return to_posed if needs[0] else posed.new_empty(0), to_canonical if needs[1] else canonical.new_empty(0)


def _frames_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.headfields.triangle_frames_backward(grad, *ctx.saved_tensors, *ctx.rest), None


def _gradients_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = needed_gradients(ctx, 2)
    grads = torch.ops.headfields.deformation_gradients_backward(grad, *ctx.saved_tensors, *ctx.rest, needs)
    return *(one if need else None for one, need in zip(grads, needs, strict=True)), None, None


def _second(plain: Callable[..., Any]) -> Callable[..., tuple[Tensor | None, ...]]:
    """The backward of a registered backward, by PyTorch."""

    def backward(ctx: Any, *gg: Any) -> tuple[Tensor | None, ...]:
        *tensors, faces = ctx.saved_tensors
        _, pull = torch.func.vjp(lambda *inputs: plain(*inputs, faces, *ctx.rest), *tensors)
        return *pull(gg[0] if len(gg) == 1 else gg), None, *(None for _ in ctx.rest)

    return backward


register_op(
    _triangle_frames, lambda vertices, faces: vertices.new_empty(len(vertices), len(faces), 3, 4),
    reference.triangle_frames, derivative=_frames_backward, rows=(0,),
)  # fmt: skip
register_op(
    _triangle_frames_backward, like(1), _plain_frames_backward, derivative=_second(_plain_frames_backward), rows=(0, 1),
)  # fmt: skip
register_op(
    _deformation_gradients, lambda posed, canonical, faces, *_: posed.new_empty(len(posed), len(faces), 3, 4),
    reference.deformation_gradients, derivative=_gradients_backward, rows=(0,),
)  # fmt: skip
register_op(
    _deformation_gradients_backward, where_needed(1, 2), _plain_gradients_backward,
    derivative=_second(_plain_gradients_backward),
)  # fmt: skip
