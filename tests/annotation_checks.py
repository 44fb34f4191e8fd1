"""The checks of annotations in a test run, without what `jaxtyping.jaxtyped` repeats at each call.

`jaxtyped` binds the arguments of each call for axes that are computed from them (`"{n}"`), which the library has none
of, and checks arguments a second time with the result: most of the time of many tests, and of each import. Here
beartype checks arguments and result around the function itself, in one context of axes, with the same verdicts.

A function is checked at its first three calls of each test: loops of steps call the same few functions thousands of
times, which took a fifth of the run. `HEADFIELDS_CHECKS=every` checks every call, as `make test-all` does.
"""

import contextlib
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_UNCHANGED = jaxtyping.jaxtyped
_AXES = jaxtyping.jaxtyped("context")
_CHECK = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


_CALLS = -1 if os.environ.get("HEADFIELDS_CHECKS") == "every" else 3
_calls: dict[types.CodeType, int] = {}
_left_out = jaxtyping.config.jaxtyping_disable
_RECORDS: list[tuple[type, Any, Any]] = []
"""Dataclasses with their own `__init__` and with the one that checks."""


def install() -> None:
    """What `--jaxtyping-packages` decorates from now on has these checks."""
    jaxtyping.jaxtyped = jaxtyped


def next_test() -> None:
    """From now on the first calls of every function are checked again."""
    _calls.clear()


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Without the checks, as users' programs run; `torch.compile` traces records only with their own `__init__`."""
    global _left_out
    before, _left_out = _left_out, True
    jaxtyping.config.update("jaxtyping_disable", True)
    for record, own, _ in _RECORDS:
        record.__init__ = own  # type: ignore[misc]
    try:
        yield
    finally:
        for record, _, checked in _RECORDS:
            record.__init__ = checked  # type: ignore[misc]
        _left_out = before
        jaxtyping.config.update("jaxtyping_disable", before)


def jaxtyped(function: Any = None, *, typechecker: Any = None) -> Any:
    """The function or class with its checks; `typechecker` makes those of generators, whose items stay unchecked."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if inspect.isclass(function):
        own = vars(function).get("__init__")
        if hasattr(function, "__dataclass_fields__") and own is not None and not hasattr(own, "__wrapped__"):
            function.__init__ = _checked(own)
            _RECORDS.append((function, own, function.__init__))
        return function
    if isinstance(function, (classmethod, staticmethod)):
        return type(function)(jaxtyped(function.__func__, typechecker=typechecker))
    if not inspect.isfunction(function) or inspect.isgeneratorfunction(function):
        return _UNCHANGED(function, typechecker=typechecker)
    return _checked(function)


def _checked(function: Any) -> Any:
    if function.__annotations__ in ({}, {"return": None}) or hasattr(function, "__no_type_check__"):
        return function  # nothing to check; and what a record does after its `__init__` stays traceable
    check, code = None, function.__code__  # which all functions of one definition within another share
    local = "<locals>" in function.__qualname__

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if _left_out:  # a global: torch.compile cannot trace jaxtyping's configuration everywhere
            return function(*args, **kwargs)
        nonlocal check
        calls = _calls.get(code, 0)
        if calls == _CALLS or (calls and check is None and local and _CALLS > 0):  # made anew, as one that was checked
            return function(*args, **kwargs)
        _calls[code] = calls + 1
        if check is None:  # at the first call, when all names can be resolved, and never for most functions
            check = _checking(function)
        return check(*args, **kwargs)

    return wrapper


def _checking(function: Any) -> Callable[..., Any]:
    """The function with the checks of its arguments and its result."""
    resolved = _with_resolved_annotations(function)
    check: Callable[..., Any] = _CHECK(resolved)
    if not any(_names_axes(annotation) for annotation in resolved.__annotations__.values()):
        return check

    def in_own_axes(*args: Any, **kwargs: Any) -> Any:
        with _AXES:
            return check(*args, **kwargs)

    return in_own_axes


def _with_resolved_annotations(function: Any) -> Callable[..., Any]:
    """A copy whose annotations are types; names that are imported for type checkers alone stand for anything."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__, copy.__module__, copy.__qualname__ = (
        function.__kwdefaults__, function.__module__, function.__qualname__,
    )  # fmt: skip
    copy.__annotations__ = {name: _resolved(value, function) for name, value in function.__annotations__.items()}
    return copy


def _resolved(annotation: Any, function: Any) -> Any:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation

    def holder() -> None: ...

    holder.__annotations__ = {"value": annotation}
    try:
        return typing.get_type_hints(holder, function.__globals__, include_extras=True)["value"]
    except Exception:
        return Any


def _names_axes(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(_names_axes(part) for part in typing.get_args(annotation) if not isinstance(part, str))
