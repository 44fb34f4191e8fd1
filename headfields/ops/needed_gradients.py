"""Which gradients a derivative is asked for: those that the running backward pass hands on.

`ctx.needs_input_grad` says which inputs require a gradient at all. The gradient of a distance by its point asks for no
gradient of the table and the weights that the distance comes from, though they require one, and `backward(inputs=...)`
for none of other leaves.
"""

from typing import Any

import torch


def needed_gradients(ctx: Any, count: int) -> list[bool]:
    """Whether the running backward pass asks for the gradient of each of the first arguments.

    Args:
        ctx: of the derivative of a registered operation (`registration.register_op`), within a backward pass.
        count: of arguments, tensors all of them; the tensors in lists count one by one.
    """
    return [node is not None and _is_asked_for(node) for node, _ in ctx.next_functions[:count]]


def _is_asked_for(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # of a leaf that `torch.autograd.grad` asks for
        return True
