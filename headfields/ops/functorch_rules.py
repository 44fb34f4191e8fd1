"""Forward mode and `torch.func` through registered operations: by a definition in plain PyTorch, or an error.

`torch.library.custom_op` knows reverse mode alone: forward mode loses the tangents of its arguments without a word. So
each operation gets a kernel at the autograd dispatch key, the one place that every call passes, also a direct one of
`torch.ops.headfields`. It looks for tangents and for the tensors of `torch.func`'s transforms; where there are any, it
computes the operation by plain PyTorch, which is right under every transform and slower, or raises.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._library.autograd import make_autograd_impl
from torch.autograd import forward_ad

_library = torch.library.Library("headfields", "IMPL")


def may_be_differentiated(*tensors: Tensor) -> bool:
    """Whether a derivative of what is computed from these tensors may be taken, in whatever mode."""
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def constant(tensor: Tensor) -> Tensor:
    """A tensor's numbers, out of the wrappers of `torch.func`'s transforms; under `vmap` those of the first element."""
    functorch: Any = torch._C._functorch
    tensor = tensor.detach()
    while functorch.is_functorch_wrapped_tensor(tensor):
        batch = functorch.maybe_get_bdim(tensor) if functorch.is_batchedtensor(tensor) else -1
        tensor = functorch.get_unwrapped(tensor)
        if batch >= 0:
            tensor = tensor.select(batch, 0)
    return tensor


def array_of(tensor: Tensor) -> np.ndarray:
    """A NumPy array of the numbers of `constant(tensor)`, on the CPU."""
    if not torch._C._are_functorch_transforms_active():
        return tensor.detach().cpu().numpy()
    plain = constant(tensor.cpu())
    with temporarily_clear_interpreter_stack():
        return plain.numpy()


def define_transforms(
    operation: Any,
    plain: Callable[..., Any] | None,
    rows: Sequence[int] = (),
    remedy: str = "",
    elementwise: bool = False,
) -> None:
    """Defines a registered operation under forward mode, `torch.func.grad` (and what is made of it) and `vmap`.

    Args:
        operation: what `torch.library.custom_op` made, with its autograd formula if it has one.
        plain: the same function of the same arguments in PyTorch's operations, which differentiate in every mode; None:
            a derivative in forward mode or by `torch.func` raises NotImplementedError.
        rows: places of the arguments that have one row for each row of all results. `vmap` over these alone is one call
            with more rows; over others it is a call for each element.
        remedy: what the error tells to do.
        elementwise: whether results have the shape of the tensor arguments, element by element.
    """
    schema = operation._opoverload._schema
    name = schema.name.split("::")[1]
    gives_list = len(schema.returns) == 1 and isinstance(schema.returns[0].type, torch.ListType)
    ordinary = make_autograd_impl(operation._opoverload, operation)

    def kernel(keyset: Any, *arguments: Any) -> Any:
        transformed = torch._C._are_functorch_transforms_active()
        if forward_ad._current_level < 0 and not transformed:
            return ordinary(keyset, *arguments)
        tensors = [tensor for tensor in _tensors(arguments) if tensor.is_floating_point()]
        tracked = any(forward_ad.unpack_dual(tensor, level=0).tangent is not None for tensor in tensors)
        tracked |= transformed and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if not tracked:
            return ordinary(keyset, *arguments)
        if plain is None:
            raise NotImplementedError(f"{name}: no derivative in forward mode or by torch.func; {remedy}")
        return plain(*arguments)

    for key in ("AutogradCPU", "AutogradCUDA"):
        _library.impl(name, kernel, key, with_keyset=True)

    def batched(info: Any, dims: Sequence[Any], *arguments: Any) -> Any:
        size = info.batch_size
        places = {place for place, dim in enumerate(dims) if _is_batched(dim)}
        if elementwise:
            moved = [_first(argument, dim, size) for argument, dim in zip(arguments, dims, strict=True)]
            return operation(*moved), 0
        if places <= set(rows):
            folded = [
                _first(argument, dim, size).flatten(0, 1).contiguous()
                if place in rows and argument is not None
                else argument
                for place, (argument, dim) in enumerate(zip(arguments, dims, strict=True))
            ]
            parts = [part.unflatten(0, (size, part.shape[0] // size)) for part in _as_list(operation(*folded))]
        else:
            each = [_as_list(operation(*_element(list(arguments), list(dims), index))) for index in range(size)]
            if any(part.shape != first.shape for one in each for part, first in zip(one, each[0], strict=True)):
                raise ValueError(f"{name} under torch.func.vmap: results differ in size; call it in a loop")
            parts = [torch.stack(column) for column in zip(*each, strict=True)]
        if gives_list:
            return parts, [0] * len(parts)
        return (parts[0], 0) if len(parts) == 1 else (tuple(parts), (0,) * len(parts))

    operation.register_vmap(batched)


def pullback(plain: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    """The plain definition of a registered backward: of a gradient and the arguments of `plain`."""

    def backward(gradient: Any, *arguments: Any) -> tuple[Tensor, ...]:
        rest = arguments[tensors:]
        _, pull = torch.func.vjp(lambda *inputs: plain(*inputs, *rest), *arguments[:tensors])
        gradients: tuple[Tensor, ...] = pull(gradient)
        return gradients

    return backward


def _tensors(arguments: Iterable[Any]) -> Iterable[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)


def _as_list(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else list(results)


def _is_batched(dim: Any) -> bool:
    return any(map(_is_batched, dim)) if isinstance(dim, list | tuple) else dim is not None


def _first(argument: Any, dim: int | None, size: int) -> Any:
    """A tensor with the batch as its first axis; repeated where it has none."""
    if not isinstance(argument, Tensor):
        return argument
    return argument.expand(size, *argument.shape) if dim is None else argument.movedim(dim, 0)


def _element(argument: Any, dim: Any, index: int) -> Any:
    if isinstance(dim, list | tuple):
        return [_element(part, each, index) for part, each in zip(argument, dim, strict=True)]
    return argument if dim is None else argument.select(dim, index).contiguous()
