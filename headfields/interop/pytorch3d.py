"""PyTorch3D: its meshes and cameras. `headfields.interop.to_pytorch3d` gives a camera's parameters without it."""

from typing import Any

import torch

from headfields.interop.cameras import PyTorch3DCameras, from_pytorch3d, to_pytorch3d
from headfields.interop.optional import optional_module
from headfields.mesh.mesh import Mesh
from headfields.records import Camera

__all__ = ["from_camera", "from_mesh", "to_camera", "to_mesh"]

_REMEDY = "PyPI has no wheel: build it by pip install git+https://github.com/facebookresearch/pytorch3d"


def to_camera(camera: Camera) -> Any:
    """`pytorch3d.renderer.PerspectiveCameras` in screen space. Differentiable.

    Args:
        camera: N cameras, or one without a batch axis.

    Raises:
        ModuleNotFoundError: PyTorch3D cannot be imported.
        ValueError: the lens has skew.
    """
    module = optional_module("pytorch3d.renderer", "hf.interop.pytorch3d.to_camera", _REMEDY)
    fields = vars(to_pytorch3d(camera))
    return module.PerspectiveCameras(**fields, in_ndc=False, device=camera.world_to_camera.device)


def from_camera(camera: Any) -> Camera:
    """A `Camera` of N `pytorch3d.renderer.PerspectiveCameras` in screen space or NDC. Differentiable.

    Raises:
        TypeError: it is no perspective camera with an image size.
        ValueError: image sizes differ.
    """
    op, size = "hf.interop.pytorch3d.from_camera", getattr(camera, "image_size", None)
    if size is None or not hasattr(camera, "principal_point"):
        raise TypeError(
            f"{op}: camera is {type(camera).__name__}{'' if size is not None else ' without an image_size'}; expected "
            "PerspectiveCameras(..., image_size=((height, width),)) (FoVPerspectiveCameras has no focal length in "
            "pixels: build PerspectiveCameras from its field of view)"
        )
    pairs = (
        value.to(camera.R).expand(len(camera.R), 2) for value in (camera.focal_length, camera.principal_point, size)
    )
    fields = PyTorch3DCameras(camera.R, camera.T, *pairs)
    return from_pytorch3d(fields, in_ndc=bool(camera.in_ndc()))


def to_mesh(mesh: Mesh) -> Any:
    """`pytorch3d.structures.Meshes` of one mesh, with its texture (`TexturesUV`) or colors (`TexturesVertex`).

    Both have v up and row 0 of the texture at v = 1. Differentiable.

    Raises:
        ModuleNotFoundError: PyTorch3D cannot be imported.
    """
    op = "hf.interop.pytorch3d.to_mesh"
    structures = optional_module("pytorch3d.structures", op, _REMEDY)
    renderer = optional_module("pytorch3d.renderer", op, _REMEDY)
    textures = None
    faces = mesh.faces.long()
    if mesh.texture is not None and mesh.uv is not None:
        uv_faces = faces if mesh.uv_faces is None else mesh.uv_faces.long()
        textures = renderer.TexturesUV(maps=[mesh.texture], faces_uvs=[uv_faces], verts_uvs=[mesh.uv])
    elif mesh.colors is not None:
        textures = renderer.TexturesVertex([mesh.colors])
    normals = None if mesh.normals is None else [mesh.normals]
    return structures.Meshes([mesh.vertices], [faces], textures=textures, verts_normals=normals)


def from_mesh(meshes: Any, index: int = 0) -> Mesh:
    """A `Mesh` of one of `pytorch3d.structures.Meshes`, with its texture or colors. Differentiable.

    Args:
        meshes: N meshes.
        index: which one.

    Raises:
        TypeError: it is no Meshes.
        IndexError: there is no such mesh.
    """
    if not hasattr(meshes, "verts_list"):
        raise TypeError(f"hf.interop.pytorch3d.from_mesh: meshes is {type(meshes).__name__}; expected Meshes")
    vertices, faces = meshes.verts_list()[index], meshes.faces_list()[index]
    textures = meshes.textures
    uv = uv_faces = texture = colors = None
    if textures is not None and hasattr(textures, "verts_uvs_list"):
        uv, uv_faces = textures.verts_uvs_list()[index], textures.faces_uvs_list()[index].long()
        texture = textures.maps_padded()[index].to(torch.float32)[..., :3]
    elif textures is not None and hasattr(textures, "verts_features_list"):
        features = textures.verts_features_list()[index]
        colors = features[:, :3] if features.shape[1] >= 3 else None
    return Mesh(vertices.float(), faces.long(), colors=colors, uv=uv, uv_faces=uv_faces, texture=texture)
