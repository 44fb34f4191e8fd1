"""Fixtures of the tests of operations."""

import pytest

from tests.backends import BACKENDS, running_on


@pytest.fixture(params=BACKENDS)
def device(request):
    """A device to put tensors on, with the backend of the parameter serving it."""
    with running_on(request.param) as chosen:
        yield chosen
