"""An inside for the mouth of any head mesh: a cavity behind the lips, its back wall, and two rows of teeth.

Meshes of trackers end at the inner lips, and what a camera sees between open lips then has no surface to move with:
the upper teeth with the skull, the lower ones with the jaw. MonoAvatar (Bai et al. 2023) is said to add an inner mouth
to FLAME "by simple interpolation"; neither the paper nor its supplement says how. The design here is our own: every
added vertex is a fixed affine combination of the mesh's own vertices, so that one linear map extends posed meshes,
directions of blendshapes and skinning weights alike.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headfields.heads.mouth.affine_frames import affine_frame, connected, is_thick, jaw_share, skull_share
from headfields.heads.mouth.closing import boundary_loops, close_mouth, folded_faces, mouth_loop
from headfields.heads.mouth.shape import Lips, cavity, cavity_chart, cavity_faces, tooth_chart, tooth_row
from headfields.heads.mouth.uv_packing import pack_chart
from headfields.ops._checks import check_floating, check_integer, check_shape
from headfields.ops.vertex_geometry import vertex_areas
from headfields.records import Record, Template

__all__ = ["FLAME_INNER_LIPS", "INNER_MOUTH_PARTS", "InnerMouth", "inner_mouth"]

INNER_MOUTH_PARTS = ("cavity", "upper_teeth", "lower_teeth")
"""What the faces of an `InnerMouth` are of; its `part` indexes these."""
FLAME_INNER_LIPS = (
    (1572, 1594, 1595, 1746, 1747, 1742, 1739, 1665, 1666, 3514, 2783, 2782, 2854, 2857, 2862, 2861, 2731, 2730, 2708),
    (1572, 1573, 1860, 1862, 1830, 1835, 1852, 3497, 2941, 2933, 2930, 2945, 2943, 2709, 2708),
)
"""The inner border of FLAME's upper and lower lip, each from the right corner to the left one, by vertex index."""
_FLAME_VERTICES = 5023
H = TypeVar("H", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class InnerMouth(Record):
    """How N added vertices follow from a mesh's own V, and the faces between them; made by `inner_mouth`.

    Added vertex n is `lip[n] * v[index[n]] + coefficients[n] @ (frames @ v)`: partly a vertex of the lips, partly a
    point of two affine frames, the skull's and the jaw's, which are themselves weighted sums of the mesh's vertices.
    The weights of a vertex sum to 1, so it follows every rotation, translation and scaling of the mesh exactly.

    Attributes:
        index: (N,) a vertex of the inner lips for each added one.
        lip: (N,) how far the added vertex goes with it, in [0, 1].
        coefficients: (N, 8) of the frames' origin and axes, the skull's first; meters but for the origins.
        frames: (8, V) weights of the mesh's vertices.
        faces: (F + G, 3) int64: the mesh's F own faces first, then those of the inside, counter-clockwise seen from
            within the mouth (teeth: from outside the teeth). Added vertices are numbered from V on.
        part: (G,) what each added face is of, an index into `INNER_MOUTH_PARTS`.
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
        """F, how many of `faces` are the mesh's own."""
        return len(self.faces) - len(self.part)

    @property
    def vertex_count(self) -> int:
        """V, how many vertices the mesh has of its own."""
        return self.frames.shape[1]

    def matrix(self) -> Float[Tensor, "n v"]:
        """The weights of the mesh's vertices in the added ones, dense; rows sum to 1."""
        rows = self.coefficients @ self.frames
        return rows.index_put((torch.arange(len(rows), device=rows.device), self.index), self.lip, accumulate=True)

    def extend(self, vertices: Float[Tensor, "*batch v c"]) -> Float[Tensor, "*batch w c"]:
        """The mesh's vertices and the added ones: (..., V, C) to (..., V + N, C).

        Linear: besides posed vertices (C = 3, meters) it takes displacements per vertex, such as the directions of
        blendshapes, and skinning weights (C joints; rows that sum to 1 still do).

        Args:
            vertices: (..., V, C), values at the mesh's own vertices.

        Raises:
            TypeError: `vertices` is not floating point.
            ValueError: it is not of V vertices.

        Differentiability: linear, any order.
        """
        check_floating("InnerMouth.extend", "vertices", vertices)
        if vertices.dim() < 2 or vertices.shape[-2] != self.vertex_count:
            raise ValueError(
                f"InnerMouth.extend: vertices has shape {tuple(vertices.shape)}; expected (..., {self.vertex_count}, C)"
                f", the mesh that the mouth was made for; one that is extended already has "
                f"{self.vertex_count + len(self.index)}"
            )
        frames, coefficients, lip = (value.to(vertices.dtype) for value in (self.frames, self.coefficients, self.lip))
        added = lip[:, None] * vertices[..., self.index, :] + coefficients @ (frames @ vertices)
        return torch.cat([vertices, added], -2)

    def extend_regions(self, regions: Mapping[str, Bool[Tensor, " f"]]) -> dict[str, Bool[Tensor, " h"]]:
        """Face masks (F,) grown to (F + G,): the inside is in "mouth" and, where there is one, in "face"; "inner_mouth"
        (all of the inside) and "teeth" are added."""
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
        """Texture coordinates (T, 2) and faces (F, 3) with a chart for the inside, in the largest free square.

        Args:
            uv: (T, 2), v up; what lies outside [0, 1] is not looked at.
            uv_faces: (F, 3) those of the mesh's own faces.
            least: side below which the free square is too small. The other charts are then shrunk to 5/6 toward
                (0, 0), so that a texture made for them has to be shrunk too.
        """
        return pack_chart(uv, uv_faces[: self.face_count], self.chart, self.chart_faces, least)

    def extend_template(self, template: Template, least: float = 0.1) -> Template:
        """The template with the inside of the mouth in place of the faces that close it.

        Args:
            template: of the mesh that the mouth was made for, in any pose; faces that follow its own, as `close_mouth`
                adds them, are left out.
            least: see `extend_uv`.

        Returns:
            V + N vertices, `faces`, regions as `extend_regions` has them, texture coordinates where the template has
            some, and `face_count` F. Posed vertices for it come from `extend`.

        Raises:
            ValueError: the template is of another mesh.
        """
        own = template.faces[: self.face_count]
        if not torch.equal(own.to(self.faces), self.faces[: self.face_count]):
            raise ValueError(
                f"InnerMouth.extend_template: the first {self.face_count} of the template's {len(template.faces)} faces"
                " are not those that the mouth was made for; make one for its mesh with inner_mouth(vertices, faces)"
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

        Every direction is extended by the same linear map, so shape and expression of the copy are exactly those of the
        head, extended. Skinning weights are extended too (and cut to [0, 1], each row summing to 1), so that the copy
        is an ordinary skinned head; a posed copy equals `extend` of the posed head where all that a vertex follows is
        rigid with one joint, as the teeth and the back of the cavity are where `skull` and `jaw` were given, and
        differs from it between lips and cavity by what blending two rotations makes of it.

        Args:
            head: whose vertices and faces the mouth was made for. Landmarks and regions keep their meaning.

        Raises:
            TypeError: `head` is none of these.
            ValueError: it has other faces.
        """
        if not all(isinstance(getattr(head, name, None), Tensor) for name in ("template_vertices", "expression_basis")):
            raise TypeError(
                f"InnerMouth.extend_head: head is a {type(head).__name__}; expected a FlameHead, SmplxHead or "
                "BlendshapeHead"
            )
        if not torch.equal(head.faces.to(self.faces), self.faces[: self.face_count]):  # type: ignore[arg-type]
            raise ValueError(
                "InnerMouth.extend_head: the head's faces are not those that the mouth was made for; make one with "
                "inner_mouth(head.template_vertices, head.faces)"
            )
        made = copy.deepcopy(head)
        here = self.to(head.faces.device)  # type: ignore[arg-type]
        for name in ("template_vertices", "shape_basis", "expression_basis", "identity_basis", "pose_basis"):
            if hasattr(made, name):
                setattr(made, name, here.extend(getattr(made, name)))
        if hasattr(made, "weights"):
            weights = here.extend(made.weights).clamp_min(0)  # type: ignore[arg-type]
            made.weights = weights / weights.sum(1, keepdim=True)
            regressor = made.joint_regressor
            made.joint_regressor = nn.functional.pad(regressor, (0, len(here.index)))  # type: ignore[arg-type]
        if hasattr(made, "derived_regions"):  # FLAME's; asked of the head as it was, whose mouth is still open
            regions = here.extend_regions(head.derived_regions(here.loop))  # type: ignore[operator]
            for name, mask in regions.items():
                made.register_buffer(f"region_{name}", mask)
            made._region_names = tuple(regions)  # type: ignore[assignment]
        if getattr(made, "uv", None) is not None:
            made.uv, made.uv_faces = here.extend_uv(made.uv, made.uv_faces)  # type: ignore[arg-type]
        made.faces = here.faces
        return made


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
    """Makes an inside for the open mouth of a head mesh.

    A bag of `rows` rings hangs on the inner lips. Its roof goes with the skull and its floor with the jaw, its sides
    with both, and its front with the lips, by a share that falls to 0 at a third of the depth. It is as tall as a
    closed mouth has teeth, so nothing is folded or pierced when the lips meet. Sizes are parts of the mouth's width.

    Args:
        vertices: (V, 3) the mesh at rest, meters, y up, face toward +z; best with the lips closed or nearly (the lower
            teeth are set upright as the jaw stands here). The identity that is to be extended: sizes do not follow it.
        faces: (F, 3) vertex indices, consistently oriented, the mouth open.
        loop: (L,) the inner-lip border, in any order. Left out: FLAME's (`FLAME_INNER_LIPS`) if the mesh has 5,023
            vertices and these are a border; else what `mouth_loop` finds.
        corners: vertex indices of the mouth's right and left corner, where the border is cut into upper and lower lip.
            Left out: FLAME's, or the border's vertices of least and greatest x. Which of the two pieces is the upper
            lip follows from the faces' orientation, so it is found for closed and for crossed lips too.
        rows: how many rings of quads lie between the lips and the back.
        depth: from the lips to the back, meters.
        back: whether a wall closes the back, so that the mouth has no border left.
        teeth: whether two closed arches of teeth stand in the cavity, the upper on the skull and the lower on the jaw.
        skull, jaw: (V,) how far each vertex is rigid with the skull and with the jaw, e.g. two columns of skinning
            weights; those above 0.98 are followed. Left out: the skin above the nostrils and that of the chin.

    Returns:
        The mouth, of the dtype and on the device of `vertices`.

    Raises:
        TypeError, ValueError: an argument's dtype or shape does not fit; no border looks like a mouth (the mesh has an
            inside already, or lips that are sealed); `loop` is not a border or `corners` are not two of its vertices;
            too few vertices move with skull or jaw.

    Differentiability: none here; `InnerMouth.extend` is linear.
    """
    check_floating("inner_mouth", "vertices", vertices)
    check_shape("inner_mouth", "vertices", vertices, "V 3")
    check_integer("inner_mouth", "faces", faces)
    check_shape("inner_mouth", "faces", faces, "F 3")
    if rows < 0 or not depth > 0:
        raise ValueError(f"inner_mouth: rows is {rows} and depth {depth}; expected rows >= 0 and depth > 0 meters")
    place = vertices.detach().double().cpu()
    own = faces.detach().cpu().long()
    ring, left = _ring(place, own, None if loop is None else loop.cpu(), corners, jaw)
    ends = place[ring[0]], place[ring[left]]
    origin, width = 0.5 * (ends[0] + ends[1]), float((ends[1] - ends[0]).norm())
    if not 1e-4 < width < 1.0:
        raise ValueError(
            f"inner_mouth: the corners are {width:.3g} apart; expected meters, so some 0.05; scale the mesh or pass "
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
    for what, given, found in (("skull", skull, skull_share), ("jaw", jaw, jaw_share)):
        if given is None:
            # Coarse meshes may have few vertices where a chin is, so the place grows until there are enough.
            shares = [area * found(local / width, reach) for reach in (1.0, 1.4, 2.0, 2.8)]
            share = next((s for s in shares if is_thick(place, s, width)), shares[-1])
        else:
            check_shape("inner_mouth", what, given, str(len(place)))
            share = area * (given.detach().double().cpu() > 0.98)
        frames.append(affine_frame(place, share, origin, width, what))

    rings, with_lips = cavity(lips, rows, depth)
    around = len(ring)
    table = cavity_faces(rows, around)
    if back:
        # Ring 0 is the border itself, whose edges the wall may only use in reverse; so is any ring that quads end on.
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
    # With the lip's vertex the offset from it turns as the frames do; the rest is a point of the frames.
    offset = (where - share_lip[:, None] * local[numbers]) @ axes
    one = torch.cat([(1 - share_lip)[:, None], offset], 1)
    coefficients = torch.cat([share_upper[:, None] * one, (1 - share_upper)[:, None] * one], 1)
    dtype = vertices.dtype
    made = InnerMouth(
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
    return made.to(vertices.device)


def _wall(strip: Tensor, line: Tensor, rows: int, around: int) -> Int[Tensor, "f 3"]:
    """Triangles between the upper and the lower half of the last ring, in its numbers."""
    if rows == 0:  # as if quads ended on the border; their outer ring is never looked at
        strip, line = cavity_faces(1, around), torch.cat([line, line])
    last = strip.amax() + 1 - around + torch.arange(around)
    closed, new = close_mouth(strip, last, line)
    return closed[new] - (around if rows == 0 else 0)


def _ring(
    place: Tensor, faces: Tensor, loop: Tensor | None, corners: tuple[int, int] | None, jaw: Tensor | None
) -> tuple[Int[Tensor, " l"], int]:
    """The border from the right corner over the upper lip and back along the lower one, and where the left corner is.

    Faces that are counter-clockwise from outside run along a hole clockwise, seen from in front: from the right corner
    (x least, on the left of the image) over the top.
    """
    simple = faces[~folded_faces(faces)]
    wanted = None if loop is None else set(loop.tolist())
    flame = {vertex for lip in FLAME_INNER_LIPS for vertex in lip}
    borders = [] if wanted is None and len(place) != _FLAME_VERTICES else boundary_loops(simple)
    if wanted is None and any(set(border.tolist()) == flame for border in borders):
        wanted = flame
        corners = corners or (FLAME_INNER_LIPS[0][0], FLAME_INNER_LIPS[0][-1])
    if wanted is None:
        try:
            ring = mouth_loop(simple, place, None if jaw is None else jaw.detach().double().cpu())
        except ValueError as error:
            raise ValueError(
                f"inner_mouth: {error}. A mesh that is closed there has an inside of the mouth already, and then "
                "nothing is to be added, or its lips are sealed: take out the faces between them"
            ) from None
    else:
        found = [border for border in borders if set(border.tolist()) == wanted]
        if not found:
            raise ValueError(
                f"inner_mouth: loop of {len(wanted)} vertices is not an open border of faces, which have "
                f"{len(borders)} (see boundary_loops); the mouth must be open, without faces that close it"
            )
        ring = found[0]
    if corners is None:
        ends = [int(place[ring, 0].argmin()), int(place[ring, 0].argmax())]
    else:
        ends = [ring.tolist().index(c) if c in ring.tolist() else -1 for c in corners]
    right, left = ends
    left = (left - right) % len(ring)
    if min(ends) < 0 or left in (0, 1, len(ring) - 1):
        raise ValueError(
            f"inner_mouth: corners {corners} must be two vertices of the border that are no neighbors on it: "
            f"{ring.tolist()}"
        )
    return ring.roll(-right), left
