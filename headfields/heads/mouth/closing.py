"""Closing the mouth of a head mesh with triangles between the lips.

Head meshes end at the inner lips, so points inside the mouth have no surface nearby to deform with. INSTA (Zielonka et
al. 2023) closes FLAME's inner-lip loop of 32 vertices with 30 triangles; here the same is done for any mesh.
"""

from collections import Counter

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_integer, check_shape

__all__ = ["boundary_loops", "close_mouth", "folded_faces", "mouth_loop"]


def folded_faces(faces: Int[Tensor, "f 3"]) -> Bool[Tensor, " f"]:
    """(F,) mask of faces that share all three vertices with another face, as decimation sometimes leaves them.

    Their edges are used once in each direction, which hides borders: remove them before `boundary_loops`.

    Args:
        faces: (F, 3) vertex indices.
    """
    _, inverse, count = faces.sort(dim=1).values.unique(dim=0, return_inverse=True, return_counts=True)
    return count[inverse] > 1


def boundary_loops(faces: Int[Tensor, "f 3"]) -> list[Int[Tensor, " l"]]:
    """The open borders of a triangle mesh, longest first.

    Args:
        faces: (F, 3) vertex indices, consistently oriented.

    Returns:
        One tensor of vertex indices per border, each vertex once, in the direction in which the faces run along it,
        starting at its smallest index; borders of equal length are ordered by that index. Empty for a closed mesh.
        Borders that touch in a vertex are borders of their own.

    Raises:
        TypeError: `faces` is not an integer tensor.
        ValueError: its shape is not (F, 3), or the faces are not consistently oriented. (Edges with four faces, as
            decimation leaves them, are no border and are accepted.)

    >>> import torch, headfields as hf
    >>> [loop.tolist() for loop in hf.heads.mouth.closing.boundary_loops(torch.tensor([[0, 1, 2], [2, 1, 3]]))]
    [[0, 1, 3, 2]]
    """
    check_integer("boundary_loops", "faces", faces)
    check_shape("boundary_loops", "faces", faces, "F 3")
    table = faces.detach().cpu().tolist()
    directed = Counter(edge for a, b, c in table for edge in ((a, b), (b, c), (c, a)))
    after: dict[int, list[int]] = {}
    for (a, b), uses in sorted(directed.items()):
        unmatched = uses - directed.get((b, a), 0)
        if unmatched > 1:
            raise ValueError(
                f"boundary_loops: faces use the directed edge ({a}, {b}) {unmatched} times more than its reverse; "
                "orient the faces consistently"
            )
        if unmatched == 1:
            after.setdefault(a, []).append(b)
    loops: list[list[int]] = []
    while after:
        path = [min(after)]
        place = {path[0]: 0}
        while path[-1] in after:
            following = after[path[-1]]
            vertex = following.pop(0)
            if not following:
                del after[path[-1]]
            if vertex in place:  # a loop is closed; as many edges arrive at each vertex as leave it
                loop = path[place[vertex] :]
                loops.append(loop)
                del path[place[vertex] + 1 :]
                for other in loop[1:]:
                    del place[other]
            else:
                place[vertex] = len(path)
                path.append(vertex)
    loops = [loop[loop.index(min(loop)) :] + loop[: loop.index(min(loop))] for loop in loops]
    loops.sort(key=lambda loop: (-len(loop), loop[0]))
    return [torch.tensor(loop, dtype=torch.int64, device=faces.device) for loop in loops]


def mouth_loop(
    faces: Int[Tensor, "f 3"], vertices: Float[Tensor, "v 3"], jaw_weights: Float[Tensor, " v"] | None = None
) -> Int[Tensor, " l"]:
    """The open border of a head mesh that is the mouth.

    With `jaw_weights` it is the border along which they vary most: the mouth has a lip on the jaw and one on the skull,
    neck and eye sockets do not. Without them it is the smallest border that crosses the plane x = 0, which eye sockets
    do not cross; the largest one is the neck.

    Args:
        faces: (F, 3) vertex indices.
        vertices: (V, 3) positions, meters, symmetric about x = 0 up to the head's own asymmetry.
        jaw_weights: (V,) skinning weights of the jaw joint, in [0, 1].

    Returns:
        (L,) vertex indices, as `boundary_loops` gives them.

    Raises:
        ValueError: no border fits: the mouth is closed already, or `loop` has to be given by hand.
    """
    check_floating("mouth_loop", "vertices", vertices)
    check_shape("mouth_loop", "vertices", vertices, "V 3")
    loops = boundary_loops(faces)
    spans = [float((vertices[loop].amax(0) - vertices[loop].amin(0)).norm()) for loop in loops]
    chosen: int | None = None
    if jaw_weights is not None:
        varies = [float(jaw_weights[loop].max() - jaw_weights[loop].min()) for loop in loops]
        if varies and max(varies) > 0.25:
            chosen = varies.index(max(varies))
    else:
        crossing = [i for i, loop in enumerate(loops) if vertices[loop, 0].min() < 0 < vertices[loop, 0].max()]
        if len(crossing) > 1 or (crossing and len(loops) == 1):
            chosen = min(crossing, key=spans.__getitem__)
    if chosen is None:
        listing = "; ".join(f"{len(loop)} vertices spanning {s:.3f} m" for loop, s in zip(loops, spans, strict=True))
        raise ValueError(
            f"mouth_loop: none of the borders ({listing or 'there are none'}) looks like a mouth; pass loop"
        )
    return loops[chosen]


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
