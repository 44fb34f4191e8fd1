"""Pictures of a rig at rest, posed and with expressions, as single files and one sheet."""

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from headfields.apps.rigging.rig import Rigging
from headfields.apps.rigging.rigged_template import RiggedTemplate
from headfields.mesh.mesh import Mesh
from headfields.records import Camera, HeadState
from headfields.viz.images import save_image, side_by_side, to_uint8
from headfields.viz.mesh import SIDE_LIGHT, Look, draw_mesh, view_camera

__all__ = ["rig_pictures", "rig_poses"]

_EXPRESSIONS = ("smile_left", "smile_right", "mouthSmileLeft", "mouthSmileRight")
_BROWS = ("brow_raise_left", "brow_raise_right", "browInnerUp")


def rig_poses(rig: RiggedTemplate) -> dict[str, HeadState]:
    """The states that the pictures show, by name: rest, open mouth, turned and bent neck, and, where the rig has them,
    turned torso, smile and brows."""

    def rotation(x: float, y: float, z: float = 0.0) -> Tensor:
        return torch.tensor([[x, y, z]]).to(rig.template_vertices)

    def named_expression(names: tuple[str, ...]) -> Tensor | None:
        weights = {name: 1.0 for name in names if name in rig.expression_names}
        return rig.expression(**weights) if weights else None

    states = {
        "rest": rig(),
        "mouth_open": rig(pose=rig.pose(jaw=rotation(0.35, 0.0))),
        "neck_turned": rig(pose=rig.pose(neck=rotation(0.0, 0.35), head=rotation(0.0, 0.35))),
        "neck_bent": rig(pose=rig.pose(neck=rotation(0.25, 0.0, 0.15), head=rotation(0.2, 0.0, 0.1))),
    }
    if "torso" in rig.joints:
        states["torso_turned"] = rig(
            pose=rig.pose(torso=rotation(0.0, 0.3), neck=rotation(0.0, -0.15), head=rotation(0.0, -0.15))
        )
    smile, brows = named_expression(_EXPRESSIONS), named_expression(_BROWS)
    if smile is not None:
        states["smile"] = rig(expression=smile)
    if brows is not None:
        states["brows"] = rig(expression=brows, pose=rig.pose(jaw=rotation(0.12, 0.0)))
    return states


def rig_pictures(rigging: Rigging | RiggedTemplate, folder: str | Path, size: int = 384) -> UInt8[Tensor, "h w 3"]:
    """Writes one PNG per state of `rig_poses` (front, left side, back, close-up), `sheet.png` with all of them, and
    `weights.png` with the skinning weights as colors.

    Args:
        rigging: the rig, or the result of `rig_template`.
        folder: created if missing.
        size: height and width of one view, pixels.

    Returns:
        (H, W, 3) the sheet, RGB.
    """
    rig = rigging.rig if isinstance(rigging, Rigging) else rigging
    folder = Path(folder)
    rest = rig.template_vertices
    on_head = rig.weights[:, [rig.skull_joint, rig.jaw_joint]].sum(1) > 0.5
    face = rest[on_head]
    center = 0.5 * (face.amin(0) + face.amax(0))
    height = float((face.amax(0) - face.amin(0))[1])
    mesh = Mesh(rest, rig.faces, uv=rig.uv, uv_faces=rig.uv_faces, texture=rig.texture)
    look: Look = "clay" if rig.texture is None or rig.uv is None else "texture"
    rows = []
    with torch.no_grad():
        for name, state in rig_poses(rig).items():
            views = []
            for yaw, close_up in ((0.0, False), (90.0, False), (180.0, False), (25.0, True)):
                framing = {"center": center, "extent": 1.05 * height} if close_up else {}
                camera = view_camera(rest, yaw, 0.0, size, **framing)  # type: ignore[arg-type]
                views.append(_render(mesh.replace(vertices=state.vertices[0]), camera, look))
            row = side_by_side(views, [name, "left side", "back", "close"])
            save_image(folder / f"{name}.png", row)
            rows.append(torch.from_numpy(row))
        weights_view = _render(mesh, view_camera(rest, size=size), _weight_colors(rig))
        save_image(folder / "weights.png", weights_view)
    sheet = torch.cat(rows)
    save_image(folder / "sheet.png", sheet)
    return torch.from_numpy(to_uint8(sheet))


def _render(mesh: Mesh, camera: Camera, look: Look | Tensor) -> Tensor:
    return draw_mesh(mesh, camera, look, SIDE_LIGHT, samples=2, mark_backfaces=True)


def _weight_colors(rig: RiggedTemplate) -> Tensor:
    """One color per joint, blended by the skinning weights, (V, 3)."""
    index = torch.arange(len(rig.parents), dtype=torch.float32)
    palette = torch.stack([0.55 + 0.4 * torch.sin(2.4 * index + shift) for shift in (0.0, 2.1, 4.2)], -1)
    return (rig.weights @ palette.to(rig.weights)).clamp(0, 1)
