"""Pictures: contact sheets, captioned comparisons, meshes from given sides, videos."""

from headfields.viz.contact_sheet import contact_sheet
from headfields.viz.images import save_image, side_by_side
from headfields.viz.mesh_views import mesh_view, sample_texture, view_camera
from headfields.viz.video import write_video

__all__ = [
    "contact_sheet",
    "mesh_view",
    "sample_texture",
    "save_image",
    "side_by_side",
    "view_camera",
    "write_video",
]
