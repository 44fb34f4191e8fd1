"""Segmentation labels of the tracked mesh at pixels, drawn by ray casting, for captures that have none.

Losses and regions read INSTA's labels; a head model whose faces are named knows most of them. Our own choice: what
the matte covers beside the mesh, and the scalp, count as hair, because neither is told apart from it.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from headfields.data.labels import Label
from headfields.data.recording import Recording
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Camera, Template

__all__ = ["MeshLabels", "with_mesh_labels"]


class MeshLabels:
    """Draws label maps from the face regions `"mouth"`, `"eyes"`, `"face"` and `"neck"`.

    Lips are `LOWER_LIP` and faces that close the mouth `MOUTH_INTERIOR`; eyes are told apart by the side of the
    canonical mesh, whose left is +x.

    Args:
        template: the mesh with its regions; faces from `face_count` on close the mouth.
    """

    def __init__(self, template: Template) -> None:
        self._tree = TriangleBVH(template.faces, template.canonical_vertices)
        label = torch.full((len(template.faces),), int(Label.HAIR), dtype=torch.uint8)
        left = template.canonical_vertices[template.faces].mean(dim=1)[:, 0] > 0
        eyes = torch.where(left, int(Label.LEFT_EYE), int(Label.RIGHT_EYE)).to(torch.uint8)
        for name, value in (("face", Label.SKIN), ("neck", Label.NECK), ("mouth", Label.LOWER_LIP), ("eyes", eyes)):
            mask = template.regions.get(name)
            if mask is not None:
                label[mask] = value[mask] if isinstance(value, torch.Tensor) else int(value)
        if template.face_count is not None:
            label[template.face_count :] = int(Label.MOUTH_INTERIOR)
        self._labels = label

    @torch.no_grad()
    def __call__(
        self, vertices: Float[np.ndarray, "v 3"], camera: Camera, matte: Bool[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w"]:
        """The label map (H, W) of one frame.

        Args:
            vertices: (V, 3) posed, meters.
            camera: one camera of the image's size.
            matte: (H, W) where the person is; 0 (background) elsewhere.
        """
        rays = camera.rays()
        hit = self._tree.posed(torch.from_numpy(vertices)[None]).raycast(rays.origins, rays.directions, rays.frame)
        label = torch.full((len(hit.face),), int(Label.HAIR), dtype=torch.uint8)
        label[hit.face >= 0] = self._labels[hit.face[hit.face >= 0]]
        drawn: np.ndarray = np.where(matte, label.reshape(camera.size).numpy(), np.uint8(Label.BACKGROUND))
        return drawn


def with_mesh_labels(recording: Recording, template: Template) -> Recording:
    """The recording with drawn labels in every frame.

    Args:
        recording: without labels.
        template: its canonical mesh with regions; its faces are those of all meshes.

    Raises:
        ValueError: it has labels already, or the template has no regions.
    """
    if recording.has_label:
        raise ValueError("with_mesh_labels: the recording has labels already; keep them")
    if not template.regions:
        raise ValueError(
            "with_mesh_labels: the template has no regions to draw; pass load_capture a head with regions, or regions="
        )
    draw = MeshLabels(template)

    def decode(frame: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        rgba, _, depth = recording.decode_image(frame)
        pose = torch.from_numpy(np.linalg.inv(recording.camera_to_world[frame])).float()
        camera = Camera(pose, torch.from_numpy(recording.intrinsics[frame]).float(), recording.size)
        return rgba, draw(recording.decode_head(frame).vertices, camera, rgba[..., 3] > 127), depth

    line = "labels are drawn from the mesh's regions; what the matte covers beside the mesh counts as hair"
    return replace(recording, decode_image=decode, has_label=True, report=[*recording.report, line])
