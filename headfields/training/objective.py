"""What a step minimizes: the weighted sum of the losses, each checked to be a scalar that has a gradient."""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.losses.base import Loss
from headfields.parts import Rendering
from headfields.records import Batch
from headfields.records.device_copy import send_numbers
from headfields.training.warn import warn


class Objective:
    """The losses of a run.

    A loss whose value does not depend on the avatar (a detached tensor, a constant) would train nothing without a
    word. Until a loss has had a gradient for the first time, a step in which it has none, although the rendering does,
    is an error; a zero is accepted as a loss that is off at that step, as long as another loss has a gradient. In an
    avatar with frozen parameters it may be the frozen ones that the loss depends on, so there it is a warning.

    Args:
        losses: the losses, with distinct names.
        avatar: the module whose parameters they train.
    """

    def __init__(self, losses: Sequence[Loss], avatar: nn.Module) -> None:
        self.losses = list(losses)
        self._has_frozen_parameters = any(not parameter.requires_grad for parameter in avatar.parameters())
        self._without_gradient = {loss.name for loss in losses}

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, " l"]:
        """The L weighted losses of the rays that this process renders.

        Raises:
            TypeError: a loss returns something else than a tensor.
            ValueError: a loss is no scalar, or has no gradient.
        """
        values = [self._value(loss, rendering, batch, step) for loss in self.losses]
        if self._without_gradient and _has_gradient(rendering):
            self._check_gradients(values)
        if all(value.is_cuda and value.dtype == torch.float32 for value in values):  # in two launches
            weights = tuple(float(loss.weight) for loss in self.losses)
            return torch.stack(values) * _on_device(weights, values[0].device)
        return torch.stack([(value * loss.weight).float() for value, loss in zip(values, self.losses, strict=True)])

    def _value(self, loss: Loss, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        value = loss(rendering, batch, step)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"Trainer: loss {loss.name!r} returned a {type(value).__name__}; expected a scalar tensor, computed "
                "from the rendering or the avatar's weights"
            )
        if value.ndim:
            raise ValueError(
                f"Trainer: loss {loss.name!r} has shape {tuple(value.shape)}; expected a scalar: take its mean or sum "
                "over rays"
            )
        return value

    def _check_gradients(self, values: list[Tensor]) -> None:
        none = not any(value.requires_grad for value in values)
        for value, loss in zip(values, self.losses, strict=True):
            if value.requires_grad:
                self._without_gradient.discard(loss.name)
            elif loss.name in self._without_gradient and (none or bool(value != 0)):
                text = f"Trainer: loss {loss.name!r} is {value.item():g} and has no gradient"
                if not self._has_frozen_parameters:
                    raise ValueError(
                        f"{text}: it does not depend on the rendering or the avatar's weights. Leave out .detach(), "
                        ".item() and torch.no_grad(); a loss that is off at a step returns rendering.opacity.sum() * 0"
                    )
                self._without_gradient.discard(loss.name)
                warn(f"{text}: it is detached, or depends on frozen parameters alone; leave it out")


@functools.lru_cache(maxsize=64)
def _on_device(weights: tuple[float, ...], device: torch.device) -> Float[Tensor, " l"]:
    return send_numbers(weights, torch.float32, device)


def _has_gradient(rendering: Rendering) -> bool:
    """False without samples, as when every ray misses the head: then no loss on the rendering has a gradient."""
    return any(isinstance(value, Tensor) and value.requires_grad for value in vars(rendering).values())
