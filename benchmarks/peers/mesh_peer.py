"""The interface to a library that answers queries on a triangle mesh: closest points, rays, refit."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from benchmarks.shapes import Mesh

MILLIMETERS = 1000.0
"""The factor from meters. Some ray tests have an absolute tolerance, too large for a head in meters: small faces
count as degenerate (libigl misses a third of the rays at 300,000 faces). Those get millimeters."""


class MeshPeer:
    """One library and its tree of one mesh, built by the constructor. A library that cannot raycast leaves that None.

    `queries` and `rays` convert the input to the library's own type, and `distance` and `hit` its answer to numbers;
    none of them is timed.
    """

    module: ClassVar[str]  # imported to learn whether the library is installed
    cuda: ClassVar[bool | None] = False  # True: on CUDA only; False: on CPU only; None: on both
    most: ClassVar[int | None] = None  # the maximum number of queries, for a slow library
    note: ClassVar[str] = ""
    fixed: ClassVar[str] = "cannot refit: builds anew"

    closest: Callable[[Any], Any] | None = None  # (queries) -> answer
    raycast: Callable[[Any], Any] | None = None  # (rays) -> answer
    refit: Callable[[Any], Any] | None = None  # (vertices) -> anything

    def __init__(self, mesh: Mesh, device: str, threads: int) -> None:
        raise NotImplementedError(f"{type(self).__name__}.__init__ is not defined")

    def queries(self, points: np.ndarray) -> Any:
        """(n, 3) float32 points in the library's own type."""
        return points

    def rays(self, origins: np.ndarray, directions: np.ndarray) -> Any:
        """(n, 3) float32 origins and unit directions, likewise."""
        return origins, directions

    def moved(self, mesh: Mesh) -> Any:
        """The vertices of another frame, as `refit` takes them."""
        return mesh.vertices32

    def distance(self, queries: Any, answer: Any) -> np.ndarray:
        """(n,) distance of each query to the surface, meters."""
        raise NotImplementedError(f"{type(self).__name__}.distance is not defined")

    def hit(self, rays: Any, answer: Any) -> np.ndarray:
        """(n,) distance along each ray, meters; infinity where it hits nothing."""
        raise NotImplementedError(f"{type(self).__name__}.hit is not defined")
