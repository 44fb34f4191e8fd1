"""Ray tracing of the head's geometry: color with coverage, labels, and depth of the tracked mesh."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8, UInt16
from torch import Tensor

from headfields.data.labels import Label
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Camera
from headfields.records.inverse import inverse_intrinsics
from headfields.synthetic.scene import labels as lab
from headfields.synthetic.scene import surface_colors
from headfields.synthetic.scene.head_geometry import BROW, EYE, GUM, HAIR, SKIN, TOOTH, HeadGeometry, PosedGeometry
from headfields.synthetic.scene.shading import Lights, lambert_specular, strand_light, to_srgb
from headfields.synthetic.scene.wrinkles import Activity, wrinkle

__all__ = ["Hits", "RayTracer", "pixel_rays"]

_NO_BLEED = torch.zeros(3)
_SKIN_BLEED = torch.tensor([0.32, 0.12, 0.08])
_GLOSS = {SKIN: (0.055, 22.0), EYE: (0.9, 260.0), TOOTH: (0.35, 60.0), GUM: (0.25, 40.0)}
_LAMP = 0.03  # standard deviation of the directions to the key light, radians
_LIFT = 0.0006  # offset of shadow rays from the surface, meters


def pixel_rays(camera: Camera, offsets: Float[Tensor, "p k 2"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Origins and unit directions of rays through (column, row) `offsets` in [0, 1] of every pixel, row by row."""
    height, width = camera.require_pinhole("pixel_rays").size
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    corner = torch.stack([column, row], -1).reshape(-1, 1, 2)
    image = (corner + offsets).reshape(-1, 2)
    pose, intrinsics = camera.world_to_camera.reshape(4, 4), camera.intrinsics.reshape(3, 3)
    homogeneous = torch.nn.functional.pad(image, (0, 1), value=1.0)
    direction = homogeneous @ inverse_intrinsics(intrinsics).T @ pose[:3, :3]
    origin = -(pose[:3, :3].T @ pose[:3, 3])
    return origin.expand_as(direction).contiguous(), torch.nn.functional.normalize(direction, dim=1).contiguous()


@dataclass(frozen=True)
class Hits:
    """Hit points of N rays: face, kind, and interpolated attributes.

    `direction` is the interpolated normal (of hair the tangent), `flat` the normal of the face, `view` points to the
    camera; all are unit vectors.
    """

    face: Int[Tensor, " n"]
    kind: Int[Tensor, " n"]
    barycentric: Float[Tensor, "n 3"]
    position: Float[Tensor, "n 3"]
    direction: Float[Tensor, "n 3"]
    flat: Float[Tensor, "n 3"]
    rest: Float[Tensor, "n 3"]
    open_sky: Float[Tensor, " n"]
    view: Float[Tensor, "n 3"]


class RayTracer:
    """Renders frames of a head.

    Args:
        scene: the geometry.
        closed_faces: (F, 3) the tracked mesh with its mouth closed, for the depth maps.
        size: height and width of the square images, pixels.
        samples: rays per pixel, a square number; jittered in their cells, alike in every frame.
        seed: seed of the jitter.
    """

    def __init__(
        self, scene: HeadGeometry, closed_faces: Int[Tensor, "f 3"], size: int, samples: int, seed: int
    ) -> None:
        self.scene = scene
        side = round(samples**0.5)
        random = np.random.default_rng([seed, 5])
        cell = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(1, -1, 2)
        jitter = (cell + 0.5 + random.uniform(-0.35, 0.35, (size * size, side * side, 2))) / side
        self._offsets = torch.from_numpy(jitter).float()
        self._samples = side * side
        # Offset of each sample's shadow ray on the lamp, fixed for all frames to avoid flicker.
        disc = random.normal(0, _LAMP, (size * size * side * side, 3))
        self._lamp = torch.from_numpy(disc).float()
        self._depth_tree = TriangleBVH(closed_faces, scene.head.template_vertices)
        label = lab.face_labels(scene.head)
        self._base_label = label
        extra = len(closed_faces) - len(label)
        measured = ~torch.isin(label, torch.tensor([Label.NECK, Label.LEFT_EAR, Label.RIGHT_EAR], dtype=torch.uint8))
        self._measured = torch.cat([measured, torch.ones(extra, dtype=torch.bool)])

    def depth(self, posed: PosedGeometry, camera: Camera) -> UInt16[np.ndarray, "h w"]:
        """Depth of the tracked mesh along the optical axis at pixel centers, mm; 0 off the mesh, on ears and neck."""
        vertices = posed.vertices[: len(self.scene.head.template_vertices)]
        pixel_center = torch.full((camera.size[0] * camera.size[1], 1, 2), 0.5)
        origins, directions = pixel_rays(camera, pixel_center)
        hit = self._depth_tree.refit(vertices).raycast(origins, directions)
        z = hit.distance * (directions @ camera.world_to_camera.reshape(4, 4)[2, :3])
        valid = (hit.face >= 0) & self._measured[hit.face.clamp_min(0)]
        depth = torch.where(valid, z * 1000, 0).round().clamp(0, 65535)
        return depth.reshape(camera.size).numpy().astype(np.uint16)

    def draw(
        self, posed: PosedGeometry, camera: Camera, lights: Lights, activity: Activity
    ) -> tuple[UInt8[np.ndarray, "h w 4"], UInt8[np.ndarray, "h w"]]:
        """Image (sRGB, straight alpha) and labels of a frame."""
        tree = self.scene.tree.refit(posed.vertices)
        origins, directions = pixel_rays(camera, self._offsets)
        hit = tree.raycast(origins, directions)
        rays = (hit.face >= 0).nonzero()[:, 0]
        hits = self._gather(posed, hit.face[rays], hit.barycentric[rays], -directions[rays])
        toward_key = torch.nn.functional.normalize(lights.key + self._lamp[rays], dim=1)
        color, label = self._shade(hits, toward_key, posed, lights, activity)

        pixel = torch.div(rays, self._samples, rounding_mode="floor")
        total = torch.zeros(len(self._offsets), 3).index_add_(0, pixel, color)
        count = torch.bincount(pixel, minlength=len(total)).float()
        all_labels = torch.full((len(origins),), -1).index_copy_(0, rays, label.long())
        alpha = count / self._samples
        rgb = to_srgb(total / count.clamp_min(1)[:, None])
        rgba = torch.cat([rgb * (count > 0)[:, None], alpha[:, None]], 1)
        pixels = (rgba * 255).round().to(torch.uint8).reshape(*camera.size, 4).numpy()
        return pixels, lab.majority(all_labels.reshape(-1, self._samples), alpha).reshape(camera.size).numpy()

    def _gather(self, posed: PosedGeometry, face: Tensor, barycentric: Tensor, view: Tensor) -> Hits:
        scene = self.scene
        corner = scene.faces[face]
        place = posed.vertices[corner]

        def mix(values: Tensor) -> Tensor:
            return (values[corner] * barycentric[..., None]).sum(1)

        flat = torch.nn.functional.normalize(
            torch.linalg.cross(place[:, 1] - place[:, 0], place[:, 2] - place[:, 0]), dim=1
        )
        return Hits(
            face,
            scene.kind[face],
            barycentric,
            (place * barycentric[..., None]).sum(1),
            torch.nn.functional.normalize(mix(posed.direction), dim=1),
            flat,
            mix(scene.rest),
            (scene.open_sky[corner] * barycentric).sum(1),
            view,
        )

    def _shade(
        self, hits: Hits, toward_key: Float[Tensor, "n 3"], posed: PosedGeometry, lights: Lights, activity: Activity
    ) -> tuple[Float[Tensor, "n 3"], UInt8[Tensor, " n"]]:
        scene = self.scene
        color = torch.zeros_like(hits.position)
        label = torch.full_like(hits.face, Label.HAIR, dtype=torch.uint8)
        facing = (hits.flat * hits.view).sum(1)
        # Back faces of the head are the cavity of the mouth, seen behind the teeth.
        inside = (hits.kind <= EYE) & (facing < 0)
        outward = torch.where(facing[:, None] < 0, -hits.flat, hits.flat)
        lit = (scene.tree.raycast(hits.position + _LIFT * outward + 0.0004 * lights.key, toward_key).face < 0).float()

        for kind in (SKIN, EYE, TOOTH, GUM):
            pick = ((hits.kind == kind) & ~inside).nonzero()[:, 0]
            if not len(pick):
                continue
            rest, normal = hits.rest[pick], hits.direction[pick]
            gloss = torch.tensor(_GLOSS[kind]).repeat(len(pick), 1)
            if kind == SKIN:
                lip = (scene.lip[scene.faces[hits.face[pick]]] * hits.barycentric[pick]).sum(1)
                albedo = surface_colors.skin_color(rest, lip, scene.anatomy)
                label[pick] = lab.skin_labels(self._base_label[hits.face[pick]], rest, lip, scene.anatomy)
                gloss[lip > 0.5] = torch.tensor([0.16, 35.0])
                if activity.active:
                    depth, slope = wrinkle(rest, scene.anatomy, activity)
                    tangent = slope - (slope * normal).sum(1, keepdim=True) * normal
                    normal = torch.nn.functional.normalize(normal - tangent, dim=1)
                    albedo = albedo * (1 - depth[:, None] * torch.tensor([0.30, 0.40, 0.44]))
            elif kind == EYE:
                albedo, normal = self._eyes(hits, posed, pick)
                label[pick] = self._base_label[hits.face[pick]]
            else:
                albedo = surface_colors.tooth_color(rest) if kind == TOOTH else surface_colors.gum_color(rest)
                label[pick] = Label.MOUTH_INTERIOR
            bleed = _SKIN_BLEED if kind == SKIN else _NO_BLEED
            color[pick] = lambert_specular(
                albedo, normal, hits.view[pick], lights, lit[pick], hits.open_sky[pick], gloss, bleed
            )
        pick = inside.nonzero()[:, 0]
        color[pick] = surface_colors.gum_color(hits.rest[pick]) * (0.06 + 0.25 * lit[pick])[:, None]
        label[pick] = Label.MOUTH_INTERIOR
        for kind in (HAIR, BROW):
            pick = (hits.kind == kind).nonzero()[:, 0]
            albedo = surface_colors.hair_color(hits.rest[pick, 0], hits.rest[pick, 1]) * (1.0 if kind == HAIR else 0.55)
            color[pick] = strand_light(
                albedo, hits.direction[pick], hits.view[pick], lights, lit[pick], hits.open_sky[pick]
            )
            if kind == BROW:
                label[pick] = lab.brow_labels(hits.position[pick, 0])
        return color, label

    def _eyes(self, hits: Hits, posed: PosedGeometry, pick: Tensor) -> tuple[Tensor, Tensor]:
        """Color by the direction at rest, and the sphere's normal, which is smoother than the mesh's."""
        rest = hits.rest[pick]
        center = self.scene.eye_center
        side = (rest[:, None] - center).norm(dim=2).argmin(1)
        gaze = torch.nn.functional.normalize(rest - center[side], dim=1)
        rotation = posed.joint_transforms[3:5, :3, :3][side]
        return surface_colors.eye_color(gaze), (rotation @ gaze[..., None])[..., 0]
