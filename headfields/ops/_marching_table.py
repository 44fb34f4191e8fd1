"""Table of marching cubes: the triangles of a cell for each of the 256 cases of inside corners, from two rules.

Corner c of a cell is at (c >> 2 & 1, c >> 1 & 1, c & 1) along the three axes. An edge is named by its axis and the
corner that it starts from.

On each face of the cell, a run of inside corners is cut off from the rest by one segment. So inside corners across a
diagonal stay apart, and as that follows from the face's own corners, the two cells that share the face draw the same
segments there: no crack. Segments join into loops around the cell, and a loop is cut into triangles by diagonals that
pass through the cell and never along its faces (which is always possible), where the neighbor's might lie too and four
triangles would meet. So every edge of the surface has two triangles, and the triangles at a vertex are one fan.
"""

import functools
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

EDGES = tuple((axis, corner) for axis in range(3) for corner in range(8) if not corner >> (2 - axis) & 1)
"""Axis and starting corner of each of the 12 edges."""


class MarchingTable(NamedTuple):
    """The triangles of a cell by its case, whose bit c is set where corner c is inside.

    Attributes:
        totals: (256,) numbers of triangles.
        triangles: (256, 5, 3) their edges, in the order of `EDGES`, counter-clockwise seen from outside.
        axis: (12,) of each edge.
        corner: (12, 3) where each edge starts, relative to the cell's corner 0.
    """

    totals: UInt8[Tensor, "256"]
    triangles: UInt8[Tensor, "256 t 3"]
    axis: Int64[Tensor, "12"]
    corner: Int64[Tensor, "12 3"]


def _face_corners() -> list[tuple[int, ...]]:
    """The corners of the six faces, counter-clockwise seen from outside."""
    faces = []
    for axis in range(3):
        u, v = (4 >> (axis + 1) % 3), (4 >> (axis + 2) % 3)  # right-handed with the axis
        low = (0, v, u | v, u)
        faces += [low, tuple((4 >> axis) | corner for corner in reversed(low))]
    return faces


CELL_FACES = _face_corners()


def _edge(a: int, b: int) -> int:
    return EDGES.index((2 - (a ^ b).bit_length() + 1, min(a, b)))


def _loops(case: int) -> list[list[int]]:
    """The loops of edges at which the surface crosses the faces of the cell."""
    following = {}
    for corners in CELL_FACES:
        inside = [bool(case >> corner & 1) for corner in corners]
        for k in range(4):
            if inside[k] and not inside[k - 1]:  # a run of inside corners begins
                end = k
                while inside[(end + 1) % 4]:
                    end += 1
                entry = _edge(corners[k - 1], corners[k])
                following[entry] = _edge(corners[end % 4], corners[(end + 1) % 4])
    loops = []
    while following:
        start, edge = next(iter(following.items()))
        loop = [start]
        del following[start]
        while edge != start:
            loop.append(edge)
            edge = following.pop(edge)
        loops.append(loop)
    return loops


def _share_face(a: int, b: int) -> bool:
    ends = [{corner, corner | (4 >> axis)} for axis, corner in (EDGES[a], EDGES[b])]
    return any((ends[0] | ends[1]) <= set(corners) for corners in CELL_FACES)


def _fan(loop: list[int]) -> list[tuple[int, int, int]]:
    """A loop's triangles, with none of its diagonals along a face of the cell."""
    if len(loop) == 3:
        return [(loop[0], loop[1], loop[2])]
    for k in range(len(loop)):
        rolled = loop[k:] + loop[:k]
        if not _share_face(rolled[0], rolled[2]):
            remaining = [rolled[0], *rolled[2:]]
            try:
                return [(rolled[0], rolled[1], rolled[2]), *_fan(remaining)]
            except ValueError:
                continue
    raise ValueError("no triangulation")


@functools.lru_cache(maxsize=8)
def marching_table(device: torch.device) -> MarchingTable:
    """The table on a device."""
    count = torch.zeros(256, dtype=torch.uint8)
    lists = [[triangle for loop in _loops(case) for triangle in _fan(loop)] for case in range(256)]
    triangles = torch.zeros(256, max(map(len, lists)), 3, dtype=torch.uint8)
    for case, cell in enumerate(lists):
        count[case] = len(cell)
        if cell:
            triangles[case, : len(cell)] = torch.tensor(cell, dtype=torch.uint8)
    corner = [[c >> 2 & 1, c >> 1 & 1, c & 1] for _, c in EDGES]
    table = MarchingTable(count, triangles, torch.tensor([a for a, _ in EDGES]), torch.tensor(corner))
    return MarchingTable(*(part.to(device) for part in table))
