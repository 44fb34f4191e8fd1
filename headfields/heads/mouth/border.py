"""Which open border of a head mesh is the mouth: by the jaw, by symmetry, or for a tracked mesh by its place."""

from jaxtyping import Float, Int
from torch import Tensor

from headfields.ops._checks import check_floating, check_shape
from headfields.ops.mesh_topology import boundary_loops

__all__ = ["mouth_loop", "mouth_loop_in_front"]

_MOUTH_SPAN = 0.1  # meters: wider open borders are the neck's


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


def mouth_loop_in_front(
    faces: Int[Tensor, "f 3"], vertices: Float[Tensor, "v 3"], report: list[str]
) -> Int[Tensor, " l"] | None:
    """The open border of a tracked mesh that is the mouth: the widest in front, on the midline and below 10 cm across.

    A tracked mesh has no joints, is not symmetric, and has borders besides neck and eyes where a tracker cut it;
    `mouth_loop` asks for a head's own mesh.

    Args:
        faces: (F, 3) vertex indices.
        vertices: (V, 3) positions, meters, face toward +z.
        report: gets a line if there is none.

    Returns:
        (L,) vertex indices, as `boundary_loops` gives them, or None.
    """
    try:
        loops = boundary_loops(faces)
    except ValueError as error:
        report.append(f"mouth left as it is: {error}")
        return None
    middle = vertices[faces.unique()].amin(0).lerp(vertices[faces.unique()].amax(0), 0.5)
    mouths = []
    for loop in loops:
        ring = vertices[loop]
        low, high = ring.amin(0), ring.amax(0)
        crosses = low[0] < middle[0] < high[0] and ring[:, 2].mean() > middle[2]
        if crosses and (high - low).norm() < _MOUTH_SPAN:
            mouths.append((float((high - low).norm()), loop))
    if not mouths:
        report.append(
            f"mouth taken as closed: of {len(loops)} open borders none is in front, on the midline and under 10 cm"
        )
        return None
    return max(mouths, key=lambda entry: entry[0])[1]
