"""Transfer of weights, blendshapes, regions, landmarks and texture coordinates from a registered body to a template.

Counterparts are the closest triangles of the registered body that look the same way, upper lip to upper lip; what has
none takes its neighbors' values. Values at vertices are smoothed over the surface, across seams of the texture too,
where files have a vertex twice.
"""

from collections.abc import Callable, Mapping

import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.ops.sparse_system import SymmetricSystem
from headfields.ops.vertex_geometry import uniform_laplacian, vertex_normals
from headfields.retargeting.binding import _correspond, _Sided
from headfields.retargeting.head_surface import HeadSurface
from headfields.retargeting.transfer import Correspondence, DeformationTransfer

__all__ = [
    "correspond",
    "transfer_displacements",
    "transfer_landmarks",
    "transfer_regions",
    "transfer_uv",
    "transfer_values",
    "weld_groups",
]

_QUIET = (1e-5, 6e-5)  # meters: displacements below the first are taken for 0


def correspond(source: HeadSurface, registered: Float[Tensor, "v 3"], target: HeadSurface) -> Correspondence:
    """Which triangles of the registered source the target's faces and vertices follow.

    Args:
        source: the body's surface: its faces, and which side of the mouth its vertices are on.
        registered: (V, 3) its vertices laid over the target.
        target: the template.

    Raises:
        ValueError: nothing of the target has a counterpart.
    """
    found = _correspond(source, registered.detach().double().cpu(), target)
    if not bool((found.confidence > 0).any()):
        raise ValueError(
            f"correspond: of the target's {len(target.faces)} faces none lies by the source; register it first"
        )
    return found


def weld_groups(vertices: Float[Tensor, "v 3"], keep: Int[Tensor, " n"] | None = None) -> Int[Tensor, " v"]:
    """(V,) numbers of groups: vertices at exactly the same place share one, as seams of exporters have them.

    Args:
        vertices: (V, 3).
        keep: vertices that stay apart, such as two lips that touch.
    """
    place = vertices.detach().cpu().double()
    label = torch.zeros(len(place), 1, dtype=torch.float64)
    if keep is not None:
        label[keep.cpu(), 0] = 1 + torch.arange(len(keep), dtype=torch.float64)
    return torch.cat([place, label], 1).unique(dim=0, return_inverse=True)[1]


def transfer_values(
    values: Float[Tensor, "v c"],
    correspondence: Correspondence,
    faces: Int[Tensor, "f 3"],
    groups: Int[Tensor, " w"],
    smoothing: float | int = 1.0,
    sides: Int[Tensor, " w"] | None = None,
) -> Float[Tensor, "w c"]:
    """Values at the source's vertices, such as skinning weights, taken over to the target's.

    A target vertex with a counterpart wants the value interpolated there; all values together are the minimizer of
    that and of `smoothing` times the squared differences along edges, so what has no counterpart is filled in
    harmonically and noise of the correspondence is evened out. Linear, so rows that sum to 1 still do, and no value
    leaves the range of the source's.

    Args:
        values: (V, C) at the source's vertices.
        correspondence: of the target.
        faces: (F, 3) of the target.
        groups: (W,) of its vertices, as `weld_groups` gives them; those of one place get one value.
        smoothing: in edges squared; 0 keeps each counterpart's value (and fills in smoothly what has none).
        sides: (W,) of the mouth: between the upper (1) and the lower side (-1) nothing is smoothed where the mesh is
            cut, because no edge is there; given, edges that join the two sides are left out as well.

    Returns:
        (W, C) float64.
    """
    wanted = torch.einsum("wk,wkc->wc", correspondence.barycentric.double(), values.double()[correspondence.corners])
    known = (correspondence.confidence > 0).double()
    count = int(groups.max()) + 1 if len(groups) else 0
    share = torch.zeros(count, dtype=torch.float64).index_add(0, groups, known)
    total = torch.zeros(count, wanted.shape[1], dtype=torch.float64).index_add(0, groups, known[:, None] * wanted)
    have = share > 0
    mean = total / share.clamp_min(1e-12)[:, None]
    table = faces.cpu()
    if sides is not None:
        across = (sides[table] == 1).any(1) & (sides[table] == -1).any(1)
        table = table[~across]
    laplacian = uniform_laplacian(groups.cpu()[table], count)
    weight = have.double().numpy()
    # Where nothing is known the Laplacian alone speaks; a hair of the average keeps parts without any counterpart.
    data = weight + 1e-7
    matrix = scipy.sparse.diags(data) + max(float(smoothing), 1e-3) * laplacian
    average = mean[have].mean(0) if bool(have.any()) else mean.mean(0)
    right = torch.from_numpy(weight)[:, None] * torch.where(have[:, None], mean, 0.0) + 1e-7 * average
    return SymmetricSystem(matrix).solve(right)[groups]


def _harmonic_filler(faces: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
    """What puts harmonic values where nothing is known: no more than at its border, as where a mouth's inside hangs."""
    lost = (~known).nonzero()[:, 0]
    if not len(lost) or len(lost) == len(known):
        return lambda values: values
    laplacian = uniform_laplacian(faces, len(known))
    rows = laplacian[lost.numpy()]
    inner = rows[:, lost.numpy()] + 1e-6 * scipy.sparse.identity(len(lost))  # a part of its own stays where it is
    outer, sure = rows[:, known.nonzero()[:, 0].numpy()], known.nonzero()[:, 0]
    system = SymmetricSystem(inner)

    def fill(values: Tensor) -> Tensor:
        given = values[:, sure].movedim(1, 0)
        right = torch.from_numpy(-(outer @ given.reshape(len(sure), -1).numpy())).reshape(len(lost), *given.shape[1:])
        out = values.clone()
        out[:, lost] = system.solve(right).movedim(0, 1)
        return out

    return fill


def transfer_displacements(
    neutral: Float[Tensor, "v 3"],
    directions: Float[Tensor, "e v 3"],
    source_faces: Int[Tensor, "f 3"],
    target: HeadSurface,
    correspondence: Correspondence,
    groups: Int[Tensor, " w"] | None = None,
    report: Callable[[int], object] | None = None,
) -> Float[Tensor, "e w 3"]:
    """Blendshapes of the source as blendshapes of the target, by deformation transfer: triangles are deformed as their
    counterparts are, rather than vertices moved by the same arrows. What has no counterpart follows its surroundings
    harmonically.

    Args:
        neutral: (V, 3) the source at rest, at the target's scale and in its place.
        directions: (E, V, 3) its displacements, likewise; those that are all zero stay so.
        source_faces: (F, 3).
        target: the template.
        correspondence: of the template.
        groups: (W,) as `weld_groups` gives them: vertices of one place move as one, so that no seam opens.
        report: called with the number of directions done, for a progress bar.

    Returns:
        (E, W, 3) meters, in the dtype of the target's vertices.
    """
    groups = torch.arange(len(target.neutral)) if groups is None else groups.cpu()
    count = int(groups.max()) + 1 if len(groups) else 0
    first = torch.zeros(count, dtype=torch.long).scatter_reduce(
        0, groups, torch.arange(len(groups)), "amin", include_self=False
    )
    at_rest = target.neutral[first].double()
    single = correspondence.replace(
        corners=correspondence.corners[first],
        barycentric=correspondence.barycentric[first],
        confidence=correspondence.confidence[first],
    )
    mover = DeformationTransfer(neutral.double(), source_faces, at_rest, groups[target.faces], single)
    fill = _harmonic_filler(groups[target.faces], single.confidence > 0)
    out = target.neutral.new_zeros(len(directions), len(target.neutral), 3)
    moving = directions.abs().amax((1, 2)).gt(0).nonzero()[:, 0]
    for part in moving.split(8):
        moved = mover(neutral.double() + directions[part].double()) - at_rest
        moved = fill(moved)
        size = moved.norm(dim=-1, keepdim=True)
        low, high = _QUIET
        t = ((size - low) / (high - low)).clamp(0, 1)
        out[part] = (moved * t * t * (3 - 2 * t))[:, groups].to(out)
        if report is not None:
            report(len(part))
    return out


def transfer_regions(
    regions: Mapping[str, Bool[Tensor, " f"]], correspondence: Correspondence
) -> dict[str, Bool[Tensor, " g"]]:
    """The masks `regions` (F,) of the source's faces for the target's G faces, by their `correspondence`.

    A face is in a region if half of its counterparts or more are.
    """
    faces, weights = correspondence.faces, correspondence.weights
    total = weights.sum(1)
    return {
        name: ((weights * mask.cpu()[faces].to(weights)).sum(1) >= 0.5 * total) & (total > 0)
        for name, mask in regions.items()
    }


def transfer_landmarks(
    points: Float[Tensor, "l 3"],
    normals: Float[Tensor, "l 3"],
    sides: Int[Tensor, " l"],
    target: HeadSurface,
) -> tuple[Int[Tensor, " l"], Float[Tensor, "l 3"]]:
    """Faces and barycentric coordinates of the target's points nearest to landmarks of the registered source.

    Args:
        points, normals: (L, 3) on the registered source.
        sides: (L,) 1 for the upper lip's, -1 for the lower one's, 0 for the others.
        target: the template.
    """
    surface = _Sided(target.neutral.double(), target)
    face, weights, _ = surface.closest(points.double(), sides, normals.double(), float("inf"))
    return face, weights.float()


def transfer_uv(
    uv: Float[Tensor, "t 2"],
    uv_faces: Int[Tensor, "f 3"],
    source_faces: Int[Tensor, "f 3"],
    registered: Float[Tensor, "v 3"],
    vertices: Float[Tensor, "w 3"],
    faces: Int[Tensor, "g 3"],
    correspondence: Correspondence,
) -> tuple[Float[Tensor, "u 2"], Int[Tensor, "g 3"]]:
    """Texture coordinates of the source for a template that has none.

    Each face takes the affine map of the source face nearest to its middle, and its corners are put through that, so a
    face never reaches across a seam; corners of neighbors that come out at the same texel share a coordinate.

    Args:
        uv, uv_faces: (T, 2), v up, and (F, 3) of the source.
        source_faces, registered: (F, 3) and (V, 3) of the source laid over the template.
        vertices, faces: (W, 3) and (G, 3) of the template.
        correspondence: of the template.

    Returns:
        (U, 2) in [0, 1] and (G, 3).
    """
    guide = correspondence.faces[:, 0]
    corners = registered.double()[source_faces.cpu()[guide]]
    one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = torch.linalg.cross(one, other)
    frame = torch.stack([one, other, normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-20)], -1)
    away = vertices.double()[faces.cpu()] - corners[:, None, 0]
    flat = torch.linalg.lstsq(frame, away.transpose(1, 2)).solution.transpose(1, 2)[..., :2]
    at = uv.double().cpu()[uv_faces.cpu()[guide]]
    place = (
        at[:, None, 0] + flat[..., :1] * (at[:, 1] - at[:, 0])[:, None] + flat[..., 1:] * (at[:, 2] - at[:, 0])[:, None]
    )
    place = place.clamp(0, 1)
    # A vertex has one coordinate a chart: corners within a few thousandths of each other become their mean.
    key = torch.cat([faces.cpu().reshape(-1, 1).double(), (place.reshape(-1, 2) * 64).round()], 1)
    _, index = key.unique(dim=0, return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    total = torch.zeros(count, 2, dtype=torch.float64).index_add(0, index, place.reshape(-1, 2))
    uses = torch.bincount(index, minlength=count)
    return (total / uses[:, None]).float(), index.reshape(-1, 3)


def landmark_normals(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], on: Int[Tensor, " l"], weights: Float[Tensor, "l 3"]
) -> Float[Tensor, "l 3"]:
    """Normals of the surface at landmarks."""
    normals = vertex_normals(vertices.double(), faces)
    return torch.nn.functional.normalize((weights.double()[..., None] * normals[faces[on]]).sum(1), dim=-1)
