"""Scores of a rendering against the tracked surface: errors of depth and normals, and flicker of colors.

The surface is that of the capture's depth maps, or of its meshes: a truth where captures are drawn or scanned, and else
as good as the tracking. Our own choice.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from headfields.ops.triangle_bvh import TriangleBVH
from headfields.parts import Rendering
from headfields.training.region_scores import MIN_PIXELS

LEVELS = 255.0
"""Flicker counts in levels of 8 bits."""


class SurfaceScores:
    """Scores of a capture's frames, which are given in the order of the video.

    - `depth`: mean distance along the ray between the surface that is rendered and the tracked one, mm, over the pixels
      of skin and nose that show the mesh and are rendered with an opacity above ½.
    - `normal`: mean angle between the normals of both, degrees, over those of these pixels whose four neighbors are
      among them. Normals are those of the maps of distances, by central differences, so that every kind of avatar has
      them.
    - `flicker`: root mean square over visible faces of how much the error of color at a face's center changes from the
      last frame to this one, in levels of 255. What moves with the surface as the truth does has none, however wrong it
      is; only frames that follow another one have it.

    Args:
        capture: the capture.
    """

    def __init__(self, capture: Any) -> None:
        self.capture = capture
        template: Any = getattr(capture, "template", None)
        self._template = template
        self._tree = None if template is None else TriangleBVH(template.faces, template.canonical_vertices)
        self._last: tuple[int, Tensor, Tensor] | None = None

    @torch.no_grad()
    def __call__(
        self,
        frame: int,
        rendering: Rendering,
        truth: Float[Tensor, "h w 3"],
        masks: dict[str, Bool[Tensor, "h w"]],
    ) -> dict[str, float | None]:
        """The scores of a frame; None where it has too few pixels, or no frame before it.

        Args:
            frame: its index.
            rendering: (H, W).
            truth: (H, W, 3) over the rendering's background.
            masks: of `headfields.training.region_scores.RegionMasks`; without labels there are no depth and normal.
        """
        if self._tree is None:
            return {}
        scores = self._geometry(frame, rendering, masks) if "skin" in masks else {}
        return {**scores, "flicker": self._flicker(frame, rendering.rgb.clamp(0, 1) - truth)}

    def _geometry(
        self, frame: int, rendering: Rendering, masks: dict[str, Bool[Tensor, "h w"]]
    ) -> dict[str, float | None]:
        skin = (masks["skin"] | masks["nose"]) & (rendering.opacity > 0.5)
        if int(skin.sum()) < MIN_PIXELS:
            return {"depth": None, "normal": None}
        pixels = self.capture.pixels(frame)
        true = (pixels.depth * pixels.depth_scale).reshape(skin.shape).to(skin.device)
        skin = skin & (true > 0)
        if int(skin.sum()) < MIN_PIXELS:
            return {"depth": None, "normal": None}
        own = rendering.depth / rendering.opacity.clamp_min(0.5)
        directions = pixels.rays.directions.reshape(*skin.shape, 3).to(own)
        inner = skin.clone()
        inner[0] = inner[-1] = inner[:, 0] = inner[:, -1] = False
        for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            inner &= skin.roll(shift, axis)
        cosine = (_normals(own, directions) * _normals(true, directions)).sum(-1).clamp(-1, 1)
        return {
            "depth": 1e3 * float((own - true)[skin].abs().mean()),
            "normal": float(cosine[inner].arccos().rad2deg().mean()) if int(inner.sum()) >= MIN_PIXELS else None,
        }

    def _flicker(self, frame: int, error: Float[Tensor, "h w 3"]) -> float | None:
        assert self._tree is not None
        camera, vertices = self.capture.camera([frame]), self.capture.state([frame]).vertices
        rays = camera.rays()
        hit = self._tree.posed(vertices).raycast(rays.origins, rays.directions, rays.frame).face
        visible = torch.zeros(len(self._template.faces), dtype=torch.bool)
        visible[hit[hit >= 0].long()] = True
        centers = camera.project(vertices[:, self._template.faces].mean(dim=2))[0][0]
        size = torch.tensor(error.shape[1::-1]).to(centers)
        grid = (2 * centers / size - 1).to(error)[None, None]
        at = functional.grid_sample(error.movedim(-1, 0)[None], grid, padding_mode="border", align_corners=False)
        at = at[0, :, 0].T.cpu()
        before, self._last = self._last, (frame, at, visible)
        if before is None or before[0] != frame - 1:
            return None
        both = before[2] & visible
        if int(both.sum()) < MIN_PIXELS:
            return None
        return LEVELS * float((at - before[1])[both].square().mean().sqrt())


def _normals(distance: Float[Tensor, "h w"], directions: Float[Tensor, "h w 3"]) -> Float[Tensor, "h w 3"]:
    """Unit normals of the surface at a distance along each pixel's ray; those of the border wrap around."""
    points = distance[..., None] * directions
    across, down = (points.roll(-1, axis) - points.roll(1, axis) for axis in (1, 0))
    return functional.normalize(torch.linalg.cross(across, down), dim=-1)
