"""Multiresolution hash grid over canonical space (Instant-NGP)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.ops.hash_grid import hash_grid
from headfields.ops.hash_grid_layout import HashGridLayout
from headfields.parts import Encoder
from headfields.records import Canonical, HeadState


class HashGrid(Encoder):
    """Features from a trainable multiresolution hash table at the canonical point.

    The grid covers a cube: centered in the deformer's box, with the box's longest side or `extent`. Hyper-coordinates
    of the deformer, expected in [-1, 1], are further axes of the grid.

    Args:
        levels, features, log2_table_size, base_resolution, finest_resolution: layout as in Instant-NGP, section 3.
        extent: side of the cube in meters; INSTA's is 1. The box's longest side if None.
        interpolation: `"linear"`, or `"smoothstep"` where second derivatives in space matter.
        initial: entries start uniform in ±initial (Instant-NGP: 1e-4).
        rows: dtype in which rows of the table are read, `"float32"` or `"float16"`: half of the bytes, which is what a
            GPU spends its time on. The table that is trained and saved is float32 either way.

    Differentiable to second order in points and table.

    Source: Müller et al. 2022, "Instant Neural Graphics Primitives", section 3.
    """

    most_ambient = 1  # a `HashGridLayout` has at most four dimensions
    low: Tensor
    side: Tensor

    def __init__(
        self,
        levels: int = 16,
        features: int = 2,
        log2_table_size: int = 19,
        base_resolution: int = 16,
        finest_resolution: int = 2048,
        extent: float | None = None,
        interpolation: Literal["linear", "smoothstep"] = "linear",
        initial: float = 1e-4,
        rows: Literal["float32", "float16"] = "float32",
    ) -> None:
        super().__init__()
        if rows not in ("float32", "float16"):
            raise ValueError(f"HashGrid: rows is {rows!r}; expected 'float32' or 'float16'")
        self.layout = HashGridLayout(levels, features, log2_table_size, base_resolution, finest_resolution)
        self.width = levels * features
        self.extent = extent
        self.interpolation: Literal["linear", "smoothstep"] = interpolation
        self.initial, self.rows = initial, rows

    def build(self, bounds: Float[Tensor, "2 3"], ambient_width: int) -> None:
        layout = self.layout
        if ambient_width:
            self.layout = layout = HashGridLayout(
                layout.levels, layout.features, layout.log2_table_size, layout.base_resolution,
                layout.finest_resolution, dimensions=3 + ambient_width,
            )  # fmt: skip
        side = float((bounds[1] - bounds[0]).max()) if self.extent is None else self.extent
        self.register_buffer("low", bounds.mean(dim=0) - side / 2)
        self.register_buffer("side", torch.tensor(side))
        self.table = nn.Parameter(torch.empty(layout.entries, layout.features).uniform_(-self.initial, self.initial))

    def extra_repr(self) -> str:
        layout = self.layout
        return (
            f"levels={layout.levels}, features={layout.features}, log2_table_size={layout.log2_table_size}, "
            f"resolutions={layout.resolutions[0]}..{layout.resolutions[-1]}, rows={self.rows}"
        )

    def prepare(self, state: HeadState) -> Float[Tensor, "entries f"] | None:
        """The table in half precision, where its rows are read so."""
        return self.table.detach().half() if self.rows == "float16" and self.table.dtype == torch.float32 else None

    def forward(self, canonical: Canonical, prepared: Float[Tensor, "entries f"] | None) -> Float[Tensor, "m width"]:
        unit = (canonical.points - self.low) / self.side
        if canonical.ambient is not None and canonical.ambient.shape[-1]:
            unit = torch.cat([unit, 0.5 * canonical.ambient + 0.5], dim=-1)
        return hash_grid(unit, self.table, self.layout, self.interpolation, prepared)
