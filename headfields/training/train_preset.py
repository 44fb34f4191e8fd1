"""Training a preset on a capture in one call: what `headfields train` does, and its visible steps.

preset → recipe → `Trainer`: `preset_arguments` and `build` make the avatar, `recipe_of` finds sizes, losses and rates,
and `trainer_of` the trainer.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from headfields import data
from headfields.avatar.splat_avatar import load_avatar
from headfields.data.camera_axes import Convention
from headfields.data.live import LiveCapture
from headfields.runs.progress import NanLossError
from headfields.similar_names import did_you_mean
from headfields.training.idle_options import idle_options, refuse_idle
from headfields.training.live import LiveFrames
from headfields.training.opened_run import (
    Run,
    capture_options,
    check_moved,
    check_trainer_options,
    check_unchanged,
    contents_of,
    open_joined,
    options_before,
    start_or_resume,
    trainer_of,
)
from headfields.training.option_kinds import check_kinds
from headfields.training.presets import build, check_people, preset_arguments, preset_named
from headfields.training.processes import PeerError
from headfields.training.recipes import RecipeName, recipe_of

__all__ = ["train"]

_FIXED = ("model", "arguments", "mouth", "seed", "recipe", "fine_tune")
"""Entries of config.json that a resumed run cannot change."""

_SIZES = {
    "cpu": "sizes for minutes on a CPU; the recipe fast has those of the paper or of the released code",
    "fast": "the paper's or the released sizes; the recipe cpu has smaller ones",
    "released": "the authors' sizes and rates; the recipe fast has rates for minutes",
}
"""What a new run says of its recipe."""


def train(
    model: str,
    capture: Any,
    out: Path | str,
    *,
    minutes: float | int | None = None,
    steps: int | None = None,
    resume: bool = False,
    seed: int | None = None,
    recipe: RecipeName | None = None,
    arguments: Mapping[str, Any] | None = None,
    mouth: str | None = None,
    convention: Convention | None = None,
    memory_mb: int | float = 2048,
    device: torch.device | str = "auto",
    devices: int | Sequence[int] = 1,
    num_nodes: int = 1,
    callbacks: Sequence[Any] = (),
    loggers: Sequence[Any] = (),
    bar: bool = True,
    fine_tune: str | None = None,
    **options: Any,
) -> Run:
    """Trains a preset on a capture with its recipe: the function that `headfields train` calls, with the same bits.

    Its visible steps, for what it does not offer: `headfields.models`, `recipe_of(...).trainer_arguments(...)`,
    `Trainer`. The same seed on the same CPU gives the same weights, if the end is given in steps.

    Args:
        model: name of a preset of `headfields.models`: "insta", "monoavatar", "vp360", "gaussian_avatars", ...
        capture: a folder, or a capture that was opened; or a list of folders, each of another person on the same
            kind of mesh, for a preset that shares its networks between people (`people`).
        out: folder of the run: config.json, log.jsonl, images/, checkpoint/ and at the end avatar.safetensors.
        minutes, steps: ends training; both count from its start, over resumptions. One has to be given.
        resume: continue the run in `out`, with the model and options of its config.json. Its capture may lie at another
            path by now, if it holds the same.
        seed: of weights, frames and pixels; 0 if None. A resumed run keeps its own.
        recipe: "cpu", "fast" or "released", see `recipe_of`; None: by the device.
        arguments: of the preset, in place of the recipe's: `{"levels": 8}`.
        mouth: of a capture that is given as a folder, as in `load_capture`; None: the recipe's.
        convention: of the matrices in the files of a capture that is given as a folder, as in `load_capture`.
        memory_mb: memory for decoded frames, of a folder.
        device, devices, num_nodes, callbacks, loggers, bar: as in `Trainer`; callbacks are added to the recipe's.
        fine_tune: whether the tracking of the training frames is trained too: "none"; "rigid", the pose of the head;
            "all", also expression and joints, for captures that have a head's parameters (`FineTuning`). None: the
            recipe's: none, but of GaussianAvatars' `released` all where the capture has them.
        options: numbers in place of the recipe's: `rays`, `samples`, `frames`, `learning_rate`,
            `network_learning_rate`, `schedule`, `depth`, `depth_start`, `opacity`, `precision`, and `learning_rates`,
            rates of parts that have their own by the names of their groups. None is the recipe's.

    Returns:
        The `Run`, as `headfields.load_run` opens it: avatar, capture, `render`, `evaluate`; its `result` is the
        `FitResult`.

    Raises:
        ValueError: there is no such preset, recipe or argument, `out` holds a run and `resume` is false, or a resumed
            run was trained with other values.
        TypeError: there is no such option, or it is of another kind, as a text for a number.
    """
    if not isinstance(model, str):
        raise TypeError(f"train: model is {model!r}; expected the name of a preset, as 'insta'")
    model = model.replace("-", "_")
    preset_named(model)
    check_kinds(
        "train", ("callbacks", "loggers", "bar"), minutes=minutes, steps=steps, seed=seed, callbacks=callbacks,
        loggers=loggers, bar=bar, **options,
    )  # fmt: skip
    if isinstance(capture, list | tuple) and len(capture) == 1:
        capture = capture[0]
    check_people(model, len(capture) if isinstance(capture, list | tuple) else 1)
    folder, before = start_or_resume(out, resume, "train", "model")
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = recipe_of(model, recipe or before.get("recipe", "cpu" if before else None), device)
    training = _training_options(options, options_before(before), chosen)
    training |= _limits({"minutes": minutes, "steps": steps}, before.get("training", {}), chosen.steps)
    folder.check_writable()
    folder.check_pictures()
    source = _opened(capture, {"mouth": mouth, "convention": convention}, before, chosen.mouth, memory_mb)
    values = before.get("arguments") if before.get("model") == model and not arguments else None
    if values is None:
        values = preset_arguments(model, arguments or {}, source, chosen)
    config: dict[str, Any] = {
        "model": model,
        "arguments": values,
        "capture": _folder_of(capture),
        "capture_name": str(source.name),
        "head_frame": "keep" if getattr(source, "head_frame", None) is None else "normalize",
        "mouth": getattr(source, "mouth", mouth or before.get("mouth", chosen.mouth)),
        "seed": before.get("seed", 0) if seed is None else seed,
        "recipe": chosen.name,
        "training": training,
    }
    if (stated := convention or before.get("convention", "auto")) != "auto":
        config["convention"] = stated
    tuned = getattr(getattr(source, "recording", None), "head_arguments", None) is not None and chosen.fine_tunes
    config["fine_tune"] = mode = fine_tune or before.get("fine_tune", "all" if tuned and not before else "none")
    if mode != "none" and isinstance(source, LiveCapture):
        raise ValueError(
            f"train: fine_tune is {mode!r}, and frames join the capture while it trains; train it when it is whole"
        )
    check_moved("--resume", folder, before, config["capture"])
    grows = isinstance(source, LiveCapture)
    content = before.get("capture_content") if before or grows else contents_of(config["capture"])
    if content is not None:
        config["capture_content"] = content
    check_unchanged(folder, before, config, _FIXED)
    torch.manual_seed(config["seed"])
    if before and isinstance(source, LiveCapture) and folder.parts.exists():
        avatar = load_avatar(folder.parts)  # of the frames that there were
    else:
        avatar = build(model, values, source)
    refuse_idle("train", options, idle_options(chosen, avatar, training, training["steps"], source))
    idle = idle_options(chosen, avatar, training)  # whatever the end: a run may go on beyond it
    config["training"] = training = {name: value for name, value in training.items() if name not in idle}
    training["learning_rates"] = chosen.rates_of(avatar, training["learning_rates"])
    if not before:
        chosen.start(avatar, source)
    if isinstance(source, LiveCapture):
        callbacks = [LiveFrames(), *callbacks]
    further = {
        "out": out, "device": device, "devices": devices, "num_nodes": num_nodes, "loggers": loggers,
        "callbacks": callbacks, "bar": bar,
        "fine_tuning": chosen.fine_tuning.of_mode(mode),
    }  # fmt: skip
    trainer = trainer_of(chosen, avatar, source, training, config["seed"], further)
    trainer.config = {**config, "trainer": trainer.config["trainer"]}
    check_trainer_options(folder, before, trainer.config)
    if trainer.processes.is_first and not before:
        if resume:
            print(f"headfields: {folder.path} holds no run to resume; a new one starts", file=sys.stderr)
        print(f"{model}: recipe {chosen.name}, on {trainer.device} ({_SIZES[chosen.name]})", file=sys.stderr)
    return _fitted(trainer, training, resume, source)


def _fitted(trainer: Any, training: Mapping[str, Any], resume: bool, source: Any) -> Run:
    """The run after training; on the processes beside the first without a result."""
    is_first, result = trainer.processes.is_first, None
    try:
        result = trainer.fit(steps=training["steps"], minutes=training["minutes"], resume=resume)
    except (PeerError, NanLossError):
        if is_first:
            raise  # the others end quietly: the first one reports
    return Run(trainer.folder, trainer.config, source, device=trainer.device, result=result if is_first else None)


def _opened(
    capture: Any, given: Mapping[str, Any], before: Mapping[str, Any], usual: str, memory_mb: int | float
) -> Any:
    """The capture, opened as the run opened it before, or as the recipe has it; one that was opened stays as it is."""
    if not isinstance(capture, str | Path | list | tuple):
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"train: {name} is {value!r}, and the capture is open already; give it to load_capture(..., "
                    f"{name}=...)"
                )
        return capture
    treatment: Any = given["mouth"] or before.get("mouth", "close" if before else usual)
    if isinstance(capture, list | tuple):
        stated = given["convention"] or before.get("convention")
        options = {"mouth": treatment} | ({} if stated is None else {"convention": stated})
        joined = open_joined(capture, memory_mb, options)
        for line in joined.warnings:
            print(f"warning: {line}", file=sys.stderr)
        return joined
    head_frame: Any = capture_options(before)["head_frame"] if before else "auto"
    convention = given["convention"] or before.get("convention")
    stated = {} if convention is None else {"convention": convention}
    source = data.load_capture(
        Path(capture), memory_budget_mb=memory_mb, head_frame=head_frame, mouth=treatment, **stated
    )
    for line in source.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for line in getattr(source, "report", []):
        if line.startswith("head pose: taken out"):
            print(line, file=sys.stderr)
    return source


def _folder_of(capture: Any) -> str | list[str] | None:
    """The folder, or those of several captures, that the commands open again; None of a capture without one."""
    if isinstance(capture, list | tuple):
        return [str(Path(path).resolve()) for path in capture]
    path = capture if isinstance(capture, str | Path) else getattr(capture, "path", None)
    if path is None or (path is not capture and not Path(path).is_dir()):
        return None
    return str(Path(path).resolve())


def _training_options(given: Mapping[str, Any], before: Mapping[str, Any], recipe: Any) -> dict[str, Any]:
    """Each option from the call, else from the run, else from the recipe."""
    unknown = [name for name in given if name not in (*recipe.options, "learning_rates")]
    if unknown:
        known = (*recipe.options, "learning_rates")
        raise TypeError(f"train: no option {unknown[0]!r}{did_you_mean(unknown[0], known)}; it has {', '.join(known)}")
    chosen = {
        name: before.get(name, default) if given.get(name) is None else given[name]
        for name, default in recipe.options.items()
    }
    for name in ("depth", "depth_start", "opacity", "samples"):
        if not chosen[name] >= 0:
            raise ValueError(f"train: {name} is {chosen[name]}; expected 0 (none) or more")
    chosen["learning_rates"] = {
        **recipe.trainer.get("learning_rates", {}),
        **before.get("learning_rates", {}),
        **(given.get("learning_rates") or {}),
    }
    return chosen


def _limits(requested: Mapping[str, Any], before: Mapping[str, Any], made_for: int | None) -> dict[str, Any]:
    """The limits of training from the call, else from the run."""
    for name, limit in requested.items():
        if limit is not None and not 0 < limit < math.inf:
            raise ValueError(f"train: {name} is {limit}; expected more than 0")
    limits = dict(requested)
    if all(limit is None for limit in limits.values()):
        limits = {name: before.get(name) for name in limits}
    if all(limit is None for limit in limits.values()):
        raise ValueError(f"train: pass a limit: minutes 10 or steps {made_for or 20000}")
    return limits
