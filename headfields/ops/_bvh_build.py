"""Topology of the bounding volume hierarchy: built in C++, or in NumPy where the compiled module is not installed."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops.dispatch import native
from headfields.ops.functorch_rules import constant

EMPTY = -(2**31)


def build_topology(
    faces: Int[Tensor, "f 3"], vertices: Float[Tensor, "v 3"]
) -> tuple[Int[Tensor, "n 8"], Int[Tensor, " o"], Int[Tensor, " l"], list[int]]:
    """Children, order and slot as csrc/bvh.h describes them, on the CPU, and the first node of each level."""
    faces, vertices = constant(faces.cpu().int().contiguous()), constant(vertices.float().cpu().contiguous())
    if native is not None:
        children, order, slot, levels = native.bvh_build(faces, vertices, torch.get_num_threads())
        parts = (torch.from_numpy(children).reshape(-1, 8), torch.from_numpy(order), torch.from_numpy(slot))
        return *parts, levels.tolist()
    return balanced_topology(faces, vertices)


def balanced_topology(
    faces: Int[Tensor, "f 3"], vertices: Float[Tensor, "v 3"]
) -> tuple[Int[Tensor, "n 8"], Int[Tensor, " o"], Int[Tensor, " l"], list[int]]:
    """`build_topology` without the surface area heuristic: each range is halved at the median of its longest axis.

    Queries on such a tree are tens of percent slower; their results are the same.
    """
    corners = vertices.numpy()[faces.numpy()].astype(np.float64)
    usable = np.isfinite(corners) & (np.abs(corners) < 1e18)
    centroids = np.where(usable, corners, 0.0).mean(axis=1)

    def halves(indices: np.ndarray) -> list[np.ndarray]:
        if len(indices) <= 8:
            return [indices]
        middle = (len(indices) // 2 + 7) // 8 * 8  # whole leaves on the left
        local = centroids[indices]
        parts = np.argpartition(local[:, np.ptp(local, axis=0).argmax()], middle - 1)
        return [indices[parts[:middle]], indices[parts[middle:]]]

    children: list[list[int]] = []
    order: list[np.ndarray] = []
    slot: list[int] = []
    levels: list[int] = []
    level = [np.arange(len(faces))]
    while level and (len(faces) or not children):
        levels.append(len(children))
        below: list[np.ndarray] = []
        following = len(children) + len(level)
        for indices in level:
            parts = [indices]
            for _ in range(3):
                parts = [half for part in parts for half in halves(part)]
            row = [EMPTY] * 8
            for lane, part in enumerate(parts):
                if len(part) > 8:
                    row[lane] = following + len(below)
                    below.append(part)
                elif len(part):
                    row[lane] = ~len(slot)
                    slot.append(8 * len(children) + lane)
                    order.append(np.pad(part, (0, 8 - len(part)), constant_values=-1))
            children.append(row)
        level = below
    flat = np.concatenate(order) if order else np.zeros(0)
    return (
        torch.tensor(children, dtype=torch.int32),
        torch.from_numpy(flat.astype(np.int32)),
        torch.tensor(slot, dtype=torch.int32),
        levels,
    )
