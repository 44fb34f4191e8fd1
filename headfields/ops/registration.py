"""One line completes a registered operation: shapes of its results, derivative, forward mode, `torch.func` and `vmap`.

An operation is three bodies and this line. `torch.library.custom_op` takes the first, which runs a kernel: the C++
module's on the CPU, Warp's elsewhere (`dispatch`, `warp_launch`). The others are its derivative, itself made of
registered operations, and its definition in plain PyTorch (`reference/`). Annotations of the bodies take `Sequence` and
`List` from `typing`: PyTorch 2.6 reads no others.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from headfields.ops.functorch_rules import define_transforms

_TENSOR = ("Tensor", "Optional[Tensor]")


def register_op(
    operation: Any,
    shapes: Callable[..., Any],
    plain: Callable[..., Any] | None,
    derivative: Callable[..., Any] | None = None,
    keep: Sequence[int] | None = None,
    setup: Callable[..., None] | None = None,
    rows: Sequence[int] = (),
    remedy: str = "",
    elementwise: bool = False,
) -> None:
    """Completes an operation.

    Args:
        operation: what `torch.library.custom_op` made of the first body.
        shapes: empty results from the arguments, by which `torch.compile` knows them; see `like` and `where_needed`.
        plain: the definition, see `define_transforms`; None where there is none in all modes.
        derivative: one gradient an argument, from `ctx` and the results' gradients; None: there is none. It finds
            tensors among the arguments in `ctx.saved_tensors`, the other arguments in `ctx.rest`.
        keep: places of the tensors that the derivative reads; all if None.
        setup: in place of `keep`, what keeps something else, from `ctx`, the arguments and the results.
        rows, remedy, elementwise: see `define_transforms`.
    """
    _import_dynamo_late(operation)
    operation.register_fake(shapes)
    if derivative is not None:
        operation.register_autograd(derivative, setup_context=setup or _keeping(operation, keep))
    define_transforms(operation, plain, rows, remedy, elementwise)


def _import_dynamo_late(operation: Any) -> None:
    """Calls a body as it is until something has imported `torch._dynamo`.

    PyTorch keeps the compiler away from bodies by what imports it: two seconds at the first operation of a program that
    compiles nothing. Before that import there is nothing to keep away.
    """
    bodies = getattr(operation, "_backend_fns", None)  # PyTorch's own: where it is another, the import comes as before
    if bodies is None or set(bodies) != {None}:
        return
    guarded, body = bodies[None], operation._init_fn

    def call(*arguments: Any, **named: Any) -> Any:
        return (guarded if "torch._dynamo" in sys.modules else body)(*arguments, **named)

    bodies[None] = functools.wraps(body)(call)


def like(*places: int) -> Callable[..., Any]:
    """Results with the shapes and dtypes of the arguments at these places."""

    def shapes(*arguments: Any) -> Any:
        results = tuple(arguments[place].new_empty(arguments[place].shape) for place in places)
        return results if len(results) > 1 else results[0]

    return shapes


def where_needed(*places: int) -> Callable[..., Any]:
    """Gradients of the arguments at these places; empty where the last argument, a flag each, says not needed."""

    def shapes(*arguments: Any) -> Any:
        pairs = zip((arguments[place] for place in places), arguments[-1], strict=True)
        return tuple(tensor.new_empty(tensor.shape if need else (0,)) for tensor, need in pairs)

    return shapes


def _keeping(operation: Any, keep: Sequence[int] | None) -> Callable[..., None]:
    arguments = operation._opoverload._schema.arguments
    tensors = [place for place, argument in enumerate(arguments) if str(argument.type) in _TENSOR]
    kept = tensors if keep is None else list(keep)
    rest = [place for place in range(len(arguments)) if place not in tensors]

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*[inputs[place] for place in kept])
        ctx.rest = [inputs[place] for place in rest]

    return setup
