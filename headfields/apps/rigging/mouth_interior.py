"""The inside of a scan's mouth: built for a sealed mouth, detected in an open one, and colored in the texture.

The colors are our own choice: no scanner sees behind closed lips.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.heads.mouth.inner import inner_mouth
from headfields.ops.mesh_topology import vertex_components
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.uv import UVRasterizer
from headfields.ops.vertex_geometry import face_normals

__all__ = ["add_inner_mouth", "hidden_faces", "inner_mouth_faces", "paint_inner_mouth"]

_LIP, _DEEP, _TOOTH = (0.52, 0.24, 0.23), (0.16, 0.05, 0.05), (0.86, 0.82, 0.73)
_DIRECTIONS = 96
_RIGID = 0.9  # least skinning weight of a vertex that is rigid with skull or jaw
_DEPTH = 0.035  # of the cavity, meters at life size


def add_inner_mouth(rig: RiggedTemplate, loop: Int[Tensor, " l"]) -> RiggedTemplate:
    """Adds a mouth cavity and teeth behind the lips, with colors in the texture; returns a new rig.

    Args:
        rig: its lips cut apart.
        loop: (L,) vertices of the border of the cut, in order.
    """
    skull, jaw = rig.weights[:, rig.skull_joint], rig.weights[:, rig.jaw_joint]
    cavity = inner_mouth(
        rig.template_vertices, rig.faces, loop, depth=_DEPTH * rig.scale,
        skull=torch.where(skull > _RIGID, 1.0, 0.0), jaw=torch.where(jaw > _RIGID, 1.0, 0.0),
    )  # fmt: skip
    out = cavity.extend_head(rig)
    rig_uv, uv, uv_faces = rig.uv, out.uv, out.uv_faces
    if rig_uv is None or uv is None or uv_faces is None or rig.texture is None:
        return out
    texture = rig.texture
    chart_scale = float((uv[: len(rig_uv)].amax() / rig_uv.amax().clamp_min(1e-9)).clamp(max=1.0))
    if chart_scale < 0.999:  # the atlas was full, so its charts were shrunk toward (0, 0), the lower left
        texture = _shrink_texture(texture, chart_scale)
    inner = torch.arange(len(out.faces)) >= cavity.face_count
    colors = _interior_colors(rig, cavity.part, out)
    atlas = UVRasterizer(
        out.faces[inner], uv.clamp(0, 1), uv_faces[inner], (texture.shape[0], texture.shape[1]), padding=3.0,
        vertex_count=len(out.template_vertices),
    )  # fmt: skip
    painted = atlas.vertices_to_map(colors[None])[0].movedim(0, -1)
    out.texture = torch.where((atlas.face >= 0)[..., None], painted, texture)
    return out


def hidden_faces(vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"]) -> Bool[Tensor, " f"]:
    """Faces whose center is visible from no outside direction, (F,): pockets of mouth and eyes, deep folds.

    Args:
        vertices, faces: (V, 3) and (F, 3) of the mesh, counter-clockwise as seen from outside.
    """
    positions = vertices.float()
    corners = positions[faces]
    normal = face_normals(positions, faces)
    start = corners.mean(1) + 2e-4 * float((positions.amax(0) - positions.amin(0)).amax()) * normal
    tree = TriangleBVH(faces, positions)
    visible = torch.zeros(len(faces), dtype=torch.bool)
    azimuth = torch.arange(_DIRECTIONS) * (torch.pi * (5**0.5 - 1))  # Fibonacci sphere
    height = 1 - 2 * (torch.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS
    radius = (1 - height**2).sqrt()
    for direction in torch.stack([radius * azimuth.cos(), height, radius * azimuth.sin()], -1):
        candidates = (~visible & (normal @ direction > 0.05)).nonzero()[:, 0]
        hit = tree.raycast(start[candidates], direction.expand(len(candidates), 3).contiguous())
        visible[candidates[hit.face < 0]] = True
    return ~visible


def inner_mouth_faces(
    vertices: Float[Tensor, "v 3"], faces: Int[Tensor, "f 3"], line: Float[Tensor, "n 3"]
) -> Bool[Tensor, " f"]:
    """Faces of the mouth pocket behind closed lips, (F,): the largest hidden component that reaches the lip line.

    Args:
        vertices, faces: (V, 3) meters and (F, 3) of the mesh, lips closed.
        line: (N, 3) where the lips meet.
    """
    positions, width = vertices.float(), float((line[-1] - line[0]).norm())
    hidden = hidden_faces(vertices, faces)
    # Nostrils, ears and lids are hidden too; the mouth is the largest component near the line.
    component = vertex_components(faces[hidden], len(positions))
    largest, best_count = torch.zeros_like(hidden), 0
    for label in component[faces[hidden].flatten()].unique().tolist():
        members = hidden & (component[faces[:, 0]] == label)
        points = positions[faces[members].flatten().unique()]
        if int(members.sum()) > best_count and float(torch.cdist(points, line.float()).amin()) < 0.15 * width:
            largest, best_count = members, int(members.sum())
    return largest


def paint_inner_mouth(rig: RiggedTemplate, inside: Bool[Tensor, " f"], line: Float[Tensor, "n 3"]) -> RiggedTemplate:
    """Adds the region "inner_mouth" and paints it in the texture: lip-colored at the front, dark behind.

    Args:
        rig: modified in place and returned.
        inside: (F,) faces inside the mouth, from `inner_mouth_faces`.
        line: (N, 3) where the lips meet.
    """
    rig.register_buffer("region_inner_mouth", inside)
    rig._region_names = tuple(dict.fromkeys([*rig._region_names, "inner_mouth"]))
    if rig.texture is None or rig.uv is None or rig.uv_faces is None or not bool(inside.any()):
        return rig
    positions = rig.template_vertices
    distance = torch.cdist(positions, line.to(positions)).amin(1)
    darkness = ((distance - 0.003 * rig.scale) / (0.010 * rig.scale)).clamp(0, 1)[:, None]
    colors = (1 - darkness) * torch.tensor(_LIP) + darkness * torch.tensor(_DEEP)
    values = torch.cat([colors, darkness], 1)
    atlas = UVRasterizer(
        rig.faces[inside], rig.uv.clamp(0, 1), rig.uv_faces[inside], (rig.texture.shape[0], rig.texture.shape[1]),
        padding=2.0, vertex_count=len(positions),
    )  # fmt: skip
    painted = atlas.vertices_to_map(values[None])[0].movedim(0, -1)
    opacity = painted[..., 3:].clamp(0, 1) * (atlas.face >= 0)[..., None]
    rig.texture = rig.texture + opacity * (painted[..., :3] - rig.texture)
    return rig


def _interior_colors(rig: RiggedTemplate, part: Int[Tensor, " g"], out: RiggedTemplate) -> Float[Tensor, "v 3"]:
    """Vertex colors (V, 3): the cavity fades from lip color to dark toward the back; teeth are ivory."""
    positions = out.template_vertices
    colors = torch.tensor(_DEEP).repeat(len(positions), 1)
    faces = out.faces[len(rig.faces) :]
    cavity = faces[part == 0].unique()
    front = positions[cavity, 2].amax()
    darkness = ((front - positions[cavity, 2]) / (0.014 * rig.scale)).clamp(0, 1)[:, None]
    colors[cavity] = (1 - darkness) * torch.tensor(_LIP) + darkness * torch.tensor(_DEEP)
    colors[faces[part > 0].unique()] = torch.tensor(_TOOTH)
    return colors


def _shrink_texture(texture: Float[Tensor, "h w 3"], scale: float) -> Float[Tensor, "h w 3"]:
    height, width = texture.shape[:2]
    size = (round(height * scale), round(width * scale))
    resized = torch.nn.functional.interpolate(texture.movedim(-1, 0)[None], size, mode="area")[0].movedim(0, -1)
    out = texture.mean((0, 1)).expand_as(texture).clone()
    out[height - size[0] :, : size[1]] = resized
    return out
