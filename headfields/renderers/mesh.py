"""Differentiable images of a textured mesh, for tracking and for refining a mesh to images."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.ops._checks import check_floating, check_integer, check_same_device, check_shape
from headfields.ops.antialias import Crossings, MeshEdges, antialias, mesh_edges, silhouette_crossings
from headfields.ops.background import check_background
from headfields.ops.texture import MipPyramid, mip_pyramid, sample_texture
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.vertex_geometry import vertex_normals
from headfields.records import Camera, Record
from headfields.records.inverse import inverse_intrinsics
from headfields.records.precision import full_precision
from headfields.renderers.lighting import sh_irradiance

Backfaces = Literal["show", "hide"]


@dataclass(frozen=True)
class MeshRendering(Record):
    """Images of a mesh from `MeshRenderer`.

    Attributes:
        color: (H, W, 3) times `alpha`, antialiased; `over` puts a background behind it.
        alpha: (H, W) coverage in [0, 1], antialiased.
        depth: (H, W) along the optical axis, meters, at the pixel's center; 0 off the mesh.
        normal: (H, W, 3) unit normal, smooth over the faces, in the frame of the vertices; 0 off the mesh.
        face: (H, W) index of the face at the pixel's center, -1 off the mesh.
        barycentric: (H, W, 3) on it; 0 off the mesh.
        attributes: (H, W, C) interpolated at the pixel's center; 0 off the mesh.
        crossings: positions where the silhouette passes between pixels, for silhouette losses.
    """

    color: Float[Tensor, "h w 3"]
    alpha: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]
    normal: Float[Tensor, "h w 3"]
    face: Int[Tensor, "h w"]
    barycentric: Float[Tensor, "h w 3"]
    attributes: Float[Tensor, "h w c"]
    crossings: Crossings

    def over(self, background: Float[Tensor, "h w 3"] | Float[Tensor, "3"] | float | int) -> Float[Tensor, "h w 3"]:
        """The color over a background: an image, a color, or a gray, sRGB in [0, 1]."""
        if not isinstance(background, Tensor):  # tensors are not read: this runs in every step of a fit
            check_background("MeshRendering.over", background)
        return self.color + (1 - self.alpha)[..., None] * background


class MeshRenderer(nn.Module):
    """Images of a mesh of one topology, differentiable in vertices, camera, texture, attributes and light.

    One ray per pixel of the mesh's bounding rectangle finds the face (`TriangleBVH`, on the CPU in C++ or Warp, on CUDA
    in Warp). Attributes are interpolated in PyTorch, the texture is sampled with mip levels, and the silhouette is
    antialiased (`headfields.ops.antialias`), which gives outlines a gradient. Differentiable to any order, except in
    the choice of visible face, silhouette edge and mip level.

    It is not a `headfields.Renderer`: those render fields along rays.

    Args:
        faces: (F, 3) vertex indices, counter-clockwise seen from outside.
        uv, uv_faces: (T, 2) texture coordinates, v up, and (F, 3) indices into them.
        texture: (H, W, 3), row 0 at v = 1, or its pyramid; white without one. `pad_charts` of `headfields.ops.texture`
            keeps texels between charts from bleeding in.
        backfaces: "show" faces from both sides, or "hide": where a ray first hits the inside of the mesh (through the
            open neck of a scan), alpha is 0.
        bias: added to the mip level; negative is sharper.

    Raises:
        TypeError: a dtype does not fit.
        ValueError: a shape does not fit, uv comes without uv_faces, or a texture without both.
    """

    faces: Int[Tensor, "f 3"]
    uv: Float[Tensor, "t 2"] | None
    uv_faces: Int[Tensor, "f 3"] | None

    def __init__(
        self,
        faces: Int[Tensor, "f 3"],
        uv: Float[Tensor, "t 2"] | None = None,
        uv_faces: Int[Tensor, "f 3"] | None = None,
        texture: Float[Tensor, "h w 3"] | MipPyramid | None = None,
        backfaces: Backfaces = "show",
        bias: float | int = 0.0,
    ) -> None:
        super().__init__()
        check_integer("MeshRenderer", "faces", faces)
        check_shape("MeshRenderer", "faces", faces, "F 3")
        if (uv is None) != (uv_faces is None):
            raise ValueError("MeshRenderer: uv and uv_faces belong together; pass both or neither")
        if uv is not None and uv_faces is not None:
            check_floating("MeshRenderer", "uv", uv)
            check_shape("MeshRenderer", "uv", uv, "T 2")
            check_integer("MeshRenderer", "uv_faces", uv_faces)
            check_shape("MeshRenderer", "uv_faces", uv_faces, f"{len(faces)} 3")
            if uv_faces.numel() and not 0 <= int(uv_faces.min()) <= int(uv_faces.max()) < len(uv):
                raise ValueError(f"MeshRenderer: uv_faces holds indices from {int(uv_faces.min())} to "
                                 f"{int(uv_faces.max())}, but uv has {len(uv)} rows")  # fmt: skip
        if backfaces not in ("show", "hide"):
            raise ValueError(f"MeshRenderer: backfaces is {backfaces!r}; expected 'show' or 'hide'")
        self.register_buffer("faces", faces.long(), persistent=False)
        self.register_buffer("uv", uv, persistent=False)
        self.register_buffer("uv_faces", None if uv_faces is None else uv_faces.long(), persistent=False)
        self.backfaces = backfaces
        self.bias = float(bias)
        self.texture = texture
        self._pyramid: MipPyramid | None = None
        self._edges: MeshEdges | None = None
        self._bvh: TriangleBVH | None = None
        self._pyramid_of(None)  # so that a texture that does not fit fails now

    def extra_repr(self) -> str:
        return f"{len(self.faces)} faces, {'no texture' if self.texture is None else 'textured'}"

    def forward(
        self,
        vertices: Float[Tensor, "v 3"],
        camera: Camera,
        attributes: Float[Tensor, "v c"] | Float[Tensor, "f 3 c"] | None = None,
        light: Float[Tensor, "9 3"] | Float[Tensor, "9 1"] | None = None,
        texture: Float[Tensor, "h w 3"] | MipPyramid | None = None,
    ) -> MeshRendering:
        """Renders one image; under autocast in full precision.

        Args:
            vertices: (V, 3) meters.
            camera: one camera, in the frame of the vertices.
            attributes: (V, C) at vertices, or (F, 3, C) at the corners of faces, interpolated like the color.
            light: (9, 3) or (9, 1) spherical harmonics fixed to the camera (`renderers.SHLighting.coefficients`), which
                multiply the texture's color. None: no light.
            texture: texture used in place of the renderer's own.

        Raises:
            TypeError: a dtype does not fit.
            ValueError: a shape does not fit, devices differ, the camera is a batch, or faces index a vertex that does
                not exist.
        """
        check_floating("MeshRenderer", "vertices", vertices)
        with full_precision(vertices):
            return self._render(vertices, camera, attributes, light, texture)

    def _render(
        self,
        vertices: Tensor,
        camera: Camera,
        attributes: Tensor | None,
        light: Tensor | None,
        texture: Tensor | MipPyramid | None,
    ) -> MeshRendering:
        pose, lens = self._checked(vertices, camera, attributes, light)
        if attributes is None:
            attributes = vertices.new_zeros(vertices.shape[0], 0)
        inverse = inverse_intrinsics(lens)
        height, width = camera.size
        local = vertices @ pose[:3, :3].T + pose[:3, 3]
        away = local[:, 2]
        shown = local @ lens.T
        pixels = shown[:, :2] / torch.where(away > 0, away, torch.ones_like(away))[:, None]
        with torch.no_grad():
            flat, face = self._cast(vertices, pose, inverse, pixels, away, camera.size)
        barycentric, deep, steps, corners = self._on_faces(local, inverse, flat, face, width)
        normal = vertex_normals(vertices, self.faces)[corners]
        normal = nn.functional.normalize((barycentric[..., None] * normal).sum(1), dim=-1, eps=1e-20)
        color = torch.ones_like(barycentric)
        pyramid = self._pyramid_of(texture)
        if pyramid is not None and self.uv is not None and self.uv_faces is not None:
            corner_uv = self.uv.to(local)[self.uv_faces[face]]
            footprint = torch.einsum("nkc,nks->ncs", corner_uv, steps)
            uv = (barycentric[..., None] * corner_uv).sum(1)
            color = sample_texture(pyramid, uv, footprint, self.bias).to(local)
        if light is not None:
            color = color * sh_irradiance(normal @ pose[:3, :3].T, light.to(local))
        values = attributes[corners] if attributes.ndim == 2 else attributes[face]
        values = (barycentric[..., None] * values.to(local)).sum(1)
        alpha = torch.ones_like(deep)[:, None]
        packed = torch.cat([color, alpha, deep[:, None], normal, barycentric, values], -1)
        packed = packed.new_zeros(height * width, packed.shape[-1]).index_copy(0, flat, packed)
        image = packed.reshape(height, width, packed.shape[1])
        faces = torch.full((height * width,), -1, dtype=torch.long, device=flat.device).index_copy(0, flat, face)
        faces = faces.reshape(height, width)
        if self._edges is None or self._edges.ends.device != self.faces.device:
            self._edges = mesh_edges(self.faces)
        crossings = silhouette_crossings(pixels, away, self._edges, image[..., 4], faces >= 0)
        soft = antialias(image[..., :4], crossings)
        depth, normals, weights, values = image[..., 4:].split([1, 3, 3, attributes.shape[-1]], -1)
        return MeshRendering(soft[..., :3], soft[..., 3], depth[..., 0], normals, faces, weights, values, crossings)

    def _cast(
        self, vertices: Tensor, pose: Tensor, inverse: Tensor, pixels: Tensor, away: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The pixels on the mesh, as row · W + column, and the faces visible in them."""
        height, width = size
        if (
            self._bvh is None
            or self._bvh.faces.device != vertices.device
            or self._bvh.vertices.shape[1] != len(vertices)
        ):
            self._bvh = TriangleBVH(self.faces, vertices.detach())
        else:
            self._bvh.refit(vertices.detach())
        left, top, right, bottom = 0, 0, width, height
        if len(vertices) and bool((away > 0).all()):
            low, high = pixels.amin(0), pixels.amax(0)
            ends = torch.cat([low.floor() - 1, high.ceil() + 1]).nan_to_num(0.0).clamp(-1, max(height, width) + 1)
            left, top, right, bottom = (int(x) for x in ends.tolist())
            left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        rows = torch.arange(top, max(bottom, top), device=vertices.device)
        columns = torch.arange(left, max(right, left), device=vertices.device)
        flat = (rows[:, None] * width + columns).reshape(-1)
        y, x = (rows + 0.5).to(pose)[:, None, None], (columns + 0.5).to(pose)[None, :, None]
        by_x, by_y, constant = (pose[:3, :3].T @ inverse).unbind(1)
        directions = (x * by_x + y * by_y + constant).reshape(-1, 3)
        origins = (-pose[:3, :3].T @ pose[:3, 3]).expand_as(directions)
        face = self._bvh.raycast(origins, directions).face
        sees = face >= 0
        if self.backfaces == "hide" and len(self.faces):
            a, b, c = vertices[self.faces[face.clamp(min=0)]].unbind(1)
            sees = sees & ((torch.linalg.cross(b - a, c - a) * directions).sum(-1) < 0)
        met = sees.nonzero()[:, 0]
        return flat[met], face[met]

    def _on_faces(
        self, local: Tensor, inverse: Tensor, flat: Tensor, face: Tensor, width: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The intersection of each pixel center with its face: barycentric coordinates (N, 3), depth (N,), the
        derivatives of the former by the pixel's x and y (N, 3, 2), detached, and the vertices (N, 3) of the face.

        By Cramer's rule in the camera's frame, once for each visible face.
        """
        visible, which = face.unique(return_inverse=True)
        a, b, c = local[self.faces[visible]].unbind(1)
        volumes = torch.stack([torch.linalg.cross(p + q, q - p) for p, q in ((b, c), (c, a), (a, b))], 1) @ inverse
        whole = 2 * (a * torch.linalg.cross(b - a, c - a)).sum(-1)
        rows = torch.cat([volumes.flatten(1), whole[:, None]], 1).index_select(0, which)
        rows, whole = rows[:, :9].reshape(-1, 3, 3), rows[:, 9]
        center = torch.stack([flat % width + 0.5, flat.div(width, rounding_mode="floor") + 0.5], -1).to(local)
        volume = (rows[..., :2] * center[:, None]).sum(-1) + rows[..., 2]
        total = volume.sum(-1, keepdim=True)
        barycentric = volume / total
        with torch.no_grad():
            slope = rows[..., :2]
            steps = (slope - barycentric[..., None] * slope.sum(1, keepdim=True)) / total[..., None]
        return barycentric, whole / total[:, 0], steps, self.faces[face]

    def _pyramid_of(self, override: Tensor | MipPyramid | None) -> MipPyramid | None:
        texture = self.texture if override is None else override
        if texture is None:
            return None
        if self.uv is None:
            raise ValueError("MeshRenderer: there is a texture, but no uv; pass uv and uv_faces (headfields.ops.unwrap "
                             "makes them)")  # fmt: skip
        channels = texture.table.shape[1] if isinstance(texture, MipPyramid) else texture.shape[-1]
        if channels != 3:
            raise ValueError(f"MeshRenderer: texture has {channels} channels; expected 3")
        if isinstance(texture, MipPyramid):
            return texture
        if override is not None or texture.requires_grad:
            return mip_pyramid(texture.to(self.faces.device))
        if self._pyramid is None or self._pyramid.table.device != self.faces.device:
            self._pyramid = mip_pyramid(texture.to(self.faces.device))
        return self._pyramid

    def _checked(
        self, vertices: Tensor, camera: Camera, attributes: Tensor | None, light: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """World to camera (4, 4) and intrinsics (3, 3), after the checks."""
        op = "MeshRenderer"
        check_floating(op, "vertices", vertices)
        check_shape(op, "vertices", vertices, "V 3")
        camera.require_pinhole(op)
        pose, lens = camera.world_to_camera.reshape(-1, 4, 4), camera.intrinsics.reshape(-1, 3, 3)
        if len(pose) != 1 or len(lens) != 1:
            raise ValueError(f"{op}: camera is a batch of {len(pose)}; pass one, camera[0]")
        check_same_device(op, vertices=vertices, faces=self.faces, camera=pose, attributes=attributes, light=light)
        if self.faces.numel() and int(self.faces.max()) >= len(vertices):
            raise ValueError(f"{op}: faces name vertex {int(self.faces.max())}, but vertices has {len(vertices)} rows")
        if attributes is not None:
            check_floating(op, "attributes", attributes)
            expected = (len(vertices),) if attributes.ndim == 2 else (len(self.faces), 3)
            if attributes.ndim not in (2, 3) or tuple(attributes.shape[:-1]) != expected:
                raise ValueError(
                    f"{op}: attributes has shape {tuple(attributes.shape)}; expected ({len(vertices)}, C), one a "
                    f"vertex, or ({len(self.faces)}, 3, C), one for each corner of each face"
                )
        if light is not None:
            check_floating(op, "light", light)
            if light.ndim != 2 or light.shape[0] != 9 or light.shape[1] not in (1, 3):
                raise ValueError(
                    f"{op}: light has shape {tuple(light.shape)}; expected (9, 3), or (9, 1) for white light"
                )
        return pose[0].to(vertices), lens[0].to(vertices)
