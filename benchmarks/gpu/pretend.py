"""Parts of a run on the tests' pretend device, where they can be tried without a GPU."""

from tests.pretend_cuda.device import PretendCuda  # isort: skip, before torch

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import headfields.training.trainer
from tests.pretend_cuda.programs import Fabric


class _LoggingFabric(Fabric):
    def __init__(self, precision: str, loggers: Sequence[Any]) -> None:
        super().__init__(precision)
        self.loggers = list(loggers)

    def log_dict(self, metrics: dict[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(metrics, step)


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Within the block `cuda:0` is the pretend device, on which trainers train in one process."""
    launch = headfields.training.trainer.start_processes
    headfields.training.trainer.start_processes = lambda *given: (_LoggingFabric(given[3], given[-1]), None)
    try:
        with PretendCuda():
            yield
    finally:
        headfields.training.trainer.start_processes = launch
