"""What a subcommand raises to end with a reason."""


class CommandError(Exception):
    """The command cannot be carried out; the message is one line for the user."""


class Interrupted(Exception):
    """Ctrl-C ended the command in good order; the message says what is left to go on from."""
