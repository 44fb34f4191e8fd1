"""Many cheap cases in one test: what `pytest.mark.parametrize` would make hundreds of tests of."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests import annotation_checks


def table(names: str | tuple[str, ...], rows: Sequence[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `pytest.mark.parametrize`, but all rows run in one test, which tells every row that fails.

    For rows of milliseconds that share their fixtures; each has random numbers as a test of its own has them, a
    `tmp_path` within the test's, and an empty `capsys`.
    """
    columns = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    listed = [row.values if hasattr(row, "marks") else tuple(row) if len(columns) > 1 else (row,) for row in rows]
    assert listed and all(len(values) == len(columns) for values in listed)
    assert not any(getattr(row, "marks", ()) for row in rows), "a row with a mark is a test of its own"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            failed: list[tuple[str, BaseException]] = []
            for place, values in enumerate(listed):
                own = dict(fixtures)
                if "tmp_path" in own:
                    own["tmp_path"] = own["tmp_path"] / str(place)
                    own["tmp_path"].mkdir()
                if "capsys" in own:
                    own["capsys"].readouterr()
                torch.default_generator.manual_seed(0)
                annotation_checks.next_test()
                try:
                    test(**dict(zip(columns, values, strict=True)), **own)
                except (Exception, pytest.fail.Exception) as error:
                    failed.append((f"{dict(zip(columns, values, strict=True))}: {error}", error))
            if failed:
                told = "\n".join(text for text, _ in failed)
                raise AssertionError(f"{len(failed)} of {len(listed)} rows fail:\n{told}") from failed[0][1]

        signature = inspect.signature(test)
        kept = [parameter for name, parameter in signature.parameters.items() if name not in columns]
        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return run

    return decorate
