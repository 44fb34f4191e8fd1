"""The test run checks annotations: with the verdicts of jaxtyping's own decorator, and in the library."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, Int, TypeCheckError
from torch import Tensor

import headfields as hf
from tests import annotation_checks
from tests.tables import table

DECORATORS = {
    "jaxtyping's": partial(annotation_checks._UNCHANGED, typechecker=beartype),
    "the test run's": partial(annotation_checks.jaxtyped, typechecker=beartype),
}


def lengths(points: Float[Tensor, "n 3"], weights: Float[Tensor, "n"] | None = None, *, scale: float = 1.0) -> Any:
    return scale * points.norm(dim=-1) * (1 if weights is None else weights)


def cut(points: Float[Tensor, "n 3"], rows: int) -> Float[Tensor, "n 3"]:
    return points[:rows]


def total(*parts: Float[Tensor, "n"], **named: Int[Tensor, "n"]) -> "Float[Tensor, '1']":
    return (sum(parts) + sum(named.values())).sum()[None]


def later(record: "Pair") -> "NameForTypeCheckersAlone":
    return record.left


def rows(points: Float[Tensor, "n 3"]) -> Iterator[Float[Tensor, "3"]]:
    yield from points


@dataclass
class Pair:
    left: Float[Tensor, "n"]
    right: Float[Tensor, "n"]


CASES: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], bool]] = [
    (lengths, (torch.ones(2, 3),), {}, True),
    (lengths, (torch.ones(2, 3), torch.ones(2)), {"scale": 2.0}, True),
    (lengths, (torch.ones(2, 3), torch.ones(1)), {}, False),  # broadcasts, but its axis is another
    (lengths, (torch.ones(2, 3, dtype=torch.int64),), {}, False),
    (lengths, (torch.ones(2, 3),), {"scale": "2"}, False),
    (cut, (torch.ones(2, 3), 2), {}, True),
    (cut, (torch.ones(2, 3), 1), {}, False),  # the result disagrees with the argument
    (total, (torch.ones(2), torch.ones(2)), {"more": torch.ones(2, dtype=torch.int64)}, True),
    (total, (torch.ones(2), torch.ones(1)), {}, False),
    (total, (torch.ones(2),), {"more": torch.ones(2)}, False),
    (later, (Pair(torch.ones(1), torch.ones(1)),), {}, True),
    (later, (3,), {}, False),
    (rows, (torch.ones(2, 3),), {}, True),
    (rows, (torch.ones(2),), {}, False),
]


@table("decorator", DECORATORS)
@table(("function", "arguments", "named", "fits"), CASES)
def test_verdicts(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any], fits: bool, decorator: str
) -> None:
    checked = DECORATORS[decorator](function)
    if not fits:
        with pytest.raises(TypeCheckError):
            checked(*arguments, **named)
        return
    out, expected = checked(*arguments, **named), function(*arguments, **named)
    assert (
        torch.equal(torch.stack([*out]), torch.stack([*expected])) if function is rows else torch.equal(out, expected)
    )


@pytest.mark.parametrize("decorator", DECORATORS)
def test_classes(decorator: str) -> None:
    @DECORATORS[decorator]
    @dataclass
    class Ray:
        origin: Float[Tensor, "3"]
        direction: Float[Tensor, "3"]

        @DECORATORS[decorator]
        def at(self, distance: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
            return self.origin + distance[:, None] * DECORATORS[decorator](lengths)(self.direction[None])

        @classmethod
        @DECORATORS[decorator]
        def upwards(cls, origin: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
            return origin

    assert Ray(torch.zeros(3), torch.ones(3)).at(torch.ones(5)).shape == (5, 3)  # an inner call has its own axis n
    for wrong in (
        lambda: Ray(torch.zeros(3), torch.ones(2)),
        lambda: Ray(torch.zeros(3), torch.ones(3)).at(torch.ones(5, 1)),
        lambda: Ray.upwards(torch.ones(1)),
    ):
        with pytest.raises(TypeCheckError):
            wrong()


def test_the_library_is_checked() -> None:
    for wrong in (
        lambda: hf.ops.linear_from_srgb(torch.ones(2, dtype=torch.int64)),
        lambda: hf.ops.linear_from_srgb([0.5]),
        lambda: hf.records.Camera.look_at((0, 0, 1), (0, 0, 0), size=(8, 8), fov="20"),
    ):
        with pytest.raises(TypeCheckError):
            wrong()


def test_a_function_is_checked_at_its_first_calls_of_each_test(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = torch.ones(2, 1), 2
    for calls in (2, -1):
        monkeypatch.setattr(annotation_checks, "_CALLS", calls)
        checked = annotation_checks.jaxtyped(cut, typechecker=beartype)
        for _ in range(2):  # tests
            for _ in range(2):
                with pytest.raises(TypeCheckError):
                    checked(*wrong)
            if calls == 2:
                assert checked(*wrong).shape == (2, 1)
            annotation_checks.next_test()


def test_checks_can_be_left_out(unchecked: None) -> None:
    with pytest.raises(TypeError, match="linear_from_srgb: color has dtype"):  # the library's own words
        hf.ops.linear_from_srgb(torch.zeros(1, dtype=torch.int64))
