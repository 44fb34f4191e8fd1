"""Options that reach nothing in a run: no parameter, loss or sampler. They are refused, and not recorded."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from headfields.training.parameter_groups import parameter_groups


def idle_rates(
    groups: Sequence[Mapping[str, Any]], learning_rates: Mapping[str, Any], networks_differ: bool
) -> dict[str, str]:
    """`learning_rate` and `network_learning_rate`, as far as no group of the optimizer has the rate, each with why.

    Args:
        groups: of the optimizer; one with `lr` has a rate of its own.
        learning_rates: rates of groups by name.
        networks_differ: whether networks have a rate of their own; else `learning_rate` is theirs, too.
    """
    named = [str(group["name"]) for group in groups if "lr" not in group]
    free = {name for name in named if name not in learning_rates}
    parts = ", ".join(dict.fromkeys(named)) or "of none"
    why = f"all parameters have a rate of their own (learning_rates: {parts})"
    idle = (
        {} if free - {"tables"} else {"network_learning_rate": why if "tables" not in free else "no part is a network"}
    )
    if "tables" not in free and (networks_differ or not free):
        idle["learning_rate"] = why if not free else "no part is a table; network_learning_rate is that of networks"
    return idle


def idle_options(
    recipe: Any, avatar: nn.Module, options: Mapping[str, Any], steps: int | None = None, capture: Any = None
) -> dict[str, str]:
    """The options of a recipe that reach nothing when it trains this avatar, each with the reason.

    Args:
        recipe: a `Recipe`.
        avatar: what is trained.
        options: values of the recipe's options, and `learning_rates`.
        steps: the end of the run, if it is known.
        capture: what it trains on, if that counts: without labels the depth prior is zero.
    """
    rates = {**recipe.trainer.get("learning_rates", {}), **(options.get("learning_rates") or {})}
    groups = parameter_groups(avatar, weight_decay=1.0)
    idle = idle_rates(groups, rates, networks_differ=True)
    if not any(group["weight_decay"] for group in groups):
        idle["precision"] = "no part is a network, and the rest computes in float32 in any case"
    if getattr(avatar, "whole_images", False):
        idle |= dict.fromkeys(("rays", "samples"), f"{type(avatar).__name__} renders whole images")
    values = {**recipe.options, **options}
    if not values["depth"]:
        idle["depth_start"] = "it is the first step of the depth prior, whose weight (depth) is 0"
    elif steps is not None and values["depth_start"] >= steps:
        idle["depth"] = f"the depth prior starts at step {values['depth_start']} (depth_start) of {steps}"
    elif not _has_labels(capture):
        idle["depth"] = "the capture has no segmentation labels that say where the mesh is the surface"
    return {name: why for name, why in idle.items() if name in recipe.options}


def _has_labels(capture: Any) -> bool:
    """Whether training frames have labels; true if nobody can know."""
    frames = () if capture is None else capture.splits["train"]
    return not hasattr(capture, "label") or not len(frames) or capture.label(int(frames[0])) is not None


def refuse_idle(owner: str, given: Mapping[str, Any], idle: Mapping[str, str]) -> None:
    """Raises ValueError, by name and reason, for the first option that is given (not None) and reaches nothing."""
    for name, why in idle.items():
        if given.get(name) is not None:
            raise ValueError(f"{owner}: {name}={given[name]!r} would change nothing: {why}; leave it out")
