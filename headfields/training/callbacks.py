"""Callbacks: objects of a program whose methods the trainer calls between steps (through `Fabric.call`)."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from headfields.runs.randomness import RandomStream
from headfields.training.processes import Processes

__all__ = ["HOOKS", "Callback", "Hooks", "callback_states", "check_callbacks", "load_callback_states"]

HOOKS = ("on_start", "on_launch", "on_step", "on_picture", "on_checkpoint", "on_end")


class Callback:
    """What a callback may define; deriving from this class is optional, and a method may leave out arguments.

    A callback with the methods `state_dict()` and `load_state_dict(state)` keeps its state over `resume`: a dictionary
    of texts, numbers, booleans, None, lists and dictionaries of these.

    With several processes, each has its own callbacks and calls them at the same steps, except for pictures and
    checkpoints, which process 0 alone makes. Random numbers that a callback draws do not change the training. An
    exception ends the training, on all processes.
    """

    def on_start(self, trainer: Any) -> None:
        """A call of `Trainer.fit` begins; a resumed run has been loaded."""

    def on_launch(self, trainer: Any, rendering: Any, taken: Any, step: int) -> None:
        """The gradients of a step are there, and the optimizer has taken it if `taken` () is true; on a GPU the device
        alone knows, and may run all of this from a graph. So it draws no random numbers, reads no tensor, makes none
        that it keeps, and writes to those it has. A callback that reads the number of the step, from 0, says with a
        method `phase(step)` what of it it depends on, such as `step < self.stop`; steps without one are not captured.

        A callback with this hook does not read the losses of a step in `on_step`, which on a GPU are not there yet.
        """

    def on_step(self, trainer: Any, outcome: Any) -> None:
        """A step has ended: `outcome` is its `StepOutcome`, and `trainer.progress.step` the number of steps so far."""

    def on_picture(self, trainer: Any, image: Any, psnr: float) -> None:
        """A picture was taken: truth | rendering | error (H, 3 W, 3) of the watched frame, and its PSNR in dB."""

    def on_checkpoint(self, trainer: Any, path: Any) -> None:
        """A checkpoint was written to `path`."""

    def on_end(self, trainer: Any, result: Any) -> None:
        """The call of `Trainer.fit` ends with the `FitResult` `result`; the avatar carries the averaged weights."""


class Hooks:
    """Calls the callbacks' methods. Random numbers that they draw do not change the training.

    Args:
        trainer: what the callbacks are given.
        callbacks: those of the trainer.
        fabric: calls a method of all callbacks, its own among them, that have it.
        random: the training's random numbers.
        processes: those that train together.

    Attributes:
        callbacks: as above.
        error: what a callback raised after a step, with several processes: raised in their next exchange, so that none
            waits for this one.
        stop_reason: why a callback has asked the training to end, or None.
    """

    def __init__(
        self, trainer: Any, callbacks: Sequence[Any], fabric: Any, random: RandomStream, processes: Processes
    ) -> None:
        self._trainer, self.callbacks, self._fabric = trainer, callbacks, fabric
        self._random, self._processes = random, processes
        self.error: Exception | None = None
        self.stop_reason: str | None = None

    def call(self, hook: str, **arguments: Any) -> None:
        """Calls a hook; parts of the avatar that a callback sets to evaluation mode, to look at it, come back."""
        if not self.callbacks:
            return
        avatar = self._trainer.avatar
        modes, training = [(part, part.training) for part in avatar.modules()], avatar.training
        with self._random.preserved():
            self._fabric.call(hook, trainer=self._trainer, **arguments)
        if avatar.training != training:
            for part, mode in modes:
                part.training = mode

    def call_together(self, hook: str, **arguments: Any) -> None:
        """Calls a hook on all processes; the error of one is raised on all."""
        error: Exception | None = None
        try:
            self.call(hook, **arguments)
        except Exception as raised:
            error = raised
        if self.callbacks:
            self._processes.raise_on_all(error)

    def call_after_step(self, outcome: Any) -> None:
        """Calls `on_step`; with several processes an error waits for their next exchange."""
        if not any(hasattr(callback, "on_step") for callback in self.callbacks):
            return
        try:
            self.call("on_step", outcome=outcome)
        except Exception as error:
            if not self._processes.several:
                raise
            self.error = error

    def call_launched(self, rendering: Any, is_taken: Tensor, step: int) -> None:
        """Calls the callbacks' part in what is launched: no random number, nothing that the host reads."""
        for callback in self.callbacks:
            if has_own_hook(callback, "on_launch"):
                callback.on_launch(trainer=self._trainer, rendering=rendering, taken=is_taken, step=step)


def has_own_hook(callback: Any, name: str) -> bool:
    """Whether a callback defines a hook, and does not only inherit the empty one."""
    method = getattr(callback, name, None)
    return method is not None and getattr(method, "__func__", None) is not getattr(Callback, name)


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raises TypeError for a callback without hooks, or with one that is never called: a misspelled name, say."""
    for callback in callbacks:
        if isinstance(callback, type):
            name = callback.__name__
            raise TypeError(f"Trainer: callbacks has the class {name}; expected an object, so call it: {name}()")
        kind = type(callback).__name__
        own = [name for name in dir(callback) if name.startswith("on_") and callable(getattr(callback, name))]
        unknown = [name for name in own if name not in HOOKS]
        if unknown or not own:
            has = f"has {', '.join(unknown)}, which the trainer never calls" if unknown else "has no hook"
            raise TypeError(f"Trainer: callback {kind} {has}; the trainer calls {', '.join(HOOKS)}")
        for name in own:
            _check_hook(kind, name, getattr(callback, name))
        if hasattr(callback, "state_dict") != hasattr(callback, "load_state_dict"):
            raise TypeError(f"Trainer: callback {kind} needs both state_dict and load_state_dict, or neither")


def _check_hook(kind: str, name: str, method: Any) -> None:
    """Raises TypeError if a hook has an argument that the trainer does not pass."""
    passed = list(inspect.signature(getattr(Callback, name)).parameters)[1:]
    try:
        own = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):  # a callable without a signature
        return
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [each.name for each in own if each.default is each.empty and each.kind not in optional]
    unknown = [each for each in required if each not in passed]
    if unknown:
        raise TypeError(
            f"Trainer: callback {kind}: {name} takes {', '.join(unknown)}, which the trainer does not pass; it passes "
            f"{', '.join(passed)}, by name"
        )


def callback_names(callbacks: Sequence[Any]) -> list[str]:
    """A name for each: its class, numbered from the second of a class on."""
    kinds = [type(callback).__name__ for callback in callbacks]
    counts = [kinds[: index + 1].count(kind) for index, kind in enumerate(kinds)]
    return [kind if count == 1 else f"{kind}_{count}" for kind, count in zip(kinds, counts, strict=True)]


def callback_states(callbacks: Sequence[Any]) -> dict[str, Any]:
    """The states of those that have one, by name.

    Raises:
        TypeError: a state is more than a checkpoint can hold.
    """
    states = {}
    for name, callback in zip(callback_names(callbacks), callbacks, strict=True):
        if hasattr(callback, "state_dict"):
            states[name] = callback.state_dict()
            _check_plain(name, "its state", states[name])
    return states


def load_callback_states(callbacks: Sequence[Any], states: dict[str, Any]) -> None:
    """Restores the states by name."""
    for name, callback in zip(callback_names(callbacks), callbacks, strict=True):
        if name in states and hasattr(callback, "load_state_dict"):
            callback.load_state_dict(states[name])


def _check_plain(name: str, place: str, value: Any) -> None:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for key, entry in value.items():
            _check_plain(name, repr(key), entry)
    elif isinstance(value, list):
        for entry in value:
            _check_plain(name, f"a list in {place}", entry)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise TypeError(
            f"Trainer: callback {name} has a {type(value).__name__} as {place} in its state_dict; a checkpoint holds "
            "texts, numbers, booleans, None, lists and dictionaries with texts as keys (tensor.tolist() makes a list)"
        )
