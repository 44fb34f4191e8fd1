"""The examples in docstrings (`>>>`) run and give what they show."""

import doctest
import importlib
import pkgutil

import pytest

import headfields

MODULES = [
    module.name
    for module in pkgutil.walk_packages(headfields.__path__, "headfields.")
    if not module.name.rpartition(".")[2].startswith("_") and ".kernels" not in module.name
]


def examples() -> list[doctest.DocTest]:
    """Every docstring that has an example, of functions, classes and methods."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for name in MODULES for test in finder.find(importlib.import_module(name), name)]
    return [test for test in tests if test.examples]


LONG = ("headfields.mesh.isosurface.isosurface", "headfields.mesh.unwrapping.variance_lost")


@pytest.mark.parametrize(
    "example",
    [pytest.param(test, id=test.name, marks=[pytest.mark.slow] if test.name in LONG else []) for test in examples()],
)
def test_an_example_gives_what_it_shows(example: doctest.DocTest, unchecked: None) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report: list[str] = []
    runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)
