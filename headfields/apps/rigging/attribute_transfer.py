"""Transfer of weights, blendshapes, regions, landmarks and texture coordinates from a registered body to a template.

Counterparts are the closest triangles of the registered body with similar normals, upper lip to upper lip. Vertices
without a counterpart take their neighbors' values. Vertex values are smoothed over the surface, also across texture
seams where files duplicate vertices.
"""

from collections.abc import Callable, Mapping

import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.retargeting.binding import SidedSurface, surface_correspondence
from headfields.apps.retargeting.deformation_transfer import Correspondence, DeformationTransfer
from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.ops.mesh_topology import uniform_laplacian
from headfields.ops.smoothstep import smoothstep
from headfields.ops.sparse_system import SymmetricSystem
from headfields.ops.vertex_geometry import vertex_normals

__all__ = [
    "correspond",
    "transfer_displacements",
    "transfer_landmarks",
    "transfer_regions",
    "transfer_uv",
    "transfer_values",
    "weld_groups",
]

_QUIET = (1e-5, 6e-5)  # meters: displacements are 0 below the first and unchanged above the second


def correspond(source: HeadSurface, registered: Float[Tensor, "v 3"], target: HeadSurface) -> Correspondence:
    """The triangles of the registered source that the target's faces and vertices follow.

    Args:
        source: the body's surface, with the side of the mouth of each vertex.
        registered: (V, 3) its vertices, registered to the target.
        target: the template.

    Raises:
        ValueError: no face of the target has a counterpart.
    """
    correspondence = surface_correspondence(source, registered.detach().double().cpu(), target)
    if not bool((correspondence.confidence > 0).any()):
        raise ValueError(
            f"correspond: none of the target's {len(target.faces)} faces is near the source; register the source first"
        )
    return correspondence


def weld_groups(vertices: Float[Tensor, "v 3"], keep: Int[Tensor, " n"] | None = None) -> Int[Tensor, " v"]:
    """Group index (V,) of each vertex; vertices at exactly the same position share a group.

    Exporters duplicate vertices along texture seams; their groups let both copies get one value.

    Args:
        vertices: (V, 3).
        keep: (N,) vertices that stay separate, such as those of two lips that touch.

    >>> import torch
    >>> from headfields.apps.rigging.attribute_transfer import weld_groups
    >>> vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 0]])
    >>> weld_groups(vertices).tolist(), weld_groups(vertices, keep=torch.tensor([2])).tolist()
    ([0, 1, 0], [0, 2, 1])
    """
    positions = vertices.detach().cpu().double()
    label = torch.zeros(len(positions), 1, dtype=torch.float64)
    if keep is not None:
        label[keep.cpu(), 0] = 1 + torch.arange(len(keep), dtype=torch.float64)
    return torch.cat([positions, label], 1).unique(dim=0, return_inverse=True)[1]


def transfer_values(
    values: Float[Tensor, "v c"],
    correspondence: Correspondence,
    faces: Int[Tensor, "f 3"],
    groups: Int[Tensor, " w"],
    smoothing: float | int = 1.0,
    sides: Int[Tensor, " w"] | None = None,
) -> Float[Tensor, "w c"]:
    """Transfers vertex values, such as skinning weights, from the source to the target.

    Minimizes the squared difference from the value interpolated at each vertex's counterpart plus `smoothing` times the
    squared differences along edges. Vertices without a counterpart are filled in harmonically. The result is linear in
    the values: rows that sum to 1 still do, and no value leaves the range of the source's.

    Args:
        values: (V, C) at the source's vertices.
        correspondence: the correspondence of the target.
        faces: (F, 3) of the target.
        groups: (W,) from `weld_groups`; vertices of one group get one value.
        smoothing: smoothing strength in squared edge lengths; 0 keeps each counterpart's value (and fills in the others
            smoothly).
        sides: (W,) side of the mouth: 1 upper, -1 lower, 0 neither. Faces that join the two sides are left out of the
            smoothing.

    Returns:
        (W, C) float64. Not differentiable.
    """
    interpolated = torch.einsum(
        "wk,wkc->wc", correspondence.barycentric.double(), values.double()[correspondence.corners]
    )
    known = (correspondence.confidence > 0).double()
    count = int(groups.max()) + 1 if len(groups) else 0
    known_count = torch.zeros(count, dtype=torch.float64).index_add(0, groups, known)
    total = torch.zeros(count, interpolated.shape[1], dtype=torch.float64).index_add(
        0, groups, known[:, None] * interpolated
    )
    has_value = known_count > 0
    mean = total / known_count.clamp_min(1e-12)[:, None]
    triangles = faces.cpu()
    if sides is not None:
        across = (sides[triangles] == 1).any(1) & (sides[triangles] == -1).any(1)
        triangles = triangles[~across]
    laplacian = uniform_laplacian(groups.cpu()[triangles], count)
    weight = has_value.double().numpy()
    # The Laplacian alone determines vertices without a counterpart; a small term fixes components that have none.
    data = weight + 1e-7
    matrix = scipy.sparse.diags(data) + max(float(smoothing), 1e-3) * laplacian
    average = mean[has_value].mean(0) if bool(has_value.any()) else mean.mean(0)
    right_side = torch.from_numpy(weight)[:, None] * torch.where(has_value[:, None], mean, 0.0) + 1e-7 * average
    return SymmetricSystem(matrix).solve(right_side)[groups]


def _harmonic_filler(faces: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that replaces values of unknown vertices by the harmonic extension of the known ones.

    It keeps the inside of a mouth, say, within the range of the values at its border.
    """
    unknown = (~known).nonzero()[:, 0]
    if not len(unknown) or len(unknown) == len(known):
        return lambda values: values
    laplacian = uniform_laplacian(faces, len(known))
    rows = laplacian[unknown.numpy()]
    # Regularized: a component without known vertices stays at 0.
    inner = rows[:, unknown.numpy()] + 1e-6 * scipy.sparse.identity(len(unknown))
    outer, known_index = rows[:, known.nonzero()[:, 0].numpy()], known.nonzero()[:, 0]
    system = SymmetricSystem(inner)

    def fill(values: Tensor) -> Tensor:
        known_values = values[:, known_index].movedim(1, 0)
        right_side = torch.from_numpy(-(outer @ known_values.reshape(len(known_index), -1).numpy())).reshape(
            len(unknown), *known_values.shape[1:]
        )
        filled = values.clone()
        filled[:, unknown] = system.solve(right_side).movedim(0, 1)
        return filled

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
    """Transfers blendshapes by deformation transfer: target triangles deform as their counterparts do.

    Vertices without a counterpart follow their neighbors harmonically.

    Args:
        neutral: (V, 3) the source at rest, aligned with the target.
        directions: (E, V, 3) its displacements, aligned likewise; zero directions stay zero.
        source_faces: (F, 3).
        target: the template.
        correspondence: the correspondence of the template.
        groups: (W,) from `weld_groups`; vertices of one group move as one, so that no seam opens. None: all separate.
        report: called with the number of directions done, for a progress bar.

    Returns:
        (E, W, 3) meters, in the dtype of the target's vertices. Not differentiable.

    Source: Sumner and Popović, Deformation Transfer for Triangle Meshes (2004).
    """
    groups = torch.arange(len(target.neutral)) if groups is None else groups.cpu()
    count = int(groups.max()) + 1 if len(groups) else 0
    first = torch.zeros(count, dtype=torch.long).scatter_reduce(
        0, groups, torch.arange(len(groups)), "amin", include_self=False
    )
    at_rest = target.neutral[first].double()
    welded = correspondence.replace(
        corners=correspondence.corners[first],
        barycentric=correspondence.barycentric[first],
        confidence=correspondence.confidence[first],
    )
    transfer = DeformationTransfer(neutral.double(), source_faces, at_rest, groups[target.faces], welded)
    fill = _harmonic_filler(groups[target.faces], welded.confidence > 0)
    transferred = target.neutral.new_zeros(len(directions), len(target.neutral), 3)
    moving = directions.abs().amax((1, 2)).gt(0).nonzero()[:, 0]
    for chunk in moving.split(8):
        displacements = transfer(neutral.double() + directions[chunk].double()) - at_rest
        displacements = fill(displacements)
        size = displacements.norm(dim=-1, keepdim=True)
        low, high = _QUIET
        transferred[chunk] = (displacements * smoothstep(size, low, high))[:, groups].to(transferred)
        if report is not None:
            report(len(chunk))
    return transferred


def transfer_regions(
    regions: Mapping[str, Bool[Tensor, " f"]], correspondence: Correspondence
) -> dict[str, Bool[Tensor, " g"]]:
    """Transfers face masks: a target face belongs to a region if at least half of its counterparts' weight does.

    Args:
        regions: (F,) masks of the source's faces, by name.
        correspondence: the correspondence of the target's G faces.

    Returns:
        (G,) masks, by name.
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
    """Projects landmarks of the registered source to the target: faces (L,) and barycentric coordinates (L, 3).

    Args:
        points, normals: (L, 3) on the registered source.
        sides: (L,) 1 for landmarks of the upper lip, -1 for the lower lip, 0 for the others.
        target: the template.
    """
    surface = SidedSurface(target.neutral.double(), target)
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
    """Transfers texture coordinates to a template that has none.

    Each face takes the affine uv map of the source face nearest to its center, so it never spans a seam. Corners of
    neighboring faces with nearly the same result share a coordinate.

    Args:
        uv, uv_faces: (T, 2) in [0, 1], v up, and (F, 3) of the source.
        source_faces, registered: (F, 3) of the source and its (V, 3) vertices registered to the template.
        vertices, faces: (W, 3) and (G, 3) of the template.
        correspondence: the correspondence of the template.

    Returns:
        (U, 2) in [0, 1] and (G, 3) indices into it.
    """
    nearest_face = correspondence.faces[:, 0]
    corners = registered.double()[source_faces.cpu()[nearest_face]]
    edge_1, edge_2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = torch.linalg.cross(edge_1, edge_2)
    frame = torch.stack([edge_1, edge_2, torch.nn.functional.normalize(normal, dim=1, eps=1e-20)], -1)
    offsets = vertices.double()[faces.cpu()] - corners[:, None, 0]
    coordinates = torch.linalg.lstsq(frame, offsets.transpose(1, 2)).solution.transpose(1, 2)[..., :2]
    source_uv = uv.double().cpu()[uv_faces.cpu()[nearest_face]]
    corner_uv = (
        source_uv[:, None, 0]
        + coordinates[..., :1] * (source_uv[:, 1] - source_uv[:, 0])[:, None]
        + coordinates[..., 1:] * (source_uv[:, 2] - source_uv[:, 0])[:, None]
    )
    corner_uv = corner_uv.clamp(0, 1)
    # Corners of a vertex whose coordinates round to the same 1/64 become one coordinate, their mean.
    key = torch.cat([faces.cpu().reshape(-1, 1).double(), (corner_uv.reshape(-1, 2) * 64).round()], 1)
    _, index = key.unique(dim=0, return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    total = torch.zeros(count, 2, dtype=torch.float64).index_add(0, index, corner_uv.reshape(-1, 2))
    counts = torch.bincount(index, minlength=count)
    return (total / counts[:, None]).float(), index.reshape(-1, 3)


def landmark_normals(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    landmark_faces: Int[Tensor, " l"],
    weights: Float[Tensor, "l 3"],
) -> Float[Tensor, "l 3"]:
    """Unit surface normals (L, 3) at landmarks given as faces (L,) and barycentric coordinates (L, 3)."""
    normals = vertex_normals(vertices.double(), faces)
    return torch.nn.functional.normalize((weights.double()[..., None] * normals[faces[landmark_faces]]).sum(1), dim=-1)
