"""Layout of a multiresolution hash grid: resolutions of its levels, and the rows of their vertices in one table."""

import functools
import math
from dataclasses import dataclass

__all__ = ["HashGridLayout"]

_MAX_RESOLUTION = 2**24  # float32 counts cells exactly up to here


@dataclass(frozen=True)
class HashGridLayout:
    """The row of the table of each vertex of each level, integer for integer the same on every backend.

    Level l has `resolutions[l]` cells per axis, growing geometrically from `base_resolution` to `finest_resolution`
    (Müller et al. 2022, eq. 2 and 3), and rows `offsets[l]` to `offsets[l + 1]` of the table. Where its
    (resolution + 1)^d vertices fit into `2 ** log2_table_size` rows the level is dense: the vertex (x, y, z) has row
    x + y (N + 1) + z (N + 1)². Otherwise it has 2 ** log2_table_size rows and the spatial hash of eq. 4 picks one.

    Args:
        levels: number of levels L, 1 to 1024. With one level, its resolution is `base_resolution`.
        features: number of features per level F, at least 1.
        log2_table_size: binary logarithm of the maximum number of rows per level, 0 to 30.
        base_resolution: cells per axis of the coarsest level.
        finest_resolution: cells per axis of the finest level, at most 2**24.
        dimensions: d, 1 to 4.

    Raises:
        ValueError: a value is out of range.

    >>> import headfields as hf
    >>> layout = hf.ops.HashGridLayout(levels=3, log2_table_size=10, base_resolution=4, finest_resolution=16)
    >>> layout.resolutions, layout.dense, layout.offsets  # (4 + 1)³ and (8 + 1)³ rows fit, (16 + 1)³ are hashed
    ((4, 8, 16), (True, True, False), (0, 125, 854, 1878))
    """

    levels: int = 16
    features: int = 2
    log2_table_size: int = 19
    base_resolution: int = 16
    finest_resolution: int = 2048
    dimensions: int = 3

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, expected: str) -> None:
            if not holds:
                raise ValueError(f"HashGridLayout: {name} is {getattr(self, name)}; expected {expected}")

        for name, value in vars(self).items():
            require(hasattr(value, "__index__"), name, "an integer")
        require(1 <= self.levels <= 1024, "levels", "1 to 1024")
        require(self.features >= 1, "features", "at least 1")
        require(0 <= self.log2_table_size <= 30, "log2_table_size", "0 to 30")
        require(1 <= self.dimensions <= 4, "dimensions", "1 to 4")
        require(self.base_resolution >= 1, "base_resolution", "at least 1")
        require(
            self.base_resolution <= self.finest_resolution <= _MAX_RESOLUTION,
            "finest_resolution",
            f"base_resolution ({self.base_resolution}) to 2**24",
        )

    @functools.cached_property
    def growth(self) -> float:
        """The ratio b of one level's resolution to the one before (eq. 3); 1 for a single level."""
        if self.levels == 1:
            return 1.0
        return math.exp(math.log(self.finest_resolution / self.base_resolution) / (self.levels - 1))

    @functools.cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Cells an axis of each level: floor(base b^l) (eq. 2)."""
        # The small term keeps a power that is whole but for rounding, the finest one above all, from losing a cell.
        return tuple(math.floor(self.base_resolution * self.growth**level + 1e-6) for level in range(self.levels))

    @functools.cached_property
    def dense(self) -> tuple[bool, ...]:
        """Whether each level has a row of its own for every vertex."""
        return tuple((n + 1) ** self.dimensions <= 2**self.log2_table_size for n in self.resolutions)

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each level, and `entries` at the end: `levels + 1` numbers."""
        rows = [0]
        for n, dense in zip(self.resolutions, self.dense, strict=True):
            rows.append(rows[-1] + ((n + 1) ** self.dimensions if dense else 2**self.log2_table_size))
        return tuple(rows)

    @property
    def entries(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]

    @property
    def width(self) -> int:
        """Features of a point: levels x features, a level's features together, coarsest level first."""
        return self.levels * self.features

    @functools.cached_property
    def key(self) -> list[int]:
        """The arguments of the constructor, in order."""
        return [self.levels, self.features, self.log2_table_size, self.base_resolution, self.finest_resolution,
                self.dimensions]  # fmt: skip
