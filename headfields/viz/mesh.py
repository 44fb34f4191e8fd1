"""Drawing meshes: clay, colors, texture, normals or a heat map, from any camera; and wireframes over an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from headfields.mesh.mesh import Mesh
from headfields.ops.background import check_background
from headfields.ops.render_mesh import render_mesh
from headfields.ops.texture import sample_texture
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import Camera
from headfields.records.opengl_axes import flip_y_z

Look = Literal["clay", "colors", "texture", "normals"]
Side = Literal["front", "left", "back", "right"]
CLAY = 0.8
"""Gray level of clay before it is lit."""
_YAW = {"front": 0.0, "left": 90.0, "back": 180.0, "right": -90.0}
_BACK_FACE = (0.25, 0.35, 0.8)
_LENS = 6.0  # camera distance over the extent of the view: a long lens with little perspective


@dataclass(frozen=True)
class Light:
    """A far white light over ambient light: a surface reflects `ambient + diffuse · cos` of its color.

    Attributes:
        ambient, diffuse: shares of the color.
        direction: toward the light in the camera's frame: right, up, toward the camera. None for a light at the camera,
            which also lights faces from behind.
    """

    ambient: float = 0.25
    diffuse: float = 0.75
    direction: tuple[float, float, float] | None = None

    def brightness(
        self, normals: Float[Tensor, "*batch 3"], rays: Float[Tensor, "*batch 3"], camera: Camera
    ) -> Float[Tensor, "*batch 1"]:
        """Fraction of its color that the surface reflects.

        Args:
            normals: (..., 3) unit normals in world space.
            rays: (..., 3) unit directions from the camera in world space.
            camera: one camera.
        """
        if self.direction is None:
            cosine = (normals * rays).sum(-1, keepdim=True).abs()
        else:
            right, up, back = self.direction
            local = torch.nn.functional.normalize(normals.new_tensor([right, -up, -back]), dim=0)
            rotation = camera.world_to_camera.reshape(4, 4)[:3, :3].to(normals)
            cosine = (normals @ (rotation.T @ local))[..., None].clamp_min(0)
        return self.ambient + self.diffuse * cosine


HEADLIGHT = Light()
"""A light at the camera."""
SIDE_LIGHT = Light(0.466, 0.647, (0.35, 0.55, 0.85))
"""A light from the right and above, for rigs and templates."""


def view_camera(
    points: Float[Tensor, "n 3"],
    yaw: float | int = 0.0,
    pitch: float | int = 0.0,
    size: int = 512,
    zoom: float | int = 1.0,
    center: Float[Tensor, "3"] | None = None,
    extent: float | int | None = None,
    distance: float | int | None = None,
) -> Camera:
    """A camera that looks at points from the front (yaw 0), from their left (yaw 90) or from behind (yaw 180).

    Args:
        points: (N, 3) what the picture shows, meters, y up, face toward +z; points that are not finite are ignored.
        yaw: degrees about the vertical axis, positive toward the head's left (+x).
        pitch: degrees by which the camera looks from above.
        size: height and width of the picture, pixels.
        zoom: above 1 for a closer look.
        center: (3,) center of the picture; the center of the points' bounding box if None.
        extent: height of the picture at the center, meters; what the points need if None.
        distance: distance from the camera to the center, meters; six times the extent if None.

    Raises:
        ValueError: no point is finite, or size or zoom is not positive.

    >>> import torch, headfields as hf
    >>> camera = hf.viz.view_camera(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, 0.0]]), yaw=90, size=64)
    >>> camera.center.round(decimals=2).tolist()  # from +x
    [0.6299999952316284, 0.05000000074505806, 0.0]
    """
    usable = points.detach()[points.detach().isfinite().all(-1)]
    if not len(usable) or size < 1 or not zoom > 0:
        raise ValueError(
            f"view_camera: {len(usable)} of {len(points)} points are finite, size is {size} and zoom {zoom}; each must "
            "be positive"
        )
    middle = 0.5 * (usable.amin(0) + usable.amax(0)) if center is None else center.detach().to(usable)
    if extent is None:
        box_center = 0.5 * (usable.amin(0) + usable.amax(0))
        extent = 2 * float((usable - box_center).norm(dim=-1).max()) / 0.95
    extent = max(extent, 1e-6)
    distance = _LENS * extent if distance is None else distance
    return Camera.orbit(middle, distance, yaw, pitch, size=(size, size), focal=size * zoom * distance / extent)


@torch.no_grad()
def draw_mesh(
    mesh: Mesh,
    camera: Camera | Side = "front",
    look: Look | Float[Tensor, "v 3"] = "clay",
    light: Light | None = HEADLIGHT,
    background: float | int = 1.0,
    samples: int = 1,
    mark_backfaces: bool = False,
    size: int = 512,
) -> Float[Tensor, "h w 3"]:
    """A picture of a mesh, (H, W, 3) sRGB in [0, 1].

    Args:
        mesh: mesh with faces (points cannot be drawn). Its normals are used for smooth shading, and the mean of the
            faces' where it has none.
        camera: one camera, or the side of the head that `view_camera` looks at.
        look: `"clay"`; `"colors"` or `"texture"`, the mesh's own; `"normals"` in the camera's frame as red (right),
            green (up) and blue (toward the camera), never lit; or a color for each vertex (V, 3).
        light: None shows the colors alone.
        background: gray level in [0, 1].
        samples: rays per pixel along each side.
        mark_backfaces: whether faces seen from inside are blue.
        size: size of the picture, pixels, if the camera is a side.

    Raises:
        ValueError: another look or side, or the mesh lacks the data of the look.

    >>> import torch, headfields as hf
    >>> mesh = hf.Mesh(torch.tensor([[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    >>> hf.viz.draw_mesh(mesh, "front", size=8)[4, 4].round(decimals=1).tolist()
    [0.800000011920929, 0.800000011920929, 0.800000011920929]
    """
    check_background("draw_mesh", background)
    if isinstance(camera, str):
        if camera not in _YAW:
            raise ValueError(f"draw_mesh: camera is {camera!r}; expected a Camera or one of {', '.join(_YAW)}")
        camera = view_camera(mesh.vertices, _YAW[camera], size=size)
    fine = camera.scaled(float(samples)) if samples > 1 else camera
    normals = mesh.with_normals().normals
    assert normals is not None
    attributes = torch.cat([_at_corners(mesh, look), normals[mesh.faces]], -1)
    image = render_mesh(TriangleBVH(mesh.faces, mesh.vertices), fine, attributes.float())
    values, normal = image.attributes[..., :-3], torch.nn.functional.normalize(image.attributes[..., -3:], dim=-1)
    rays = fine.rays().directions.reshape(*fine.size, 3).to(normal)
    if isinstance(look, str) and look == "normals":
        local = normal @ fine.world_to_camera.reshape(4, 4)[:3, :3].T.to(normal)
        color = 0.5 + 0.5 * flip_y_z(local)
    else:
        color = values
        if isinstance(look, str) and look == "texture":
            assert mesh.texture is not None
            color = sample_texture(mesh.texture.to(values), values)
        if light is not None:
            color = (color * light.brightness(normal, rays, fine)).clamp(0, 1)
    if mark_backfaces:
        inside = (image.normal * rays).sum(-1, keepdim=True) > 0
        color = torch.where(inside, color.new_tensor(_BACK_FACE), color)
    color = torch.where(image.mask[..., None], color, background).clamp(0, 1)
    return reduce(color, "(h y) (w x) c -> h w c", "mean", y=samples, x=samples)


def _at_corners(mesh: Mesh, look: Look | Tensor) -> Float[Tensor, "f 3 c"]:
    """Values at the corners of each face: colors, or texture coordinates."""
    if isinstance(look, Tensor):
        return look[mesh.faces]
    if look not in get_args(Look):
        raise ValueError(
            f"draw_mesh: look is {look!r}; expected one of {', '.join(get_args(Look))}, or a (V, 3) tensor"
        )
    if look == "colors":
        if mesh.colors is None:
            raise ValueError("draw_mesh: look is 'colors', but the mesh has none")
        return mesh.colors[mesh.faces]
    if look == "texture":
        if mesh.texture is None or mesh.uv is None:
            raise ValueError("draw_mesh: look is 'texture', but the mesh lacks a texture or uv")
        return mesh.uv[mesh.faces if mesh.uv_faces is None else mesh.uv_faces]
    return torch.full_like(mesh.vertices, CLAY)[mesh.faces]


def draw_wireframe(
    image: UInt8[np.ndarray, "h w 3"],
    pixels: Float[Tensor, "v 2"],
    depth: Float[Tensor, " v"],
    faces: Sequence[tuple[Sequence[int], tuple[int, int, int]]],
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with the outlines of triangles; those behind the camera or seen from behind are left out.

    Args:
        image: (H, W, 3).
        pixels: (V, 2) x and y of the vertices in the image.
        depth: (V,) depths along the optical axis; positive in front of the camera.
        faces: triangles, each with its three vertices, counter-clockwise seen from outside, and its color.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    places, depths = pixels.tolist(), depth.tolist()
    for corners, color in faces:
        (ax, ay), (bx, by), (cx, cy) = (places[corner] for corner in corners)
        clockwise = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) >= 0  # y points down
        if not clockwise and min(depths[corner] for corner in corners) > 0:
            draw.polygon([(ax, ay), (bx, by), (cx, cy)], outline=color)
    return np.array(picture)
