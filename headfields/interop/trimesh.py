"""trimesh: its meshes with normals, colors and texture, and its cameras. trimesh is a requirement of the library."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.interop.cameras import from_opengl, refuse_skew, single_camera, to_opengl
from headfields.mesh.mesh import Mesh
from headfields.mesh.seams import split_at_seams
from headfields.records import Camera

__all__ = ["from_camera", "from_mesh", "to_camera", "to_mesh"]


def to_mesh(mesh: Mesh) -> Any:
    """trimesh's mesh, its vertices in their order unless one has several texture coordinates; `trimesh.PointCloud` for
    a mesh without faces.

    Args:
        mesh: the mesh. With texture coordinates, a vertex on a seam becomes several, as trimesh has one for each.

    Returns:
        `trimesh.Trimesh` with normals, and vertex colors or a texture (of both, the texture).
    """
    import trimesh
    from PIL import Image

    mesh = mesh.map(lambda tensor: tensor.detach().cpu())
    if not len(mesh.faces):
        colors = None if mesh.colors is None else _bytes(mesh.colors)
        return trimesh.PointCloud(mesh.vertices.double().numpy(), colors=colors)
    rows, faces, uv = torch.arange(len(mesh.vertices)), mesh.faces, None
    if mesh.uv is not None:
        split = split_at_seams(mesh)
        rows, faces, uv = split.vertex, split.faces, split.uv
    made = trimesh.Trimesh(
        mesh.vertices[rows].double().numpy(), faces.numpy(), process=False,
        vertex_normals=None if mesh.normals is None else mesh.normals[rows].double().numpy(),
    )  # fmt: skip
    if mesh.texture is not None and uv is not None:
        image = Image.fromarray(_bytes(mesh.texture))
        material = trimesh.visual.material.PBRMaterial(
            baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True
        )
        made.visual = trimesh.visual.TextureVisuals(uv=uv.double().numpy(), material=material)
    elif mesh.colors is not None:
        made.visual = trimesh.visual.ColorVisuals(made, vertex_colors=_bytes(mesh.colors[rows]))
    elif uv is not None:
        made.visual = trimesh.visual.TextureVisuals(uv=uv.double().numpy())
    return made


def from_mesh(mesh: Any) -> Mesh:
    """A `Mesh` of trimesh's mesh or point cloud, with what it stores of normals, colors, texture coordinates and image.

    Args:
        mesh: `trimesh.Trimesh` or `trimesh.PointCloud`, meters. Of a `Scene`, pass `scene.to_mesh()`.

    Returns:
        float32, on the CPU. Normals that trimesh would have to compute are left out.

    Raises:
        TypeError: it has no vertices.
    """
    vertices = getattr(mesh, "vertices", None)
    if vertices is None or not (hasattr(mesh, "visual") or hasattr(mesh, "colors")):
        raise TypeError(
            f"hf.interop.trimesh.from_mesh: mesh is {type(mesh).__name__}; expected trimesh.Trimesh or "
            "trimesh.PointCloud (of a Scene: scene.to_mesh())"
        )
    faces = np.asarray(getattr(mesh, "faces", np.empty((0, 3)))).astype(np.int64).reshape(-1, 3)
    normals = mesh._cache.cache.get("vertex_normals") if hasattr(mesh, "_cache") else None
    colors = uv = texture = None
    visual = getattr(mesh, "visual", None)
    if visual is None:
        colors = getattr(mesh, "colors", None)
    elif visual.kind == "texture":
        uv = visual.uv
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        texture = None if image is None else np.asarray(image.convert("RGB"))
    elif visual.kind == "vertex":
        colors = visual.vertex_colors
    return Mesh(
        torch.from_numpy(np.array(vertices, np.float32)),
        torch.from_numpy(faces),
        colors=_unit(colors, len(vertices)),
        normals=None if normals is None else torch.from_numpy(np.array(normals, np.float32)),
        uv=None if uv is None or len(uv) != len(vertices) else torch.from_numpy(np.array(uv, np.float32)),
        texture=None if texture is None else torch.from_numpy(texture.copy()).float() / 255,
    )


def to_camera(camera: Camera) -> tuple[Any, np.ndarray]:
    """trimesh's camera, and its place in a scene.

    Args:
        camera: one camera, or a batch of one, its principal point in the center of the image, where trimesh has it.

    Returns:
        `trimesh.scene.Camera` and (4, 4) camera-to-world with OpenGL axes:
        `Scene(mesh, camera=..., camera_transform=...)`.

    Raises:
        ValueError: several cameras, skew, or a principal point that is off the center.
    """
    import trimesh

    op = "hf.interop.trimesh.to_camera"
    camera = single_camera(op, camera)
    refuse_skew(op, camera)
    height, width = camera.size
    lens = camera.intrinsics.detach().cpu().double().numpy()
    if max(abs(lens[0, 2] - width / 2), abs(lens[1, 2] - height / 2)) > 1e-3 * max(height, width):
        raise ValueError(
            f"{op}: the principal point is {lens[:2, 2].tolist()}, and trimesh has it in the center of the image, "
            f"{[width / 2, height / 2]}; crop or pad the image so that it is"
        )
    view = trimesh.scene.Camera(resolution=(width, height), focal=(lens[0, 0], lens[1, 1]))
    return view, to_opengl(camera).detach().cpu().double().numpy()


def from_camera(camera: Any, transform: np.ndarray | Float[Tensor, "4 4"]) -> Camera:
    """A `Camera` of trimesh's camera and its place in the scene, `scene.camera` and `scene.camera_transform`.

    Args:
        camera: `trimesh.scene.Camera`.
        transform: (4, 4) camera-to-world, OpenGL axes.

    Returns:
        One camera, float32, on the CPU.
    """
    width, height = (int(side) for side in camera.resolution)
    focal = np.asarray(camera.focal, np.float64)
    lens = torch.tensor([[focal[0], 0, width / 2], [0, focal[1], height / 2], [0, 0, 1]], dtype=torch.float64)
    place = torch.as_tensor(np.array(transform, np.float64))
    return from_opengl(place, lens, (height, width)).map(lambda tensor: tensor.float())


def _bytes(colors: Tensor) -> np.ndarray:
    return (colors.float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _unit(colors: Any, count: int) -> Float[Tensor, "v 3"] | None:
    if colors is None or np.ndim(colors) != 2 or len(colors) != count or not count:
        return None
    scale = 255.0 if np.asarray(colors).dtype == np.uint8 else 1.0
    return torch.from_numpy(np.asarray(colors)[:, :3].astype(np.float32) / np.float32(scale))
