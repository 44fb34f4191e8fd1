"""The `headfields` command. Each subcommand is a thin layer over the library; heavy imports wait until it runs."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from headfields.cli.errors import CommandError, Interrupted

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

    from headfields.cli import commands, prior_commands, template_commands

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or os.environ.get("HEADFIELDS_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    subcommands: dict[str, Callable[..., Any]] = {
        "synth": commands.synth,
        "train": commands.train,
        "train-prior": prior_commands.train_prior,
        "track": prior_commands.track,
        "evaluate": commands.evaluate,
        "render": commands.render,
        "mesh": commands.mesh,
        "compare-meshes": commands.compare_meshes,
        "convert-flame": commands.convert_flame,
        "rig": template_commands.rig,
        "template": template_commands.template,
        "synth-template": template_commands.synth_template,
        "track-template": template_commands.track_template,
        "doctor": commands.doctor,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            subcommands,
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


def _one_line(error: Exception) -> str:
    """The reason alone where the library gave one, and the kind of error with it where Python did."""
    text = " ".join(str(error).split()) or "no message"
    expected = isinstance(error, CommandError | ValueError | FileNotFoundError | NotADirectoryError)
    return f"error: {text}" if expected else f"error: {type(error).__name__}: {text} (--debug shows where)"
