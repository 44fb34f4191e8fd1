"""The `headfields` command: one subcommand per file.

The function `train` in `headfields/cli/train.py` is the command `headfields train`: its signature and docstring are the
arguments and the help text. PyTorch and the rest of the library are imported when a command runs, so that `--help`
does not wait for them.
"""

import contextlib
import functools
import importlib
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

from headfields.cli.errors import CommandError, Interrupted
from headfields.cli.parser_errors import in_one_line
from headfields.cli.signals import Terminated, ending_as_interrupts, quiet
from headfields.cli.streams import open_closed_descriptors, tolerant_stderr, tolerant_stdout
from headfields.similar_names import did_you_mean

COMMANDS = (
    "demo", "synth", "capture", "train", "train-prior", "track", "track-scans", "distill", "evaluate", "compare",
    "render", "view", "drive", "mesh", "export", "compare-meshes", "convert-flame", "rig", "template",
    "synth-template", "track-template", "inspect", "convert", "arkit", "doctor",
)  # fmt: skip
"""In the order of the help text."""

DESCRIPTION = """Differentiable head avatars: train one on a capture, measure it, look at it.

`headfields demo` does it all in four minutes. A first hour: `headfields synth captures/demo` makes a capture,
`headfields train insta --capture captures/demo --out runs/demo --minutes 10` trains on it, `headfields evaluate
runs/demo` measures the result and `headfields view runs/demo` shows it. Add --debug (or set HEADFIELDS_DEBUG=1) to see
the traceback of an error, and --import my_parts.py to a command on an avatar with parts of your own. `headfields
--version` prints the version."""


_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")  # as PyTorch says it on the CPU and on CUDA


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
        arguments: without the program's name; those of the process if None.

    Returns:
        0, 1 for an error (one line on stderr), 130 after Ctrl-C, 143 after SIGTERM. Bad usage exits with 2. Streams
        that are closed, and a pipe whose reader has gone, change neither the work nor the status; a stdout that fails
        otherwise (a full disk) exits with 1 when the work is done.
    """
    open_closed_descriptors()
    with tolerant_stderr(), tolerant_stdout(), ending_as_interrupts() as raised:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments), raised)
        except Interrupted as interruption:
            quiet()
            print(f"headfields: {interruption}", file=sys.stderr)
            return 130
        except KeyboardInterrupt as interrupt:
            quiet()
            terminated = isinstance(interrupt, Terminated)
            print(f"headfields: {'terminated' if terminated else 'interrupted'}", file=sys.stderr)
            return 143 if terminated else 130


def _run(arguments: list[str], raised: Sequence[KeyboardInterrupt] = ()) -> int:
    """The exit status of the command line, with errors on stderr; `raised`: interrupts, which may hide behind them."""
    if arguments == ["--version"]:
        print(f"headfields {_version()}")
        return 0
    debug = "--debug" in arguments or os.environ.get("HEADFIELDS_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        import tyro

        arguments = _import_modules(arguments)
        mistake = _unknown_word(arguments)
        if mistake:
            print(f"headfields: error: {mistake}", file=sys.stderr)
            return 2
        box = io.StringIO()  # what the parser prints of an error; the commands print to stderr
        stderr = sys.stderr
        try:
            with contextlib.redirect_stderr(box):
                tyro.extras.subcommand_cli_from_dict(
                    {command: _printing_to(stderr, _function(command)) for command in COMMANDS},
                    prog="headfields",
                    description=DESCRIPTION,
                    args=arguments,
                    config=(tyro.conf.FlagCreatePairsOff,),
                )
        except SystemExit as end:
            if end.code == 2 and box.getvalue():
                print(f"headfields: error: {in_one_line(box.getvalue(), arguments[0])}", file=stderr)
                box = io.StringIO()
            raise
        finally:
            stderr.write(box.getvalue())
    except Interrupted:
        raise
    except Exception as error:
        if raised:
            raise raised[-1] from error
        if debug:
            raise
        print(f"headfields: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _function(command: str) -> Callable[..., Any]:
    """The function of a command: "train-prior" is `headfields.cli.train_prior.train_prior`.

    It refuses NaN and infinity, which every comparison of a limit would let through, and integers of more than 64 bits.
    """
    name = command.replace("-", "_")
    function: Callable[..., Any] = getattr(importlib.import_module(f"headfields.cli.{name}"), name)
    parameters = signature(function)

    @functools.wraps(function)
    def with_finite_numbers(*args: Any, **kwargs: Any) -> Any:
        for option, value in parameters.bind(*args, **kwargs).arguments.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise CommandError(f"--{option.replace('_', '-')} is {value}; expected a finite number")
            if isinstance(value, int) and abs(value) >= 2**63:
                raise CommandError(f"--{option.replace('_', '-')} is {value}; expected a number below 2^63")
        return function(*args, **kwargs)

    return with_finite_numbers


def _printing_to(stderr: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called with this stderr."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with contextlib.redirect_stderr(stderr):
            return function(*args, **kwargs)

    return call


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("headfields")
    except importlib.metadata.PackageNotFoundError:
        return "(a source tree that is not installed)"


def _import_modules(arguments: list[str]) -> list[str]:
    """Imports the files after --import, whose parts an avatar may have, and returns the other arguments."""
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--import":
            others.append(word)
            continue
        file = value if equals else next(words, "")
        if not file:
            raise CommandError("--import needs a file of Python code that defines parts, as --import my_parts.py")
        from headfields.part_names import import_parts

        import_parts(file)
    return others


def _unknown_word(arguments: list[str]) -> str:
    """What is wrong with a command or an option that does not exist, with the nearest that does; else nothing."""
    command = arguments[0] if arguments else ""
    if not command or command.startswith("-"):
        return ""
    if command not in COMMANDS:
        return f"there is no command {command!r}{did_you_mean(command, COMMANDS)}; there are {', '.join(COMMANDS)}"
    if command == "train" and arguments[1:2] and not arguments[1].startswith("-"):
        from headfields.training.presets import PRIORS

        if arguments[1] in PRIORS:
            return f"{arguments[1]} is not trained on a capture; it is {PRIORS[arguments[1]]}"
    options = [f"--{name.replace('_', '-')}" for name in signature(_function(command)).parameters]
    for word in arguments[1:]:
        option = word.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option != "--help" and option not in options:
            if command == "compare":
                from headfields.compare import Study

                entry = option[2:].replace("-", "_")
                if entry in signature(Study).parameters:
                    return f"compare has no option {option}; {entry} is an entry of the study's file"
            return (
                f"{command} has no option {option}{did_you_mean(option, options)}; headfields {command} --help "
                "lists them"
            )
    return ""


def _one_line(error: Exception) -> str:
    """The message alone if the library raised the error, with the error's type if Python did."""
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        return (
            "error: out of memory: a number on the command line asks for more than this machine has, or other "
            f"programs hold it (--debug shows where: {text[:120]})"
        )
    expected = isinstance(error, CommandError | ValueError | FileNotFoundError | NotADirectoryError)
    return f"error: {text}" if expected else f"error: {type(error).__name__}: {text} (--debug shows where)"
