"""A run of training, opened: its avatar, its capture with the run's own options, its configuration and figures."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headfields import data, decoders, deformers, encoders, renderers  # noqa: F401  (registers their parts)
from headfields.avatar import splat_avatar
from headfields.data.content import capture_digest
from headfields.data.joined import JoinedCaptures
from headfields.parts import Rendering
from headfields.records.device_copy import device_named
from headfields.runs import checkpoint
from headfields.runs.folder import RunFolder
from headfields.training.evaluation import evaluate
from headfields.training.frames import device_of, render_frame
from headfields.training.presets import build
from headfields.training.recipes import recipe_of
from headfields.training.results import FitResult
from headfields.training.run_config import check_config
from headfields.training.trainer import Trainer

__all__ = ["Run", "avatar_of_run", "check_unchanged", "load_run", "options_before", "start_or_resume", "trainer_of"]


class Run:
    """A run of `headfields train`, `headfields.training.train` or a `Trainer`; `load_run` opens one.

    Attributes:
        folder: its `RunFolder`: where which file is.
        config: its config.json.
        result: the `FitResult` of `headfields.training.train`; None of a run that was opened.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Mapping[str, Any],
        capture: Any = None,
        memory_mb: int | float = 2048,
        device: torch.device | str = "auto",
        result: FitResult | None = None,
    ) -> None:
        self.folder, self.config, self.result = folder, dict(config), result
        self._capture, self._memory, self._device = capture, memory_mb, str(device)
        self._own: Mapping[str, Any] | None = None  # config.json, where `config` has another folder of the capture

    def __repr__(self) -> str:
        made_by = self.config["model"] or "avatar of your own"
        return f"Run({str(self.folder.path)!r}: {made_by}, step {self.step}, {self.config.get('capture')})"

    @functools.cached_property
    def avatar(self) -> Any:
        """The trained avatar, or the averaged weights of the last checkpoint where that is newer; read when it is first
        asked for.

        Raises:
            FileNotFoundError: nothing is trained yet.
            ValueError: the file is damaged.
        """
        device = device_named("load_run", self._device)
        return avatar_of_run(self.folder, self.config, lambda: self.capture).to(device).eval()

    @property
    def capture(self) -> Any:
        """What it was trained on, opened with the run's own options: the head's frame and the mouth.

        Raises:
            ValueError: the run was trained on a capture that has no folder; pass `load_run(..., capture=...)`.
        """
        if self._capture is None:
            self._capture = _capture_of_run(self.folder, self.config, self._memory)
        return self._capture

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl: figures by step (`step`, `loss`, `terms`, `psnr`, ...) and events (`event`)."""
        return self.folder.read_log()

    @property
    def step(self) -> int:
        """The last step in the log; 0 before the first."""
        return max((int(line["step"]) for line in self.log if isinstance(line.get("step"), int)), default=0)

    def render(self, frame: int | Int[Tensor, ""], background: float | int = 1.0) -> Rendering:
        """The avatar in a frame of the capture, by that frame's camera: a `Rendering` of (H, W, ...).

        Args:
            frame: index of the frame.
            background: gray in [0, 1] behind it.
        """
        return render_frame(self.avatar, self.capture, int(frame), background, device_of(self.avatar))

    def evaluate(self, split: str = "test", **options: Any) -> dict[str, Any]:
        """Figures on a split, as `headfields evaluate` measures them.

        Args:
            split: "test", "val", "train" or "all".
            options: further arguments of `headfields.training.evaluate`.
        """
        return evaluate(self.avatar, self.capture, split, device=device_of(self.avatar), **options)

    def trainer(self, **options: Any) -> Trainer:
        """A `Trainer` that continues the run: `run.trainer().fit(steps=5000, resume=True)`.

        Args:
            options: arguments of `Trainer` in place of the run's, as `bar=False`.

        Raises:
            ValueError: the run is of a `Trainer` of your own, whose losses no file holds, or of `headfields distill`,
                which trains on what a teacher draws; or `load_run` was given a folder that holds another capture.
        """
        if "distilled" in self.config:
            raise ValueError(
                f"load_run: it was distilled from {self.config.get('teacher')}, which draws its images: "
                f"continue it with headfields distill {self.config.get('teacher')} --out {self.folder.path} --resume "
                "--minutes N"
            )
        if self.config["model"] is None or "training" not in self.config:
            raise ValueError(
                f"load_run: {self.folder.path} was trained by a Trainer of your own, whose losses and callbacks are in "
                "your script; continue it with Trainer(run.avatar, run.capture, losses, out=...).fit(..., resume=True)"
            )
        if self._own is not None:
            check_moved("load_run", self.folder, self._own, self.config.get("capture"))
        recipe = recipe_of(self.config["model"], self.config.get("recipe", "cpu"))
        tuned = recipe.fine_tuning.of_mode(self.config.get("fine_tune", "none"))
        arguments = {"fine_tuning": tuned, "out": self.folder.path, "device": device_of(self.avatar), **options}
        trainer = trainer_of(recipe, self.avatar, self.capture, self.config["training"], self.config["seed"], arguments)
        trainer.config = {**self.config, "trainer": trainer.config["trainer"]}
        return trainer


def load_run(
    path: Path | str, capture: Any = None, memory_mb: int | float = 2048, device: torch.device | str = "auto"
) -> Run:
    """Opens the folder of a run: its avatar, its capture, its figures; the run renders, evaluates and goes on.

    Args:
        path: the folder of the run.
        capture: in place of the run's own, which may have moved: a folder (or a list of those of several people),
            opened with the run's options, or a capture. `run.trainer()` goes on with a folder that holds the same, and
            refuses another.
        memory_mb: memory for decoded frames.
        device: where the avatar goes; "auto" is CUDA where there is one.

    Raises:
        FileNotFoundError: there is no run in the folder, or nothing is trained yet.
        ValueError: it is no run of training, or a file of it is damaged.

        >>> run = hf.load_run("runs/me")  # doctest: +SKIP
        >>> run.render(0).rgb, run.evaluate("test")["psnr"]  # doctest: +SKIP
        >>> run.trainer().fit(minutes=20, resume=True)  # doctest: +SKIP
    """
    folder = RunFolder(path)
    config = folder.config()
    if "model" not in config:
        raise ValueError(
            f"load_run: {folder.path} is no run of headfields train; headfields.priors.load_prior reads a prior, and a "
            "tracker continues the run of its own folder"
        )
    check_config(folder.path, config)
    own = config
    if isinstance(capture, str | Path | list | tuple):
        folders = [str(Path(each).resolve()) for each in ([capture] if isinstance(capture, str | Path) else capture)]
        config, capture = {**config, "capture": folders[0] if len(folders) == 1 else folders}, None
    run = Run(folder, config, capture, memory_mb, device)
    run._own = own
    _ = run.avatar  # now, and not at its first use
    return run


def _capture_of_run(folder: RunFolder, config: Mapping[str, Any], memory_mb: int | float) -> Any:
    if config.get("capture") is None:
        raise ValueError(
            f"load_run: {folder.path} was trained on a capture that has no folder, {config.get('capture_name')!r}; "
            "pass it as capture="
        )
    if isinstance(config["capture"], list):
        return open_joined(config["capture"], memory_mb, config)
    return data.load_capture(Path(config["capture"]), memory_budget_mb=memory_mb, **capture_options(config))


def open_joined(folders: Sequence[str | Path], memory_mb: int | float, config: Mapping[str, Any]) -> JoinedCaptures:
    """Several captures as one, each of another person, within one budget, with the mouth and the convention of a run.

    Raises:
        ValueError: meshes or expressions are not of one kind.
    """
    stated = {"convention": config["convention"]} if "convention" in config else {}
    each = memory_mb / len(folders)
    captures = [data.load_capture(Path(path), memory_budget_mb=each, mouth=config.get("mouth", "close"), **stated)
                for path in folders]  # fmt: skip
    return JoinedCaptures(captures, identities=range(len(captures)))


def capture_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which a run opened its capture, for `load_capture`."""
    normalized = config.get("head_frame") == "normalize"
    stated = {"convention": config["convention"]} if "convention" in config else {}
    return {"head_frame": "normalize" if normalized else "keep", "mouth": config.get("mouth", "close"), **stated}


def avatar_of_run(run: RunFolder, config: Mapping[str, Any], capture: Any) -> Any:
    """The trained avatar of a run, or the averaged weights of its last checkpoint if that is newer.

    Args:
        run, config: the run.
        capture: function that opens its capture, for a preset that no file holds.

    Raises:
        FileNotFoundError: the run has neither.
    """
    finished = run.avatar.exists()
    newer = [path for path in run.checkpoints if not finished or path.stat().st_mtime > run.avatar.stat().st_mtime]
    if finished and not newer:
        return splat_avatar.load_avatar(run.avatar)
    if not newer:
        raise FileNotFoundError(f"{run.path} has neither an avatar nor a checkpoint yet; headfields train makes them")
    if run.parts.exists():
        avatar = splat_avatar.load_avatar(run.parts)
    elif config["model"] is None:
        raise FileNotFoundError(
            f"{run.parts} is gone, and config.json of the run names no preset that makes the avatar"
        )
    else:
        avatar = build(config["model"], config["arguments"], capture())
    checkpoint.load_newest(newer, lambda path: checkpoint.load_weights(path, avatar))
    return avatar


def trainer_of(
    recipe: Any, avatar: Any, capture: Any, training: Mapping[str, Any], seed: int, arguments: Mapping[str, Any]
) -> Trainer:
    """The trainer of a recipe.

    Args:
        recipe, avatar, capture, seed: what is trained, on what, how.
        training: values of the recipe's options and `learning_rates`, as in config.json, which leaves out those that
            reach nothing.
        arguments: further arguments of `Trainer`; callbacks are added to the recipe's.
    """
    options = {name: training.get(name, default) for name, default in recipe.options.items()}
    own = recipe.trainer_arguments(avatar, capture, **options)
    own["learning_rates"] = recipe.scaled_rates(recipe.rates_of(avatar, training["learning_rates"]), capture)
    callbacks = [*own.pop("callbacks", ()), *arguments.get("callbacks", ())]
    return Trainer(avatar, capture, **{"seed": seed, **own, **arguments, "callbacks": callbacks})


def start_or_resume(out: Path | str, resume: bool, command: str, entry: str) -> tuple[RunFolder, dict[str, Any]]:
    """The folder of a run to train, and its config.json, empty for a new run.

    A run may have been killed before its first checkpoint; its config.json alone makes it a run.

    Args:
        out: the folder.
        resume: whether to continue the run in it.
        command, entry: the command, and an entry of config.json that only its runs have.

    Raises:
        ValueError: the folder holds a run, and `resume` is false; or a run of another command.
    """
    run = RunFolder(out)
    if not run.checkpoints and not (run.path / "config.json").exists():
        return run, {}
    if not resume:
        raise ValueError(
            f"{run.path} holds a run already; --resume continues it (resume=True in Python), another --out starts a "
            "new one"
        )
    before = run.config()
    if entry not in before:
        raise ValueError(f"--resume: {run.path} holds no run of headfields {command}; pass another --out")
    check_config(run.path, before)
    if before[entry] is None or before.get("capture", "") is None:
        what = "an avatar that no preset makes" if before[entry] is None else "a capture that has no folder"
        raise ValueError(
            f"--resume: {run.path} was trained in Python with {what}; resume it there: "
            "Trainer(..., out=...).fit(..., resume=True)"
        )
    return run, before


def options_before(before: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that is resumed, by their names in the recipe; of one of a `Trainer` from its arguments."""
    if "training" in before or "trainer" not in before:
        return dict(before.get("training", {}))
    trainer, weights = before["trainer"], before["trainer"]["loss_weights"]
    rates = ("learning_rate", "network_learning_rate", "schedule", "precision")
    return {
        "rays": trainer["rays_per_step"],
        "samples": trainer["samples_per_step"] or 0,
        "frames": trainer["frames_per_step"],
        **{name: trainer[name] for name in rates if trainer[name] is not None},
        "learning_rates": trainer.get("learning_rates", {}),
        **{name: weights.get(name, 0.0) for name in ("depth", "opacity")},
    }


def check_trainer_options(run: RunFolder, before: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuses to resume a run of a `Trainer` with options that no recipe gives."""
    if "training" in before or "trainer" not in before:
        return
    now, then = config["trainer"], before["trainer"]
    changed = [f"{name}={then[name]!r} (now {now[name]!r})" for name in now if name in then and then[name] != now[name]]
    if changed:
        raise ValueError(
            f"--resume: {run.path} was trained in Python with {', '.join(changed)}; resume it there: "
            "Trainer(..., out=...).fit(..., resume=True)"
        )


def contents_of(capture: str | Sequence[str] | None) -> str | list[str] | None:
    """Hashes of what the folders of a capture hold, as config.json has them of the run's own; None without a folder."""
    folders = [capture] if isinstance(capture, str) else list(capture or ())
    if not folders or not all(Path(folder).is_dir() for folder in folders):
        return None
    hashes = [capture_digest(folder, whole=False) for folder in folders]
    return hashes[0] if isinstance(capture, str) else hashes


def check_moved(owner: str, run: RunFolder, before: Mapping[str, Any], capture: str | Sequence[str] | None) -> None:
    """Refuses to go on with a run on folders that are not its own, unless they hold the same.

    Args:
        owner: who refuses.
        run, before: the run and its config.json.
        capture: the folders now.

    Raises:
        ValueError: they hold something else.
    """
    if before.get("capture") in (None, capture) or capture is None:
        return
    recorded = before.get("capture_content")
    if recorded is None:
        raise ValueError(
            f"{owner}: {run.path} was trained with capture {before['capture']}, not {capture}, and does not record "
            "what that held. If it is the same, go on in Python with one that you open: headfields.load_run(RUN, "
            "capture=headfields.data.load_capture(...)).trainer()"
        )
    if contents_of(capture) != recorded:
        raise ValueError(
            f"{owner}: {run.path} was trained with capture {before['capture']}, and {capture} holds something else: a "
            "file was changed, added or is missing. Copy the capture as it was; for another one start a new run "
            "(another --out)"
        )


def check_unchanged(run: RunFolder, before: Mapping[str, Any], config: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuses to resume a run under another value of one of these entries of its config.json."""
    for name in names:
        if name in before and before[name] != config[name]:
            raise ValueError(
                f"--resume: {run.path} was trained with {name} {before[name]!r}, not {config[name]!r}; "
                "pass the value it was trained with, or another --out"
            )
