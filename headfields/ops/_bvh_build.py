"""Bounding volume hierarchies that are refitted as vertices move, and their topology: built in C++, or in NumPy where
the compiled module is not installed."""

import abc
import copy
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_same_device, check_shape
from headfields.ops.dispatch import native
from headfields.ops.functorch_rules import array_of, constant

EMPTY = -(2**31)
_Tree = TypeVar("_Tree", bound="PosedTree")


def build_topology(
    faces: Int[Tensor, "f 3"], vertices: Float[Tensor, "v 3"]
) -> tuple[Int[Tensor, "n 8"], Int[Tensor, " o"], Int[Tensor, " l"], list[int]]:
    """Children, order and slot as csrc/bvh.h describes them, on the CPU, and the first node of each level."""
    faces, vertices = constant(faces.cpu().int().contiguous()), constant(vertices.float().cpu().contiguous())
    if native is not None:  # arrays: under a transform PyTorch 2.6 hands no tensor over
        arrays = array_of(faces), array_of(vertices)
        children, order, slot, levels = native.bvh_build(*arrays, torch.get_num_threads())
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


class PosedTree(abc.ABC):
    """A tree over B meshes (or point sets) of one topology: built once, for the first of them, and refitted.

    Queries use the vertices of the last refit, and their gradients flow to those.
    """

    vertices: Float[Tensor, "b v 3"]
    _tree: tuple[Tensor, ...]

    def _build(self, faces: Int[Tensor, "f 3"], vertices: Float[Tensor, "b v 3"], topology: Any) -> None:
        """Builds the tree with `topology` (of `build_topology`) for the first mesh, and fits it to all."""
        initial = vertices.detach()[0] if len(vertices) else vertices.new_zeros(vertices.shape[1], 3)
        children, order, slot, self._levels = topology(faces, initial)
        self._topology = tuple(part.to(vertices.device) for part in (children, order, slot))
        self.refit(vertices)

    @abc.abstractmethod
    def _fitted(self, packed: Float[Tensor, "b v 3"]) -> tuple[Tensor, ...]:
        """What queries are given, for float32 vertices."""

    @classmethod
    def _as_batch(cls, vertices: Float[Tensor, "*b v 3"]) -> Float[Tensor, "b v 3"]:
        check_floating(cls.__name__, "vertices", vertices)
        if vertices.ndim == 2:
            vertices = vertices[None]
        check_shape(cls.__name__, "vertices", vertices, "B V 3")
        return vertices

    def __len__(self) -> int:
        """Number of meshes."""
        return self.vertices.shape[0]

    def refit(self: _Tree, vertices: Float[Tensor, "v 3"] | Float[Tensor, "b v 3"]) -> _Tree:
        """Moves the tree to new vertices, in place. The number of meshes may change, the number of vertices may not.

        Args:
            vertices: (B, V, 3) or (V, 3), meters. Kept with its graph, for the gradients of later queries.

        Returns:
            The tree itself.

        Raises:
            TypeError, ValueError: as the constructor; or another number of vertices, or another device.
        """
        name = type(self).__name__
        vertices = self._as_batch(vertices)
        check_same_device(f"{name}.refit", tree=self._topology[0], vertices=vertices)
        if hasattr(self, "vertices") and vertices.shape[1] != self.vertices.shape[1]:
            raise ValueError(
                f"{name}.refit: vertices has shape {tuple(vertices.shape)}, but the tree was built for "
                f"{self.vertices.shape[1]} vertices; build a new {name} for another number"
            )
        self.vertices = vertices
        self._tree = self._fitted(vertices.detach().float().contiguous())
        return self

    def posed(self: _Tree, vertices: Float[Tensor, "v 3"] | Float[Tensor, "b v 3"]) -> _Tree:
        """A tree at new vertices that shares the topology; this one stays as it is.

        Args:
            vertices: (B, V, 3) or (V, 3), meters, as `refit` takes them.
        """
        return copy.copy(self).refit(vertices)
