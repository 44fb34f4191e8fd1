"""Which way a trainer takes its steps: synchronous, asynchronous, or asynchronous and captured as a CUDA graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from headfields.losses.base import Loss
from headfields.training.asynchronous_steps import AsynchronousSteps
from headfields.training.callbacks import callback_names, has_own_hook
from headfields.training.processes import Processes
from headfields.training.step_phases import StepPhases
from headfields.training.steps import Steps
from headfields.training.synchronous_steps import SynchronousSteps


def kind_of_steps(
    asynchronous: bool | str,
    graph: bool | str,
    avatar: nn.Module,
    losses: Sequence[Loss],
    device: torch.device,
    processes: Processes,
    scaler: Any,
    optimizer: torch.optim.Optimizer,
    callbacks: Sequence[Any],
    fine_tunes: bool = False,
) -> tuple[type[Steps], str]:
    """The class of a trainer's steps, and why they are not captured as a CUDA graph (empty where they are).

    Args:
        asynchronous, graph: as for `Trainer`; the rest is the trainer's.

    Raises:
        ValueError: `asynchronous` or `graph` is True where it cannot be, or none of True, False and "auto".
    """
    _check("asynchronous", asynchronous)
    _check("graph", graph)
    reason = why_synchronous(device, processes, scaler, optimizer, callbacks)
    if fine_tunes and not reason:
        reason = "fine_tuning poses the head of each step's frames on the host"
    if asynchronous is True and reason:
        raise ValueError(f"Trainer: asynchronous is True, and steps cannot be: {reason}")
    reason = "asynchronous is False" if asynchronous is False else reason
    kind: type[Steps] = SynchronousSteps if reason else AsynchronousSteps
    reason = "graph is False" if graph is False else reason or why_no_graph(avatar, losses, optimizer, callbacks)
    if graph is True and reason:
        raise ValueError(f"Trainer: graph is True, and steps cannot be captured: {reason}")
    return kind, reason


def why_synchronous(
    device: torch.device, processes: Processes, scaler: Any, optimizer: torch.optim.Optimizer, callbacks: Sequence[Any]
) -> str:
    """Why the host waits for the metrics of each step; empty where the device may decide by them."""
    if device.type != "cuda":
        return "the device is no GPU"
    if not processes.exchanges_late:
        return "several processes train together, and do not exchange by NCCL, for which alone no host waits"
    if scaler is not None:
        return "precision is '16-mixed', whose scale of the loss is read; 'bf16-mixed' has none"
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if not (getattr(optimizer, "_step_supports_amp_scaling", False) and fused):
        return f"{type(optimizer).__name__} takes no step that the device may refuse; build it with fused=True"
    for name, callback in zip(callback_names(callbacks), callbacks, strict=True):
        if has_own_hook(callback, "on_step") and not has_own_hook(callback, "on_launch"):
            return f"the callback {name} has on_step, which reads the metrics of each step"
    return ""


def why_no_graph(
    avatar: nn.Module, losses: Sequence[Loss], optimizer: torch.optim.Optimizer, callbacks: Sequence[Any]
) -> str:
    """Why steps that the host does not wait for are not captured as a CUDA graph; empty where they may be."""
    renderer: Any = getattr(avatar, "renderer", avatar)
    if not getattr(renderer, "takes_buffers", False):
        kind = type(renderer).__name__
        return f"the number of samples of {kind} differs from step to step, without a form of a fixed size"
    for group in optimizer.param_groups:
        if not group.get("capturable"):
            return f"{type(optimizer).__name__} is not capturable; build it with capturable=True"
    return StepPhases(losses, callbacks).reason


def _check(option: str, choice: bool | str) -> None:
    """Raises ValueError unless an option is True, False or "auto"."""
    if choice not in (True, False, "auto"):
        raise ValueError(f"Trainer: {option} is {choice!r}; expected True, False or 'auto'")
