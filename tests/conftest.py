"""Shared fixtures. The test run checks every annotation of the package at each call (`--jaxtyping-packages`)."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Runs a test without the annotation checks, as users' programs run: for `torch.compile` and error messages."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
