"""Fixtures of the tests of encoders."""

from tests.ops.conftest import device  # noqa: F401
