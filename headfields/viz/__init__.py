"""Pictures: contact sheets, meshes, captioned comparisons, videos."""

from headfields.viz import notebook  # noqa: F401  (named here for `headfields.records.display`)
from headfields.viz.clips import Clip, Grid, show, turntable
from headfields.viz.contact_sheet import contact_sheet
from headfields.viz.images import normal_map, save_image, side_by_side
from headfields.viz.mesh import HEADLIGHT, SIDE_LIGHT, Light, draw_mesh, heat, heat_legend, view_camera
from headfields.viz.video import write_transparent_video, write_video

__all__ = [
    "HEADLIGHT",
    "SIDE_LIGHT",
    "Clip",
    "Grid",
    "Light",
    "contact_sheet",
    "draw_mesh",
    "heat",
    "heat_legend",
    "normal_map",
    "save_image",
    "show",
    "side_by_side",
    "turntable",
    "view_camera",
    "write_transparent_video",
    "write_video",
]
