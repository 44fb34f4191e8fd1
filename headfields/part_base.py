"""`Part`, a building block of an avatar: its constructor's arguments are recorded, so that any composition of parts, a
user's own among them, can be saved to one file and built again; and `SizedPart`, which is built once, for the sizes of
its first avatar, and keeps its weights in every further avatar of these sizes."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from headfields.records import HeadState, Template
from headfields.records.device_copy import Movable

part_classes: dict[str, type["Part"]] = {}
"""Every subclass of `Part`, by `module.ClassName`."""


class Part(Movable):
    """A building block of an `Avatar`. Subclasses are looked up by name when an avatar is loaded.

    Attributes:
        needs: the fields of `HeadState` (or names of codes) that the part reads.
        code_widths: the number of values that the part reads of codes, by name, where it knows it when it is built; an
            avatar checks its latent tables against it.
        arguments: the constructor's arguments, by parameter name.
        rate_group: name under which `headfields.training.Trainer` takes one learning rate for all parameters of the
            part; None: each parameter has the rate of tables or of networks, by its own name.
        composed: whether the part is in an avatar.
    """

    needs: tuple[str, ...] = ()
    code_widths: Mapping[str, int] = MappingProxyType({})
    rate_group: str | None = None
    arguments: dict[str, Any]
    composed: bool = False
    _required: ClassVar[tuple[str, ...]] = ()
    """Methods that a subclass has to define."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        part_classes[f"{cls.__module__}.{cls.__qualname__}"] = cls
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls)  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        self.arguments = {}

    def prepare(self, state: HeadState) -> Any:
        """Values that depend on the frames alone, computed once per call and passed to `forward` as `prepared`."""
        return None

    def at_step(self, step: int) -> None:
        """Called on every part of an avatar, nested ones included, before each training step; `step` counts from 0.

        For schedules (coarse-to-fine bands, a late start). Keep their values in buffers, so that checkpoints and saved
        avatars have them. Does nothing by default.
        """

    def adopt_sizes(self, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Called with the tensors of a checkpoint, by their names in this part, before their values are loaded.

        A part whose numbers of rows training changes takes theirs (`headfields.networks.Gaussians`), in the optimizer
        too. Does nothing by default.
        """


def _recording(cls: type[Part]) -> Callable[..., None]:
    """The constructor of a class, which records its arguments: that of the part's own class ends last."""
    constructor = cls.__init__
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def construct(self: Part, *args: Any, **kwargs: Any) -> None:
        arguments = _constructor_arguments(type(self).__name__, signature, self, args, kwargs)
        constructor(self, *args, **kwargs)
        self.arguments = arguments

    return construct


_MODULE = re.compile(r"\b(?:\w+\.)+(?=[A-Z])")
"""The modules before the names of classes."""


def _constructor_arguments(
    name: str, signature: inspect.Signature, part: Part, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a constructor by name; a TypeError says which are missing or unknown, and what it takes."""
    try:
        return _by_name(signature, part, args, kwargs)
    except TypeError as error:
        parameters = list(signature.parameters.values())[1:]
        if any(isinstance(value, Template) for value in args) and "faces" in signature.parameters:
            remedy = "it takes template.canonical_vertices and template.faces, not the template"
        else:
            takes = ", ".join(map(str, parameters)) or "none"
            remedy = f"it takes {_MODULE.sub('', takes)}"
        raise TypeError(f"{name}: {error}; {remedy}") from None


def _by_name(
    signature: inspect.Signature, part: Part, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """All arguments of a call, defaults too, but for `self`."""
    bound = signature.bind(part, *args, **kwargs)
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


class SizesDisagreeError(ValueError):
    """A part is to be built for other sizes than those it has been built for; `asker` is who gives the other ones."""

    def __init__(self, part: "SizedPart", built_for: str, asked_for: str) -> None:
        super().__init__(part, built_for, asked_for)
        self.part, self.built_for, self.asked_for = part, built_for, asked_for
        self.asker = DIRECT_CALL

    def __str__(self) -> str:
        name = type(self.part).__name__
        return (
            f"{name} was built with {self.built_for} by {self.part.built_by}, and {self.asker} asks for "
            f"{self.asked_for}; a part is built once and keeps its weights: make a new {name} for the other sizes, or "
            "keep them the same"
        )


DIRECT_CALL = "a direct call of build"


class SizedPart(Part):
    """A part that is built for the sizes of an avatar, once: a later `build` for the same sizes changes nothing.

    Attributes:
        built_for: the arguments of `build`, by name; None before.
        built_by: which parts of its first avatar gave them.
    """

    built_for: dict[str, Any] | None = None
    built_by: str = DIRECT_CALL

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        build = getattr(cls, "build", None)  # the class's own, or one inherited from a class that is no part
        if build is not None and not hasattr(build, "built_once"):
            cls.build = _built_once(build)  # type: ignore[attr-defined]


def _built_once(build: Callable[..., None]) -> Callable[..., None]:
    """`build` for a first call; for a later one, a check that its sizes are the same.

    A `super().build` within `build` is a first call, too: the part has not been built before the outer one ends.
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def built_once(self: SizedPart, *args: Any, **kwargs: Any) -> None:
        sizes = {name: _plain(value) for name, value in _by_name(signature, self, args, kwargs).items()}
        if self.built_for is None:
            try:
                build(self, *args, **kwargs)
            except BaseException:
                self.built_for = None  # what `super().build` has set
                raise
            self.built_for = sizes
            return
        differ = [name for name, size in sizes.items() if not _agree(self.built_for.get(name), size)]
        if differ:
            was, asked = (", ".join(f"{name}={_rounded(each[name])}" for name in differ)
                          for each in (self.built_for, sizes))  # fmt: skip
            raise SizesDisagreeError(self, was, asked)

    built_once.built_once = True  # type: ignore[attr-defined]
    return built_once


def _plain(value: Any) -> Any:
    """The value, a tensor as nested lists: sizes are compared, printed and copied."""
    return value.tolist() if isinstance(value, Tensor) else value


def _agree(first: Any, second: Any) -> bool:
    """Whether two sizes are one; boxes, up to a thousandth of their longest side. None is any size."""
    if first is None or second is None:
        return True
    if not (isinstance(first, list) and isinstance(second, list)):
        return bool(first == second)
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    return a.shape == b.shape and (not a.numel() or bool((a - b).abs().max() <= 1e-3 * (a.max() - a.min())))


def _rounded(size: Any) -> Any:
    return (
        [_rounded(entry) for entry in size]
        if isinstance(size, list)
        else round(size, 4)
        if isinstance(size, float)
        else size
    )


def undefined_methods(part: Part) -> list[str]:
    """Names of the methods that the part's noun requires and that its class leaves out."""
    return [
        name
        for base in type(part).__mro__
        for name in vars(base).get("_required", ())
        if getattr(type(part), name) is vars(base)[name] and name not in vars(part)
    ]


def undefined(part: Part, method: str) -> NoReturn:
    """Raises NotImplementedError: what the nouns do for a method that a subclass has to define."""
    raise NotImplementedError(f"{type(part).__name__}.{method} is not defined")
