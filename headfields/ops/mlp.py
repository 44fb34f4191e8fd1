"""Small fully connected networks with ReLU between layers, fused: each tile of rows passes through all layers at once.

Two registered operations: `headfields::mlp`, and `headfields::mlp_backward`, which recomputes the activations
and is differentiated by PyTorch. On a CPU they run in the C++ module, on CUDA in Triton for 16-bit floats. Both take a
bias as a matrix of one row, or of none where a layer has no bias; the first layer's may have many rows, which `index`
assigns to the rows of x.
"""

import importlib.util
from typing import List, Sequence  # noqa: UP035 (ops/registration.py)

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from headfields.ops._checks import (
    check_floating,
    check_index,
    check_integer,
    check_same_device,
    check_shape,
    require_shapes,
)
from headfields.ops.dispatch import native, use_native
from headfields.ops.needed_gradients import needed_gradients
from headfields.ops.reference import mlp as reference
from headfields.ops.registration import register_op, where_needed
from headfields.ops.warp_launch import launch

MAX_WIDTH = 128
"""Maximum number of outputs of a layer in the kernels; wider networks run in PyTorch."""
MAX_LAYERS = 16
_TRITON = importlib.util.find_spec("triton") is not None
MAX_CONDITION_ROWS = 1024
"""Maximum number of condition or start rows whose gradients the kernels sum; beyond it, PyTorch sums them."""


def mlp(
    x: Float[Tensor, "*batch _"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]] | None = None,
    condition: Float[Tensor, "k _"] | None = None,
    index: Int[Tensor, "*batch"] | None = None,
    start: Float[Tensor, "k _"] | None = None,
) -> Float[Tensor, "*batch _"]:
    """A fully connected network: linear layers with ReLU between them, none after the last.

    On a CPU with the compiled module, float32 networks of at most 16 layers of at most 128 outputs run in one kernel,
    whose activations never leave the cache (the idea of tiny-cuda-nn's fully fused networks: Müller et al. 2021,
    "Real-time neural radiance caching for path tracing", section 4.2). On CUDA, under autocast, networks of two to four
    layers whose hidden ones have one width run in such kernels where Triton is installed (PyTorch's wheels for CUDA
    bring it); their second derivatives are PyTorch's. Others, and all under autocast on a CPU, run in PyTorch.

    Rows may share values: `condition[index]` is appended to the columns of x. Its part of the first layer is computed
    once per row of `condition` and gathered.

    Args:
        x: (..., in) rows.
        weights: weight of each layer, (out, in) as in `torch.nn.Linear`.
        biases: bias of each layer, (out,); None: no layer has one.
        condition: (K, width) values that rows share; the first layer then takes in + width columns.
        index: (...) the row of `condition` or `start` of each row of x, in [0, K).
        start: (K, out of the first layer) initial sums of the first layer, in place of `condition` and of that layer's
            bias, which is ignored: for parts of the layer that are computed already.

    Returns:
        (..., out of the last layer).

    Differentiable to second order in everything but `index`; gradients do not depend on the number of threads.

    Raises:
        TypeError, ValueError: a dtype or shape does not fit, or devices differ.
        IndexError: index is out of range (checked on the CPU only).

    >>> import torch, headfields as hf
    >>> weights = [torch.zeros(16, 3 + 8), torch.zeros(1, 16)]  # (out, in), as in torch.nn.Linear
    >>> x, condition, index = torch.rand(5, 3), torch.rand(2, 8), torch.tensor([0, 0, 0, 1, 1])
    >>> hf.ops.mlp(x, weights, condition=condition, index=index).shape
    torch.Size([5, 1])
    """
    _check(x, weights, biases, condition, index, start)
    tensors = [x, *weights, *(biases or ()), *(shared for shared in (condition, start) if shared is not None)]
    if _triton_supports(x, weights, condition if start is None else start):
        kind, device = torch.get_autocast_dtype(x.device.type), x.device.type
        with torch.autocast(device, enabled=False):
            return mlp_kernel(
                x.to(kind), [w.to(kind) for w in weights], None if biases is None else [b.to(kind) for b in biases],
                None if condition is None else condition.to(kind), index, None if start is None else start.to(kind),
            )  # fmt: skip
    if not _kernel_supports(x, tensors, weights, condition if start is None else start):
        if index is not None:
            check_index("mlp", "index", index, len(condition if start is None else start))  # type: ignore[arg-type]
        return reference.mlp(x, weights, biases, condition, index, start)
    return mlp_kernel(x, weights, biases, condition, index, start)


def mlp_kernel(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None = None,
    condition: Tensor | None = None,
    index: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """`mlp` by the registered operation on any device: for tests and benchmarks of its kernels."""
    first, width = weights[0], x.shape[-1]
    if condition is not None:
        start = functional.linear(condition, first[:, width:], biases[0] if biases else None)
        first = first[:, :width]
    elif start is None:
        start = biases[0][None] if biases else x.new_empty(0, first.shape[0])
    others = [biases[l][None] if biases else x.new_empty(0, len(weights[l])) for l in range(1, len(weights))]
    rows = None if index is None else index.reshape(-1).long()
    out = _mlp(x.reshape(-1, width), [first, *weights[1:]], [start, *others], rows)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def _kernel_supports(x: Tensor, tensors: Sequence[Tensor], weights: Sequence[Tensor], shared: Tensor | None) -> bool:
    return (
        use_native(x)
        and not torch.is_autocast_enabled(x.device.type)
        and all(tensor.dtype == torch.float32 for tensor in tensors)
        and len(weights) <= MAX_LAYERS
        and all(0 < len(weight) <= MAX_WIDTH for weight in weights)
        and x.shape[-1] > 0
        and (shared is None or len(shared) > 0)
    )


def _has_triton(x: Tensor) -> bool:
    return x.is_cuda and _TRITON


def _fits_triton(kind: torch.dtype, width: int, weights: Sequence[Tensor]) -> bool:
    """Whether Triton's kernels take a network: 16-bit, two to four layers, hidden ones of one width, none above 128."""
    hidden = {len(weight) for weight in weights[:-1]}
    return (
        kind in (torch.float16, torch.bfloat16)
        and 2 <= len(weights) <= 4
        and len(hidden) == 1
        and all(0 < len(weight) <= MAX_WIDTH for weight in weights)
        and width > 0
    )


def _triton_supports(x: Tensor, weights: Sequence[Tensor], shared: Tensor | None) -> bool:
    """Whether `mlp` runs in Triton: on CUDA, under autocast."""
    kind = x.device.type
    if not (_has_triton(x) and torch.is_autocast_enabled(kind)) or (shared is not None and not len(shared)):
        return False
    return x.shape[-1] > 0 and _fits_triton(torch.get_autocast_dtype(kind), x.shape[-1], weights)


def _runs_triton(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> bool:
    """Whether a registered operation runs in Triton."""
    if not (_has_triton(x) and _fits_triton(x.dtype, x.shape[1], weights)):
        return False
    return all(tensor.dtype == x.dtype for tensor in (*weights, *biases))


def _check(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    condition: Tensor | None,
    index: Tensor | None,
    start: Tensor | None,
) -> None:
    op = "mlp"
    check_floating(op, "x", x)
    check_shape(op, "x", x, "... in")
    if not weights:
        raise ValueError(f"{op}: weights is empty; a network has at least one layer")
    if condition is not None and start is not None:
        raise ValueError(f"{op}: condition and start are mutually exclusive; pass one")
    if (condition is None and start is None) != (index is None):
        raise ValueError(f"{op}: condition and index go together, and so do start and index; pass both or neither")
    if biases is not None and len(biases) != len(weights):
        raise ValueError(f"{op}: {len(biases)} biases for {len(weights)} weights; pass one for each layer, or None")
    devices = {"x": x, "condition": condition, "index": index, "start": start}
    width = x.shape[-1]
    if index is not None:
        check_integer(op, "index", index)
        if index.shape != x.shape[:-1]:
            raise ValueError(
                f"{op}: index has shape {tuple(index.shape)}; expected {tuple(x.shape[:-1])}, one for each row of x"
            )
    if condition is not None:
        check_floating(op, "condition", condition)
        check_shape(op, "condition", condition, "k width")
        width += condition.shape[1]
    if start is not None:
        check_floating(op, "start", start)
        check_shape(op, "start", start, f"k {len(weights[0])}")
    for layer, weight in enumerate(weights):
        check_floating(op, f"weights[{layer}]", weight)
        check_shape(op, f"weights[{layer}]", weight, f"out {width}")
        width = weight.shape[0]
        devices[f"weights[{layer}]"] = weight
        if biases is not None:
            check_floating(op, f"biases[{layer}]", biases[layer])
            check_shape(op, f"biases[{layer}]", biases[layer], f"{width}")
            devices[f"biases[{layer}]"] = biases[layer]
    check_same_device(op, **devices)
    if not torch.is_autocast_enabled(x.device.type):
        for name, tensor in devices.items():
            if tensor is not None and tensor is not index and tensor.dtype != x.dtype:
                raise TypeError(f"{op}: {name} has dtype {tensor.dtype} and x {x.dtype}; convert one of them")


def _contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().contiguous() for tensor in tensors]


def _check_layers(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], index: Tensor | None) -> None:
    """What a kernel takes for granted, as the compiled one checks it; of a call that skips the public function."""
    fits, width = x.ndim == 2 and len(weights) == len(biases) > 0, x.shape[-1] if x.ndim else 0
    for weight, bias in zip(weights, biases, strict=False):
        fits = fits and weight.ndim == bias.ndim == 2 and weight.shape[1] == width and bias.shape[1] == len(weight)
        width = len(weight) if weight.ndim else 0
    fits = fits and (index is None or (index.shape == (len(x),) and index.dtype == torch.int64))
    require_shapes("mlp", fits, x=x, index=index)
    if index is not None:
        check_index("mlp", "index", index, len(biases[0]))
    if x.dtype == torch.float32 and max(len(weight) for weight in weights) > MAX_WIDTH:
        raise ValueError(f"torch.ops.headfields.mlp: a layer is wider than {MAX_WIDTH}; call headfields.ops.mlp")


@torch.library.custom_op("headfields::mlp", mutates_args=())
def _mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], index: Tensor | None) -> Tensor:
    if not (use_native(x) and x.dtype == torch.float32):
        _check_layers(x, weights, biases, index)
    if _runs_triton(x, weights, biases):
        from headfields.ops.kernels import mlp_triton

        return mlp_triton.forward(x.detach(), weights, biases, index)
    if x.dtype != torch.float32:
        return reference.layers(x, weights, biases, index)[-1]
    out = x.new_empty((x.shape[0], weights[-1].shape[0]))
    x = x.detach() if x.stride(-1) == 1 else x.detach().contiguous()
    index = None if index is None else index.contiguous()
    weights, biases = _contiguous(weights), _contiguous(biases)
    if use_native(x):
        native.mlp(x, weights, biases, index, out, torch.get_num_threads())
    else:
        widths = torch.tensor([x.shape[1], *(len(weight) for weight in weights)], dtype=torch.int32).to(x.device)
        rows = torch.tensor([len(bias) for bias in biases], dtype=torch.int32).to(x.device)
        flat = torch.cat([weight.T.reshape(-1) for weight in weights])
        index = widths.new_empty(0, dtype=torch.int64) if index is None else index
        start = torch.cat([bias.reshape(-1) for bias in biases])
        launch("mlp.mlp", len(x), x.contiguous(), flat, start, widths, rows, index, out)
    return out


@torch.library.custom_op("headfields::mlp_backward", mutates_args=())
def _mlp_backward(
    grad: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    index: Tensor | None,
    needs: Sequence[bool],
) -> List[Tensor]:  # noqa: UP006
    """Gradients by x, weights and biases, in this order; empty tensors where `needs` is False."""
    tensors = [grad, x, *weights, *biases]
    if use_native(x) and x.dtype == torch.float32:
        grad, x, *parameters = _contiguous(tensors)
        outputs = [torch.empty_like(t) if need else None for t, need in zip((x, *parameters), needs, strict=True)]
        layers = len(weights)
        # Sums for every chunk of rows would take too much memory: the kernel gives rows, which are summed here.
        first = outputs[layers + 1] if index is not None and len(biases[0]) > MAX_CONDITION_ROWS else None
        to_start = None if first is None else x.new_empty(len(x), weights[0].shape[0])
        summed = outputs[layers + 1 :] if first is None else [None, *outputs[layers + 2 :]]
        native.mlp_backward(
            grad, x, parameters[:layers], parameters[layers:], None if index is None else index.contiguous(),
            outputs[0], outputs[1 : layers + 1], summed, to_start, torch.get_num_threads(),
        )  # fmt: skip
        if first is not None and to_start is not None and index is not None:
            first.zero_().index_add_(0, index, to_start)
    elif _runs_triton(x, weights, biases):
        from headfields.ops.kernels import mlp_triton

        outputs = mlp_triton.backward(grad.to(x.dtype), x, weights, biases, index, needs)
    else:
        to_x, to_weights, to_biases = reference.backward(grad, x, weights, biases, index)
        outputs = [t if need else None for t, need in zip((to_x, *to_weights, *to_biases), needs, strict=True)]
    return [x.new_empty(0) if output is None else output for output in outputs]


def _save_for_backward(ctx, inputs, output) -> None:
    x, weights, biases, index = inputs
    ctx.layers = len(weights)
    ctx.save_for_backward(x, *weights, *biases, index)


def _first_derivative(ctx, grad):
    x, *parameters, index = ctx.saved_tensors
    weights, biases = parameters[: ctx.layers], parameters[ctx.layers :]
    needs = needed_gradients(ctx, 1 + len(parameters))
    grads = _mlp_backward(grad, x, weights, biases, index, needs)
    grads = [gradient if need else None for gradient, need in zip(grads, needs, strict=True)]
    return grads[0], grads[1 : ctx.layers + 1], grads[ctx.layers + 1 :], None


def _save_for_double_backward(ctx, inputs, output) -> None:
    grad, x, weights, biases, index, needs = inputs
    ctx.layers, ctx.needs = len(weights), needs
    ctx.save_for_backward(grad, x, *weights, *biases, index)


def _second_derivative(ctx, grads):
    """The derivative of `reference.backward` by PyTorch, to any order."""
    *tensors, index = ctx.saved_tensors
    layers = ctx.layers
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that a tensor that is an argument twice gets each argument's gradient.
        views = [t.view_as(t) if t.requires_grad else t for t in tensors]
        to_x, to_weights, to_biases = reference.backward(
            views[0], views[1], views[2 : layers + 2], views[layers + 2 :], index
        )
        pairs = [
            (output, gradient)
            for output, gradient, need in zip((to_x, *to_weights, *to_biases), grads, ctx.needs, strict=True)
            if need and gradient is not None and output.requires_grad
        ]
        asked = needed_gradients(ctx, len(views))
        inputs = [view for view, want in zip(views, asked, strict=True) if want]
        gradients = torch.autograd.grad(
            [output for output, _ in pairs], inputs, [gradient for _, gradient in pairs],
            create_graph=create_graph, allow_unused=True,
        )  # fmt: skip
    each = iter(gradients)
    gradients_of_all = [next(each) if want else None for want in asked]
    return (*gradients_of_all[:2], gradients_of_all[2 : layers + 2], gradients_of_all[layers + 2 :], None, None)


def _plain(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], index: Tensor | None) -> Tensor:
    return reference.layers(x, weights, biases, index)[-1]


def _plain_backward(
    grad: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    index: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor]:
    to_x, to_weights, to_biases = reference.backward(grad, x, weights, biases, index)
    pairs = zip((to_x, *to_weights, *to_biases), needs, strict=True)
    return [gradient if need else x.new_empty(0) for gradient, need in pairs]


def _gradient_shapes(grad, x, weights, biases, index, needs) -> list[Tensor]:
    return list(where_needed(*range(len(needs)))(x, *weights, *biases, needs))


register_op(
    _mlp, lambda x, weights, *_: x.new_empty((x.shape[0], weights[-1].shape[0])), _plain, derivative=_first_derivative,
    setup=_save_for_backward, rows=(0, 3),
)  # fmt: skip
register_op(
    _mlp_backward, _gradient_shapes, _plain_backward, derivative=_second_derivative, setup=_save_for_double_backward,
)  # fmt: skip
