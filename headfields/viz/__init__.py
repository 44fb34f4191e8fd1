"""Pictures: contact sheets, captioned comparisons, meshes, videos."""

from headfields.viz.contact_sheet import contact_sheet
from headfields.viz.images import normal_map, save_image, side_by_side
from headfields.viz.mesh_views import mesh_view, view_camera
from headfields.viz.meshes import front_camera, heat, heat_legend, mesh_picture
from headfields.viz.video import write_video

__all__ = [
    "contact_sheet",
    "front_camera",
    "heat",
    "heat_legend",
    "mesh_picture",
    "mesh_view",
    "normal_map",
    "save_image",
    "side_by_side",
    "view_camera",
    "write_video",
]
