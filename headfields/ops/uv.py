"""UV rasterization: vertex attributes as maps over a mesh's texture coordinates, and back."""

import numpy as np
import scipy
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headfields.ops._checks import (
    MOST_VERTICES,
    check_floating,
    check_index,
    check_integer,
    check_same_device,
    check_shape,
)
from headfields.ops.functorch_rules import array_of
from headfields.ops.interpolate_rows import interpolate_rows, scatter_rows
from headfields.ops.reference.uv import texel_coordinates
from headfields.ops.triangle_bvh import TriangleBVH

_LEAST_AREA = 1e-9  # square texels, doubled; a face with less holds no center
_ROUNDING = 1e-5  # how far outside [0, 1] a coordinate may be written


class UVRasterizer(nn.Module):
    """Rasterizes a mesh over its texture coordinates, once for a topology: face and barycentrics of each texel.

    The image has v up: row 0 lies at v = 1, column 0 at u = 0, and the center of texel (row i, column j) at
    u = (j + 1/2) / W, v = 1 − (i + 1/2) / H. Values between centers are bilinear; beyond the outermost centers the
    border repeats. Texture coordinates have indices of their own (`uv_faces`), so a vertex on a seam has several.

    A texel whose center lies in several faces shows the one of lowest index: no difference on a shared edge; where
    charts overlap, the later face is not in the map, though its vertices sample it. A texel outside all faces shows the
    nearest point of the charts, if that is within `padding`, so neither bilinear sampling nor a convolution meets black
    next to a chart. Faces without area in the image cover nothing, yet may be nearest. All our own choices.

    Everything is a weighted sum with fixed weights: differentiable to any order in attributes and maps, and `sample` in
    the barycentric coordinates too (within a cell of four centers).

    A module, so that `.to` moves it with its owner; it has no state to save.

    Args:
        faces: (F, 3) vertex indices.
        uv: (T, 2) texture coordinates in [0, 1].
        uv_faces: (F, 3) indices into them.
        resolution: (H, W) in texels, or one number for both.
        padding: distance in texels up to which uncovered texels are filled; infinity fills the image, 0 nothing.
        vertex_count: V; by default the largest index in `faces` plus one.

    Attributes:
        face: (H, W) int64, -1 for none.
        barycentric: (H, W, 3) on it; 0 where there is none.
        covered: (H, W) whether a face holds the texel's center.

    Raises:
        TypeError: a dtype does not fit.
        ValueError: a shape does not fit, devices differ, an index is out of range, or a coordinate is not
            finite or outside [0, 1].

    >>> import torch, headfields as hf
    >>> faces, uv = torch.tensor([[0, 1, 2], [2, 1, 3]]), torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    >>> rasterizer = hf.ops.UVRasterizer(faces, uv, faces, resolution=(16, 16))
    >>> maps = rasterizer.vertices_to_map(torch.rand(2, 4, 3))
    >>> maps.shape, rasterizer.map_to_vertices(maps).shape
    (torch.Size([2, 3, 16, 16]), torch.Size([2, 4, 3]))
    """

    face: Int[Tensor, "h w"]
    barycentric: Float[Tensor, "h w 3"]
    covered: Bool[Tensor, "h w"]
    _vertices: Tensor
    _weights: Tensor
    _uv: Tensor
    _uv_faces: Tensor
    _pair_vertex: Tensor
    _pair_share: Tensor
    _pair_texel: Tensor
    _pair_weight: Tensor

    def __init__(
        self,
        faces: Int[Tensor, "f 3"],
        uv: Float[Tensor, "t 2"],
        uv_faces: Int[Tensor, "f 3"],
        resolution: int | tuple[int, int] = 256,
        padding: float | int = torch.inf,
        vertex_count: int | None = None,
    ) -> None:
        super().__init__()
        sides = (resolution, resolution) if isinstance(resolution, int) else resolution
        if not isinstance(sides, tuple | list) or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
            raise TypeError(f"UVRasterizer: resolution is {resolution!r}; expected a number of texels, or (H, W)")
        height, width = sides
        needed = _check(faces, uv, uv_faces, height, width, padding)
        self.vertex_count = needed if vertex_count is None else vertex_count
        if self.vertex_count < needed:
            raise ValueError(f"UVRasterizer: vertex_count is {vertex_count}, but faces names vertex {needed - 1}")
        self.resolution = (height, width)
        uv, uv_faces = uv.detach().double().clamp(0, 1), uv_faces.long()
        face, barycentric, covered = _find_texels(uv, uv_faces, height, width, padding)
        vertices = face.new_full((height * width, 3), -1)
        shown = (face >= 0).reshape(-1)
        vertices[shown] = faces.long()[face.reshape(-1)[shown]]
        # A vertex has a pair for each of its texture coordinates.
        pairs = torch.stack([faces.long(), uv_faces], dim=-1).reshape(-1, 2).unique(dim=0)
        vertex, coordinate = pairs.unbind(-1)
        uses = torch.bincount(vertex, minlength=1)
        texel, weight = bilinear_weights(uv[coordinate], height, width)
        for name, buffer in {
            "face": face, "barycentric": barycentric, "covered": covered, "_vertices": vertices,
            "_weights": barycentric.reshape(-1, 3), "_uv": uv.float(), "_uv_faces": uv_faces.clone(),
            "_pair_vertex": vertex[:, None].contiguous(), "_pair_share": (1 / uses[vertex].double()).float()[:, None],
            "_pair_texel": texel, "_pair_weight": weight.float(),
        }.items():  # fmt: skip
            self.register_buffer(name, buffer, persistent=False)

    def extra_repr(self) -> str:
        height, width = self.resolution
        return f"{height} by {width} texels, {self.vertex_count} vertices, {len(self._uv_faces)} faces"

    def vertices_to_map(self, attributes: Float[Tensor, "b v c"]) -> Float[Tensor, "b c h w"]:
        """Attributes of vertices, interpolated at each texel.

        Args:
            attributes: (B, V, C).

        Returns:
            (B, C, H, W), 0 where a texel shows no face; its memory is laid out with channels last.

        Raises:
            TypeError: attributes are not floating point.
            ValueError: they are not (B, V, C), or on another device.
        """
        op = "UVRasterizer.vertices_to_map"
        check_floating(op, "attributes", attributes)
        check_shape(op, "attributes", attributes, f"B {self.vertex_count} C")
        check_same_device(op, attributes=attributes, rasterizer=self.face)
        b, _, c = attributes.shape
        rows = interpolate_rows(rearrange(attributes, "b v c -> v (b c)"), self._vertices, self._weights)
        height, width = self.resolution
        last = rearrange(rows, "(h w) (b c) -> b h w c", h=height, w=width, b=b, c=c).contiguous()
        return last.permute(0, 3, 1, 2)  # `memory_format` has no rule under vmap

    def map_to_vertices(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b v c"]:
        """Samples maps at the texture coordinates of each vertex.

        A vertex with several texture coordinates (on a seam) gets the mean of its samples, one without any gets 0.

        Args:
            maps: (B, C, H, W).

        Returns:
            (B, V, C).

        Raises:
            TypeError: maps are not floating point.
            ValueError: they are not (B, C, H, W), or on another device.
        """
        b, c = self._check_maps("UVRasterizer.map_to_vertices", maps)
        texels = rearrange(maps, "b c h w -> (h w) (b c)")
        samples = interpolate_rows(texels, self._pair_texel, self._pair_weight)
        mean = scatter_rows(samples, self._pair_vertex, self._pair_share, self.vertex_count)
        return rearrange(mean, "v (b c) -> b v c", b=b, c=c)

    def lookup_matrix(self) -> "scipy.sparse.csr_matrix":
        """`map_to_vertices` as a matrix (V, H · W) in float64, for least squares."""
        texel, weight = array_of(self._pair_texel), array_of(self._pair_weight.double())
        vertex, share = array_of(self._pair_vertex[:, 0]), array_of(self._pair_share[:, 0].double())
        pair = np.arange(len(vertex))
        texels = self.resolution[0] * self.resolution[1]
        look = scipy.sparse.csr_matrix((weight.ravel(), (pair.repeat(4), texel.ravel())), shape=(len(pair), texels))
        merge = scipy.sparse.csr_matrix((share, (vertex, pair)), shape=(self.vertex_count, len(pair)))
        return merge @ look

    def sample(
        self,
        maps: Float[Tensor, "b c h w"],
        face: Int[Tensor, " m"],
        barycentric: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, "m c"]:
        """Samples maps at points of the surface.

        Args:
            maps: (B, C, H, W).
            face: (M,) the face of each point; negative gives 0.
            barycentric: (M, 3) the point on it.
            frame: (M,) the map of each point, in [0, B); may be None if B = 1.

        Returns:
            (M, C); M = 0 is legal.

        Raises:
            TypeError: a dtype does not fit.
            ValueError: a shape does not fit, frame is missing, or devices differ.
            IndexError: face or frame is out of range (CPU).
        """
        op = "UVRasterizer.sample"
        b, c = self._check_maps(op, maps)
        check_integer(op, "face", face)
        check_floating(op, "barycentric", barycentric)
        check_shape(op, "face", face, "M")
        check_shape(op, "barycentric", barycentric, f"{len(face)} 3")
        if frame is None:
            if b != 1:
                raise ValueError(f"{op}: frame is None, but maps holds {b} frames; pass the frame of each point")
            frame = torch.zeros_like(face)
        check_integer(op, "frame", frame)
        check_shape(op, "frame", frame, f"{len(face)}")
        check_same_device(op, face=face, barycentric=barycentric, frame=frame, maps=maps)
        check_index(op, "frame", frame, b)
        check_index(op, "face", face, len(self._uv_faces), least=None)
        dtype = torch.promote_types(barycentric.dtype, torch.float32)
        valid = face >= 0
        if not len(self._uv_faces):
            return (maps.sum() + barycentric.sum()) * 0 + maps.new_zeros(len(face), c)
        corners = self._uv_faces[face.long().clamp(min=0)]
        uv = (barycentric.to(dtype)[..., None] * self._uv.to(dtype)[corners]).sum(dim=1)
        texel, weight = bilinear_weights(uv, *self.resolution)
        height, width = self.resolution
        texel = torch.where(valid[:, None], texel + frame.long()[:, None] * (height * width), -1)
        return interpolate_rows(rearrange(maps, "b c h w -> (b h w) c"), texel, weight)

    def _check_maps(self, op: str, maps: Tensor) -> tuple[int, int]:
        check_floating(op, "maps", maps)
        check_shape(op, "maps", maps, f"B C {self.resolution[0]} {self.resolution[1]}")
        check_same_device(op, maps=maps, rasterizer=self.face)
        return maps.shape[0], maps.shape[1]


def bilinear_weights(
    uv: Float[Tensor, "n 2"], height: int, width: int
) -> tuple[Int[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """The four texels around each texture coordinate, as row · W + column, and their weights (with a graph)."""
    x, y = texel_coordinates(uv, height, width).unbind(-1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left = x.detach().floor().clamp(max=max(width - 2, 0))
    top = y.detach().floor().clamp(max=max(height - 2, 0))
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    tx, ty = x - left, y - top
    texel = torch.stack([top * width + left, top * width + right, bottom * width + left, bottom * width + right], -1)
    weight = torch.stack([(1 - ty) * (1 - tx), (1 - ty) * tx, ty * (1 - tx), ty * tx], dim=-1)
    return texel.long(), weight


def _check(faces: Tensor, uv: Tensor, uv_faces: Tensor, height: int, width: int, padding: float) -> int:
    """Raises unless the arguments of `UVRasterizer` fit; returns the number of vertices that `faces` needs."""
    op = "UVRasterizer"
    check_integer(op, "faces", faces)
    check_floating(op, "uv", uv)
    check_integer(op, "uv_faces", uv_faces)
    check_shape(op, "faces", faces, "F 3")
    check_shape(op, "uv", uv, "T 2")
    check_shape(op, "uv_faces", uv_faces, f"{len(faces)} 3")
    check_same_device(op, faces=faces, uv=uv, uv_faces=uv_faces)
    if height < 1 or width < 1:
        raise ValueError(f"{op}: resolution is ({height}, {width}); expected (H, W) of at least one texel")
    if not padding >= 0:
        raise ValueError(f"{op}: padding is {padding}; expected a number of texels >= 0, or infinity")
    if uv_faces.numel() and (int(uv_faces.min()) < 0 or int(uv_faces.max()) >= len(uv)):
        raise ValueError(
            f"{op}: uv_faces holds indices from {int(uv_faces.min())} to {int(uv_faces.max())}, but uv has {len(uv)} "
            "rows; every corner of every face needs a texture coordinate (headfields.ops.unwrap makes them)"
        )
    if faces.numel() and int(faces.min()) < 0:
        raise ValueError(f"{op}: faces holds the index {int(faces.min())}; vertex indices are 0 or more")
    if faces.numel() and int(faces.max()) >= MOST_VERTICES:
        raise ValueError(f"{op}: faces holds the index {int(faces.max())}; vertex indices are below 2^31")
    if uv.numel():
        low, high = float(uv.detach().min()), float(uv.detach().max())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # a NaN too
            raise ValueError(
                f"{op}: uv spans [{low:.6g}, {high:.6g}]; texture coordinates must be finite and lie in [0, 1]. "
                "Tiles next to it (UDIM) need maps of their own: shift each with uv - uv.floor(), or scale all into "
                "[0, 1], or make new ones with headfields.ops.unwrap"
            )
    return int(faces.max()) + 1 if faces.numel() else 0


def _find_texels(
    uv: Float[Tensor, "t 2"], uv_faces: Int[Tensor, "f 3"], height: int, width: int, padding: float
) -> tuple[Int[Tensor, "h w"], Float[Tensor, "h w 3"], Bool[Tensor, "h w"]]:
    """`headfields.ops.reference.uv.find_texels`, without the distance.

    Faces are filled row by row, all at once, in float64. An edge crosses a row at the same number for both of its
    faces, so no texel between two faces is missed. Uncovered texels search a tree for the nearest face.
    """
    place = texel_coordinates(uv.double(), height, width)
    corners = place[uv_faces.long()]
    face = _covering(corners, height, width)
    covered = face >= 0
    barycentric = place.new_zeros(height * width, 3)
    texel = covered.nonzero()[:, 0]
    barycentric[texel] = _barycentric(_centers(texel, width), corners, face[texel])
    if padding > 0 and uv_faces.shape[0]:
        texel = (~covered).nonzero()[:, 0]
        flat = torch.nn.functional.pad(place, (0, 1)).float()
        near = TriangleBVH(uv_faces, flat).closest(
            torch.nn.functional.pad(_centers(texel, width), (0, 1)).float(), max_distance=float(padding)
        )
        face[texel] = near.face
        barycentric[texel] = near.barycentric.double()
    shape = (height, width)
    return face.reshape(shape), barycentric.float().reshape(*shape, 3), covered.reshape(shape)


def _centers(texel: Int[Tensor, " n"], width: int) -> Float[Tensor, "n 2"]:
    return torch.stack([texel % width, texel // width], dim=-1).double()


def _covering(corners: Float[Tensor, "f 3 2"], height: int, width: int) -> Int[Tensor, " texels"]:
    """The first face that contains each texel's center, edges included; -1 for none."""
    faces = corners.shape[0]
    low, high = corners[..., 1].amin(dim=1), corners[..., 1].amax(dim=1)
    first, last = low.ceil().clamp(min=0).long(), high.floor().clamp(max=height - 1).long()
    edges = corners[:, 1:] - corners[:, :1]
    area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    rows = torch.where(area.abs() > _LEAST_AREA, (last - first + 1).clamp(min=0), 0)
    face, step = _expand(rows)
    row = first[face] + step
    left, right = _crossings(corners[face], row.double())
    first, last = left.ceil().clamp(min=0).long(), right.floor().clamp(max=width - 1).long()
    span, step = _expand((last - first + 1).clamp(min=0))
    texel = row[span] * width + first[span] + step
    owner = torch.full((height * width,), faces, dtype=torch.long, device=corners.device)
    owner = owner.scatter_reduce(0, texel, face[span], "amin")
    return torch.where(owner < faces, owner, -1)


def _expand(counts: Int[Tensor, " n"]) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Each index i `counts[i]` times, and a count from 0 within each."""
    which = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    begin = counts.cumsum(0) - counts
    return which, torch.arange(len(which), device=counts.device) - begin[which]


def _crossings(
    corners: Float[Tensor, "n 3 2"], row: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """First and last crossing of each triangle's outline with its row."""
    left, right = torch.full_like(row, torch.inf), torch.full_like(row, -torch.inf)
    for k in range(3):
        a, b = corners[:, k], corners[:, (k + 1) % 3]
        # From the lower end to the upper, so that the two faces of an edge compute the same.
        swap = (a[:, 1] > b[:, 1]) | ((a[:, 1] == b[:, 1]) & (a[:, 0] > b[:, 0]))
        a, b = torch.where(swap[:, None], b, a), torch.where(swap[:, None], a, b)
        rise = b[:, 1] - a[:, 1]
        level = rise == 0
        x = a[:, 0] + (row - a[:, 1]) / torch.where(level, 1.0, rise) * (b[:, 0] - a[:, 0])
        x = torch.where(row == b[:, 1], b[:, 0], x)
        x = x.clamp(torch.minimum(a[:, 0], b[:, 0]), torch.maximum(a[:, 0], b[:, 0]))
        meets = (a[:, 1] <= row) & (row <= b[:, 1])
        left = torch.where(meets, torch.minimum(left, torch.where(level, a[:, 0], x)), left)
        right = torch.where(meets, torch.maximum(right, x), right)
    return left, right


def _barycentric(
    points: Float[Tensor, "n 2"], corners: Float[Tensor, "f 3 2"], face: Int[Tensor, " n"]
) -> Float[Tensor, "n 3"]:
    """Barycentric coordinates of points inside their faces, which have an area."""
    a, (ax, ay), (bx, by) = corners[:, 0], *((corners[:, k] - corners[:, 0]).unbind(-1) for k in (1, 2))
    area = ax * by - ay * bx
    area = torch.where(area.abs() > _LEAST_AREA, area, 1.0)
    # One row a face, so that a point needs one gather.
    rows = torch.stack([by / area, -bx / area, -ay / area, ax / area, a[:, 0], a[:, 1]], dim=-1)
    p, q, r, s, x, y = rows.index_select(0, face).unbind(-1)
    x, y = points[:, 0] - x, points[:, 1] - y
    second, third = (p * x + q * y).clamp(0, 1), (r * x + s * y).clamp(0, 1)  # an edge's point is on it up to rounding
    first = (1 - second - third).clamp(min=0)
    return torch.stack([first, second, third], dim=-1) / (first + second + third)[:, None]
