"""A triangle mesh with colors, normals and a texture."""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.mesh_topology import vertex_components
from headfields.ops.similarity import Similarity
from headfields.ops.vertex_geometry import face_normals, triangle_areas, vertex_normals
from headfields.records import Record


@dataclass(frozen=True)
class Mesh(Record):
    """A triangle mesh; without faces, a point set (a scan).

    Attributes:
        vertices: (V, 3) meters, y up, face toward +z.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        colors: (V, 3) sRGB in [0, 1].
        normals: (V, 3) unit normals, pointing outside.
        uv: (T, 2) texture coordinates, v up.
        uv_faces: (F, 3) indices into `uv`; None if the faces index it too, one row per vertex.
        texture: (H, W, 3) sRGB in [0, 1], row 0 at v = 1.

    Raises:
        TypeError: a field is not a tensor of its kind.
        ValueError: a shape does not fit, or a face names a vertex that does not exist.

    >>> import torch, headfields as hf
    >>> mesh = hf.Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    >>> mesh.vertex_normals().tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colors: Float[Tensor, "v 3"] | None = None
    normals: Float[Tensor, "v 3"] | None = None
    uv: Float[Tensor, "t 2"] | None = None
    uv_faces: Int[Tensor, "f 3"] | None = None
    texture: Float[Tensor, "h w 3"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        least, most = torch.stack(self.faces.aminmax()).tolist() if self.faces.numel() else (0, -1)  # waits once
        if least < 0 or most >= len(self.vertices):
            raise ValueError(
                f"Mesh: faces holds indices from {least} to {most}, but there are {len(self.vertices)} vertices"
            )

    def __getitem__(self, index: Any) -> NoReturn:
        raise TypeError("Mesh: a mesh has no rows; Mesh.select(mask) takes some of its faces")

    def select(self, mask: Bool[Tensor, " f"]) -> "Mesh":
        """The faces in the mask (F,) and the vertices that they use; texture coordinates keep their rows."""
        faces = self.faces[mask]
        used, corner = faces.unique(return_inverse=True)

        def rows(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[used]

        return Mesh(
            self.vertices[used], corner.reshape(-1, 3), rows(self.colors), rows(self.normals),
            rows(self.uv) if self.uv_faces is None else self.uv,
            None if self.uv_faces is None else self.uv_faces[mask], self.texture,
        )  # fmt: skip

    def transformed(self, similarity: Similarity) -> "Mesh":
        """The mesh under a similarity, its normals turned with it. Differentiable."""
        normals = None if self.normals is None else self.normals @ similarity.rotation.to(self.normals).transpose(0, 1)
        return self.replace(vertices=similarity.apply(self.vertices), normals=normals)

    def components(self) -> Int[Tensor, " f"]:
        """The connected component of each face (F,): 0 has most faces, and so on. Components share no vertex."""
        label = vertex_components(self.faces, len(self.vertices))[self.faces[:, 0].long()].cpu().numpy()
        component, sizes = np.unique(label, return_counts=True)
        rank = np.empty(int(label.max(initial=-1)) + 1, np.int64)
        rank[component[np.argsort(-sizes, kind="stable")]] = np.arange(len(component))
        return torch.from_numpy(rank[label]).to(self.faces.device)

    def largest_component(self) -> "Mesh":
        """The connected component with most faces."""
        return self.select(self.components() == 0)

    def face_normals(self) -> Float[Tensor, "f 3"]:
        """Unit normals of the faces, by their winding; 0 for a face without area. Differentiable."""
        return face_normals(self.vertices, self.faces.long())

    def vertex_normals(self) -> Float[Tensor, "v 3"]:
        """Unit normals of the vertices: the mean of their faces' by area; 0 where there are none. Differentiable."""
        return vertex_normals(self.vertices, self.faces.long())

    def with_normals(self) -> "Mesh":
        """The mesh with its normals, or those of `vertex_normals` if it has none."""
        return self if self.normals is not None else self.replace(normals=self.vertex_normals())

    def sample(self, count: int, seed: int = 0) -> "SurfacePoints":
        """Draws points uniformly from the surface.

        Args:
            count: number of points.
            seed: seed of the random numbers, which are the same on every device.

        Raises:
            ValueError: the surface has no area (unless count is 0), or count is negative.
        """
        if count < 0:
            raise ValueError(f"Mesh.sample: count is {count}; expected 0 or more")
        areas = triangle_areas(self.vertices.detach(), self.faces.long()).double().cpu().nan_to_num(0.0, 0.0, 0.0)
        total = areas.cumsum(0)
        if count and not (len(areas) and bool(total[-1] > 0)):
            raise ValueError(f"Mesh.sample: the {len(areas)} faces have no area; pass a surface to draw from")
        generator = torch.Generator().manual_seed(seed)
        place = torch.rand(count, generator=generator, dtype=torch.float64)
        face = torch.searchsorted(total, place * total[-1:], right=True).clamp_max(max(len(areas) - 1, 0))
        root, along = torch.rand(2, count, generator=generator, dtype=torch.float64)
        root = root.sqrt()
        barycentric = torch.stack([1 - root, root * (1 - along), root * along], dim=-1).to(self.vertices)
        face = face.to(self.faces.device)
        points = (barycentric[..., None] * self.vertices[self.faces[face].long()]).sum(1)
        return SurfacePoints(points, self.face_normals()[face], face, barycentric)


@dataclass(frozen=True)
class SurfacePoints(Record):
    """N points of a mesh's surface.

    Attributes:
        points: (N, 3) meters.
        normals: (N, 3) unit normals of their faces.
        face: (N,) the face that each is on.
        barycentric: (N, 3) its position on the face.
    """

    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    face: Int[Tensor, " n"]
    barycentric: Float[Tensor, "n 3"]
