"""Checkpoints: everything that training needs to go on as if it had never stopped, in one safetensors file.

The file holds parameters, persistent buffers, the moving average, the optimizer's moments and the states of the
random generators; its header holds the step, the elapsed seconds and the rest as JSON. Nothing is pickled, so a file
from a stranger can be opened. It is written beside its final place and moved there when it is whole on disk: a crash
in the middle leaves the last checkpoint as it was.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from headfields.files.safetensors import BrokenFileError, read_safetensors, write_safetensors
from headfields.runs.ema import ExponentialMovingAverage
from headfields.runs.progress import Progress

FORMAT = 1
Result = TypeVar("Result")


def save(
    path: Path | str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: ExponentialMovingAverage | None,
    random: Mapping[str, Tensor],
    progress: Progress,
    previous: Path | None = None,
) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: where it goes; its folder must exist.
        module: its parameters and persistent buffers.
        optimizer: whose parameters are parameters of `module`.
        ema: the moving average, if there is one.
        random: named uint8 states of random generators.
        progress: where training stands.
        previous: where the file that stands at `path` now is kept.

    Raises:
        OSError: it cannot be written; what stands at `path` and `previous` is as it was.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in _module_tensors(module).items():
        tensors[f"module/{name}"] = tensor
    if ema is not None:
        for name, tensor in ema.average.items():
            tensors[f"ema/{name}"] = tensor
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name}/{key}"] = value
    for name, tensor in random.items():
        tensors[f"random/{name}"] = tensor
    header = {"format": FORMAT, "progress": asdict(progress), "ema": ema is not None}
    write_safetensors(path, tensors, {"headfields.checkpoint": json.dumps(header)}, previous)


def size(module: nn.Module, ema: bool) -> int:
    """About how many bytes a checkpoint takes: parameters, buffers, two moments and the average."""
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    return sum(t.numel() * t.element_size() for t in _module_tensors(module).values()) + trained * (3 if ema else 2)


def load(
    path: Path | str, module: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage | None
) -> tuple[Progress, dict[str, Tensor]]:
    """Reads a checkpoint into `module`, `optimizer` and `ema`; all is checked before anything is changed.

    Returns:
        Where training stood, and the states of the random generators.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenFileError: it is cut short, or no safetensors file.
        ValueError: it is not a checkpoint of this format, or its names or shapes are not those of `module`.
    """
    tensors, header, progress = _read(path)
    parts: dict[str, dict[str, Tensor]] = {"module": {}, "ema": {}, "optimizer": {}, "random": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        parts.setdefault(kind, {})[rest] = tensor
    own = _module_tensors(module)
    _check_match(path, "tensors", own, parts["module"])
    if ema is not None and header.get("ema"):
        _check_match(path, "averages", ema.average, parts["ema"])
    parameters = dict(module.named_parameters())
    _check_moments(path, parameters, parts["optimizer"])

    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(parts["module"][name])
        if ema is not None:
            ema.load(parts["ema"] if header.get("ema") else {name: parameters[name] for name in ema.average})
    optimizer.state.clear()
    fused = {id(p) for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for entry, tensor in parts["optimizer"].items():
        name, _, key = entry.rpartition("/")
        parameter = parameters[name]
        if id(parameter) in trained:
            # Adam counts steps on the host unless it is fused
            device = parameter.device if key != "step" or id(parameter) in fused else torch.device("cpu")
            optimizer.state[parameter][key] = tensor.to(device)
    return progress, parts["random"]


def load_newest(paths: Sequence[Path], reader: Callable[[Path], Result]) -> tuple[Result, list[tuple[Path, str]]]:
    """What `reader` makes of the first file that can be read, and why those before it cannot.

    Args:
        paths: checkpoints, the newest first.
        reader: `load` or `load_weights` with the other arguments filled in.

    Raises:
        FileNotFoundError: no paths.
        BrokenFileError: none of them can be read.
        ValueError: the first that can belongs to another model, or is of another format.
    """
    broken: list[tuple[Path, str]] = []
    for path in paths:
        try:
            return reader(path), broken
        except BrokenFileError as error:
            broken.append((path, str(error)))
    if not broken:
        raise FileNotFoundError("there is no checkpoint")
    reasons = "; ".join(reason for _, reason in broken)
    raise BrokenFileError(f"no checkpoint can be read: {reasons}, or remove them to start anew")


def load_weights(path: Path | str, module: nn.Module) -> Progress:
    """Reads parameters and buffers alone, averaged where there is an average: for looking at a run that goes on.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or belongs to another model.
    """
    tensors, _, progress = _read(path)
    found = {name.removeprefix("module/"): t for name, t in tensors.items() if name.startswith("module/")}
    own = _module_tensors(module)
    _check_match(path, "tensors", own, found)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors.get(f"ema/{name}", found[name]))
    return progress


def _read(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any], Progress]:
    tensors, header = read_safetensors(path, "headfields.checkpoint")
    kind = header.get("format") if isinstance(header, dict) else header
    if kind != FORMAT:
        raise ValueError(f"{path} is a checkpoint of format {kind}; this version reads format {FORMAT}")
    try:
        return tensors, header, Progress(**header["progress"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is a checkpoint whose header does not say where training stood ({error})") from error


def _module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, each once, if a part stands in two places, by the first of its names."""
    found: dict[str, Tensor] = dict(module.named_parameters())
    every = {id(p) for p in found.values()}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in every:
            every.add(id(tensor))
            found[name] = tensor
    return found


def _check_match(path: Path | str, what: str, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"{path} belongs to another model: {what} it lacks: {_listing(missing)}; {what} the model lacks: "
            f"{_listing(unknown)}. Build the model with the arguments it was trained with"
        )
    for name, tensor in own.items():
        if tensor.shape != found[name].shape:
            raise ValueError(
                f"{path} belongs to another model: {name} has shape {tuple(found[name].shape)} there and "
                f"{tuple(tensor.shape)} in the model. Build the model with the arguments it was trained with"
            )


def _check_moments(path: Path | str, parameters: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
    for entry, tensor in moments.items():
        name, _, key = entry.rpartition("/")
        if name not in parameters:
            raise ValueError(
                f"{path} belongs to another model: it has optimizer state for {name}, which the model lacks"
            )
        if key != "step" and tensor.shape != parameters[name].shape:
            raise ValueError(
                f"{path}: the optimizer state {entry} has shape {tuple(tensor.shape)}; "
                f"its parameter has {tuple(parameters[name].shape)}"
            )


def _listing(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "none"
