"""UV rasterization in plain PyTorch, by testing every face at every texel, and bilinear sampling of maps."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.reference.closest_triangle import closest_on_face


def texel_coordinates(uv: Float[Tensor, "*batch 2"], height: int, width: int) -> Float[Tensor, "*batch 2"]:
    """(column, row) of texture coordinates, whole numbers at the centers of texels; row 0 lies at v = 1."""
    scale = uv.new_tensor([width, -height])
    return uv * scale + uv.new_tensor([-0.5, height - 0.5])


def find_texels(
    uv: Float[Tensor, "t 2"], uv_faces: Int[Tensor, "f 3"], height: int, width: int, padding: float
) -> tuple[Int[Tensor, "h w"], Float[Tensor, "h w 3"], Bool[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Face (-1 for none) and barycentrics of each texel's center, whether a face holds it, and the distance in texels.

    The lowest face that has an area and holds the center, else the nearest within `padding` texels (0: none),
    at the point nearest to the center. Memory is H W F numbers.
    """
    place = texel_coordinates(uv, height, width)
    corners = torch.nn.functional.pad(place, (0, 1))
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centers = torch.stack([column, row, torch.zeros_like(row)], dim=-1).to(corners).reshape(-1, 3)
    count, faces = len(centers), uv_faces.shape[0]
    if not faces:
        empty = torch.full((height, width), -1, dtype=torch.long)
        return empty, place.new_zeros(height, width, 3), empty >= 0, place.new_full((height, width), torch.inf)
    every = torch.arange(faces).expand(count, faces).reshape(-1)
    points = centers[:, None].expand(count, faces, 3).reshape(-1, 3)
    barycentric, _, distance = closest_on_face(points, corners[None], uv_faces.long(), None, every)
    barycentric, distance = barycentric.reshape(count, faces, 3), distance.reshape(count, faces)
    a, b, c = (place[uv_faces.long()[:, k]] for k in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    inside = (distance < 1e-9) & (area.abs() > 1e-9)
    covered = inside.any(dim=1)
    face = torch.where(covered, inside.int().argmax(dim=1), distance.argmin(dim=1))
    distance = distance.gather(1, face[:, None])[:, 0].masked_fill(covered, 0.0)
    barycentric = barycentric[torch.arange(count), face]
    none = ~covered & ((distance > padding) | (padding == 0))
    face, barycentric = face.masked_fill(none, -1), barycentric.masked_fill(none[:, None], 0.0)
    shape = (height, width)
    return face.reshape(shape), barycentric.reshape(*shape, 3), covered.reshape(shape), distance.reshape(shape)


def bilinear(
    image: Float[Tensor, "b c h w"], uv: Float[Tensor, "n 2"], frame: Int[Tensor, " n"]
) -> Float[Tensor, "n c"]:
    """The map of each point's frame at its texture coordinates; beyond the outermost centers, the border's texel."""
    height, width = image.shape[-2:]
    place = texel_coordinates(uv, height, width)
    x, y = place[:, 0].clamp(0, width - 1), place[:, 1].clamp(0, height - 1)
    left, top = x.detach().floor().clamp(max=max(width - 2, 0)), y.detach().floor().clamp(max=max(height - 2, 0))
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    tx, ty = (x - left)[:, None], (y - top)[:, None]
    at = lambda r, c: image[frame.long(), :, r.long(), c.long()]  # noqa: E731
    upper = (1 - tx) * at(top, left) + tx * at(top, right)
    lower = (1 - tx) * at(bottom, left) + tx * at(bottom, right)
    return (1 - ty) * upper + ty * lower
