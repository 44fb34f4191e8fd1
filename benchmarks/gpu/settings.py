"""Options of a run, as its parts get them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class GpuSettings:
    """Options of a run.

    Attributes:
        out: folder of the results.
        device: `"cuda"`; with `small` also `"cpu"` or the tests' `"pretend"`, to see that every part runs.
        small: tiny sizes and few steps, whose figures mean nothing.
        capture: folder of the capture to train on; None draws one into `out`.
    """

    out: Path
    device: str = "cuda"
    small: bool = False
    capture: Path | None = None

    @property
    def torch_device(self) -> str:
        """What PyTorch calls it."""
        return "cuda:0" if self.device == "pretend" else self.device

    def file(self, part: str, item: str) -> Path:
        """Where the result of an item goes."""
        return self.out / part / f"{re.sub(r'[^A-Za-z0-9.]+', '_', item) or part}.json"

    def write(self, part: str, item: str, result: dict[str, Any]) -> None:
        """Writes what an item has measured, so far if it goes on: past its limit of time it is ended."""
        file = self.file(part, item)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".tmp")  # what has been written before stays whole if this is cut short
        draft.write_text(json.dumps(result, indent=1) + "\n")
        draft.replace(file)

    def pick(self, full: Any, small: Any) -> Any:
        return small if self.small else full

    def wait(self) -> None:
        """Waits for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()
