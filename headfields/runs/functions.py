"""Functions that a program passes to a run: which arguments they take, and a text that identifies them.

A run records the text, so that resuming it with another function is noticed. Code cannot be compared in general: the
text covers a function's bytecode, its constants, defaults, and the numbers and strings that it closes over or reads
from its module. Another version of Python may compile the same source to another text.
"""

import dataclasses
import dis
import functools
import hashlib
import inspect
import types
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["argument_count", "identity", "reads_argument"]


def argument_count(function: Callable[..., Any], least: int, most: int) -> int:
    """The largest number of positional arguments, from `least` to `most`, that a function takes.

    >>> from headfields.runs.functions import argument_count
    >>> argument_count(lambda rendering, batch: 0, 2, 3), argument_count(lambda *arguments: 0, 2, 3)
    (2, 3)

    Raises:
        TypeError: it takes none of these numbers.
    """
    try:
        signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):  # a function of an extension module without a signature
        return most
    for count in range(most, least - 1, -1):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count
    numbers = f"{least} to {most}" if least < most else str(least)
    raise TypeError(f"{identity(function)} takes the arguments {signature}; expected {numbers} positional arguments")


def reads_argument(function: Callable[..., Any], argument: int | str) -> bool:
    """Whether the code of a function mentions one of its arguments; True where that cannot be seen, as in `*arguments`.

    >>> from headfields.runs.functions import reads_argument
    >>> reads_argument(lambda x, step: x, 1), reads_argument(lambda x, step: x / step, 1)
    (False, True)

    Args:
        function: a function, a method, or an object that is called.
        argument: its place, or its name.
    """
    method: Any = function
    if isinstance(function, nn.Module):
        method = function.forward
    elif not inspect.isroutine(method):
        method = method.__call__
    code = getattr(inspect.unwrap(method), "__code__", None)
    if code is None:  # of an extension module
        return True
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if isinstance(argument, int):
        positional = names[int(inspect.ismethod(method)) : code.co_argcount]
        if argument >= len(positional):
            return bool(code.co_flags & inspect.CO_VARARGS)
        argument = positional[argument]
    elif argument not in names:
        return bool(code.co_flags & inspect.CO_VARKEYWORDS)
    mentioned = (each.argval for each in dis.get_instructions(code))
    return any(argument in each if isinstance(each, tuple) else argument == each for each in mentioned)


def identity(function: Any) -> str:
    """A text that is the same for the same function in another process, and another for most that differ.

    >>> from headfields.runs.functions import identity
    >>> identity(lambda x: x) == identity(lambda x: x), identity(lambda x: x) == identity(lambda x: 2 * x)
    (True, False)
    """
    if isinstance(function, functools.partial):
        given = [*map(identity, function.args), *(f"{k}={identity(v)}" for k, v in sorted(function.keywords.items()))]
        return f"partial({', '.join([identity(function.func), *given])})"
    if isinstance(function, types.MethodType):
        return f"{type(function.__self__).__qualname__}.{identity(function.__func__)}"
    if isinstance(function, types.FunctionType):
        return _function(function)
    if isinstance(function, type) or inspect.isroutine(function):
        return f"{function.__module__}.{function.__qualname__}"
    if dataclasses.is_dataclass(function) and " at 0x" in repr(function):
        values = {field.name: identity(getattr(function, field.name)) for field in dataclasses.fields(function)}
        return f"{type(function).__qualname__}({', '.join(f'{name}={text}' for name, text in values.items())})"
    if _is_plain(function) or function is None or dataclasses.is_dataclass(function):
        return repr(function)
    return type(function).__qualname__


def _function(function: types.FunctionType) -> str:
    digest = hashlib.sha256()
    for text in _content(function):
        digest.update(text.encode())
    return f"{function.__name__}#{digest.hexdigest()[:8]}"


def _content(function: types.FunctionType) -> list[str]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    values = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    names = [name for name in function.__code__.co_names if _is_plain(function.__globals__.get(name))]
    return [
        *_code(function.__code__),
        *(repr(value) for value in values if _is_plain(value)),
        *(f"{name}={function.__globals__[name]!r}" for name in names),
    ]


def _code(code: types.CodeType) -> list[str]:
    texts = [code.co_code.hex(), repr(code.co_names)]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            texts += _code(constant)
        elif isinstance(constant, frozenset):
            texts += sorted(map(repr, constant))  # the order of a set differs from process to process
        else:
            texts.append(repr(constant))
    return texts


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
