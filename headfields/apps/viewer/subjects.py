"""Scenes of what the library has: a capture with or without an avatar, a head model, a mesh, an avatar alone."""

from collections.abc import Sequence
from typing import Any

import torch

from headfields.apps.retargeting.head_surface import HeadSurface
from headfields.apps.retargeting.retargeter import Retargeter
from headfields.apps.retargeting.sources import expressions_of_capture, surface_of_capture
from headfields.apps.viewer.articulation import Articulation, BasisArticulation, HeadArticulation, Rigid
from headfields.apps.viewer.mesh_painter import MeshPainter
from headfields.apps.viewer.motion import Motion, neutral_frame
from headfields.apps.viewer.scene import Scene
from headfields.data.expression_basis import expression_names
from headfields.heads.blendshapes import BlendshapeHead
from headfields.heads.skinned import SkinnedHead
from headfields.mesh.mesh import Mesh
from headfields.records import HeadState

__all__ = ["avatar_scene", "capture_articulation", "capture_scene", "head_scene", "mesh_scene"]


def capture_scene(
    capture: Any,
    avatar: Any = None,
    drivers: Sequence[Any] = (),
    head: SkinnedHead | BlendshapeHead | None = None,
    proxy: Any = None,
    background: float | int = 1.0,
) -> Scene:
    """The head of a capture, its avatar if there is one, and what may move it.

    Args:
        capture: a `headfields.data.Capture`.
        avatar: an avatar trained on it; None: its tracked mesh as clay.
        drivers: captures whose motion the head makes too, retargeted.
        head: the head model that the capture was tracked with, for its expressions and joints; None: the expressions
            are those of a basis fitted to the meshes, and eyeballs and neck turn about their centers.
        proxy: an avatar of Gaussians that stands in for a slow one while something moves.
        background: gray behind the head in [0, 1].

    Raises:
        CaptureError: a file of the capture cannot be read.
        ValueError: a driver's head does not fit, or the head model has another topology than the capture.
    """
    template, surface = capture.template, surface_of_capture(capture)
    articulation = capture_articulation(capture, head, surface)
    neutral = capture.state([neutral_frame(capture)])
    motions = [Motion.of_capture(capture), Motion.still("neutral", neutral)]
    names = {motion.name for motion in motions}
    for driver in drivers:
        retargeter = Retargeter.from_captures(driver, capture)
        name, number = driver.name, 2
        while name in names:
            name, number = f"{driver.name} ({number})", number + 1
        names.add(name)
        motions.append(_retargeted(name, retargeter, driver))
    painter = MeshPainter(Mesh(template.canonical_vertices, template.faces))
    return Scene(
        capture.name, painter if avatar is None else avatar, motions, articulation, template.faces,
        template.canonical_vertices, capture, surface.landmarks, proxy, background=background,
    )  # fmt: skip


def capture_articulation(
    capture: Any, head: SkinnedHead | BlendshapeHead | None = None, surface: HeadSurface | None = None
) -> Articulation:
    """What moves the head of a capture.

    Args:
        capture: a `headfields.data.Capture`.
        head: the head model that it was tracked with; None: a basis fitted to the meshes.
        surface: of the capture, if it is known.

    Raises:
        CaptureError: a file of the capture cannot be read.
        ValueError: the head model has another topology than the capture.
    """
    template = capture.template
    if head is not None:
        if len(head.template_vertices) != len(template.canonical_vertices):
            raise ValueError(
                f"capture_scene: the head has {len(head.template_vertices)} vertices and the capture's mesh "
                f"{len(template.canonical_vertices)}; pass the head model that it was tracked with"
            )
        return HeadArticulation(head)
    surface = surface_of_capture(capture) if surface is None else surface
    fit = expressions_of_capture(capture, surface)
    return BasisArticulation(fit, surface.eyeballs, surface.neutral, expression_names(capture))


def _retargeted(name: str, retargeter: Retargeter, driver: Any) -> Motion:
    @torch.no_grad()
    def state_of(frame: int) -> HeadState:
        return retargeter(driver.state([frame]))

    return Motion(name, len(driver), state_of)


def head_scene(head: SkinnedHead | BlendshapeHead, name: str = "head", background: float | int = 1.0) -> Scene:
    """A head model, with its texture if it has one, its expressions and joints.

    Args:
        head: FLAME, SMPL-X, a blendshape head or a rigged scan.
        name: for the title.
        background: gray behind the head in [0, 1].
    """
    with torch.no_grad():
        rest = head()
    mesh = Mesh(rest.vertices[0], head.faces)
    texture: Any = getattr(head, "texture", None)
    if isinstance(head, SkinnedHead) and texture is not None:
        mesh = mesh.replace(uv=head.uv, uv_faces=head.uv_faces, texture=texture)
    return Scene(
        name, MeshPainter(mesh), [Motion.still("rest", rest)], HeadArticulation(head), head.faces,
        background=background,
    )  # fmt: skip


def mesh_scene(mesh: Mesh, name: str = "mesh", background: float | int = 1.0) -> Scene:
    """A mesh with its colors or texture, which turns as a whole.

    Args:
        mesh: a mesh with faces.
        name: for the title.
        background: gray behind it in [0, 1].

    Raises:
        ValueError: it has no faces: points cannot be drawn.
    """
    if not len(mesh.faces):
        raise ValueError(f"mesh_scene: the mesh has {len(mesh.vertices)} vertices and no faces; pass a surface")
    state = HeadState(mesh.vertices[None].float())
    return Scene(
        name, MeshPainter(mesh), [Motion.still("as read", state)], Rigid.below(state.vertices[0]), mesh.faces,
        background=background,
    )  # fmt: skip


def avatar_scene(avatar: Any, name: str = "avatar", background: float | int = 1.0) -> Scene:
    """An avatar without its capture, in the state of its preview.

    Args:
        avatar: with a preview.
        name: for the title.
        background: gray behind the head in [0, 1].

    Raises:
        ValueError: it has no preview.
    """
    if avatar.preview is None:
        raise ValueError(
            "avatar_scene: the avatar has no preview, a state to be shown in; pass the capture that it was trained on "
            "to capture_scene (headfields view AVATAR --capture DIR)"
        )
    state = avatar.preview[1]
    template = avatar.template
    return Scene(
        name, avatar, [Motion.still("preview", state)], Rigid.below(state.vertices[0]),
        None if template is None else template.faces, None if template is None else template.canonical_vertices,
        background=background,
    )  # fmt: skip
