"""The viewer: a head in the browser, moved by sliders. `Scene` is what is shown; `Viewer` serves it (needs viser)."""

from headfields.apps.viewer.articulation import Articulation, BasisArticulation, Control, HeadArticulation, Rigid
from headfields.apps.viewer.looks import Picture
from headfields.apps.viewer.motion import Motion
from headfields.apps.viewer.painters import MeshPainter
from headfields.apps.viewer.progressive import ProgressiveRenderer
from headfields.apps.viewer.scene import Scene, View
from headfields.apps.viewer.server import Viewer
from headfields.apps.viewer.subjects import avatar_scene, capture_scene, head_scene, mesh_scene
from headfields.apps.viewer.training_view import TrainingView

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
    "TrainingView",
    "View",
    "Viewer",
    "avatar_scene",
    "capture_scene",
    "head_scene",
    "mesh_scene",
]
