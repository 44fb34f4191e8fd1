"""Exceptions that end a command with one line for the user."""

import re

_FUNCTION = re.compile(r"^[a-z]\w*_\w+: (?:out )?")
"""What a message of the library begins with: the function's name, and its argument for the folder."""


def without_function(error: Exception) -> str:
    """The message of a function behind a command, without its name: nobody has called it by that."""
    return _FUNCTION.sub("", str(error))


class CommandError(Exception):
    """The command cannot be carried out; the message is one line that says why."""


class Interrupted(Exception):
    """Ctrl-C stopped the command cleanly; the message names the checkpoint to resume from."""
