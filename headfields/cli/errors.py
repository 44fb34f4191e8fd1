"""Exceptions that end a command with one line for the user."""


class CommandError(Exception):
    """The command cannot be carried out; the message is one line that says why."""


class Interrupted(Exception):
    """Ctrl-C stopped the command cleanly; the message names the checkpoint to resume from."""
