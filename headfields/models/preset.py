"""Which preset made an avatar, with which arguments: what the config.json of a run names."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from torch import nn

from headfields.avatar.composition import Composition
from headfields.part_base import Part
from headfields.parts import Decoder, Deformer, Encoder, Renderer, Sampler
from headfields.records import Template
from headfields.similar_names import did_you_mean

P = ParamSpec("P")
A = TypeVar("A", bound=Composition)

__all__ = ["Preset", "checked_arguments", "preset", "preset_of", "unknown_argument"]


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
        template, *_ = given = _arguments(function, args, kwargs)
        _check_template(function.__name__, given[template])
        avatar = function(*args, **kwargs)
        arguments = {name: value for name, value in given.items() if name != template}
        made_by = Preset(function.__name__, arguments, given[template], tuple(avatar.modules()))
        object.__setattr__(avatar, "made_by", made_by)
        return avatar

    return build


def checked_arguments(function: Callable[P, A]) -> Callable[P, A]:
    """Decorator of a function that composes an avatar and is no preset of a capture: wrong arguments get the remedy."""

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> A:
        _arguments(function, args, kwargs)
        return function(*args, **kwargs)

    return build


def _arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, the template first; a TypeError has the remedy."""
    signature = inspect.signature(function)
    template, *_ = signature.parameters
    unknown = [name for name in kwargs if name not in signature.parameters]
    if unknown:
        raise TypeError(unknown_argument(function, unknown[0]))
    if not args and template not in kwargs:
        raise TypeError(f"{function.__name__}: {template} is missing; pass a headfields.Template, as capture.template")
    try:
        return dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise TypeError(f"{function.__name__}: {error}; it takes {', '.join(signature.parameters)}") from None


def unknown_argument(function: Callable[..., Any], name: str) -> str:
    """What to tell who gave a preset an argument that it does not have: the nearest that it has, or else the parts
    which it is made of that have one of the name.

    Args:
        function: the preset.
        name: of the argument.
    """
    known = list(inspect.signature(function).parameters)
    said = f"{function.__name__} has no argument {name!r}"
    owners = _owners(function, name)
    if owners:
        part, noun = owners[0]
        slot = "renderer=hf.renderers.VolumeRenderer(...)" if noun == "sampler" else f"{noun}=..."
        remedy = (
            f"; it is one of {' and '.join(f'{cls.__name__}, the {word}' for cls, word in owners)}: build "
            f"{_room(part)}.{part.__name__}({name}=...) and put it into the avatar with avatar.replace({slot})"
        )
    else:
        remedy = did_you_mean(name, known) or (
            "; rates, losses and budgets are the trainer's (headfields.training.train, Trainer)"
        )
    return f"{said}{remedy}; it has {', '.join(known[1:])}"


_NOUNS: Mapping[str, type[Part]] = {
    "deformer": Deformer, "encoder": Encoder, "decoder": Decoder, "sampler": Sampler, "renderer": Renderer
}  # fmt: skip


def _owners(function: Callable[..., Any], name: str) -> list[tuple[type[Part], str]]:
    """The parts that a preset's own lines name and whose constructors have this argument, each with its noun."""
    used = inspect.getclosurevars(inspect.unwrap(function)).globals.values()
    parts = [value for value in used if isinstance(value, type) and issubclass(value, Part)]
    return [
        (part, noun)
        for part in parts
        for noun, base in _NOUNS.items()
        if issubclass(part, base) and name in inspect.signature(part).parameters
    ]


def _room(part: type[Part]) -> str:
    """Where a user finds the part: hf.encoders of headfields.encoders.hash_grid."""
    return "hf." + part.__module__.split(".")[1]


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
