"""Lightning Fabric as the trainer uses it: devices, processes and precision."""

from collections.abc import Sequence
from typing import Any

import torch

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("auto", "ddp")


def launch(
    device: torch.device | str, devices: int | Sequence[int], strategy: str, precision: str
) -> tuple[Any, torch.amp.GradScaler | None]:
    """Starts (or joins) the processes and gives the Fabric object, and the gradient scaler of `"16-mixed"`.

    Raises:
        ValueError: an unknown precision or strategy, or a device that is not there.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Trainer: precision is {precision!r}; expected one of {', '.join(map(repr, PRECISIONS))}")
    if strategy not in STRATEGIES:
        raise ValueError(
            f"Trainer: strategy is {strategy!r}; expected 'auto' or 'ddp' (every process holds the whole avatar)"
        )
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if str(device) == "auto" else device)
    count = devices if isinstance(devices, int) else len(devices)
    if count < 1:
        raise ValueError(f"Trainer: devices is {devices}; expected how many processes, at least 1")
    if chosen.type == "cpu" and not isinstance(devices, int):
        raise ValueError(f"Trainer: devices is {list(devices)}, but the CPU has no numbers; give how many")
    if chosen.type == "cuda":
        _check_cuda(chosen, devices, count)
    scaler = None
    if precision == "16-mixed":
        scaler = torch.amp.GradScaler(chosen.type)
    from lightning_fabric import Fabric  # takes two seconds to import, so not for who only imports the package
    from lightning_fabric.plugins import MixedPrecision

    which: Any = devices if chosen.type == "cpu" or isinstance(devices, int) else list(devices)
    if count == 1 and chosen.index is not None and chosen.type != "cpu":
        which = [chosen.index]
    arguments: dict[str, Any] = {"accelerator": chosen.type, "devices": which}
    if scaler is None:
        arguments["precision"] = precision
    else:
        arguments["plugins"] = [MixedPrecision("16-mixed", chosen.type, scaler)]
    if count > 1 or strategy == "ddp":
        arguments["strategy"] = "ddp"
    fabric = Fabric(**arguments)
    fabric.launch()
    return fabric, scaler


def _check_cuda(chosen: torch.device, devices: int | Sequence[int], count: int) -> None:
    there = torch.cuda.device_count()
    numbers = list(range(count)) if isinstance(devices, int) else list(devices)
    if count == 1 and isinstance(devices, int) and chosen.index is not None:
        numbers = [chosen.index]
    if any(not 0 <= number < there for number in numbers):
        raise ValueError(
            f"Trainer: device is {str(chosen)!r} and devices is {devices}, but torch sees {there} CUDA devices"
        )
    if count > 1 and chosen.index is not None:
        raise ValueError(
            f"Trainer: device is {str(chosen)!r} with devices={devices}; give device='cuda' and the numbers as devices"
        )
