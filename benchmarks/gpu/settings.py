"""Options of a run, as its parts get them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class GpuSettings:
    """Options of a run.

    Attributes:
        out: folder of the results.
        device: `"cuda"`; with `small` also `"cpu"`, to see that every part runs.
        small: tiny sizes and few steps, whose figures mean nothing.
        capture: folder of the capture to train on; None draws one into `out`.
    """

    out: Path
    device: str = "cuda"
    small: bool = False
    capture: Path | None = None

    def write(self, part: str, result: dict[str, Any]) -> None:
        """Writes what a part has measured, so far if it goes on: past its limit of time it is ended."""
        file = self.out / f"{part}.json"
        draft = file.with_suffix(".tmp")  # what has been written before stays whole if this is cut short
        draft.write_text(json.dumps(result, indent=1) + "\n")
        draft.replace(file)

    def pick(self, full: Any, small: Any) -> Any:
        return small if self.small else full

    def wait(self) -> None:
        """Waits for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()
