"""An inside for the mouth of any head mesh: a cavity behind the lips, its back wall, and two rows of teeth.

Tracked meshes end at the inner lips, so teeth and cavity have no surface to move with: the upper teeth move with the
skull, the lower teeth with the jaw. MonoAvatar (Bai et al. 2023) is said to add an inner mouth to FLAME "by simple
interpolation"; neither the paper nor its supplement says how. The design here is our own: every added vertex is a fixed
affine combination of the mesh's own vertices, so one linear map extends posed meshes, blendshape directions and
skinning weights alike.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headfields.heads.mouth.affine_frames import affine_frame, connected, is_thick, jaw_share, skull_share
from headfields.heads.mouth.border import mouth_loop
from headfields.heads.mouth.closing import close_mouth
from headfields.heads.mouth.shape import Lips, cavity, cavity_chart, cavity_faces, tooth_chart, tooth_row
from headfields.heads.mouth.uv_packing import pack_chart
from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.mesh_topology import boundary_loops, folded_faces
from headfields.ops.vertex_geometry import vertex_areas
from headfields.records import Record, Template

__all__ = ["FLAME_INNER_LIPS", "INNER_MOUTH_PARTS", "InnerMouth", "inner_mouth"]

INNER_MOUTH_PARTS = ("cavity", "upper_teeth", "lower_teeth")
"""Parts that the faces of an `InnerMouth` belong to, indexed by its `part`."""
FLAME_INNER_LIPS = (
    (1572, 1594, 1595, 1746, 1747, 1742, 1739, 1665, 1666, 3514, 2783, 2782, 2854, 2857, 2862, 2861, 2731, 2730, 2708),
    (1572, 1573, 1860, 1862, 1830, 1835, 1852, 3497, 2941, 2933, 2930, 2945, 2943, 2709, 2708),
)
"""Vertex indices of FLAME's inner lips, upper and lower, each from the right to the left corner of the mouth."""
_FLAME_VERTICES = 5023
H = TypeVar("H", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class InnerMouth(Record):
    """The inside of a mouth: N vertices as affine combinations of a mesh's V vertices, and their faces.

    Added vertex n is `lip[n] * v[index[n]] + coefficients[n] @ (frames @ v)`: a blend of a lip vertex and of points in
    two affine frames, skull and jaw, which are themselves weighted sums of the mesh's vertices. The weights of a vertex
    sum to 1, so it follows every rotation, translation and scaling of the mesh exactly. `inner_mouth` makes one.

    Attributes:
        index: (N,) the inner-lip vertex that each added vertex is blended with.
        lip: (N,) weight of that vertex, in [0, 1].
        coefficients: (N, 8) of the frames' origin and axes, the skull's first; meters but for the origins.
        frames: (8, V) weights of the mesh's vertices.
        faces: (F + G, 3) int64: the mesh's F faces, then those of the inside, counter-clockwise seen from within the
            mouth (teeth: from outside the teeth). Added vertices are numbered from V on.
        part: (G,) the part of each added face: 0 cavity, 1 upper teeth, 2 lower teeth (`INNER_MOUTH_PARTS`).
        chart: (S, 2) texture coordinates of the inside in the unit square, v up; with `chart_faces` (G, 3) into them.
        loop: (L,) the inner-lip border from the right corner over the upper lip to the left corner and back.
    """

    index: Int[Tensor, " n"]
    lip: Float[Tensor, " n"]
    coefficients: Float[Tensor, "n 8"]
    frames: Float[Tensor, "8 v"]
    faces: Int[Tensor, "h 3"]
    part: Int[Tensor, " g"]
    chart: Float[Tensor, "s 2"]
    chart_faces: Int[Tensor, "g 3"]
    loop: Int[Tensor, " l"]

    @property
    def face_count(self) -> int:
        """F, the number of faces of the mesh itself."""
        return len(self.faces) - len(self.part)

    @property
    def vertex_count(self) -> int:
        """V, the number of vertices of the mesh itself."""
        return self.frames.shape[1]

    def matrix(self) -> Float[Tensor, "n v"]:
        """(N, V) dense weights of the mesh's vertices in the added ones; rows sum to 1."""
        rows = self.coefficients @ self.frames
        return rows.index_put((torch.arange(len(rows), device=rows.device), self.index), self.lip, accumulate=True)

    def extend(self, vertices: Float[Tensor, "*batch v c"]) -> Float[Tensor, "*batch w c"]:
        """Appends the added vertices: (..., V, C) to (..., V + N, C).

        Linear: besides posed vertices (C = 3, meters) it takes displacements, such as blendshape directions, and
        skinning weights (C joints; rows that sum to 1 still do).

        Args:
            vertices: (..., V, C) values at the mesh's vertices.

        Raises:
            TypeError: `vertices` is not floating point.
            ValueError: it does not have V vertices.

        Differentiability: linear, any order.
        """
        check_floating("InnerMouth.extend", "vertices", vertices)
        if vertices.dim() < 2 or vertices.shape[-2] != self.vertex_count:
            raise ValueError(
                f"InnerMouth.extend: vertices has shape {tuple(vertices.shape)}; expected (..., {self.vertex_count}, C)"
                f" for the mesh that the mouth was made for; an extended mesh has "
                f"{self.vertex_count + len(self.index)} vertices"
            )
        frames, coefficients, lip = (value.to(vertices.dtype) for value in (self.frames, self.coefficients, self.lip))
        added = lip[:, None] * vertices[..., self.index, :] + coefficients @ (frames @ vertices)
        return torch.cat([vertices, added], -2)

    def extend_regions(self, regions: Mapping[str, Bool[Tensor, " f"]]) -> dict[str, Bool[Tensor, " h"]]:
        """Extends face masks from (F,) to (F + G,): the inside joins "mouth" and, if present, "face"; the masks
        "inner_mouth" (all of the inside) and "teeth" are added."""
        own = torch.zeros(self.face_count, dtype=torch.bool, device=self.faces.device)
        inside = torch.ones_like(self.part, dtype=torch.bool)
        grown = {}
        for name, mask in {"mouth": own, **regions}.items():
            tail = inside if name in ("mouth", "face") else ~inside
            grown[name] = torch.cat([mask[: self.face_count], tail])
        grown["inner_mouth"] = torch.cat([own, inside])
        grown["teeth"] = torch.cat([own, self.part > 0])
        return grown

    def extend_uv(
        self, uv: Float[Tensor, "t 2"], uv_faces: Int[Tensor, "f 3"], least: float = 0.1
    ) -> tuple[Float[Tensor, "u 2"], Int[Tensor, "h 3"]]:
        """Texture coordinates (T, 2) and faces (F, 3) with the chart of the inside packed into the largest free square.

        Args:
            uv: (T, 2), v up; coordinates outside [0, 1] are ignored in the search.
            uv_faces: (F, 3) of the mesh's faces.
            least: minimum side of the free square. If it is smaller, the other charts are scaled by 5/6 toward (0, 0),
                and a texture made for them has to be scaled too.
        """
        return pack_chart(uv, uv_faces[: self.face_count], self.chart, self.chart_faces, least)

    def extend_template(self, template: Template, least: float = 0.1) -> Template:
        """The template with the inside of the mouth in place of the faces that close it.

        Args:
            template: vertices of the mesh that the mouth was made for, in any pose; faces beyond its own F, as
                `close_mouth` adds them, are dropped.
            least: see `extend_uv`.

        Returns:
            Template of V + N vertices with `faces`, the regions of `extend_regions`, texture coordinates if `template`
            has them, and `face_count` F. `extend` gives its posed vertices.

        Raises:
            ValueError: the template has another mesh.
        """
        own = template.faces[: self.face_count]
        if not torch.equal(own.to(self.faces), self.faces[: self.face_count]):
            raise ValueError(
                f"InnerMouth.extend_template: the first {self.face_count} of the template's {len(template.faces)} faces"
                " differ from those that the mouth was made for; call inner_mouth(vertices, faces) on its mesh"
            )
        uv, uv_faces = template.uv, template.uv_faces
        if uv is not None and uv_faces is not None:
            uv, uv_faces = self.extend_uv(uv, uv_faces, least)
        return Template(
            canonical_vertices=self.extend(template.canonical_vertices),
            faces=self.faces,
            regions=self.extend_regions(template.regions),
            uv=uv,
            uv_faces=uv_faces,
            face_count=self.face_count,
        )

    def extend_head(self, head: H) -> H:
        """A copy of a `FlameHead`, `SmplxHead` or `BlendshapeHead` whose mesh has the inside of the mouth.

        The same linear map extends every direction, so shape and expression of the copy are exact. Skinning weights are
        extended too (clamped to [0, 1], rows summing to 1), so the copy is an ordinary skinned head. Posed, it equals
        `extend` of the posed head wherever a vertex is rigid with one joint, as teeth and the back of the cavity are if
        `skull` and `jaw` were given; between lips and cavity it differs, because two rotations are blended there.

        Args:
            head: the head that the mouth was made for. Landmarks and regions keep their meaning.

        Raises:
            TypeError: `head` is of another class.
            ValueError: its faces differ.
        """
        if not all(isinstance(getattr(head, name, None), Tensor) for name in ("template_vertices", "expression_basis")):
            raise TypeError(
                f"InnerMouth.extend_head: head is a {type(head).__name__}; expected a FlameHead, SmplxHead or "
                "BlendshapeHead"
            )
        if not torch.equal(head.faces.to(self.faces), self.faces[: self.face_count]):  # type: ignore[arg-type]
            raise ValueError(
                "InnerMouth.extend_head: the head's faces differ from those that the mouth was made for; call "
                "inner_mouth(head.template_vertices, head.faces)"
            )
        extended = copy.deepcopy(head)
        mouth = self.to(head.faces.device)  # type: ignore[arg-type]
        for name in ("template_vertices", "shape_basis", "expression_basis", "identity_basis", "pose_basis"):
            if hasattr(extended, name):
                setattr(extended, name, mouth.extend(getattr(extended, name)))
        if hasattr(extended, "weights"):
            weights = mouth.extend(extended.weights).clamp_min(0)  # type: ignore[arg-type]
            extended.weights = weights / weights.sum(1, keepdim=True)
            regressor = extended.joint_regressor
            extended.joint_regressor = nn.functional.pad(regressor, (0, len(mouth.index)))  # type: ignore[arg-type]
        if hasattr(extended, "derived_regions"):  # from the original head, whose mouth is still open
            regions = mouth.extend_regions(head.derived_regions(mouth.loop))  # type: ignore[operator]
            for name, mask in regions.items():
                extended.register_buffer(f"region_{name}", mask)
            extended._region_names = tuple(regions)  # type: ignore[assignment]
        if getattr(extended, "uv", None) is not None:
            extended.uv, extended.uv_faces = mouth.extend_uv(extended.uv, extended.uv_faces)  # type: ignore[arg-type]
        extended.faces = mouth.faces
        return extended


def inner_mouth(
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    loop: Int[Tensor, " l"] | None = None,
    corners: tuple[int, int] | None = None,
    rows: int = 7,
    depth: float = 0.035,
    back: bool = True,
    teeth: bool = True,
    skull: Float[Tensor, " v"] | None = None,
    jaw: Float[Tensor, " v"] | None = None,
) -> InnerMouth:
    """Builds an inside for the open mouth of a head mesh.

    A bag of `rows` rings hangs on the inner lips. Its roof moves with the skull, its floor with the jaw, its sides with
    both, and its front with the lips, with a weight that falls to 0 at a third of the depth. The bag is as tall as the
    teeth of a closed mouth, so nothing folds or pierces when the lips meet. Sizes are fractions of the mouth's width.

    Args:
        vertices: (V, 3) the mesh at rest, meters, y up, face toward +z, the lips closed or nearly closed (the lower
            teeth stand upright for this position of the jaw). Sizes are those of this identity.
        faces: (F, 3) vertex indices, consistently oriented, the mouth open.
        loop: (L,) the inner-lip border, in any order. If None: `FLAME_INNER_LIPS` for a mesh of 5,023 vertices that has
            this border, else the border that `mouth_loop` finds.
        corners: vertex indices of the mouth's right and left corner, which split the border into upper and lower lip.
            If None: FLAME's, or the border's vertices of least and greatest x. The orientation of the faces decides
            which piece is the upper lip, so closed and crossed lips work too.
        rows: number of rings of quads between the lips and the back.
        depth: distance from the lips to the back, meters.
        back: whether a wall closes the back, which leaves the mouth without a border.
        teeth: whether to add two closed arches of teeth, the upper on the skull and the lower on the jaw.
        skull, jaw: (V,) weights in [0, 1] with which the vertices move with skull and jaw, such as columns of skinning
            weights; vertices above 0.98 define the motion. If None: the skin above the nostrils, and the chin.

    Returns:
        The mouth, in the dtype and on the device of `vertices`.

    Raises:
        TypeError, ValueError: an argument's dtype or shape does not fit; no border looks like a mouth (the mesh has an
            inside already, or sealed lips); `loop` is not a border, or `corners` are not two of its vertices; too few
            vertices move with skull or jaw.

    Differentiability: none here; `InnerMouth.extend` is linear.

    >>> import headfields as hf
    >>> head = hf.synthetic.procedural_head()
    >>> mouth = hf.heads.inner_mouth(head.template_vertices, head.faces)
    >>> mouth.vertex_count == len(head.template_vertices), len(mouth.index), len(mouth.part)
    (True, 520, 1078)
    """
    check_floating("inner_mouth", "vertices", vertices)
    check_shape("inner_mouth", "vertices", vertices, "V 3")
    check_integer("inner_mouth", "faces", faces)
    check_shape("inner_mouth", "faces", faces, "F 3")
    if rows < 0 or not depth > 0:
        raise ValueError(f"inner_mouth: rows is {rows} and depth {depth}; expected rows >= 0 and depth > 0 meters")
    place = vertices.detach().double().cpu()
    own = faces.detach().cpu().long()
    ring, left = _lip_ring(place, own, None if loop is None else loop.cpu(), corners, jaw)
    ends = place[ring[0]], place[ring[left]]
    origin, width = 0.5 * (ends[0] + ends[1]), float((ends[1] - ends[0]).norm())
    if not 1e-4 < width < 1.0:
        raise ValueError(
            f"inner_mouth: the corners are {width:.3g} apart; expected meters, about 0.05; scale the mesh or pass "
            "corners"
        )
    across = (ends[1] - ends[0]) / width
    out = torch.linalg.cross(across, place.new_tensor([0.0, 1.0, 0.0]))
    out = out / out.norm()
    axes = torch.stack([across, torch.linalg.cross(out, across), out])
    local = (place - origin) @ axes.T
    lips = Lips.of(ring, left, local[ring], width)

    frames = []
    area = vertex_areas(place, own) * connected(own, int(ring[0]), len(place))
    for what, weights, region in (("skull", skull, skull_share), ("jaw", jaw, jaw_share)):
        if weights is None:
            # Coarse meshes have few vertices at the chin, so the region grows until there are enough.
            shares = [area * region(local / width, reach) for reach in (1.0, 1.4, 2.0, 2.8)]
            share = next((s for s in shares if is_thick(place, s, width)), shares[-1])
        else:
            check_shape("inner_mouth", what, weights, str(len(place)))
            share = area * (weights.detach().double().cpu() > 0.98)
        frames.append(affine_frame(place, share, origin, width, what))

    rings, with_lips = cavity(lips, rows, depth)
    around = len(ring)
    table = cavity_faces(rows, around)
    if back:
        # The wall uses the edges of the ring that the quads end on in reverse; ring 0 is the border itself.
        line = torch.cat([local[ring][None], rings]).reshape(-1, 3)
        table = torch.cat([table, _wall(table, line, rows, around)])
    numbers = torch.cat([ring, len(place) + torch.arange(rows * around)])
    points, index, lip = [rings.reshape(-1, 3)], [ring.repeat(rows)], [with_lips.repeat_interleave(around)]
    upper, added, part = [lips.upper.repeat(rows)], [numbers[table]], [torch.zeros(len(table), dtype=torch.int64)]
    chart, chart_faces = [cavity_chart(lips, rows, teeth)], [table]
    for number, over in ((1, True), (2, False)) if teeth else ():
        at, triangles = tooth_row(lips, over)
        start = len(place) + sum(len(piece) for piece in points)
        points.append(at)
        index.append(ring[:1].expand(len(at)))
        lip.append(at.new_zeros(len(at)))
        upper.append(at.new_full((len(at),), float(over)))
        added.append(triangles + start)
        part.append(torch.full((len(triangles),), number))
        strip, strip_faces = tooth_chart(over)
        chart_faces.append(strip_faces + sum(len(piece) for piece in chart))
        chart.append(strip.to(place))

    where, share_lip, share_upper = torch.cat(points), torch.cat(lip), torch.cat(upper)
    numbers = torch.cat(index)
    # The offset from the lip vertex turns with the frames.
    offset = (where - share_lip[:, None] * local[numbers]) @ axes
    one = torch.cat([(1 - share_lip)[:, None], offset], 1)
    coefficients = torch.cat([share_upper[:, None] * one, (1 - share_upper)[:, None] * one], 1)
    dtype = vertices.dtype
    mouth = InnerMouth(
        index=numbers,
        lip=share_lip.to(dtype),
        coefficients=coefficients.to(dtype),
        frames=torch.cat(frames).to(dtype),
        faces=torch.cat([own, *added]),
        part=torch.cat(part),
        chart=torch.cat(chart).to(dtype),
        chart_faces=torch.cat(chart_faces),
        loop=ring,
    )
    return mouth.to(vertices.device)


def _wall(strip: Tensor, line: Tensor, rows: int, around: int) -> Int[Tensor, "f 3"]:
    """Triangles between the upper and the lower half of the last ring, as indices of its vertices."""
    if rows == 0:  # a strip that ends on the border; its outer ring is not used
        strip, line = cavity_faces(1, around), torch.cat([line, line])
    last = strip.amax() + 1 - around + torch.arange(around)
    closed, new = close_mouth(strip, last, line)
    return closed[new] - (around if rows == 0 else 0)


def _lip_ring(
    place: Tensor, faces: Tensor, loop: Tensor | None, corners: tuple[int, int] | None, jaw: Tensor | None
) -> tuple[Int[Tensor, " l"], int]:
    """The border from the right corner over the upper lip and back along the lower, and the index of the left corner.

    Faces that are counter-clockwise seen from outside run clockwise along a hole seen from the front: from the right
    corner (least x, left in the image) over the top.
    """
    simple = faces[~folded_faces(faces)]
    lips = None if loop is None else set(loop.tolist())
    flame = {vertex for lip in FLAME_INNER_LIPS for vertex in lip}
    borders = [] if lips is None and len(place) != _FLAME_VERTICES else boundary_loops(simple)
    if lips is None and any(set(border.tolist()) == flame for border in borders):
        lips = flame
        corners = corners or (FLAME_INNER_LIPS[0][0], FLAME_INNER_LIPS[0][-1])
    if lips is None:
        try:
            ring = mouth_loop(simple, place, None if jaw is None else jaw.detach().double().cpu())
        except ValueError as error:
            raise ValueError(
                f"inner_mouth: {error}. A mesh that is closed there has an inside of the mouth already, and needs "
                "none, or its lips are sealed: remove the faces between them"
            ) from None
    else:
        matching = [border for border in borders if set(border.tolist()) == lips]
        if not matching:
            raise ValueError(
                f"inner_mouth: loop of {len(lips)} vertices is not an open border of faces, which have "
                f"{len(borders)} (see boundary_loops); the mouth must be open, without faces that close it"
            )
        ring = matching[0]
    if corners is None:
        ends = [int(place[ring, 0].argmin()), int(place[ring, 0].argmax())]
    else:
        ends = [ring.tolist().index(c) if c in ring.tolist() else -1 for c in corners]
    right, left = ends
    left = (left - right) % len(ring)
    if min(ends) < 0 or left in (0, 1, len(ring) - 1):
        raise ValueError(
            f"inner_mouth: corners {corners} must be two vertices of the border, not adjacent on it: {ring.tolist()}"
        )
    return ring.roll(-right), left
