"""The viewer: a head in the browser, moved by sliders. `Scene` is what is shown; `Viewer` serves it (needs viser)."""

from typing import TYPE_CHECKING

from headfields.apps.viewer.server import Viewer
from headfields.apps.viewer.subjects import avatar_scene, capture_scene, head_scene, mesh_scene
from headfields.apps.viewer.training_view import TrainingView
from headfields.old_names import deprecated_names

__all__ = [
    "TrainingView",
    "Viewer",
    "avatar_scene",
    "capture_scene",
    "head_scene",
    "mesh_scene",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
