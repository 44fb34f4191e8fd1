"""Building, finding and loading what a run is about, for the subcommands."""

import ast
import inspect
import sys
from pathlib import Path
from typing import Any, Literal

import torch

from headfields.cli.errors import CommandError
from headfields.data.capture import Mouth
from headfields.runs.folder import RunFolder


def choose_device(name: str) -> torch.device:
    """A torch device by name; "auto" is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CommandError(f"--device is {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CommandError(f"--device is {name!r}, but torch sees no CUDA device; headfields doctor tells more")
    return device


HeadFrame = Literal["auto", "keep", "normalize"]


def open_capture(path: Path, memory: int, head_frame: HeadFrame = "auto", mouth: Mouth = "close") -> Any:
    """The capture in a folder; `head_frame` and `mouth` as `headfields.data.load_capture` takes them."""
    from headfields.data import load_capture

    capture = load_capture(path, memory_budget_mb=memory, head_frame=head_frame, mouth=mouth)
    for line in capture.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for line in getattr(capture, "report", []):
        if line.startswith("head pose: taken out"):
            print(line, file=sys.stderr)
    return capture


def head_frame(config: dict[str, Any]) -> HeadFrame:
    """How a run opened its capture for training; runs that do not say had it as it is on disk."""
    return "normalize" if config.get("head_frame") == "normalize" else "keep"


def capture_of(config: dict[str, Any], other: Path | None, memory: int) -> Any:
    """A run's own capture, opened as for training, or another one, with the same mouth."""
    mouth = config.get("mouth", "close")
    if other is not None:
        return open_capture(other, memory, mouth=mouth)
    return open_capture(Path(config["capture"]), memory, head_frame(config), mouth)


def model_arguments(model: str, overrides: list[str], capture: Any, device: torch.device) -> dict[str, Any]:
    """Arguments for a preset from `name=value` texts, checked against its signature.

    What the preset has and is not given: `expression_width` is at most what the capture offers, `frames` the number of
    its frames, and `small` is true on a CPU.

    Raises:
        CommandError: there is no such preset or argument, or a value is no Python literal.
    """
    parameters = inspect.signature(_preset(model)).parameters
    arguments: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise CommandError(f"--set got {text!r}; expected name=value")
        if name not in list(parameters)[1:]:
            raise CommandError(
                f"--set {text}: {model} has no argument {name!r}; it has {', '.join(list(parameters)[1:])}"
            )
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    offered = getattr(capture, "expression_width", None)
    if "expression_width" in parameters and "expression_width" not in arguments and offered is not None:
        arguments["expression_width"] = min(parameters["expression_width"].default, offered)
    if "frames" in parameters:
        arguments.setdefault("frames", len(capture))
    if "small" in parameters and "small" not in arguments:
        arguments["small"] = device.type == "cpu"
        if arguments["small"]:
            print(f"{model}: sizes for a CPU; --set small=False takes the paper's", file=sys.stderr)
    return arguments


def build(model: str, arguments: dict[str, Any], capture: Any) -> Any:
    """The avatar of a preset on a capture's template."""
    return _preset(model)(capture.template, **arguments)


def open_run(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """A run folder and its config."""
    run = RunFolder(path)
    return run, run.config()


def load_avatar(run: RunFolder, config: dict[str, Any], memory: int) -> Any:
    """The trained avatar of a run; from the averaged weights of its last checkpoint if it has not ended yet.

    Raises:
        CommandError: the run has neither.
    """
    from headfields import decoders, deformers, encoders, renderers  # noqa: F401  (so that their parts are known)
    from headfields.avatar import Avatar
    from headfields.runs import checkpoint

    finished = run.avatar.exists()
    newer = [path for path in run.checkpoints if not finished or path.stat().st_mtime > run.avatar.stat().st_mtime]
    if finished and not newer:
        return Avatar.load(run.avatar)
    if not newer:
        raise CommandError(f"{run.path} has neither an avatar nor a checkpoint yet; headfields train makes them")
    avatar = build(config["model"], config["arguments"], capture_of(config, None, memory))
    checkpoint.first_whole(newer, lambda path: checkpoint.load_weights(path, avatar))
    return avatar


def spread(frames: list[int], limit: int | None) -> list[int]:
    """At most `limit` of the frames, evenly spread."""
    if limit is None or limit >= len(frames):
        return frames
    if limit < 1:
        raise CommandError(f"--limit is {limit}; expected at least 1")
    return [frames[i * len(frames) // limit] for i in range(limit)]


def _preset(model: str) -> Any:
    from headfields import models

    presets = {name: getattr(models, name) for name in models.__all__ if inspect.isfunction(getattr(models, name))}
    if model not in presets:
        raise CommandError(f"there is no model {model!r}; headfields.models has {', '.join(sorted(presets))}")
    return presets[model]
