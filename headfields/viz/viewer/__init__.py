"""The viewer: a head in the browser, moved by sliders. `Scene` is what is shown; `Viewer` serves it (needs viser)."""

from headfields.viz.viewer.articulation import Articulation, BasisArticulation, Control, HeadArticulation, Rigid
from headfields.viz.viewer.looks import Picture
from headfields.viz.viewer.motion import Motion
from headfields.viz.viewer.painters import MeshPainter
from headfields.viz.viewer.progressive import ProgressiveRenderer
from headfields.viz.viewer.scene import Scene, View
from headfields.viz.viewer.server import Viewer
from headfields.viz.viewer.subjects import avatar_scene, capture_scene, head_scene, mesh_scene

__all__ = [
    "Articulation",
    "BasisArticulation",
    "Control",
    "HeadArticulation",
    "MeshPainter",
    "Motion",
    "Picture",
    "ProgressiveRenderer",
    "Rigid",
    "Scene",
    "View",
    "Viewer",
    "avatar_scene",
    "capture_scene",
    "head_scene",
    "mesh_scene",
]
