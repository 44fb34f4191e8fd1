"""Which preset made an avatar, with which arguments: what the config.json of a run names."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from torch import nn

from headfields.avatar.composition import Composition
from headfields.records import Template

P = ParamSpec("P")
A = TypeVar("A", bound=Composition)

__all__ = ["Preset", "preset", "preset_of"]


@dataclass(frozen=True)
class Preset:
    """The function of `headfields.models` that made an avatar.

    Attributes:
        name: its name.
        arguments: the arguments by name, without the template.
        template: the template.
        modules: the avatar's parts as they were made; with others in their place it is no longer the preset.
    """

    name: str
    arguments: dict[str, Any]
    template: Any
    modules: tuple[nn.Module, ...]


def preset(function: Callable[P, A]) -> Callable[P, A]:
    """Decorator of a preset, a function whose first parameter is the template: its avatars know it."""

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> A:
        if args:
            _check_template(function.__name__, args[0])
        avatar = function(*args, **kwargs)
        template, *_ = given = inspect.signature(function).bind(*args, **kwargs).arguments
        arguments = {name: value for name, value in given.items() if name != template}
        made_by = Preset(function.__name__, arguments, given[template], tuple(avatar.modules()))
        object.__setattr__(avatar, "made_by", made_by)
        return avatar

    return build


def expression_width_of(preset: str, template: Template, given: int | None, most: int) -> int:
    """The number of expression values that a preset's parts read.

    Args:
        preset: its name, for the message.
        template: the template, which may know how many its states have.
        given: the preset's argument `expression_width`; None: those of the template, at most `most`.
        most: the preset's usual number.

    Raises:
        ValueError: the template's states have fewer, or neither says how many there are.
    """
    known = template.expression_width
    if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 0):
        raise TypeError(f"{preset}: expression_width is {given!r}; expected a whole number, 0 or more")
    if given is None:
        if known is None:
            raise ValueError(
                f"{preset}: expression_width is None, and the template does not say how many expression values its "
                "states have; pass expression_width=E (capture.template and head.template() know it)"
            )
        return min(known, most)
    if known is not None and given > known:
        raise ValueError(
            f"{preset}: expression_width is {given}, and the states of the template's head or capture have {known} "
            "expression values; pass no more than that, or leave it out"
        )
    return given


def _check_template(name: str, template: Any) -> None:
    """Raises TypeError unless the template is one, with where to get it."""
    if isinstance(template, Template):
        return
    if isinstance(template, str | Path):
        remedy = "headfields.data.load_capture(...).template of the capture in a folder"
    elif isinstance(getattr(type(template), "template", None), property | functools.cached_property):
        remedy = "its template: capture.template"
    elif hasattr(template, "template"):
        remedy = "its template: head.template()"
    else:
        remedy = "a headfields.Template, as capture.template"
    kind = f"the path {str(template)!r}" if isinstance(template, str | Path) else f"of type {type(template).__name__}"
    raise TypeError(f"{name}: template is {kind}; pass {remedy}")


def preset_of(avatar: nn.Module) -> Preset | None:
    """The preset that made the avatar; None if none did, or if its parts are no longer those of the preset."""
    made_by: Preset | None = getattr(avatar, "made_by", None)
    if made_by is None or len(made_by.modules) != len(modules := tuple(avatar.modules())):
        return None
    return made_by if all(a is b for a, b in zip(made_by.modules, modules, strict=True)) else None
