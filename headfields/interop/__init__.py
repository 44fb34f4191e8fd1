"""Other libraries' objects, both ways: kaolin, trimesh, Open3D, PyTorch3D, and camera conventions as plain tensors.

None of these libraries is needed to import this module; a function that needs one says how to get it.
"""

from headfields.interop import cameras, kaolin, open3d, pytorch3d, trimesh
from headfields.interop.cameras import (
    NerfstudioCameras,
    PyTorch3DCameras,
    SmplifyCamera,
    from_gsplat,
    from_nerfstudio,
    from_opengl,
    from_pytorch3d,
    from_smplify,
    from_weak_perspective,
    to_clip,
    to_gsplat,
    to_nerfstudio,
    to_opengl,
    to_pytorch3d,
    to_smplify,
)

__all__ = [
    "NerfstudioCameras",
    "PyTorch3DCameras",
    "SmplifyCamera",
    "cameras",
    "from_gsplat",
    "from_nerfstudio",
    "from_opengl",
    "from_pytorch3d",
    "from_smplify",
    "from_weak_perspective",
    "kaolin",
    "open3d",
    "pytorch3d",
    "to_clip",
    "to_gsplat",
    "to_nerfstudio",
    "to_opengl",
    "to_pytorch3d",
    "to_smplify",
    "trimesh",
]
