"""Loggers of Lightning Fabric: the metrics of log.jsonl, and the pictures, as other programs read them.

A logger is an object, such as `lightning_fabric.loggers.CSVLogger(...)`, or a name: `"csv"` (RUN/logs/csv/metrics.csv),
`"tensorboard"` (RUN/logs/tensorboard) or `"wandb"` (Weights & Biases). When a run is resumed, a logger by name goes on
with the same files, without the steps that are taken again; so does a `CSVLogger` with a fixed version, which on its
own would delete them.
"""

import csv
import importlib
import importlib.util
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headfields.runs.folder import RunFolder, writing
from headfields.runs.progress import Progress

_PACKAGES = {"csv": (), "tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Any of these packages has to be installed."""
_LIGHTNING = {"pytorch_lightning": "pytorch_lightning.loggers", "lightning": "lightning.pytorch.loggers"}


def check_loggers(loggers: Sequence[Any], folder: RunFolder | None) -> None:
    """Checks loggers before training.

    Raises:
        ValueError: an unknown name, or a name without a run folder.
        ModuleNotFoundError: the package of a name is not installed.
        TypeError: an object that is no logger.
    """
    for logger in loggers:
        if not isinstance(logger, str):
            if not callable(getattr(logger, "log_metrics", None)):
                raise TypeError(
                    f"Trainer: loggers has a {type(logger).__name__}; expected one of Lightning Fabric, such as "
                    f"lightning_fabric.loggers.CSVLogger('logs'), or a name: {', '.join(map(repr, _PACKAGES))}"
                )
            continue
        if logger not in _PACKAGES:
            raise ValueError(f"Trainer: loggers has {logger!r}; expected one of {', '.join(map(repr, _PACKAGES))}")
        if folder is None:
            raise ValueError(f"Trainer: the logger {logger!r} writes to the run folder; pass out= to Trainer")
        needs: list[tuple[str, ...]] = [_PACKAGES[logger]] + ([tuple(_LIGHTNING)] if logger == "wandb" else [])
        for packages in needs:
            if packages and not any(map(importlib.util.find_spec, packages)):
                install = {"wandb": "wandb pytorch-lightning"}.get(logger, packages[0])
                raise ModuleNotFoundError(
                    f"Trainer: the logger {logger!r} needs the package {packages[0]}; pip install {install}"
                )


class Loggers:
    """The loggers of a run, on process 0; with none, every method does nothing.

    Args:
        fabric: the Fabric object that has the loggers given as objects.
        names: the loggers given by name, made when the first fit begins.
        folder: the run folder.
    """

    def __init__(self, fabric: Any, names: Sequence[str], folder: RunFolder | None) -> None:
        self._fabric, self._names, self._folder = fabric, list(names), folder
        self._opened = False

    def open(self, progress: Progress) -> None:
        """Makes the loggers by name; a run that is resumed goes on with their files."""
        if not self._opened:
            for logger in self._fabric.loggers:
                self._continue_csv(logger, progress)
            for name in self._names:
                self._fabric.loggers.append(self._named(name, progress))
            self._opened = True

    def metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Logs metrics by name."""
        if self._fabric.loggers:
            self._fabric.log_dict(metrics, step=step)

    def picture(self, step: int, image: Float[Tensor, "h w 3"], psnr: float) -> None:
        """Logs a picture, where the logger can, and its PSNR."""
        self.metrics(step, {"validation/psnr": psnr})
        for logger in self._fabric.loggers:
            pixels = image.detach().clamp(0, 1).cpu().numpy()
            if hasattr(logger, "log_image"):
                logger.log_image(key="validation/picture", images=[pixels], step=step)
            elif hasattr(logger.experiment, "add_image"):
                logger.experiment.add_image("validation/picture", pixels, step, dataformats="HWC")

    def save(self) -> None:
        """Writes what is still in memory."""
        for logger in self._fabric.loggers:
            with writing(Path(getattr(logger, "log_dir", None) or ".")):
                logger.save()

    def close(self, succeeded: bool) -> None:
        """Ends a call of `fit`; a further one goes on."""
        for logger in self._fabric.loggers:
            logger.finalize("success" if succeeded else "failed")

    def _named(self, name: str, progress: Progress) -> Any:
        assert self._folder is not None
        place: dict[str, Any] = {"root_dir": self._folder.path, "name": "logs", "version": name}
        if name == "csv":
            from lightning_fabric.loggers import CSVLogger

            logger: Any = CSVLogger(**place)
            self._continue_csv(logger, progress)
            return logger
        if name == "tensorboard":
            from lightning_fabric.loggers import TensorBoardLogger

            if progress.step:
                place["purge_step"] = progress.step + 1  # hides the steps that are taken again
            return TensorBoardLogger(**place)
        module = next(module for package, module in _LIGHTNING.items() if importlib.util.find_spec(package))
        loggers = importlib.import_module(module)
        run_id = progress.extra.setdefault("wandb_id", uuid.uuid4().hex[:8])
        folder = self._folder.path / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return loggers.WandbLogger(
            project="headfields", name=self._folder.path.name, save_dir=folder, id=run_id, resume="allow"
        )

    def _continue_csv(self, logger: Any, progress: Progress) -> None:
        """Keeps the rows up to the present step of a `CSVLogger`, which deletes its file when it opens it."""
        from lightning_fabric.loggers import CSVLogger

        if not isinstance(logger, CSVLogger) or not progress.step:
            return
        path = Path(logger.log_dir) / "metrics.csv"
        rows = _rows(path) if path.exists() else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logger.experiment  # noqa: B018
        for step, metrics in rows:
            if step <= progress.step:
                logger.log_metrics(metrics, step)
        logger.save()


def _rows(path: Path) -> list[tuple[int, dict[str, Tensor | float]]]:
    """Step and metrics of the rows of a CSV file that are whole."""
    rows = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                step = int(row.pop("step"))
                metrics: dict[str, Tensor | float] = {name: float(text) for name, text in row.items() if text != ""}
                rows.append((step, metrics))
            except (TypeError, ValueError, KeyError):
                continue
    return rows
