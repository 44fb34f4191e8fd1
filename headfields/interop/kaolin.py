"""NVIDIA kaolin: its cameras, meshes, Gaussians and structured point clouds, its importers and its turntable.

kaolin is imported when a function here is called. PyPI's `kaolin` is a placeholder that raises when it is imported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from headfields.avatar.avatar import Avatar
from headfields.avatar.splat_avatar import SplatAvatar
from headfields.interop.cameras import refuse_skew
from headfields.interop.optional import optional_module
from headfields.mesh.mesh import Mesh
from headfields.networks.gaussians import DC
from headfields.records import Camera, HeadState, Splats
from headfields.records.opengl_axes import flip_y_z

__all__ = [
    "OccupiedCells",
    "from_camera",
    "from_mesh",
    "from_spc",
    "from_splats",
    "import_mesh",
    "render_function",
    "to_camera",
    "to_mesh",
    "to_spc",
    "to_splats",
    "turntable",
]

_REMEDY = (
    "PyPI's kaolin is an empty placeholder: install a wheel of your PyTorch and CUDA by pip install kaolin==0.18.0 -f "
    "https://nvidia-kaolin.s3.us-east-2.amazonaws.com/torch-2.8.0_cu128.html, or build it from its source"
)


def _kaolin(op: str, module: str = "kaolin") -> ModuleType:
    return optional_module(module, f"hf.interop.kaolin.{op}", _REMEDY)


def to_camera(camera: Camera, near: float | int = 1e-2, far: float | int = 1e2) -> Any:
    """kaolin's pinhole camera that gives every point the same pixel.

    kaolin looks along -z with y up, and measures the principal point from the center of the image, y up.

    Args:
        camera: N cameras, or one without a batch axis.
        near, far: clipping planes, meters; they change depths in kaolin's clip space and no pixel.

    Returns:
        `kaolin.render.camera.Camera` of N cameras, on the camera's device. Differentiable.

    Raises:
        ModuleNotFoundError: kaolin cannot be imported.
        ValueError: the lens has skew.
    """
    module = _kaolin("to_camera", "kaolin.render.camera")
    refuse_skew("hf.interop.kaolin.to_camera", camera)
    height, width = camera.size
    pose, lens = camera.world_to_camera.reshape(-1, 4, 4), camera.intrinsics.reshape(-1, 3, 3)
    parameters = torch.stack(
        [lens[:, 0, 2] - width / 2, height / 2 - lens[:, 1, 2], lens[:, 0, 0], lens[:, 1, 1]], dim=-1
    )
    extrinsics = module.CameraExtrinsics.from_view_matrix(flip_y_z(pose, -2))
    return module.Camera(extrinsics, module.PinholeIntrinsics(width, height, parameters.to(pose), near, far))


def from_camera(camera: Any) -> Camera:
    """A `Camera` of N cameras of `kaolin.render.camera.Camera`.

    A camera whose coordinate system was changed (`change_coordinate_system`) gives the pixels of points in that system.

    Args:
        camera: kaolin's, with pinhole intrinsics.

    Returns:
        N cameras. Differentiable.

    Raises:
        TypeError: it is no camera of kaolin with a pinhole.
    """
    if getattr(camera, "lens_type", None) != "pinhole":
        raise TypeError(
            f"hf.interop.kaolin.from_camera: camera is {type(camera).__name__} of lens "
            f"{getattr(camera, 'lens_type', None)!r}; expected kaolin.render.camera.Camera with a pinhole"
        )
    pose = camera.view_matrix()
    height, width = int(camera.height), int(camera.width)
    x, y, focal_x, focal_y = camera.intrinsics.params.to(pose).unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = [(focal_x, zero, x + width / 2), (zero, focal_y, height / 2 - y), (zero, zero, one)]
    lens = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    return Camera(flip_y_z(pose, -2), lens.expand(len(pose), 3, 3), (height, width))


def to_mesh(mesh: Mesh) -> Any:
    """kaolin's `SurfaceMesh` with normals, colors, texture coordinates (v down there) and the texture as a material.

    Args:
        mesh: the mesh; tensors are shared where their values are the same.

    Returns:
        `kaolin.rep.SurfaceMesh`, not batched. Differentiable.

    Raises:
        ModuleNotFoundError: kaolin cannot be imported.
    """
    rep, materials = _kaolin("to_mesh", "kaolin.rep"), _kaolin("to_mesh", "kaolin.render.materials")
    more: dict[str, Any] = {}
    if mesh.uv is not None:
        more["uvs"] = torch.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], dim=-1)
        more["face_uvs_idx"] = (mesh.faces if mesh.uv_faces is None else mesh.uv_faces).long()
    if mesh.texture is not None:
        material = materials.PBRMaterial(
            diffuse_texture=mesh.texture.movedim(-1, 0), diffuse_colorspace="sRGB", roughness_value=1.0,
            metallic_value=0.0, is_specular_workflow=False, material_name="skin",
        )  # fmt: skip
        more["materials"] = [material]
        more["material_assignments"] = torch.zeros(len(mesh.faces), dtype=torch.short, device=mesh.faces.device)
    return rep.SurfaceMesh(
        vertices=mesh.vertices, faces=mesh.faces.long(), vertex_normals=mesh.normals, vertex_colors=mesh.colors, **more
    )


def from_mesh(mesh: Any) -> Mesh:
    """A `Mesh` of kaolin's `SurfaceMesh`: from its importers, its optimizations or by hand.

    Polygons become triangles (a fan). Normals and colors are kept where kaolin has them for vertices; colors of
    corners become those of vertices as kaolin averages them. A texture is kept if all its faces have the same one;
    of several materials without a texture, each vertex gets the color of its faces' material.

    Args:
        mesh: a mesh that is not batched, or a batch of one.

    Returns:
        float32 and int64. Differentiable in vertices, normals, colors and texture coordinates.

    Raises:
        TypeError: it is no SurfaceMesh.
        ValueError: it is a batch of several, or its faces have several textures, which one `Mesh` cannot hold.
    """
    if not hasattr(mesh, "get_attribute") or not hasattr(mesh, "batching"):
        raise TypeError(f"hf.interop.kaolin.from_mesh: mesh is {type(mesh).__name__}; expected kaolin.rep.SurfaceMesh")
    if str(getattr(mesh.batching, "value", mesh.batching)) != "NONE":
        if len(mesh) != 1:
            raise ValueError(f"hf.interop.kaolin.from_mesh: mesh is a batch of {len(mesh)}; pass one: mesh[i]")
        mesh = mesh[0]

    def stored(name: str) -> Tensor | None:
        return getattr(mesh, name) if mesh.has_attribute(name) else None

    corners = mesh.faces.long()
    faces, first = _fan(corners)
    uv, uv_faces = stored("uvs"), stored("face_uvs_idx")
    if uv is not None:
        uv = torch.stack([uv[:, 0], 1 - uv[:, 1]], dim=-1).float()
        uv_faces = None if uv_faces is None else _fan(uv_faces.long())[0]
    normals = stored("vertex_normals")
    if normals is None and mesh.has_attribute("normals") and mesh.has_attribute("face_normals_idx"):
        normals = _of_vertices(mesh.normals, mesh.face_normals_idx.long(), corners, len(mesh.vertices))
        normals = torch.nn.functional.normalize(normals, dim=-1)
    colors = mesh.vertex_colors if mesh.has_or_can_compute_attribute("vertex_colors") else None
    texture, painted = _materials(mesh, faces, first)
    return Mesh(
        mesh.vertices.float(), faces,
        colors=painted if colors is None else colors[:, :3].float(),
        normals=None if normals is None else normals.float(),
        uv=uv, uv_faces=uv_faces if uv is not None else None, texture=texture if uv is not None else None,
    )  # fmt: skip


def _fan(polygons: Tensor) -> tuple[Tensor, Tensor]:
    """The triangles (T, 3) of polygons (F, N), and the polygon (T,) of each."""
    count, sides = polygons.shape
    triangles = [polygons[:, [0, i, i + 1]] for i in range(1, sides - 1)]
    own = torch.arange(count, device=polygons.device).repeat_interleave(max(sides - 2, 0))
    return torch.stack(triangles, dim=1).reshape(-1, 3) if triangles else polygons.new_zeros(0, 3), own


def _of_vertices(values: Tensor, index: Tensor, corners: Tensor, count: int) -> Tensor:
    """The sum (V, C) over a vertex's corners of the values (N, C) that the corners have by index."""
    out = values.new_zeros(count, values.shape[1])
    return out.index_add(0, corners.reshape(-1), values[index.reshape(-1)])


def _materials(mesh: Any, faces: Tensor, polygon: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The texture (H, W, 3) that all faces have, or the colors (V, 3) of vertices by their faces' materials."""
    materials = getattr(mesh, "materials", None) or []
    if not materials:
        return None, None
    number = torch.zeros(len(mesh.faces), dtype=torch.long)
    if mesh.has_attribute("material_assignments"):
        number = mesh.material_assignments.long().cpu()
    used = sorted({index for index in number.tolist() if 0 <= index < len(materials)})
    textures = {index: getattr(materials[index], "diffuse_texture", None) for index in used}
    images = {index: image for index, image in textures.items() if image is not None}
    if len(images) > 1:
        raise ValueError(
            f"hf.interop.kaolin.from_mesh: faces have {len(images)} textures ({', '.join(map(str, images))} of its "
            "materials), and a Mesh has one; split the mesh by material_assignments, or join the images into one"
        )
    if images:
        image = next(iter(images.values()))
        image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        image = image if image.shape[-1] in (1, 3, 4) else image.movedim(0, -1)
        return (image[..., :3] if image.shape[-1] > 1 else image.expand(*image.shape[:2], 3)), None
    plain = [getattr(material, "diffuse_color", None) for material in materials]
    if not used or any(plain[index] is None for index in used):
        return None, None
    table = torch.stack([torch.ones(3) if color is None else color.float().cpu()[:3] for color in plain])
    index = number[polygon.cpu()].clamp(0, len(table) - 1)
    colors = torch.zeros(len(mesh.vertices), 3).index_add(
        0, faces.cpu().reshape(-1), table[index].repeat_interleave(3, 0)
    )
    share = torch.bincount(faces.cpu().reshape(-1), minlength=len(colors)).clamp_min(1)
    return None, (colors / share[:, None]).to(mesh.vertices.device)


def import_mesh(path: Path | str, scale: float | int = 1.0) -> Mesh:
    """Reads a mesh by kaolin's importers: USD, glTF or OBJ, with materials. A way in for scans to rig.

    `headfields.mesh.load_mesh` reads OBJ and glTF without kaolin; USD files, and textures of glTF, need these.

    Args:
        path: `.usd`, `.usda`, `.usdc`, `.gltf`, `.glb` or `.obj`.
        scale: meters per unit of the file; USD's files often are in centimeters (0.01).

    Returns:
        The mesh, as `from_mesh` makes it of kaolin's.

    Raises:
        ModuleNotFoundError: kaolin, or usd-core for a USD file, cannot be imported.
        FileNotFoundError: there is no such file.
        ValueError: kaolin cannot read it, or scale is not positive.
    """
    path = Path(path)
    if not 0 < scale < float("inf"):
        raise ValueError(f"hf.interop.kaolin.import_mesh: scale is {scale}; expected a positive number")
    if not path.is_file():
        raise FileNotFoundError(f"hf.interop.kaolin.import_mesh: there is no file {path}")
    io = _kaolin("import_mesh", "kaolin.io")
    try:
        surface = io.mesh.import_mesh(str(path), triangulate=True)
    except ImportError as error:
        raise ModuleNotFoundError(f"hf.interop.kaolin.import_mesh: {error}; pip install usd-core") from error
    except Exception as error:  # show the message of whatever reader kaolin calls
        raise ValueError(
            f"hf.interop.kaolin.import_mesh: kaolin cannot read {path}: {type(error).__name__}: {error}"
        ) from error
    mesh = from_mesh(surface)
    return mesh if scale == 1.0 else mesh.replace(vertices=mesh.vertices * scale)


def to_splats(splats: Splats) -> Any:
    """kaolin's `GaussianSplatModel` of the Gaussians of one frame.

    Args:
        splats: N Gaussians, (N, ...) or a batch of one frame. Colors become harmonics of degree 0.

    Returns:
        `kaolin.rep.GaussianSplatModel`, which holds scales and opacities as they are drawn. Differentiable.

    Raises:
        ModuleNotFoundError: kaolin cannot be imported.
        ValueError: the splats are of several frames.
    """
    rep = _kaolin("to_splats", "kaolin.rep")
    if splats.means.ndim == 3 and len(splats.means) == 1:
        splats = splats.map(lambda tensor: tensor[0])
    if splats.means.ndim != 2:
        raise ValueError(
            f"hf.interop.kaolin.to_splats: splats has means of shape {tuple(splats.means.shape)}; expected one frame: "
            "splats[3]"
        )
    harmonics = splats.harmonics
    if harmonics is None:
        assert splats.colors is not None
        harmonics = ((splats.colors - 0.5) / DC)[:, None]
    return rep.GaussianSplatModel(splats.means, splats.quaternions, splats.scales, splats.opacities, harmonics)


def from_splats(model: Any) -> Splats:
    """The Gaussians (N, ...) of kaolin's `GaussianSplatModel`, moved by its transform if it has one. Differentiable.

    Args:
        model: N Gaussians.

    Raises:
        TypeError: it is no GaussianSplatModel.
        ValueError: its harmonics are of a degree above 3.
    """
    if not all(hasattr(model, name) for name in ("positions", "orientations", "scales", "opacities", "sh_coeff")):
        raise TypeError(
            f"hf.interop.kaolin.from_splats: model is {type(model).__name__}; expected kaolin.rep.GaussianSplatModel"
        )
    if getattr(model, "transform", None) is not None:
        model = model.as_transformed()
    return Splats(model.positions, model.orientations, model.scales, model.opacities, harmonics=model.sh_coeff)


@dataclass(frozen=True)
class OccupiedCells:
    """A structured point cloud and where it lies.

    Attributes:
        spc: `kaolin.rep.Spc` of one octree.
        box: (2, 3) meters, lower corner first: what kaolin's cube from -1 to 1 stands for.
    """

    spc: Any
    box: Float[Tensor, "2 3"]


def to_spc(occupied: Bool[Tensor, "x y z"], box: Float[Tensor, "2 3"]) -> OccupiedCells:
    """kaolin's structured point cloud (an octree) of the occupied cells of a grid.

    An octree's grid is a cube of 2^level cells a side: further cells, which are empty, are added behind the last ones
    of each axis, and the box grows with them.

    Args:
        occupied: (X, Y, Z), as `OccupancySampler.grid.occupied`.
        box: (2, 3) the grid's box, meters, lower corner first, as `OccupancySampler.grid.box`.

    Returns:
        The octree on the device of `occupied`, and its box. kaolin builds pyramids and points of it on CUDA.

    Raises:
        ModuleNotFoundError: kaolin cannot be imported.
        ValueError: no cell is occupied, which an octree cannot hold; more than 2^15 cells along a side.
    """
    rep = _kaolin("to_spc", "kaolin.rep")
    if not bool(occupied.any()):
        raise ValueError(f"hf.interop.kaolin.to_spc: none of the cells {tuple(occupied.shape)} is occupied")
    level = max((max(occupied.shape) - 1).bit_length(), 1)
    if level > 15:
        raise ValueError(
            f"hf.interop.kaolin.to_spc: {tuple(occupied.shape)} cells; expected at most 32768 along a side"
        )
    side = 2**level
    grown = box[0] + (box[1] - box[0]) * side / box.new_tensor(occupied.shape)
    cells, octets = occupied.nonzero(), []
    for _ in range(level):  # from the leaves to the root
        parent = _morton(cells >> 1, level)
        order = parent.unique(return_inverse=True)
        bit = torch.tensor([4, 2, 1], device=cells.device)
        octant = ((cells & 1) * bit).sum(-1)
        octet = torch.zeros(len(order[0]), dtype=torch.long, device=cells.device)
        octets.append(octet.index_add(0, order[1], 1 << octant))
        first = torch.zeros_like(order[0]).scatter_reduce(
            0, order[1], torch.arange(len(cells), device=cells.device), "amin", include_self=False
        )
        cells = cells[first] >> 1
    octree = torch.cat(octets[::-1]).to(torch.uint8)
    spc = rep.Spc(octree, torch.tensor([len(octree)], dtype=torch.int32))
    return OccupiedCells(spc, torch.stack([box[0], grown]))


def from_spc(cells: OccupiedCells, shape: tuple[int, int, int] | None = None) -> Bool[Tensor, "x y z"]:
    """The grid of occupied cells of a structured point cloud with one octree, at its finest level.

    Args:
        cells: octree and box.
        shape: (X, Y, Z) of the grid that `to_spc` was given; None: the octree's cube.

    Returns:
        (X, Y, Z), on the octree's device.

    Raises:
        ValueError: there are several octrees, its bytes end early or late, or a cell lies outside `shape`.
    """
    spc = cells.spc
    octree = spc.octrees.long()
    if len(spc.lengths) != 1 or int(spc.lengths[0]) != len(octree):
        raise ValueError(f"hf.interop.kaolin.from_spc: the Spc packs {len(spc.lengths)} octrees; pass one")
    points = torch.zeros(1, 3, dtype=torch.long, device=octree.device)
    bits, read, level = torch.arange(8, device=octree.device), 0, 0
    while read < len(octree):
        octets = octree[read : read + len(points)]
        if len(octets) < len(points) or not len(points):
            raise ValueError(f"hf.interop.kaolin.from_spc: the octree has {len(octree)} bytes, and level {level} needs "
                             f"{len(points)} from byte {read} on")  # fmt: skip
        read, level = read + len(octets), level + 1
        row, bit = (octets[:, None] >> bits & 1).nonzero().unbind(-1)
        points = 2 * points[row] + torch.stack([bit >> 2 & 1, bit >> 1 & 1, bit & 1], dim=-1)
    size = shape or (2**level,) * 3
    if bool((points >= torch.tensor(size, device=points.device)).any()):
        raise ValueError(f"hf.interop.kaolin.from_spc: cells reach {points.amax(0).tolist()}; expected within {size}")
    grid = torch.zeros(size, dtype=torch.bool, device=octree.device)
    grid[points.unbind(-1)] = True
    return grid


def _morton(cells: Tensor, level: int) -> Tensor:
    """The position (N,) of cells (N, 3) in Morton order, x before y before z."""
    code = torch.zeros(len(cells), dtype=torch.long, device=cells.device)
    for bit in range(level):
        octant = (cells >> bit & 1) @ torch.tensor([4, 2, 1], device=cells.device)
        code |= octant << 3 * bit
    return code


def render_function(
    avatar: Avatar | SplatAvatar, state: HeadState, background: float | int = 1.0, scale: float | int = 1.0
) -> Callable[[Any], UInt8[Tensor, "h w 3"]]:
    """A function of kaolin's camera that renders the avatar, as kaolin's notebook viewers call one.

    Args:
        avatar: any avatar.
        state: one frame.
        background: gray in [0, 1].
        scale: size of the image over the camera's; 0.5 and less for a `fast_render`.

    Returns:
        A function from `kaolin.render.camera.Camera` (one camera) to an image (H, W, 3) of bytes on the CPU.

    Raises:
        ValueError: the scale is not positive.
    """
    if not 0 < scale < float("inf"):
        raise ValueError(f"hf.interop.kaolin.render_function: scale is {scale}; expected a positive number")
    device = state.vertices.device

    def render(camera: Any) -> UInt8[Tensor, "h w 3"]:
        view = from_camera(camera)[0].to(device)
        image = avatar.render(view if scale == 1.0 else view.scaled(scale), state, background).rgb
        return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    return render


def turntable(
    avatar: Avatar | SplatAvatar,
    state: HeadState,
    camera: Camera,
    background: float | int = 1.0,
    fast: float | int = 0.25,
    **options: Any,
) -> Any:
    """kaolin's interactive turntable of an avatar, for a notebook: drag to turn, the wheel to zoom.

    Args:
        avatar: any avatar.
        state: one frame.
        camera: where it starts, and the size of the picture; it is turned to look at the head.
        background: gray in [0, 1].
        fast: size of the image while it is moved, over the size at rest.
        options: further arguments of `kaolin.visualize.IpyTurntableVisualizer`.

    Returns:
        The visualizer; its `show()` displays it.

    Raises:
        ModuleNotFoundError: kaolin, or what its viewer needs (ipycanvas, ipyevents), cannot be imported.
    """
    module = _kaolin("turntable", "kaolin.visualize")
    height, width = camera.size
    vertices = state.vertices[0]
    middle = ((vertices.amin(0) + vertices.amax(0)) / 2).cpu()
    options = {"focus_at": middle, "max_fps": 12, **options}
    return module.IpyTurntableVisualizer(
        height, width, to_camera(camera.to("cpu")), render_function(avatar, state, background),
        fast_render=render_function(avatar, state, background, fast), **options,
    )  # fmt: skip
