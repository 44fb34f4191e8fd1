"""Open3D: its triangle meshes, point clouds and pinhole cameras."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from headfields.interop.cameras import refuse_skew, single_camera
from headfields.interop.optional import optional_module
from headfields.mesh.mesh import Mesh
from headfields.records import Camera

__all__ = ["from_camera", "from_mesh", "to_camera", "to_mesh"]

_REMEDY = "pip install open3d (it needs libusb-1.0 and libGL of the system)"
Centers = Literal["half", "integer"]


def _open3d(op: str) -> Any:
    return optional_module("open3d", f"hf.interop.open3d.{op}", _REMEDY)


def to_mesh(mesh: Mesh) -> Any:
    """`open3d.geometry.TriangleMesh` with normals, colors, and texture coordinates and texture; `PointCloud` for a mesh
    without faces.

    Raises:
        ModuleNotFoundError: Open3D cannot be imported.
    """
    o3d = _open3d("to_mesh")
    mesh = mesh.map(lambda tensor: tensor.detach().cpu())

    def vectors(tensor: Tensor) -> Any:
        return o3d.utility.Vector3dVector(tensor.double().numpy())

    if not len(mesh.faces):
        made = o3d.geometry.PointCloud(vectors(mesh.vertices))
        if mesh.normals is not None:
            made.normals = vectors(mesh.normals)
        if mesh.colors is not None:
            made.colors = vectors(mesh.colors)
        return made
    made = o3d.geometry.TriangleMesh(vectors(mesh.vertices), o3d.utility.Vector3iVector(mesh.faces.int().numpy()))
    if mesh.normals is not None:
        made.vertex_normals = vectors(mesh.normals)
    if mesh.colors is not None:
        made.vertex_colors = vectors(mesh.colors)
    if mesh.uv is not None:
        corner = mesh.uv[(mesh.faces if mesh.uv_faces is None else mesh.uv_faces).long()].reshape(-1, 2)
        made.triangle_uvs = o3d.utility.Vector2dVector(corner.double().numpy())
        made.triangle_material_ids = o3d.utility.IntVector(np.zeros(len(mesh.faces), np.int32))
    if mesh.texture is not None:
        image = (mesh.texture.float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        made.textures = [o3d.geometry.Image(np.ascontiguousarray(image))]
    return made


def from_mesh(mesh: Any) -> Mesh:
    """A `Mesh` of `open3d.geometry.TriangleMesh` or `PointCloud`, with normals, colors and texture.

    Args:
        mesh: legacy geometry; of `open3d.t.geometry` pass `mesh.to_legacy()`. Meters.

    Returns:
        float32, on the CPU. Each corner of a face has its own texture coordinates, as in Open3D.

    Raises:
        TypeError: it has no vertices and no points.
        ValueError: it has several textures.
    """
    points = getattr(mesh, "vertices", None)
    if points is None:
        points = getattr(mesh, "points", None)
    if points is None or hasattr(mesh, "to_legacy"):
        raise TypeError(
            f"hf.interop.open3d.from_mesh: mesh is {type(mesh).__name__}; expected open3d.geometry.TriangleMesh or "
            "PointCloud (of open3d.t.geometry: mesh.to_legacy())"
        )

    def rows(*names: str) -> Tensor | None:
        stored = next((getattr(mesh, name) for name in names if hasattr(mesh, name)), None)
        return None if stored is None or not len(stored) else torch.from_numpy(np.array(stored, np.float32))

    faces = torch.from_numpy(np.array(getattr(mesh, "triangles", np.empty((0, 3))), np.int64).reshape(-1, 3))
    uv = rows("triangle_uvs")
    textures = [image for image in getattr(mesh, "textures", []) if len(np.asarray(image))]
    if len(textures) > 1:
        raise ValueError(f"hf.interop.open3d.from_mesh: mesh has {len(textures)} textures, and a Mesh has one")
    texture = None
    if textures and uv is not None:
        image = np.asarray(textures[0])
        scale = 255.0 if image.dtype == np.uint8 else 1.0
        image = image[..., None].repeat(3, -1) if image.ndim == 2 else image[..., :3]
        texture = torch.from_numpy(image.astype(np.float32) / np.float32(scale))
    return Mesh(
        torch.from_numpy(np.array(points, np.float32).reshape(-1, 3)), faces,
        colors=rows("vertex_colors", "colors"), normals=rows("vertex_normals", "normals"), uv=uv,
        uv_faces=None if uv is None else torch.arange(3 * len(faces)).reshape(-1, 3), texture=texture,
    )  # fmt: skip


def to_camera(camera: Camera, centers: Centers = "half") -> Any:
    """`open3d.camera.PinholeCameraParameters`, whose extrinsic is world-to-camera with OpenCV axes as here.

    Open3D is of two minds about pixels: rays (`RaycastingScene.create_rays_pinhole`) pass the center of the first pixel
    at (0.5, 0.5), as here; depth maps and its visualizer have it at (0, 0).

    Args:
        camera: one camera.
        centers: "half" for rays, "integer" for depth maps (`create_from_depth_image`) and the visualizer.

    Raises:
        ModuleNotFoundError: Open3D cannot be imported.
        ValueError: several cameras, or skew.
    """
    o3d, op = _open3d("to_camera"), "hf.interop.open3d.to_camera"
    camera = single_camera(op, camera)
    refuse_skew(op, camera)
    lens = camera.intrinsics.detach().cpu().double().numpy()
    offset = 0.0 if centers == "half" else 0.5
    made = o3d.camera.PinholeCameraParameters()
    made.intrinsic = o3d.camera.PinholeCameraIntrinsic(
        camera.size[1], camera.size[0], lens[0, 0], lens[1, 1], lens[0, 2] - offset, lens[1, 2] - offset
    )
    made.extrinsic = camera.world_to_camera.detach().cpu().double().numpy()
    return made


def from_camera(camera: Any, centers: Centers = "half") -> Camera:
    """A `Camera` of `open3d.camera.PinholeCameraParameters`; see `to_camera` for `centers`.

    Returns:
        One camera, float32, on the CPU.
    """
    lens = torch.from_numpy(np.array(camera.intrinsic.intrinsic_matrix, np.float64))
    lens[:2, 2] += 0.0 if centers == "half" else 0.5
    pose = torch.from_numpy(np.array(camera.extrinsic, np.float64))
    return Camera(pose.float(), lens.float(), (int(camera.intrinsic.height), int(camera.intrinsic.width)))
