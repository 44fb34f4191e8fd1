"""Presets on the command line: the help text of their arguments, and texts `name=value` for them.

The help text reads the signatures from the source, because importing them would import PyTorch.
"""

import ast
import importlib.util
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union

from headfields.cli.errors import CommandError


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


def parse_overrides(model: str, overrides: list[str]) -> dict[str, Any]:
    """The values of `name=value` texts, each of the type that the preset declares; and checked.

    Raises:
        ValueError: there is no such preset.
        CommandError: a text is not `name=value`, names no argument, or its value has another type.
    """
    from headfields.models.preset import unknown_argument
    from headfields.training.presets import parameters_of, preset_named

    function = preset_named(model)
    names = [parameter.name for parameter in parameters_of(function)][1:]
    hints = typing.get_type_hints(function)
    arguments: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise CommandError(f"--set got {text!r}; expected name=value")
        if name not in names:
            raise CommandError(f"--set {text}: {unknown_argument(function, name)}")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            arguments[name] = value
        if not _has_type(arguments[name], hints.get(name, Any)):
            raise CommandError(f"--set {text}: {model} takes {_type_text(hints[name])} for {name}, not {value!r}")
    return arguments


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
