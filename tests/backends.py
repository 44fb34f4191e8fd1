"""The backends that a test of an operation runs on."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

from headfields.ops import dispatch

BACKENDS = [
    pytest.param(
        "native", marks=pytest.mark.skipif(dispatch.native is None, reason="the compiled module is not installed")
    ),
    "warp",
    pytest.param("cuda", marks=pytest.mark.cuda),
]
"""For `pytest.mark.parametrize("backend", BACKENDS)`."""


@contextlib.contextmanager
def running_on(backend: str) -> Iterator[torch.device]:
    """The device to put tensors on, with the backend chosen within the block."""
    if backend == "cuda":
        yield torch.device("cuda")
        return
    with dispatch.use_cpu_backend(backend):  # type: ignore[arg-type]
        yield torch.device("cpu")
