"""Groups of an avatar's parameters in the optimizer (tables, networks, parts with a rate of their own)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from headfields.losses.base import check_positive


def parameter_groups(module: nn.Module, weight_decay: float | int | None) -> list[dict[str, Any]]:
    """The optimizer's groups: tables (`table`, `*_table`; no decay) and networks (decay). Empty ones are left out.

    Parameters of parts with a `rate_group` form a group of that name, two groups where some of them are tables. Of
    nested parts with a `rate_group` the outermost counts. A part with `rate_groups` has one for each parameter that it
    names, without decay.

    Args:
        module: its trainable parameters are grouped by name.
        weight_decay: L2 of the networks; None leaves it to the optimizer, for all groups.

    Raises:
        ValueError: nothing is trainable.

    >>> import torch
    >>> from headfields.training.parameter_groups import parameter_groups
    >>> groups = parameter_groups(torch.nn.Linear(3, 2), weight_decay=1e-6)
    >>> [(group["name"], len(group["params"]), group["weight_decay"]) for group in groups]
    [('networks', 2, 1e-06)]
    """
    rate_group: dict[nn.Parameter, str] = {}
    single: set[nn.Parameter] = set()
    for part in module.modules():  # outer ones come first
        if getattr(part, "rate_group", None):
            for parameter in part.parameters():
                rate_group.setdefault(parameter, part.rate_group)  # type: ignore[arg-type]
        for name, group in getattr(part, "rate_groups", {}).items():
            parameter = getattr(part, name)
            rate_group.setdefault(parameter, group)
            single.add(parameter)
    parameters_of: dict[tuple[str, bool], list[nn.Parameter]] = {("tables", True): [], ("networks", False): []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            last = name.rpartition(".")[2]
            is_table = last == "table" or last.endswith("_table") or parameter in single
            group = rate_group.get(parameter, "tables" if is_table else "networks")
            parameters_of.setdefault((group, is_table), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"name": name, "params": parameters, **_decay(0.0 if is_table and weight_decay is not None else weight_decay)}
        for (name, is_table), parameters in parameters_of.items()
        if parameters
    ]
    if not groups:
        raise ValueError("Trainer: the avatar has no trainable parameters")
    return groups


def group_rates(
    groups: Sequence[Mapping[str, Any]], learning_rates: Mapping[str, float | int], *, tables: float, networks: float
) -> dict[str, float]:
    """The learning rate of each group: of parts by `learning_rates`, or the networks' where it has none.

    Raises:
        ValueError: `learning_rates` names a group that the avatar does not have, or a rate is not positive.
    """
    defaults = {"tables": tables, "networks": networks}
    of_parts = {group["name"] for group in groups} - defaults.keys()
    for name, rate in learning_rates.items():
        if name not in of_parts:
            raise ValueError(
                f"Trainer: learning_rates has {name!r}; parts of this avatar have groups "
                f"{sorted(of_parts) or 'of none'} (learning_rate and network_learning_rate are for all others)"
            )
        check_positive("Trainer", **{f"learning_rates[{name!r}]": rate})
    return {**defaults, **dict.fromkeys(of_parts, networks), **learning_rates}


def _decay(value: float | int | None) -> dict[str, float | int]:
    return {} if value is None else {"weight_decay": value}
