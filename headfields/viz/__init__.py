"""Pictures: contact sheets, meshes, captioned comparisons, videos."""

from typing import TYPE_CHECKING

from headfields.old_names import deprecated_names
from headfields.viz.clips import show, turntable
from headfields.viz.contact_sheet import contact_sheet
from headfields.viz.heat import heat
from headfields.viz.images import normal_map, save_image, side_by_side
from headfields.viz.mesh import draw_mesh, view_camera
from headfields.viz.video import write_video

__all__ = [
    "contact_sheet",
    "draw_mesh",
    "heat",
    "normal_map",
    "save_image",
    "show",
    "side_by_side",
    "turntable",
    "view_camera",
    "write_video",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
