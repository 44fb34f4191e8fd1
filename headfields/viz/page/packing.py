"""Arrays as one compressed stream that a browser unpacks itself: quantized, in planes of bytes, deflated, base64."""

import base64
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Packer"]


class Packer:
    """Collects arrays; `table` describes them and `stream` has their bytes.

    Numbers of 16 bits are split into a plane of low and one of high bytes, column by column: neighbors in a plane are
    alike, so deflate finds more. Real numbers become integers q with value = low + step · q.
    """

    def __init__(self) -> None:
        self.table: list[dict[str, Any]] = []
        self._parts: list[bytes] = []

    def ranged(self, name: str, values: Tensor, bits: int = 16) -> None:
        """Rows whose columns each have a range of their own, divided into 2^bits steps (an error of half a step)."""
        rows = _rows(values)
        low, high = (rows.amin(0), rows.amax(0)) if len(rows) else (rows.new_zeros(rows.shape[1]),) * 2
        step = ((high - low) / (2**bits - 1)).clamp_min(1e-30)
        self._add(name, values, ((rows - low) / step).round().clamp(0, 2**bits - 1), low.tolist(), step.tolist())

    def around_zero(self, name: str, values: Tensor, step: float) -> None:
        """Rows of which most are near zero, in steps of one size, or larger ones where 16 bits need it."""
        rows = _rows(values)
        reach = float(rows.abs().amax()) if rows.numel() else 0.0
        step = max(step, reach / 32766)
        whole = (rows / step).round()
        folded = torch.where(whole < 0, -2 * whole - 1, 2 * whole)  # 0, −1, 1, −2, ... become 0, 1, 2, 3, ...
        self._add(name, values, folded, None, step)

    def integers(self, name: str, values: Tensor) -> None:
        """Integers from 0 to 65535, exactly.

        Raises:
            ValueError: one is outside.
        """
        rows = _rows(values)
        if rows.numel() and not 0 <= float(rows.amin()) <= float(rows.amax()) < 65536:
            raise ValueError(f"Packer: {name} has integers to {int(rows.amax())}; a page holds those to 65535")
        self._add(name, values, rows, [0.0] * rows.shape[1], [1.0] * rows.shape[1])

    def exact(self, name: str, values: Tensor) -> None:
        """Real numbers as float32."""
        numbers = values.detach().cpu().float().contiguous().numpy().astype("<f4")
        planes = np.frombuffer(numbers.tobytes(), np.uint8).reshape(-1, 4).T
        self._note(name, values, "float")
        self._parts.append(planes.tobytes())

    def stream(self) -> str:
        """The bytes of all arrays, one after the other, deflated, in base64."""
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        return base64.b64encode(deflate.compress(b"".join(self._parts)) + deflate.flush()).decode()

    def _add(self, name: str, values: Tensor, whole: Tensor, low: list[float] | None, step: Any) -> None:
        columns = whole.T.contiguous().numpy().astype("<u2")
        wide = bool((columns > 255).any())
        planes = [columns & 255, columns >> 8] if wide else [columns]
        self._note(name, values, "wide" if wide else "narrow", low=low, step=step)
        self._parts += [plane.astype(np.uint8).tobytes() for plane in planes]

    def _note(self, name: str, values: Tensor, kind: str, **more: Any) -> None:
        shape = list(values.shape)
        columns = shape[-1] if len(shape) > 1 else 1
        self.table.append(
            {"name": name, "kind": kind, "rows": values.numel() // max(columns, 1), "columns": columns, **more}
        )


def _rows(values: Tensor) -> Tensor:
    """(R, C) in double precision; one column of a vector."""
    rows = values.detach().cpu().double()
    return rows.flatten(0, -2) if rows.ndim > 1 else rows[:, None]
