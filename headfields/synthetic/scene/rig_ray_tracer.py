"""Rendering of a rigged scan with small relief and folds that its mesh lacks, in a lit room."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.data.labels import Label
from headfields.ops.texture import sample_texture
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Camera, HeadState
from headfields.synthetic.scene import surface_colors
from headfields.synthetic.scene.head_geometry import BROW, GUM, HAIR, TOOTH
from headfields.synthetic.scene.labels import brow_labels, majority, region_labels
from headfields.synthetic.scene.rig_dress import Dress
from headfields.synthetic.scene.shading import Lights, lambert_specular, strand_light, to_srgb

__all__ = ["RigRayTracer"]

_RELIEF = 0.0008
"""Amplitude of the fixed relief, meters."""
_FOLD = 0.22
"""Depth of folds as a fraction of the displacement by the expression."""
_DEEPEST = 0.005
"""Displacement beyond which folds grow no deeper, meters; deeper ones would stand off the skin as sheets."""
_BLEED = torch.tensor([0.25, 0.10, 0.06])
_SHADOW = 0.004  # offset of shadow rays from the surface, meters
_DEPTH_TOLERANCE = 0.006  # meters that a visible landmark may lie behind the depth of its pixel


@dataclass(frozen=True)
class RigImages:
    """A rendered frame: `image` (H, W, 4) with straight alpha, `label` (H, W), and `landmarks` (68, 2), NaN where
    hidden, or None if all are."""

    image: UInt8[np.ndarray, "h w 4"]
    label: UInt8[np.ndarray, "h w"]
    landmarks: Float[np.ndarray, "68 2"] | None


class RigRayTracer:
    """Renders the true surface of a rig: its posed mesh, displaced along the normals by a fixed relief and by folds.

    Folds are waves whose depth is proportional to the displacement by expression and jaw. The tracked mesh has neither.
    The lights are those of the synthetic head's room, with shadows of the key light. Our own choice.

    Args:
        rig: the rigged scan; rendered in one color without texture and texture coordinates.
        seed: seed of relief and folds.
        samples: rays per pixel, a square number.
        dress: hair, brows, teeth and a shirt of the rig; None for none.
    """

    def __init__(self, rig: RiggedTemplate, seed: int = 0, samples: int = 4, dress: Dress | None = None) -> None:
        self.rig, self.side, self.dress = rig, math.isqrt(samples), dress
        random = np.random.default_rng([seed, 21])
        rest = rig.template_vertices
        waves = torch.from_numpy(random.normal(size=(6, 3))).float()
        waves = waves / waves.norm(dim=1, keepdim=True) * torch.from_numpy(random.uniform(180, 420, (6, 1))).float()
        phase = torch.from_numpy(random.uniform(0, 2 * np.pi, 6)).float()
        self._relief = _RELIEF * torch.sin(rest @ waves.T + phase).mean(1) * 2
        turned = torch.tensor([0.25, 1.0, 0.1])
        # Across the face, some twelve millimeters from crest to crest.
        self._wave = torch.sin(2 * math.pi / 0.012 * (rest @ turned) + 2.0 * torch.sin(60 * rest[:, 0]))
        self._reach = rig.expression_basis.norm(dim=2)  # (E, V) meters by unit
        inside = rig.regions.get("inner_mouth", torch.zeros(len(rig.faces), dtype=torch.bool))
        still = torch.ones(len(rest))
        still[rig.faces[inside].unique()] = 0.0
        self._relief, self._wave = self._relief * still, self._wave * still
        self._jaw = rig.weights[:, rig.jaw_joint] * (1 - rig.weights[:, rig.jaw_joint]) * 4 * still
        self._label = self._face_labels(inside)
        self._inside = inside
        self._faces, self._shirt = rig.faces, torch.zeros(len(rest))
        if dress is not None:
            self._faces = torch.cat([rig.faces, dress.faces + len(rest)])
            self._shirt = dress.shirt
            self._relief = torch.where(self._shirt > 0, 0.0, self._relief)
            self._label[(self._shirt[rig.faces] > 0).all(1)] = Label.CLOTH
            self._bvh = TriangleBVH(self._faces, torch.cat([rest, dress.posed(rig())[0]])[None])
        else:
            self._bvh = TriangleBVH(rig.faces, rest[None])
        textured = rig.texture is not None and rig.uv is not None and rig.uv_faces is not None
        self._uv = rig.uv[rig.uv_faces] if textured else None  # type: ignore[index]

    def surface(self, state: HeadState) -> Float[Tensor, "v 3"]:
        """Vertices (V, 3) of the true surface of a frame, in the frame of the state's vertices, meters."""
        assert state.expression is not None and state.pose is not None
        moved = state.expression[0].abs() @ self._reach
        opened = 0.006 * self._jaw * state.pose[0, self.rig.jaw_joint].norm().clamp_max(0.5)
        height = self._relief + self._shirt + self._wave * _FOLD * (moved + opened).clamp_max(_DEEPEST)
        vertices = state.vertices[0]
        return vertices + height[:, None] * vertex_normals(vertices, self.rig.faces)

    def draw(self, state: HeadState, camera: Camera, to_room: Float[Tensor, "3 3"]) -> RigImages:
        """Renders a frame.

        Args:
            state: state of the rig of one frame, with expression and pose.
            camera: the camera, in the frame of the vertices.
            to_room: (3, 3) rotation from that frame to the room, where the lights are fixed.
        """
        vertices = self.surface(state)
        normals = vertex_normals(vertices, self.rig.faces)
        if self.dress is not None:
            added, directions = self.dress.posed(state)
            vertices, normals = torch.cat([vertices, added]), torch.cat([normals, directions])
        self._bvh.refit(vertices[None])
        fine = camera.scaled(float(self.side))
        rays = fine.rays()
        hit = self._bvh.raycast(rays.origins, rays.directions, rays.frame)
        rows = (hit.face >= 0).nonzero()[:, 0]
        face, weights = hit.face[rows], hit.barycentric[rows]
        corners = self._faces[face]
        normal = (weights[..., None] * normals[corners]).sum(1)
        normal = torch.nn.functional.normalize(normal, dim=1)
        point = (weights[..., None] * vertices[corners]).sum(1)
        view, lights = -rays.directions[rows], Lights.in_frame(to_room)
        own = face < len(self.rig.faces)
        color, seen = torch.zeros(len(face), 3), torch.zeros(len(face), dtype=torch.long)
        color[own] = self._shade(face[own], weights[own], point[own], normal[own], view[own], lights)
        seen[own] = self._label[face[own]].long()
        if self.dress is not None:
            corner = vertices[corners]
            flat = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
            back = own & ((flat * view).sum(1) < 0)  # the cavity of the mouth, seen from inside of the head
            color[back], seen[back] = torch.tensor([0.12, 0.05, 0.05]), int(Label.MOUTH_INTERIOR)
            rest = ~own
            color[rest], seen[rest] = self._shade_dress(
                self.dress, face[rest] - len(self.rig.faces), weights[rest], point[rest], normal[rest], view[rest],
                lights,
            )  # fmt: skip
        height, width = camera.size
        count = self.side**2

        def by_pixel(values: Tensor) -> Tensor:
            pattern = "(height i width j) ... -> (height width) (i j) ..."
            return rearrange(values, pattern, height=height, width=width, i=self.side, j=self.side)

        full = torch.zeros(len(rays), 3)
        full[rows] = color
        label = torch.full((len(rays),), -1, dtype=torch.long)
        label[rows] = seen
        alpha = by_pixel((hit.face >= 0).float()).mean(1)
        rgb = by_pixel(full).sum(1) / (count * alpha)[:, None].clamp_min(1e-6)
        image = torch.cat([rgb, alpha[:, None]], 1).view(height, width, 4)
        depth = torch.zeros(len(rays))
        depth[rows] = hit.distance[rows] * (rays.directions[rows] @ camera.world_to_camera.view(4, 4)[2, :3])
        marks = self._landmarks(state, camera, by_pixel(depth).amax(1).view(height, width))
        return RigImages(
            (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy(),
            majority(by_pixel(label), alpha).view(height, width).numpy(), marks,
        )  # fmt: skip

    def _shade(
        self, face: Int[Tensor, " n"], weights: Float[Tensor, "n 3"], point: Float[Tensor, "n 3"],
        normal: Float[Tensor, "n 3"], view: Float[Tensor, "n 3"], lights: Lights,
    ) -> Float[Tensor, "n 3"]:  # fmt: skip
        if self._uv is None:
            albedo = torch.tensor([0.72, 0.55, 0.47]).expand(len(face), 3)
        else:
            assert self.rig.texture is not None
            albedo = sample_texture(self.rig.texture, (weights[..., None] * self._uv[face]).sum(1))
        linear = albedo.clamp(0, 1) ** 2.2
        lit = (normal @ lights.key > 0).nonzero()[:, 0]
        key_visible = torch.zeros(len(face))
        key_visible[lit] = 1.0
        start = point[lit] + _SHADOW * normal[lit]
        if len(lit):
            toward = lights.key.expand(len(lit), 3).contiguous()
            blocked = self._bvh.raycast(start, toward, torch.zeros(len(lit), dtype=torch.long)).face >= 0
            key_visible[lit[blocked]] = 0.0
        sky = torch.where(self._inside[face], 0.25, 1.0)
        gloss = torch.tensor([0.05, 24.0]).expand(len(face), 2)
        return to_srgb(lambert_specular(linear, normal, view, lights, key_visible * sky, sky, gloss, _BLEED) * 0.62)

    def _shade_dress(
        self, dress: Dress, face: Int[Tensor, " n"], weights: Float[Tensor, "n 3"], point: Float[Tensor, "n 3"],
        direction: Float[Tensor, "n 3"], view: Float[Tensor, "n 3"], lights: Lights,
    ) -> tuple[Float[Tensor, "n 3"], Int[Tensor, " n"]]:  # fmt: skip
        """Color and label of hair, brows, teeth and gums."""
        corners, kind = dress.faces[face], dress.kind[face]
        rest = (weights[..., None] * dress.rest[corners]).sum(1)
        sky = (weights * dress.open_sky[corners]).sum(1)
        toward = lights.key.expand(len(face), 3).contiguous()
        start = point + _SHADOW * toward
        lit = (self._bvh.raycast(start, toward, torch.zeros(len(face), dtype=torch.long)).face < 0).float()
        color = torch.zeros(len(face), 3)
        label = torch.full((len(face),), int(Label.MOUTH_INTERIOR))
        for each, paint in ((TOOTH, surface_colors.tooth_color), (GUM, surface_colors.gum_color)):
            pick = kind == each
            gloss = torch.tensor([0.3, 50.0]).expand(int(pick.sum()), 2)
            color[pick] = lambert_specular(
                paint(rest[pick]), direction[pick], view[pick], lights, lit[pick], sky[pick], gloss, torch.zeros(3)
            )
        strands = kind >= HAIR
        albedo = surface_colors.hair_color(rest[strands, 0], rest[strands, 1])
        color[strands] = strand_light(
            albedo, direction[strands], view[strands], lights, lit[strands], sky[strands]
        )  # fmt: skip
        label[kind == HAIR] = int(Label.HAIR)
        brow = kind == BROW
        label[brow] = brow_labels(point[brow, 0]).long()
        return to_srgb(color * 0.62), label

    def _face_labels(self, inside: Tensor) -> UInt8[Tensor, " f"]:
        named = {
            **dict.fromkeys(("torso", "left_arm", "right_arm", "neck"), Label.NECK),
            "nose": Label.NOSE, "left_ear": Label.LEFT_EAR, "right_ear": Label.RIGHT_EAR, "lips": Label.UPPER_LIP,
        }  # fmt: skip
        out = region_labels(self.rig.regions, len(self.rig.faces), named)
        out[inside] = Label.MOUTH_INTERIOR
        return out

    def _landmarks(
        self, state: HeadState, camera: Camera, depth: Float[Tensor, "h w"]
    ) -> Float[np.ndarray, "68 2"] | None:
        """(68, 2) pixels of the visible landmarks, NaN where occluded or outside the image; None if all are."""
        if self.rig.landmark_faces is None or len(self.rig.landmark_faces) != 68:
            return None
        points = self.rig.landmarks(state.vertices)[0]
        pixels, far = camera.project(points[None])
        pixels, far = pixels[0], far[0]
        height, width = camera.size
        column, row = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        shown = depth[row.clamp(0, height - 1), column.clamp(0, width - 1)]
        normal = vertex_normals(state.vertices[0], self.rig.faces)[self.rig.faces[self.rig.landmark_faces]].mean(1)
        facing = ((camera.center.view(3) - points) * normal).sum(1) > 0
        visible = inside & facing & (far < shown + _DEPTH_TOLERANCE)
        if not bool(visible.any()):
            return None
        return torch.where(visible[:, None], pixels, torch.nan).numpy()
