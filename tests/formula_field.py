"""A field for tests that define a formula: its other methods fail when they are called."""

from collections.abc import Callable
from typing import Any

from headfields.parts import Field


def _unexpected(name: str) -> Callable[..., Any]:
    def method(self: Field, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"{type(self).__name__}.{name} was called, and the test does not define it")

    return method


FormulaField = type("FormulaField", (Field,), {name: _unexpected(name) for name in Field.__abstractmethods__})
