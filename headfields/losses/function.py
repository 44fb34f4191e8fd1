"""A function as a loss: a lambda, a closure or any callable becomes a loss with a name and a weight."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from headfields.losses.base import Loss
from headfields.parts import Rendering
from headfields.records import Batch
from headfields.runs.functions import argument_count, identity

__all__ = ["FunctionLoss", "as_losses"]


@dataclass(frozen=True, repr=False)
class FunctionLoss:
    """A function `(rendering, batch)` or `(rendering, batch, step)` as a loss.

    `Trainer` wraps functions in its `losses` by itself; this gives one a weight and a name.

    >>> import headfields as hf
    >>> loss = hf.losses.FunctionLoss(lambda rendering, batch: rendering.opacity.mean(), weight=0.1, name="fog")
    >>> loss.name, loss.weight
    ('fog', 0.1)

    Attributes:
        function: takes the rendering and the batch of the same N rays, and optionally the step, which counts from 0;
            returns a scalar tensor.
        weight: factor of the loss in the total.
        name: column in the log; the function's own name if empty.

    Raises:
        TypeError: `function` takes other numbers of arguments.
    """

    function: Callable[..., Tensor]
    weight: float | int = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_count", argument_count(self.function, 2, 3))
        if not self.name:
            own = getattr(self.function, "__name__", type(self.function).__name__)
            object.__setattr__(self, "name", own.strip("<>"))

    def __repr__(self) -> str:
        return f"FunctionLoss({identity(self.function)}, weight={self.weight!r}, name={self.name!r})"

    def __call__(self, rendering: Rendering, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The function's value."""
        arguments = (rendering, batch, step)
        return self.function(*arguments[: self._count])  # type: ignore[attr-defined]


def as_losses(losses: Sequence[Loss | Callable[..., Any]] | Callable[..., Any]) -> list[Loss]:
    """Losses as they are, and functions as `FunctionLoss`, by names of their own: `lambda`, `lambda_2`, ...

    Raises:
        ValueError: there are none, or two losses that have names have the same.
        TypeError: one is not callable, or lacks its name or its weight.
    """
    if not callable(losses) and (isinstance(losses, str) or not isinstance(losses, Iterable)):
        raise TypeError(
            f"Trainer: losses is {losses!r}; expected a list of losses, as headfields.training.insta_losses() gives one"
        )
    listed = [losses] if callable(losses) else list(losses)
    if not listed:
        raise ValueError("Trainer: losses is empty; headfields.training.insta_losses() is a start")
    results: list[Loss] = []
    unnamed: list[int] = []
    for index, loss in enumerate(listed):
        if not callable(loss):
            raise TypeError(f"Trainer: losses[{index}] is a {type(loss).__name__}; expected a loss or a function")
        if isinstance(loss, type):
            own = loss.__name__
            raise TypeError(f"Trainer: losses[{index}] is the class {own}; expected a loss, so call it: {own}()")
        if isinstance(loss, nn.modules.loss._Loss):
            own = type(loss).__name__
            raise TypeError(
                f"Trainer: losses[{index}] is a {own} of PyTorch, which compares two tensors; pass a function of the "
                f"rendering and the batch: lambda rendering, batch: {own}()(rendering.rgb, batch.target)"
            )
        has = [name for name in ("name", "weight") if hasattr(loss, name)]
        if len(has) == 1:
            lacks = "weight" if has == ["name"] else "name"
            raise TypeError(f"Trainer: losses[{index}], a {type(loss).__name__}, has a {has[0]} and no {lacks}")
        if not has:
            unnamed.append(index)
            loss = FunctionLoss(loss)
        results.append(loss)  # type: ignore[arg-type]
    names = [loss.name for index, loss in enumerate(results) if index not in unnamed]
    if len(set(names)) < len(names):
        raise ValueError(f"Trainer: losses are named {names}; names must be distinct, each is a column of the log")
    for index in unnamed:
        name = results[index].name
        numbered = (name, *(f"{name}_{number}" for number in range(2, len(results) + 2)))
        free = next(candidate for candidate in numbered if candidate not in names)
        results[index] = replace(results[index], name=free)  # type: ignore[type-var]
        names.append(free)
    return results
