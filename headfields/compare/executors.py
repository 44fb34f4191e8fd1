"""Engines that run the cells of a study on other processes or machines: SLURM through submitit, and Dask."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

Engine = Literal["submitit", "dask"]


@contextlib.contextmanager
def executor_of(
    engine: Engine, out: Path | str, workers: int = 1, options: Mapping[str, Any] | None = None
) -> Iterator[Any]:
    """An executor for `run_study`, within a `with` block. The folder of the study has to be one that all machines see.

    Args:
        engine: `"submitit"`: jobs of SLURM where there is one, else processes of this machine. `"dask"`: a scheduler
            of Dask, else workers of this machine.
        out: folder of the study; logs of jobs go below it.
        workers: jobs of submitit at a time, or workers of Dask on this machine.
        options: submitit: parameters of a job, as `{"timeout_min": 60, "slurm_partition": "gpu"}`, and `"cluster":
            "local"` for processes of this machine. Dask: `{"address": "tcp://host:8786"}`, or arguments of
            `distributed.LocalCluster`.

    Raises:
        ModuleNotFoundError: the engine is not installed.
        ValueError: there is no such engine.
    """
    options = dict(options or {})
    if engine == "submitit":
        submitit = _imported("submitit")
        executor = submitit.AutoExecutor(folder=Path(out).resolve() / "jobs", cluster=options.pop("cluster", None))
        executor.update_parameters(**{"timeout_min": 24 * 60, **options})
        yield _Shipped(executor, workers)
    elif engine == "dask":
        distributed = _imported("distributed")
        address = options.pop("address", None)
        with contextlib.ExitStack() as stack:
            if address is None:
                own = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, **options}
                address = stack.enter_context(distributed.LocalCluster(**own))
            client = stack.enter_context(distributed.Client(address))
            yield _Shipped(client.get_executor(pure=False))  # its scheduler queues what it has no worker for
    else:
        raise ValueError(f"executor_of: engine is {engine!r}; expected 'submitit' or 'dask'")


def _imported(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is not installed; pip install 'headfields[cluster]' brings submitit and Dask"
        ) from error


class _Shipped:
    """Submits calls by value, with the folders that Python searches: a study's functions live beside its file.

    Attributes:
        limit: how many calls are submitted at a time.
    """

    def __init__(self, executor: Any, limit: int = 1 << 30) -> None:
        self._executor, self.limit = executor, limit

    def submit(self, function: Any, *arguments: Any) -> Any:
        import cloudpickle

        return self._executor.submit(_call, list(sys.path), cloudpickle.dumps((function, arguments)))


def _call(folders: list[str], payload: bytes) -> Any:
    import pickle

    sys.path.extend(folder for folder in folders if folder not in sys.path)
    function, arguments = pickle.loads(payload)
    return function(*arguments)
