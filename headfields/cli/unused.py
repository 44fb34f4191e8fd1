"""Options of a command that the chosen mode does not read: refused by name, not taken and forgotten."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from headfields.cli.errors import CommandError


def refuse_unused(command: Callable[..., Any], given: Mapping[str, Any], unused: Collection[str], where: str) -> None:
    """Refuses the options in `unused` that have another value than their default.

    Args:
        command: the function of the command, which has the defaults.
        given: values by name.
        unused: names of options.
        where: the mode that does not read them, as the message ends: "in --mode turntable".

    Raises:
        CommandError: names the first one.
    """
    parameters = inspect.signature(command).parameters
    for name, parameter in parameters.items():
        if name in unused and given[name] != parameter.default:
            raise CommandError(f"--{name.replace('_', '-')} {given[name]} does nothing {where}; leave it out")
