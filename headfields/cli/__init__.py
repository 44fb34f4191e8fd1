"""The `headfields` command: one subcommand per file.

The function `train` in `headfields/cli/train.py` is the command `headfields train`: its signature and docstring are the
arguments and the help text. PyTorch and the rest of the library are imported when a command runs, so that `--help`
does not wait for them.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from headfields.cli.errors import CommandError, Interrupted

COMMANDS = (
    "synth", "train", "train-prior", "track", "evaluate", "render", "mesh", "compare-meshes", "convert-flame", "rig",
    "template", "synth-template", "track-template", "doctor",
)  # fmt: skip
"""In the order of the help text."""

DESCRIPTION = """Differentiable head avatars: train one on a capture, measure it, look at it.

A first hour: `headfields synth captures/demo` makes a capture, `headfields train insta --capture captures/demo
--out runs/demo --minutes 10` trains on it, `headfields evaluate runs/demo` measures the result and `headfields render
runs/demo --mode turntable` shows it. Add --debug (or set HEADFIELDS_DEBUG=1) to see the traceback of an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
        arguments: without the program's name; those of the process if None.

    Returns:
        0, 1 for an error (one line on stderr), 130 after Ctrl-C. Bad usage exits with 2.
    """
    import tyro

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or os.environ.get("HEADFIELDS_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        tyro.extras.subcommand_cli_from_dict(
            {command: _function(command) for command in COMMANDS},
            prog="headfields",
            description=DESCRIPTION,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except Interrupted as interruption:
        print(f"headfields: {interruption}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("headfields: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(f"headfields: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _function(command: str) -> Callable[..., Any]:
    """The function of a command: "train-prior" is `headfields.cli.train_prior.train_prior`."""
    name = command.replace("-", "_")
    function: Callable[..., Any] = getattr(importlib.import_module(f"headfields.cli.{name}"), name)
    return function


def _one_line(error: Exception) -> str:
    """The message alone if the library raised the error, with the error's type if Python did."""
    text = " ".join(str(error).split()) or "no message"
    expected = isinstance(error, CommandError | ValueError | FileNotFoundError | NotADirectoryError)
    return f"error: {text}" if expected else f"error: {type(error).__name__}: {text} (--debug shows where)"
