"""Meshes of any number of faces, split from the procedural head, and points and rays around them."""

import functools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

import headfields as hf
from headfields.records.opengl_axes import flip_y_z

SIGMA = 0.008  # meters: standard deviation of the near queries' distance from the surface


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh in the types that libraries expect, converted once and untimed."""

    vertices32: np.ndarray
    faces32: np.ndarray

    @cached_property
    def vertices64(self) -> np.ndarray:
        return self.vertices32.astype(np.float64)

    @cached_property
    def faces64(self) -> np.ndarray:
        return self.faces32.astype(np.int64)

    def tensors(self, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Faces int64 and vertices float32."""
        return torch.from_numpy(self.faces64).to(device), torch.from_numpy(self.vertices32).to(device)

    def moved(self, frame: int) -> "Mesh":
        """The same faces, slightly deformed, as a tracked head is from one frame to the next."""
        x = self.vertices32
        shift = 0.004 * np.sin(30.0 * x[:, [1, 2, 0]] + 0.7 * frame)
        return Mesh((x + shift).astype(np.float32), self.faces32)


@functools.lru_cache(maxsize=4)
def head(faces: int) -> Mesh:
    """The procedural head with `faces` faces or one more, at least its own number: its longest edges are split.

    An edge is split where it is the longest of both its faces (Rivara 1984), which keeps the mesh conforming and its
    angles unchanged.
    """
    arrays = hf.synthetic.procedural_head().template()
    vertices = arrays.canonical_vertices.double().numpy()
    triangles = arrays.faces.numpy().astype(np.int64)
    while len(triangles) < faces:
        vertices, triangles = _split(vertices, triangles, faces - len(triangles))
    return Mesh(vertices.astype(np.float32), triangles.astype(np.int32))


def _split(vertices: np.ndarray, faces: np.ndarray, gain: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits terminal edges, longest first, until `gain` faces are gained or no edge is left."""
    count = len(faces)
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1)  # (F, 3, 2): edge k from corner k to the next
    edges, of_face = np.unique(np.sort(ends.reshape(-1, 2), axis=1), axis=0, return_inverse=True)
    of_face = of_face.reshape(count, 3)
    length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    rank = np.empty(len(edges), np.int64)  # ties would leave no terminal edge
    order = np.argsort(-length, kind="stable")
    rank[order] = np.arange(len(edges))
    longest = np.argmin(rank[of_face], axis=1)
    chosen = of_face[np.arange(count), longest]
    uses = np.bincount(of_face.reshape(-1), minlength=len(edges))
    terminal = np.bincount(chosen, minlength=len(edges)) == uses
    picked = order[terminal[order]]
    picked = picked[: np.searchsorted(np.cumsum(uses[picked]), gain) + 1]
    new = np.full(len(edges), -1)
    new[picked] = len(vertices) + np.arange(len(picked))
    middles = 0.5 * (vertices[edges[picked, 0]] + vertices[edges[picked, 1]])
    middle = new[chosen]
    split = middle >= 0
    corner = faces[split[:, None] & np.ones((1, 3), bool)].reshape(-1, 3)
    turn = (longest[split][:, None] + np.arange(3)) % 3
    a, b, c = np.take_along_axis(corner, turn, axis=1).T
    m = middle[split]
    halves = np.concatenate([np.stack([a, m, c], 1), np.stack([m, b, c], 1)])
    return np.concatenate([vertices, middles]), np.concatenate([faces[~split], halves])


def near_surface(mesh: Mesh, count: int, seed: int = 0) -> np.ndarray:
    """(count, 3) float32: surface points, uniform by area, displaced by normal noise of `SIGMA`; unordered."""
    random = np.random.default_rng(seed)
    corners = mesh.vertices64[mesh.faces32]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = random.choice(len(area), count, p=area / area.sum())
    weights = random.dirichlet([1, 1, 1], count)
    points = np.einsum("nk,nkd->nd", weights, corners[face]) + random.normal(0, SIGMA, (count, 3))
    return points.astype(np.float32)


def in_box(mesh: Mesh, count: int, seed: int = 0) -> np.ndarray:
    """(count, 3) float32, uniform in the mesh's bounding box; unordered."""
    low, high = mesh.vertices64.min(0), mesh.vertices64.max(0)
    return np.random.default_rng(seed).uniform(low, high, (count, 3)).astype(np.float32)


def morton_ordered(points: np.ndarray) -> np.ndarray:
    """The same points along a Morton curve: neighbors in space are neighbors in memory."""
    low, high = points.min(0), points.max(0)
    cell = ((points - low) / (high - low) * 1023).astype(np.uint64)
    code = np.zeros(len(points), np.uint64)
    for bit in range(10):
        for axis in range(3):
            code |= (cell[:, axis] >> np.uint64(bit) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return points[np.argsort(code, kind="stable")]


def camera(size: int) -> hf.Camera:
    """A camera in front of the procedural head that fills the image with it."""
    vertices = head(0).vertices64
    middle = 0.5 * (vertices.min(0) + vertices.max(0))
    pose = torch.eye(4)
    pose[:3, :3] = flip_y_z(torch.eye(3))
    place = torch.from_numpy(middle).float() + torch.tensor([0.0, 0.0, 1.0])
    pose[:3, 3] = -(pose[:3, :3] @ place)
    extent = 0.55 * float(np.ptp(vertices[:, 1])) / (1.0 - 0.5 * float(np.ptp(vertices[:, 2])))
    focal = 0.5 * size / extent
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return hf.Camera(pose, intrinsics, (size, size))


def camera_rays(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Origins and unit directions, float32, of a `size` by `size` image of the head, row by row."""
    rays = camera(size).rays()
    return rays.origins.numpy().copy(), rays.directions.numpy().copy()


def random_rays(mesh: Mesh, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """From a sphere around the mesh to points in its box, unordered: float32 origins and unit directions."""
    random = np.random.default_rng(seed)
    target = in_box(mesh, count, seed + 1).astype(np.float64)
    direction = random.normal(size=(count, 3))
    origin = mesh.vertices64.mean(0) + 0.6 * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    ray = target - origin
    return origin.astype(np.float32), (ray / np.linalg.norm(ray, axis=1, keepdims=True)).astype(np.float32)
