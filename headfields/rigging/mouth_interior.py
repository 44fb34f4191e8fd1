"""The inside of a scan's mouth: made where there is none, found where there is one, and colored in the texture."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.heads.mouth.inner import inner_mouth
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.uv import UVRasterizer
from headfields.ops.vertex_geometry import face_normals
from headfields.retargeting.head_surface import components
from headfields.rigging.rigged_template import RiggedTemplate

__all__ = ["add_inner_mouth", "hidden_faces", "inner_mouth_faces", "paint_inner_mouth"]

_LIP, _DEEP, _TOOTH = (0.52, 0.24, 0.23), (0.16, 0.05, 0.05), (0.86, 0.82, 0.73)
_DIRECTIONS = 96
_RIGID = 0.9  # weight from which a vertex counts as rigid with skull or jaw
_DEPTH = 0.035  # meters, of a head at life size


def add_inner_mouth(rig: RiggedTemplate, loop: Int[Tensor, " l"]) -> RiggedTemplate:
    """The rig with a cavity and teeth behind its lips, and a texture that shows them in colors of our own choice.

    Args:
        rig: its lips cut apart.
        loop: (L,) the border of the cut.
    """
    skull, jaw = rig.weights[:, rig.skull_joint], rig.weights[:, rig.jaw_joint]
    made = inner_mouth(
        rig.template_vertices, rig.faces, loop, depth=_DEPTH * rig.scale,
        skull=torch.where(skull > _RIGID, 1.0, 0.0), jaw=torch.where(jaw > _RIGID, 1.0, 0.0),
    )  # fmt: skip
    out = made.extend_head(rig)
    before, uv, uv_faces = rig.uv, out.uv, out.uv_faces
    if before is None or uv is None or uv_faces is None or rig.texture is None:
        return out
    texture = rig.texture
    side = float((uv[: len(before)].amax() / before.amax().clamp_min(1e-9)).clamp(max=1.0))
    if side < 0.999:  # there was no room, so the charts were shrunk toward (0, 0): the lower left
        texture = _shrink_texture(texture, side)
    inner = torch.arange(len(out.faces)) >= made.face_count
    colors = _interior_colors(rig, made.part, out)
    atlas = UVRasterizer(
        out.faces[inner], uv.clamp(0, 1), uv_faces[inner], (texture.shape[0], texture.shape[1]), padding=3.0,
        vertex_count=len(out.template_vertices),
    )  # fmt: skip
    drawn = atlas.vertices_to_map(colors[None])[0].movedim(0, -1)
    out.texture = torch.where((atlas.face >= 0)[..., None], drawn, texture)
    return out


def hidden_faces(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Bool[Tensor, " f"]:
    """Faces whose middle can be seen from nowhere outside: pockets of the mouth and the eyes, deep folds.

    Args:
        vertices, faces: the mesh; its faces are seen from the side that they run around counter-clockwise.
    """
    place = vertices.float()
    corners = place[faces]
    normal = face_normals(place, faces)
    start = corners.mean(1) + 2e-4 * float((place.amax(0) - place.amin(0)).amax()) * normal
    tree = TriangleBVH(faces, place)
    seen = torch.zeros(len(faces), dtype=torch.bool)
    turn = torch.arange(_DIRECTIONS) * (torch.pi * (5**0.5 - 1))  # spread evenly over the sphere
    height = 1 - 2 * (torch.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS
    flat = (1 - height**2).sqrt()
    for direction in torch.stack([flat * turn.cos(), height, flat * turn.sin()], -1):
        asked = (~seen & (normal @ direction > 0.05)).nonzero()[:, 0]
        hit = tree.raycast(start[asked], direction.expand(len(asked), 3).contiguous())
        seen[asked[hit.face < 0]] = True
    return ~seen


def inner_mouth_faces(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], line: Float[Tensor, "n 3"]
) -> Bool[Tensor, " f"]:
    """Faces of a pocket behind closed lips: what can be seen from nowhere outside and hangs together behind the line.

    Args:
        vertices, faces: the mesh, lips closed.
        line: (N, 3) where they meet.
    """
    place, width = vertices.float(), float((line[-1] - line[0]).norm())
    hidden = hidden_faces(vertices, faces)
    # Of the hidden parts (nostrils, ears, lids) the mouth's is the largest that reaches the line.
    part = components(faces[hidden], len(place))
    best, most = torch.zeros_like(hidden), 0
    for number in part[faces[hidden].flatten()].unique().tolist():
        mine = hidden & (part[faces[:, 0]] == number)
        points = place[faces[mine].flatten().unique()]
        if int(mine.sum()) > most and float(torch.cdist(points, line.float()).amin()) < 0.15 * width:
            best, most = mine, int(mine.sum())
    return best


def paint_inner_mouth(rig: RiggedTemplate, inside: Bool[Tensor, " f"], line: Float[Tensor, "n 3"]) -> RiggedTemplate:
    """The rig with a region "inner_mouth" and a texture that is dark there, of the color of lips at the front.

    Scanners see nothing behind closed lips, so what such textures show there is made up.

    Args:
        rig: is changed and given back.
        inside: (F,) as `inner_mouth_faces` finds them.
        line: (N, 3) where the lips meet.
    """
    rig.register_buffer("region_inner_mouth", inside)
    rig._region_names = tuple(dict.fromkeys([*rig._region_names, "inner_mouth"]))
    if rig.texture is None or rig.uv is None or rig.uv_faces is None or not bool(inside.any()):
        return rig
    place = rig.template_vertices
    edge = torch.cdist(place, line.to(place)).amin(1)
    back = ((edge - 0.003 * rig.scale) / (0.010 * rig.scale)).clamp(0, 1)[:, None]
    colors = (1 - back) * torch.tensor(_LIP) + back * torch.tensor(_DEEP)
    values = torch.cat([colors, back], 1)
    atlas = UVRasterizer(
        rig.faces[inside], rig.uv.clamp(0, 1), rig.uv_faces[inside], (rig.texture.shape[0], rig.texture.shape[1]),
        padding=2.0, vertex_count=len(place),
    )  # fmt: skip
    drawn = atlas.vertices_to_map(values[None])[0].movedim(0, -1)
    share = drawn[..., 3:].clamp(0, 1) * (atlas.face >= 0)[..., None]
    rig.texture = rig.texture + share * (drawn[..., :3] - rig.texture)
    return rig


def _interior_colors(rig: RiggedTemplate, part: Int[Tensor, " g"], out: RiggedTemplate) -> Float[Tensor, "v 3"]:
    """Dark toward the back, the color of lips at their border, ivory teeth."""
    place = out.template_vertices
    colors = torch.tensor(_DEEP).repeat(len(place), 1)
    faces = out.faces[len(rig.faces) :]
    cavity = faces[part == 0].unique()
    front = place[cavity, 2].amax()
    back = ((front - place[cavity, 2]) / (0.014 * rig.scale)).clamp(0, 1)[:, None]
    colors[cavity] = (1 - back) * torch.tensor(_LIP) + back * torch.tensor(_DEEP)
    colors[faces[part > 0].unique()] = torch.tensor(_TOOTH)
    return colors


def _shrink_texture(texture: Float[Tensor, "h w 3"], side: float) -> Float[Tensor, "h w 3"]:
    height, width = texture.shape[:2]
    size = (round(height * side), round(width * side))
    small = torch.nn.functional.interpolate(texture.movedim(-1, 0)[None], size, mode="area")[0].movedim(0, -1)
    out = texture.mean((0, 1)).expand_as(texture).clone()
    out[height - size[0] :, : size[1]] = small
    return out
