"""Other libraries' objects, both ways: kaolin, trimesh, Open3D, PyTorch3D, and camera conventions as plain tensors.

None of these libraries is needed to import this module; a function that needs one says how to get it.
"""

from typing import TYPE_CHECKING

from headfields.interop import cameras, kaolin, open3d, pytorch3d, trimesh
from headfields.interop.cameras import (
    from_gsplat,
    from_nerfstudio,
    from_opengl,
    from_pytorch3d,
    to_gsplat,
    to_nerfstudio,
    to_opengl,
    to_pytorch3d,
)
from headfields.old_names import deprecated_names

__all__ = [
    "cameras",
    "from_gsplat",
    "from_nerfstudio",
    "from_opengl",
    "from_pytorch3d",
    "kaolin",
    "open3d",
    "pytorch3d",
    "to_gsplat",
    "to_nerfstudio",
    "to_opengl",
    "to_pytorch3d",
    "trimesh",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
