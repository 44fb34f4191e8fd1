"""Small meshes that tests share."""

import torch
from torch import Tensor


def uv_sphere(rings: int, segments: int, radius: float = 1.0) -> tuple[Tensor, Tensor]:
    """A closed sphere: vertices (V, 3), outward faces (F, 3)."""
    polar = torch.linspace(0, torch.pi, rings + 1)[1:-1]
    around = torch.arange(segments) * (2 * torch.pi / segments)
    body = torch.stack(
        [
            polar.sin()[:, None] * around.sin(),
            polar.cos()[:, None].expand(-1, segments),
            polar.sin()[:, None] * around.cos(),
        ],
        dim=-1,
    ).reshape(-1, 3)
    vertices = torch.cat([body, torch.tensor([[0.0, 1, 0], [0, -1, 0]])]) * radius
    top, bottom = len(body), len(body) + 1
    faces = []
    for s in range(segments):
        n = (s + 1) % segments
        faces.append([top, s, n])
        last = (rings - 2) * segments
        faces.append([bottom, last + n, last + s])
        for r in range(rings - 2):
            a, b, c, d = r * segments + s, r * segments + n, (r + 1) * segments + s, (r + 1) * segments + n
            faces += [[a, c, b], [b, c, d]]
    return vertices, torch.tensor(faces)


def grid_sheet(cells: int) -> tuple[Tensor, Tensor]:
    """A flat square sheet over [-1, 1]² at z = 0, facing +z."""
    line = torch.linspace(-1, 1, cells + 1)
    y, x = torch.meshgrid(line, line, indexing="ij")
    vertices = torch.stack([x, y, torch.zeros_like(x)], dim=-1).reshape(-1, 3)
    faces = []
    for row in range(cells):
        for column in range(cells):
            a = row * (cells + 1) + column
            faces += [[a, a + 1, a + cells + 2], [a, a + cells + 2, a + cells + 1]]
    return vertices, torch.tensor(faces)


def rotation(seed: int) -> Tensor:
    """A random rotation matrix, float64."""
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q)
