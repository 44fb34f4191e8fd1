"""Checkpoints: the complete state of a training, in one safetensors file, so that a resumed run equals an unbroken one.

The file holds parameters, persistent buffers, the moving average, the optimizer's moments and the states of the
random generators; its header holds the progress as JSON. Nothing is pickled, so a file from a stranger can be opened.
It is written under a temporary name and moved into place once it is complete on disk: a crash in the middle leaves the
last checkpoint as it was.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from headfields.files.reading import brief, reading
from headfields.files.safetensors import BrokenFileError, read_safetensors, write_safetensors
from headfields.files.versions import FileFormat
from headfields.runs.ema import ExponentialMovingAverage
from headfields.runs.progress import Progress

FORMAT = FileFormat(
    "headfields.checkpoint", "a checkpoint", 2, "resume with the version that trained it, or start a new run"
)
_TRACKING = "tracking."
"""What the names of corrections of the tracking begin with: `headfields.training.fine_tuning.TRACKING`."""
_OF_PARAMETER_SHAPE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
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
        path: path of the file; its folder must exist.
        module: its parameters and persistent buffers.
        optimizer: optimizer of the parameters of `module`.
        ema: the moving average, if there is one.
        random: states of random generators (uint8), by name.
        progress: progress of training.
        previous: path to which an existing file at `path` is moved.

    Raises:
        OSError: it cannot be written; the files at `path` and `previous` stay as they were.
        TypeError: the optimizer has a state that is neither a tensor nor a number, or not of a parameter.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in _module_tensors(module).items():
        tensors[f"module/{name}"] = tensor
    if ema is not None:
        for name, tensor in ema.average.items():
            tensors[f"ema/{name}"] = tensor
    moments, numbers, on_host = _optimizer_state(module, optimizer)
    tensors |= moments
    for name, tensor in random.items():
        tensors[f"random/{name}"] = tensor
    header = {
        "progress": asdict(progress), "ema": ema is not None,
        "optimizer": {
            "class": _class_name(optimizer), "numbers": numbers, "on_host": on_host, "tensors": len(moments),
        },
    }  # fmt: skip
    write_safetensors(path, tensors, {FORMAT: {**header, "checksum": checksum(tensors, header)}}, previous)


def checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> int:
    """CRC-32 of names, dtypes, shapes and bytes of the tensors and of the header's JSON.

    A flipped bit of a weight is a finite number as well, and a run would go on with it to another result.
    """
    text = json.dumps({name: value for name, value in header.items() if name not in ("checksum", "format")})
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def check_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raises TypeError, as `save` does, if the optimizer has a state that a checkpoint cannot hold."""
    _optimizer_state(module, optimizer)


def size(module: nn.Module, ema: bool) -> int:
    """Approximate size of a checkpoint in bytes: parameters, buffers, two moments and the average."""
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    return sum(t.numel() * t.element_size() for t in _module_tensors(module).values()) + trained * (3 if ema else 2)


def load(
    path: Path | str, module: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage | None
) -> tuple[Progress, dict[str, Tensor]]:
    """Reads a checkpoint into `module`, `optimizer` and `ema`; everything is checked before anything is changed.

    Returns:
        Where training stood, and the states of the random generators.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenFileError: it is cut short, or no safetensors file, or bytes of it have changed since it was written, or a
            weight, an average or a moment is not finite.
        FileVersionError: it is a checkpoint of another version.
        ValueError: it is no checkpoint, its names, shapes or dtypes are not those of `module`, or it
            lacks the optimizer's state.
    """
    with reading(path, "a checkpoint"):
        return _load(path, module, optimizer, ema)


def _load(
    path: Path | str, module: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage | None
) -> tuple[Progress, dict[str, Tensor]]:
    groups, header, progress = _read(path)
    _adopt_sizes(module, groups["module"], optimizer)
    if ema is not None:
        ema.resized(module)
    own = _module_tensors(module)
    _check_match(path, "tensors", own, groups["module"])
    if ema is not None and header["ema"]:
        _check_match(path, "averages", ema.average, groups["ema"])
    parameters = dict(module.named_parameters())
    saved = header["optimizer"]
    _check_optimizer(path, saved["class"], optimizer)
    _check_moments(path, parameters, groups["optimizer"])
    if saved["tensors"] != len(groups["optimizer"]):  # training would go on, to another result
        raise ValueError(
            f"{path} has {len(groups['optimizer'])} tensors of the optimizer's state, and was written with "
            f"{brief(saved['tensors'])}; go back to an earlier checkpoint"
        )
    _check_finite(path, parameters, groups)
    _check_random(path, groups["random"])

    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(groups["module"][name])
        if ema is not None:
            ema.load(groups["ema"] if header["ema"] else {name: parameters[name] for name in ema.average})
    optimizer.state.clear()
    fused = {id(p) for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    on_host = {"step", *saved["on_host"]}  # Adam counts steps on the host unless it is fused
    for entry, tensor in groups["optimizer"].items():
        name, _, key = entry.rpartition("/")
        parameter = parameters[name]
        if id(parameter) in trained:
            device = parameter.device if key not in on_host or id(parameter) in fused else torch.device("cpu")
            optimizer.state[parameter][key] = tensor.to(device)
    for entry, number in saved["numbers"].items():
        name, _, key = entry.rpartition("/")
        if name in parameters and id(parameters[name]) in trained:
            optimizer.state[parameters[name]][key] = number
    return progress, groups["random"]


def load_newest(paths: Sequence[Path], reader: Callable[[Path], Result]) -> tuple[Result, list[tuple[Path, str]]]:
    """The result of `reader` for the newest file it can read, and why it cannot read those before.

    Args:
        paths: checkpoints, the newest first.
        reader: `load` or `load_weights` with the other arguments bound.

    Raises:
        FileNotFoundError: no paths.
        BrokenFileError: none of them can be read.
        ValueError: the first readable one belongs to another model, or is of another format.
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
    """Reads parameters and buffers alone, averaged if the file has an average; for looking at an unfinished run.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenFileError: it is cut short, or a weight or an average is not finite.
        ValueError: it is no checkpoint, or belongs to another model.
    """
    with reading(path, "a checkpoint"):
        groups, _, progress = _read(path)
        for group in ("module", "ema"):  # corrections of the tracking, which are no part of the avatar
            groups[group] = {name: tensor for name, tensor in groups[group].items() if not name.startswith(_TRACKING)}
        _adopt_sizes(module, groups["module"])
        own = _module_tensors(module)
        _check_match(path, "tensors", own, groups["module"])
        _check_match(path, "averages", {name: own[name] for name in groups["ema"] if name in own}, groups["ema"])
        _check_finite(path, dict(module.named_parameters()), groups)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(groups["ema"].get(name, groups["module"][name]))
        return progress


def _adopt_sizes(
    module: nn.Module, saved: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Lets parts whose numbers of rows training changes take those of saved tensors (`headfields.part_base.Part`)."""
    for prefix, part in module.named_modules():
        adopt_sizes: Any = getattr(part, "adopt_sizes", None)
        if adopt_sizes is not None:
            start = f"{prefix}." if prefix else ""
            own = {name.removeprefix(start): tensor for name, tensor in saved.items() if name.startswith(start)}
            adopt_sizes(own, optimizer)


def _read(path: Path | str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], Progress]:
    """Tensors by group ("module", "ema", "optimizer", "random") and name, the header, and the progress."""
    tensors, header = read_safetensors(path, FORMAT)
    if header.get("checksum") != checksum(tensors, header):
        raise BrokenFileError(
            f"{path}: bytes have changed since it was written (its checksum differs); go back to an earlier checkpoint"
        )
    try:
        progress = Progress(**header["progress"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is a checkpoint whose header lacks the progress of training ({error})") from error
    best = 0.0 if progress.best_psnr is None else progress.best_psnr
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (progress.seconds, best))
    if type(progress.step) is not int or progress.step < 0 or not numbers or not isinstance(progress.extra, dict):
        raise ValueError(f"{path} is a checkpoint whose progress of training is {brief(header['progress'])}")
    groups: dict[str, dict[str, Tensor]] = {"module": {}, "ema": {}, "optimizer": {}, "random": {}}
    for entry, tensor in tensors.items():
        group, _, key = entry.partition("/")
        groups.setdefault(group, {})[key] = tensor
    return groups, header, progress


def _module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each once: shared ones under the first of their names."""
    tensors: dict[str, Tensor] = dict(module.named_parameters())
    known = {id(p) for p in tensors.values()}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in known:
            known.add(id(tensor))
            tensors[name] = tensor
    return tensors


def _check_match(path: Path | str, what: str, own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(own.keys() - loaded.keys()), sorted(loaded.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"{path} belongs to another model: {what} it lacks: {_listing(missing)}; {what} the model lacks: "
            f"{_listing(unknown)}. Build the model with the arguments it was trained with"
        )
    for name, tensor in own.items():
        if tensor.shape != loaded[name].shape:
            raise ValueError(
                f"{path} belongs to another model: {name} has shape {tuple(loaded[name].shape)} there and "
                f"{tuple(tensor.shape)} in the model. Build the model with the arguments it was trained with"
            )
        if tensor.dtype.is_floating_point != loaded[name].dtype.is_floating_point:
            raise ValueError(
                f"{path} belongs to another model: {name} has dtype {loaded[name].dtype} there and {tensor.dtype} in "
                "the model"
            )


def _check_finite(
    path: Path | str, parameters: Mapping[str, Tensor], groups: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Raises BrokenFileError if a parameter, an average or a moment is NaN or infinite: training cannot recover."""
    what = {"module": "the weights", "ema": "the averaged weights", "optimizer": "the optimizer's state of"}
    for group, words in what.items():
        for name, tensor in groups[group].items():
            if (group != "module" or name in parameters) and not bool(tensor.isfinite().all()):
                raise BrokenFileError(f"{path}: {words} {name} are not finite; go back to an earlier checkpoint")


def _check_random(path: Path | str, states: Mapping[str, Tensor]) -> None:
    """Raises ValueError if a state of a generator on the CPU is none; CUDA's is checked where it is set."""
    for name, state in states.items():
        if state.dtype != torch.uint8 or state.dim() != 1:
            raise ValueError(f"{path}: the random state {name} has dtype {state.dtype}, shape {tuple(state.shape)}")
        if name in ("generator", "torch"):
            torch.Generator().set_state(state)


def _optimizer_state(
    module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """The optimizer's state: tensors, numbers, and the keys of tensors that are on the host while parameters are not.

    Raises:
        TypeError: a part of it is neither a tensor nor a number, or belongs to no parameter.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    on_host: dict[str, None] = {}
    for parameter, entries in optimizer.state.items():
        if parameter not in names:
            raise TypeError(
                f"{type(optimizer).__name__} has a state that belongs to no parameter of the model, which a checkpoint "
                "cannot hold; use an optimizer with a state for each parameter"
            )
        for key, value in entries.items():
            entry = f"{names[parameter]}/{key}"
            if isinstance(value, Tensor):
                tensors[f"optimizer/{entry}"] = value
                if value.device != parameter.device:
                    on_host[key] = None
            elif value is None or isinstance(value, bool | int | float | str):
                numbers[entry] = value
            else:
                raise TypeError(
                    f"{type(optimizer).__name__} keeps a {type(value).__name__} as {key!r} of {names[parameter]}, "
                    "which a checkpoint cannot hold; tensors, numbers and texts are saved"
                )
    return tensors, numbers, list(on_host)


def _class_name(optimizer: torch.optim.Optimizer) -> str:
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def _check_optimizer(path: Path | str, saved: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError if the file's optimizer is of another class."""
    if saved != _class_name(optimizer):
        raise ValueError(
            f"{path} has the state of the optimizer {saved}, and this run has {_class_name(optimizer)}; "
            "resume with the optimizer that the run was trained with, or start a new run from its avatar"
        )


def _check_moments(path: Path | str, parameters: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
    for entry, tensor in moments.items():
        name, _, key = entry.rpartition("/")
        if name not in parameters:
            raise ValueError(
                f"{path} belongs to another model: it has optimizer state for {name}, which the model lacks"
            )
        if key in _OF_PARAMETER_SHAPE and tensor.shape != parameters[name].shape:
            raise ValueError(
                f"{path}: the optimizer state {entry} has shape {tuple(tensor.shape)}; "
                f"its parameter has {tuple(parameters[name].shape)}"
            )


def _listing(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "none"
