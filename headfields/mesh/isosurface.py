"""Isosurfaces of functions of points, evaluated coarse to fine and only near the surface."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from tqdm import tqdm

from headfields.ops._checks import check_floating, check_shape
from headfields.ops._marching_table import CELL_FACES
from headfields.ops.reference.marching_cubes import along_edge, polygonize
from headfields.records import Record
from headfields.records.device_copy import send, send_numbers

Values = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]
BYTES_PER_CELL = 900
"""Memory of an active cell during the search (measured: 600 to 800)."""


@dataclass(frozen=True)
class SparseSurface(Record):
    """The result of `isosurface`.

    Attributes:
        vertices: (V, 3) meters.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        cap: (F,) True for faces that close the surface where it would leave the box or meet values that are not finite.
        evaluations: number of points at which the function was evaluated.
        grid_points: number of points of a dense grid of the resolution over the box.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int64[Tensor, "f 3"]
    cap: Bool[Tensor, " f"]
    evaluations: int
    grid_points: int


@torch.no_grad()
def isosurface(
    function: Values,
    bounds: Float[Tensor, "2 3"],
    resolution: int = 256,
    level: float = 0.0,
    coarse: int | None = None,
    lipschitz: float | None = None,
    chunk: int = 1 << 16,
    memory_mb: int = 2048,
    progress: bool | None = None,
) -> SparseSurface:
    """The level set of a function of points, found coarse to fine. Inside is below the level.

    A grid of cubes is laid over the box, and the function is evaluated at the corners of its coarsest cells. Cells that
    the surface cuts are halved, with their neighbors across every cut face, and so on. A component of the surface is
    found if it cuts an edge of the coarsest grid, or is connected to one that does on some finer grid. A component
    smaller than a coarse cell may be missed, unless `lipschitz` bounds the slope of the function: then no cell is
    dropped that the surface could cut. On the finest grid the surface is followed to its end, so it is closed, shares
    its vertices, and equals the result of `headfields.ops.marching_cubes` on the dense grid.

    Args:
        function: field that maps (N, 3) points, meters, to (N,) values; NaN is outside. Evaluated without gradients.
        bounds: (2, 3) corners of the box, meters. The function is not evaluated elsewhere: a surface that leaves the
            box is closed there, half a cell beyond the last points.
        resolution: cells along the box's longest side.
        level: the value on the surface.
        coarse: minimum number of cells along the longest side of the coarsest grid; if None, 32 with `lipschitz` and 64
            without.
        lipschitz: bound of |f(x) - f(y)| / |x - y|; 1 for a signed distance.
        chunk: points at a time.
        memory_mb: budget of the search, without the function's own memory.
        progress: whether to show a bar on stderr; if None, only after two seconds.

    Returns:
        A `SparseSurface` without a gradient; without vertices if nothing is found.

    Raises:
        TypeError: bounds are not floating point.
        ValueError: an argument is out of range, the function gives another shape, or memory_mb is too small; the
            message names the memory needed.

    >>> import torch, headfields as hf
    >>> box = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    >>> surface = hf.mesh.isosurface(lambda points: points.norm(dim=-1) - 0.7, box, resolution=256, lipschitz=1.0)
    >>> surface.evaluations < 0.05 * surface.grid_points
    True
    """
    grid = _Grid(function, bounds, resolution, level, coarse, lipschitz, chunk, memory_mb, progress)
    try:
        return grid.surface()
    finally:
        grid.bar.close()


class _Grid:
    """The known values of a grid that has one more cell on each side than the box needs."""

    def __init__(
        self, function: Values, bounds: Tensor, resolution: int, level: float, coarse: int | None,
        lipschitz: float | None, chunk: int, memory_mb: int, progress: bool | None,
    ) -> None:  # fmt: skip
        check_floating("isosurface", "bounds", bounds)
        check_shape("isosurface", "bounds", bounds, "2 3")
        box = bounds.detach().cpu()  # what follows from it is computed on the host, and sent
        extent = (box[1] - box[0]).double()
        if not bool((extent > 0).all() and box.isfinite().all()):
            raise ValueError(f"isosurface: bounds is {box.tolist()}; expected a minimum below a maximum, finite")
        for name, value in (("resolution", resolution), ("chunk", chunk), ("memory_mb", memory_mb)):
            if value < 1:
                raise ValueError(f"isosurface: {name} is {value}; expected at least 1")
        if lipschitz is not None and not 0 < lipschitz < math.inf:
            raise ValueError(f"isosurface: lipschitz is {lipschitz}; expected a positive number, or None")
        if not math.isfinite(level):
            raise ValueError(f"isosurface: level is {level}; expected a finite number")
        self.function, self.level, self.lipschitz, self.chunk = function, level, lipschitz, chunk
        self.memory_mb, self.dtype, self.device = memory_mb, bounds.dtype, bounds.device
        self.cell = float(extent.max()) / resolution
        within = (extent / self.cell - 1e-6).ceil().clamp_min(1).long()
        first = coarse if coarse is not None else (64 if lipschitz is None else 32)
        if first < 1:
            raise ValueError(f"isosurface: coarse is {first}; expected at least 1")
        self.step = 1
        while resolution // (2 * self.step) >= first and 2 * self.step <= int(within.min()):
            self.step *= 2
        # Points 1 to within + 1 are in the box; around them, cells whose outer corners are outside.
        cells = torch.div(within + 1, self.step, rounding_mode="floor") + 1
        self.size = (cells * self.step).tolist()
        self.last = send(within + 1, self.device)
        if math.prod(side + 1 for side in self.size) >= 2**61:
            raise ValueError(
                f"isosurface: resolution is {resolution}; the indices of so fine a grid overflow; lower it"
            )
        strides = [(self.size[1] + 1) * (self.size[2] + 1), self.size[2] + 1, 1]
        self.strides = send_numbers(strides, torch.long, self.device)
        self.origin = send((box[0] + box[1]).double() / 2 - self.cell * (within / 2 + 1), self.device)
        # To the neighbors across the faces of a cell, in cells.
        self.across = send_numbers([sign * stride for stride in strides for sign in (-1, 1)], torch.long, self.device)
        self.faces = send(torch.tensor(CELL_FACES), self.device)
        self.grid_points = math.prod(int(n) + 1 for n in within)
        self.corner = send(torch.tensor([[c >> 2 & 1, c >> 1 & 1, c & 1] for c in range(8)]), self.device)
        self.known = torch.zeros(0, dtype=torch.long, device=self.device)
        self.values = torch.zeros(0, dtype=self.dtype, device=self.device)
        self.evaluations = 0
        self.bar = tqdm(
            desc="surface", unit="point", unit_scale=True, disable=progress is False, delay=0 if progress else 2.0
        )

    def index(self, code: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n 3"]:
        return torch.stack(
            [code // self.strides[0], code // self.strides[1] % (self.size[1] + 1), code % self.strides[1]], dim=-1
        )

    def place(self, index: Int[Tensor, "*n 3"] | Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        return (self.origin + self.cell * index.double()).to(self.dtype)

    def evaluate(self, code: Int64[Tensor, " n"]) -> None:
        """Adds the values at these points to the known ones; outside the box they are +infinity."""
        code = code.unique()
        code = code[~_among(code, self.known)]
        index = self.index(code)
        inside = ((index >= 1) & (index <= self.last)).all(-1).nonzero()[:, 0]
        points = self.place(index[inside])
        pieces = []
        for piece in points.split(self.chunk):
            values = self.function(piece)
            if values.shape != piece.shape[:1]:
                raise ValueError(
                    f"isosurface: function gave shape {tuple(values.shape)} for {len(piece)} points; expected "
                    f"({len(piece)},)"
                )
            pieces.append(values.detach().to(self.values))
            self.bar.update(len(piece))
        self.evaluations += len(points)
        fresh = torch.full(code.shape, math.inf, dtype=self.dtype, device=self.device)
        fresh[inside] = torch.cat(pieces) if pieces else fresh[inside]
        known, order = torch.cat([self.known, code]).sort()
        self.known, self.values = known, torch.cat([self.values, fresh])[order]

    def at(self, code: Int64[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return self.values[torch.searchsorted(self.known, code)]

    def budget(self, cells: int, step: int) -> None:
        needed = cells * BYTES_PER_CELL / 2**20
        if needed > self.memory_mb:
            raise ValueError(
                f"isosurface: {cells} cells of {self.cell * step:.2g} m need about {needed:.0f} MB;"
                f" raise memory_mb (it is {self.memory_mb}), lower resolution, or make the box smaller"
            )

    def corners(self, cell: Int64[Tensor, " c"], step: int) -> Int64[Tensor, "c 8"]:
        return cell[:, None] + step * (self.corner * self.strides).sum(-1)

    def case(self, values: Float[Tensor, "c 8"]) -> Int64[Tensor, " c"]:
        bits = 1 << torch.arange(8, device=self.device)
        return ((values < self.level) * bits).sum(-1)

    def follow(self, cell: Int64[Tensor, " c"], step: int) -> tuple[Int64[Tensor, " k"], Float[Tensor, "k 8"]]:
        """The cells and those that the surface continues into, and the values (K, 8) at their corners."""
        cell = cell.unique()
        new = cell
        while len(new):
            self.budget(len(cell), step)
            corners = self.corners(new, step)
            self.evaluate(corners.flatten())
            inside = self.at(corners) < self.level
            at_face = inside[:, self.faces]
            cut = at_face.any(-1) & ~at_face.all(-1)
            # The surface does not cut the border of the grid, where all points are outside.
            new = (new[:, None] + step * self.across)[cut].unique()
            new = new[~_among(new, cell)]
            cell = torch.cat([cell, new]).sort().values
        return cell, self.at(self.corners(cell, step))

    def surface(self) -> SparseSurface:
        step = self.step
        steps = torch.cartesian_prod(*(torch.arange(0, side, step, device=self.device) for side in self.size))
        self.budget(len(steps), step)
        cell = (steps.reshape(-1, 3) * self.strides).sum(-1)
        while True:
            cell, values = self.follow(cell, step)
            case = self.case(values)
            cut = (case != 0) & (case != 255)
            if step == 1:
                break
            keep = cut
            if self.lipschitz is not None:
                # The value at a corner bounds its distance from the surface; and in a cell of side h, no point x has
                # |x - a|^2 + |x - b|^2 > 3 h^2 for opposite corners a and b.
                finite = values.isfinite()
                near = torch.where(finite, values - self.level, 0.0).square()
                pairs = near[:, :4] + near[:, 4:].flip(1)
                reach = 3 * (self.lipschitz * self.cell * step) ** 2
                keep = cut | (finite.any(1) & (pairs.amax(1) <= reach))
            step //= 2
            self.budget(8 * int(keep.sum()), step)
            cell = self.corners(cell[keep], step).flatten()
        edge, faces = polygonize(cell[cut], case[cut].to(torch.uint8), self.strides)
        point, axis = edge // 3, edge % 3
        low, high = self.at(point), self.at(point + self.strides[axis])
        fraction = along_edge(low, high, low.new_full((), self.level))
        direction = torch.eye(3, dtype=torch.float64, device=self.device)[axis]
        vertices = self.place(self.index(point).double() + fraction[:, None].double() * direction)
        cap = ~(low.isfinite() & high.isfinite())[faces].all(1)
        return SparseSurface(vertices, faces, cap, self.evaluations, self.grid_points)


def _among(code: Int64[Tensor, " n"], known: Int64[Tensor, " m"]) -> Bool[Tensor, " n"]:
    """Whether each code is in an ascending list."""
    if not len(known):
        return torch.zeros_like(code, dtype=torch.bool)
    return known[torch.searchsorted(known, code).clamp_max(len(known) - 1)] == code
