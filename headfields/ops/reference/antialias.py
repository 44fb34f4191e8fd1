"""Antialiasing in plain PyTorch, by testing every silhouette edge between every two neighboring pixels."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def silhouettes(
    pixels: Float[Tensor, "v 2"], vertex_depth: Float[Tensor, " v"], faces: Int[Tensor, "f 3"]
) -> list[tuple[int, int, float]]:
    """The edges whose faces all lie on one side in the image: both ends, and the sign of that side."""
    sides: dict[tuple[int, int], list[float]] = {}
    for face in faces.tolist():
        for k in range(3):
            a, b, c = [*sorted((face[k], face[(k + 1) % 3])), face[(k + 2) % 3]]
            line, reach = pixels[b] - pixels[a], pixels[c] - pixels[a]
            side = float((line[0] * reach[1] - line[1] * reach[0]).sign())
            hidden = bool((vertex_depth[[a, b, c]] <= 0).any())
            sides.setdefault((a, b), []).append(float("nan") if hidden else side)
    edges = []
    for (a, b), votes in sides.items():
        total, voting = sum(votes), sum(abs(vote) for vote in votes)
        if voting > 0 and abs(total) == voting:  # false for NaN
            edges.append((a, b, 1.0 if total > 0 else -1.0))
    return edges


def antialias(
    image: Float[Tensor, "h w c"],
    pixels: Float[Tensor, "v 2"],
    vertex_depth: Float[Tensor, " v"],
    faces: Int[Tensor, "f 3"],
    depth: Float[Tensor, "h w"],
    mask: Bool[Tensor, "h w"],
) -> Float[Tensor, "h w c"]:
    """`headfields.ops.antialias` of `headfields.ops.antialias.silhouette_crossings`, with loops in Python.

    Differentiable to any order in the image and the pixels of vertices.
    """
    height, width = mask.shape
    surface = torch.where(mask, depth.detach(), torch.inf)
    edges = silhouettes(pixels.detach().double(), vertex_depth.detach(), faces)
    shares: dict[tuple[int, int], list[tuple[Tensor, tuple[int, int]]]] = {}
    for row in range(height):
        for column in range(width):
            for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                other = (row + down, column + right)
                if not (0 <= other[0] < height and 0 <= other[1] < width):
                    continue
                near, far = surface[row, column], surface[other]
                best = None
                for a, b, inside in edges:
                    position = _crossing(pixels[a], pixels[b], inside, row, column, down, right)
                    if position is None:
                        continue
                    at, part = position
                    behind = 1 / ((1 - part) / vertex_depth[a].detach() + part / vertex_depth[b].detach())
                    gap = far - behind
                    if bool(gap > 0) and bool((near - behind).abs() < gap) and (best is None or bool(at > best)):
                        best = at
                if best is not None:
                    first, second = (row, column), other
                    target, source = (first, second) if best < 0.5 else (second, first)
                    shares.setdefault(target, []).append(((best - 0.5).abs(), source))
    rows = [[image[row, column] for column in range(width)] for row in range(height)]
    for (row, column), terms in shares.items():
        total = sum((share for share, _ in terms), torch.zeros(()).to(image)).clamp(min=1)
        for share, source in terms:
            rows[row][column] = rows[row][column] + share / total * (image[source] - image[row, column])
    if not height * width:
        return image.clone()
    return torch.stack([torch.stack(row) for row in rows])


def _crossing(
    a: Tensor, b: Tensor, inside: float, row: int, column: int, down: int, right: int
) -> tuple[Tensor, Tensor] | None:
    """The crossing of the edge from a to b with the segment from a pixel's center to its neighbor's, as parts of the
    segment and of the edge; None unless the segment begins on the edge's inner side and has the edge's direction."""
    line = (b - a).detach()
    by_row = right != 0
    if bool(line[1].abs() > line[0].abs()) != by_row:
        return None
    major, level = (1, row + 0.5) if by_row else (0, column + 0.5)
    low, high = sorted((float(a[major].detach()), float(b[major].detach())))
    if not low <= level < high:
        return None
    part = (level - a[major]) / (b[major] - a[major])
    across = a[1 - major] + part * (b[1 - major] - a[1 - major])
    start = column + 0.5 if by_row else row + 0.5
    at = (across - start) * (right + down)
    place = float(at.detach())
    if not (0 <= place < 1 if right + down > 0 else 0 < place <= 1):
        return None
    center = torch.tensor([column + 0.5, row + 0.5]).to(line)
    reach = center - a.detach() - torch.tensor([right, down]).to(line)  # a little further in, if it is on the edge
    side = float((line[0] * reach[1] - line[1] * reach[0]).sign())
    return (at, part.detach()) if side == inside else None
