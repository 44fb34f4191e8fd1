"""Presets that `headfields train` accepts: their names, their arguments for the help text, and building one.

A preset is a function of `headfields.models` whose first parameter is the capture's template. The help text reads their
signatures from the source, because importing them would import PyTorch.
"""

import ast
import difflib
import importlib.util
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from headfields.cli.errors import CommandError

PRIORS = {"mononphm": "a prior of heads: train it on scans with headfields train-prior, and fit it to a capture with "
          "headfields track"}  # fmt: skip
"""Models that `headfields train` does not train, and what does."""


def presets() -> dict[str, Callable[..., Any]]:
    """The presets by name."""
    from headfields import models

    functions = {name: getattr(models, name) for name in models.__all__ if inspect.isfunction(getattr(models, name))}
    return {name: function for name, function in functions.items() if next(_parameters(function)).name == "template"}


def preset(model: str) -> Callable[..., Any]:
    """A preset by name.

    Raises:
        CommandError: there is none of that name; the message lists those there are.
    """
    if model in PRIORS:
        raise CommandError(f"{model} is not trained on a capture; it is {PRIORS[model]}")
    known = presets()
    if model not in known:
        raise CommandError(
            f"there is no model {model!r}{did_you_mean(model, known)}; headfields train has {', '.join(sorted(known))}"
        )
    return known[model]


def listing() -> str:
    """One line per preset for the help text: its name and the arguments that --set takes, with their defaults."""
    folder = Path(importlib.util.find_spec("headfields").submodule_search_locations[0], "models")  # type: ignore[union-attr, index]
    lines = []
    for file in sorted(folder.glob("[!_]*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(ast.unparse(each) == "preset" for each in node.decorator_list):
                names = [argument.arg for argument in node.args.args[1:]]
                defaults = [ast.unparse(default) for default in node.args.defaults]
                bare = [None] * (len(names) - len(defaults))
                given = [
                    name if default is None else f"{name}={default}"
                    for name, default in zip(names, [*bare, *defaults], strict=True)
                ]
                lines.append(f"{node.name}: {' '.join(given)}")
    return "\n".join(lines)


def arguments_for(model: str, overrides: list[str], capture: Any, recipe: Any) -> dict[str, Any]:
    """Arguments for a preset: those of a recipe, and `name=value` texts, checked against its signature.

    Six parameters of a preset have defaults of their own: `expression_width` is at most what the capture offers,
    `pose_width` what it records, `frames` is the number of its frames, `sizes` is "cpu" in the recipe "cpu" and else
    "paper", `shell` is a centimeter more than what the mattes show, if that is more than the preset's, and `hair` is
    what they show.

    Raises:
        CommandError: there is no such preset or argument, a text is not `name=value`, or the value has another type.
    """
    from headfields.data.matter import matter_extent

    own = parse_overrides(model, overrides)
    arguments = {**recipe.arguments, **own}
    if "small" in own and "sizes" not in own:  # MonoAvatar's older word for sizes
        arguments.pop("sizes", None)
    parameters = {parameter.name: parameter for parameter in _parameters(preset(model))}
    offered = getattr(capture, "expression_width", None)
    if "expression_width" in parameters and "expression_width" not in own and offered is not None:
        usual = arguments.get("expression_width", parameters["expression_width"].default)
        arguments["expression_width"] = min(usual, offered)
    if "frames" in parameters:
        arguments.setdefault("frames", len(capture))
    if "shell" in parameters and "shell" not in arguments:
        needed = round(matter_extent(capture) + 0.01, 3)
        if needed > parameters["shell"].default:
            arguments["shell"] = needed
            print(
                f"{model}: a shell of {100 * needed:.1f} cm, because the mattes show matter {100 * needed - 1:.1f} cm "
                "off the mesh; --set shell=0.045 keeps the preset's",
                file=sys.stderr,
            )
    if "hair" in parameters and "hair" not in arguments:
        arguments["hair"] = round(matter_extent(capture), 3)
    if "pose_width" in parameters:
        arguments.setdefault("pose_width", pose_width(capture))
    if "sizes" in parameters and not {"sizes", "small"} & arguments.keys():
        arguments["sizes"] = "cpu" if recipe.name == "cpu" else "paper"
    return arguments


def pose_width(capture: Any) -> int:
    """Number of pose coefficients that the states of a capture have, 3 for each joint; 0 for none."""
    pose = capture.state([0]).pose if len(capture) else None
    return 0 if pose is None else pose[0].numel()


def parse_overrides(model: str, overrides: list[str]) -> dict[str, Any]:
    """The values of `name=value` texts, each of the type that the preset declares; raises as `arguments_for`."""
    function = preset(model)
    names = [parameter.name for parameter in _parameters(function)][1:]
    hints = typing.get_type_hints(function)
    arguments: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise CommandError(f"--set got {text!r}; expected name=value")
        if name not in names:
            near = did_you_mean(name, names)
            raise CommandError(f"--set {text}: {model} has no argument {name!r}{near}; it has {', '.join(names)}")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            arguments[name] = value
        if not _has_type(arguments[name], hints.get(name, Any)):
            raise CommandError(f"--set {text}: {model} takes {_type_text(hints[name])} for {name}, not {value!r}")
    return arguments


def build(model: str, arguments: dict[str, Any], capture: Any) -> Any:
    """The avatar of a preset on a capture's template."""
    return preset(model)(capture.template, **arguments)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` if a known name is near, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    return iter(inspect.signature(function).parameters.values())


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value of `ast.literal_eval` has the annotated type; a tensor or a part never comes from a text."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_has_type(value, choice) for choice in inner)
    if origin is Literal:
        return value in inner
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(_has_type(entry, inner[0]) for entry in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint in (bool, str, type(None)) and isinstance(value, hint)


def _type_text(hint: Any) -> str:
    """The annotated type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_text(choice) for choice in inner)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is not None and issubclass(origin, Sequence):
        return "a list, as [1,2],"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", type(None): "None"}
    return words.get(hint, "a tensor or a part (in Python only)")
