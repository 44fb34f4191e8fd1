"""Closing the mouth of a head mesh with triangles between the lips.

Head meshes end at the inner lips, so points inside the mouth have no surface nearby to deform with. INSTA (Zielonka et
al. 2023) closes FLAME's inner-lip loop of 32 vertices with 30 triangles; here the same is done for any mesh.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.heads.mouth.border import mouth_loop
from headfields.ops._checks import check_integer
from headfields.ops.mesh_topology import boundary_loops

__all__ = ["close_mouth"]


def close_mouth(
    faces: Int[Tensor, "f 3"],
    loop: Int[Tensor, " l"] | None = None,
    vertices: Float[Tensor, "v 3"] | None = None,
) -> tuple[Int[Tensor, "g 3"], Bool[Tensor, " g"]]:
    """Closes the mouth's border with L - 2 triangles zipped between the upper and the lower lip; adds no vertex.

    Args:
        faces: (F, 3) vertex indices, consistently oriented.
        loop: (L,) the inner-lip border, in either direction; `mouth_loop` finds it if None.
        vertices: (V, 3) positions. The triangles then run from the loop's vertex of least x to that of greatest x along
            the shorter diagonals; without positions, evenly between two opposite vertices of the loop.

    Returns:
        (F + L - 2, 3) int64 faces: `faces` and then the new ones, oriented alike; and (F + L - 2,) True for the new.

    Raises:
        TypeError, ValueError: `faces` is malformed, neither `loop` nor `vertices` is given, or `loop` is not an open
            border of `faces`.

    >>> import torch, headfields as hf
    >>> from headfields.heads.mouth.closing import close_mouth
    >>> closed, new = close_mouth(torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]), torch.arange(4))
    >>> closed.shape, new.sum().item()
    (torch.Size([6, 3]), 2)
    """
    if loop is None:
        if vertices is None:
            raise ValueError("close_mouth: pass loop (the inner-lip border) or vertices (to find it)")
        loop = mouth_loop(faces, vertices)
    check_integer("close_mouth", "loop", loop)
    border = next((b for b in boundary_loops(faces) if set(b.tolist()) == set(loop.tolist())), None)
    if border is None or len(border) != len(loop):
        raise ValueError(
            f"close_mouth: loop of {len(loop)} vertices is not an open border of faces (see boundary_loops)"
        )
    ring = border.tolist()
    if vertices is None:
        first, last = 0, len(ring) // 2
    else:
        x = vertices.detach()[border, 0]
        first, last = int(x.argmin()), int(x.argmax())
    ring = ring[first:] + ring[:first]
    last = (last - first) % len(ring)
    one, other = ring[: last + 1], ring[:1] + ring[last:][::-1]  # both run from the first corner to the last
    edges = {frozenset(edge) for a, b, c in faces.tolist() for edge in ((a, b), (b, c), (c, a))}
    place = None if vertices is None else vertices.detach().double().cpu()

    def cost(a: int, i: int, b: int, j: int) -> tuple[bool, float]:
        """Cost of a diagonal; one that is an edge of the mesh already would get a third face, so it comes last."""
        closing = i == len(one) - 1 and j == len(other) - 1
        if not closing and (frozenset((a, b)) in edges) and not (i <= 1 and j <= 1 and (i == 0 or j == 0)):
            return True, 0.0
        if place is None:
            return False, abs(i / (len(one) - 1) - j / (len(other) - 1))
        return False, float((place[a] - place[b]).norm())

    added = []
    i = j = 0
    while i < len(one) - 1 or j < len(other) - 1:
        step_one = i < len(one) - 1
        if step_one and j < len(other) - 1:
            step_one = cost(one[i + 1], i + 1, other[j], j) <= cost(one[i], i, other[j + 1], j + 1)
        triangle = (one[i + 1], one[i], other[j]) if step_one else (one[i], other[j], other[j + 1])
        i, j = (i + 1, j) if step_one else (i, j + 1)
        if len(set(triangle)) == 3:  # both chains hold the same vertex at either corner
            added.append(triangle)
    new = torch.tensor(added, dtype=torch.int64, device=faces.device).reshape(-1, 3)
    mask = torch.zeros(faces.shape[0] + new.shape[0], dtype=torch.bool, device=faces.device)
    mask[faces.shape[0] :] = True
    return torch.cat([faces.long(), new]), mask
