"""Extraction of a mesh from a field, or from any function of points."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.mesh.field_source import FieldSource, Space
from headfields.mesh.isosurface import Values, isosurface
from headfields.mesh.mesh import Mesh
from headfields.parts import Field

Colors = Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


def extract(
    source: Field | Values,
    bounds: Float[Tensor, "2 3"] | None = None,
    resolution: int = 256,
    *,
    level: float | None = None,
    space: Space = "posed",
    frame: int = 0,
    colors: Colors | bool = True,
    normals: Literal["gradient", "mesh"] | None = None,
    largest: bool = False,
    closed: bool = True,
    solid: float | None = None,
    coarse: int | None = None,
    lipschitz: float | None = None,
    chunk: int = 1 << 16,
    memory_mb: int = 2048,
    progress: bool | None = None,
) -> Mesh:
    """Extracts the surface of an avatar's field, or of any function of points, with normals and colors.

    The source is evaluated coarse to fine, only near the surface; `isosurface` states which parts may be missed.

    Args:
        source: `avatar.field(state)`, evaluated in evaluation mode; or a function from points (N, 3), meters, to values
            (N,) that are below the level inside (a signed distance; for a density, pass its negative and a negative
            level).
        bounds: (2, 3) corners of the box to search, meters; for a field, the box that holds its matter if None.
        resolution: cells along the box's longest side.
        level: the value on the surface. If None: 0, or `headfields.mesh.field_source.DENSITY_LEVEL` for a field of
            density.
        space: space of a field: `"posed"` or `"canonical"` (see `FieldSource`).
        frame: for a field, the row of its state.
        colors: for a field, whether to evaluate its colors, viewed along the surface's normal. For a function: a second
            function, from points and normals to sRGB; True and False both mean none.
        normals: `"gradient"` of the values, or `"mesh"`, the mean of the faces' normals, which is smoother where the
            values are rough. If None, `"mesh"` for a field of density and `"gradient"` otherwise.
        largest: whether to keep only the connected component with most faces.
        closed: False drops the faces that close the surface where it leaves the box or the field is undefined.
        solid: for a field on a tracked mesh, the depth in the mesh from which all is matter, meters (see
            `FieldSource`).
        coarse, lipschitz, chunk, memory_mb, progress: options as in `isosurface`; lipschitz defaults to 1 for a field
            of distance.

    Returns:
        A `Mesh` without a gradient (`on_surface` adds one); without vertices if there is no surface.

    Raises:
        ValueError: bounds are missing, or an argument is out of range or does not go with the source.

    >>> import torch, headfields as hf
    >>> box = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    >>> mesh = hf.mesh.extract(lambda points: points.norm(dim=-1) - 0.5, box, resolution=16)
    >>> round(float(mesh.vertices.norm(dim=-1).mean()), 2)
    0.5
    """
    if normals not in (None, "gradient", "mesh"):
        raise ValueError(f"extract: normals is {normals!r}; expected 'gradient', 'mesh' or None")
    if isinstance(source, Field):
        was_training = source.avatar.training
        source.avatar.eval()
        try:
            bound = FieldSource(source, space, frame, level, solid)
            if colors not in (True, False):
                raise ValueError("extract: colors is a function; a field has colors of its own, so pass True or False")
            return _extract(
                bound.values, bound.bounds() if bounds is None else bounds, resolution, 0.0,
                bound.colors if colors else None, normals or ("gradient" if bound.distance else "mesh"), largest,
                closed, coarse, lipschitz if lipschitz is not None else bound.lipschitz, chunk, memory_mb, progress,
            )  # fmt: skip
        finally:
            source.avatar.train(was_training)
    if bounds is None:
        raise ValueError("extract: bounds is None; a function needs a box (2, 3) to search")
    if space != "posed" or frame or solid is not None:
        raise ValueError("extract: space, frame and solid apply to a headfields.Field only, and source is a function")
    return _extract(
        source, bounds, resolution, level or 0.0, colors if callable(colors) else None, normals or "gradient",
        largest, closed, coarse, lipschitz, chunk, memory_mb, progress,
    )  # fmt: skip


def _extract(
    function: Values, bounds: Tensor, resolution: int, level: float, colors: Colors | None, normals: str,
    largest: bool, closed: bool, coarse: int | None, lipschitz: float | None, chunk: int, memory_mb: int,
    progress: bool | None,
) -> Mesh:  # fmt: skip
    surface = isosurface(function, bounds, resolution, level, coarse, lipschitz, chunk, memory_mb, progress)
    mesh = Mesh(surface.vertices, surface.faces)
    if not closed:
        mesh = mesh.select(~surface.cap)
    if largest:
        mesh = mesh.largest_component()
    from_faces = mesh.vertex_normals()
    if normals == "gradient":
        mesh = mesh.replace(normals=gradient_normals(function, mesh.vertices, from_faces, chunk))
    else:
        mesh = mesh.replace(normals=from_faces)
    if colors is not None:
        assert mesh.normals is not None
        with torch.no_grad():
            pieces = [
                colors(*piece).detach()
                for piece in zip(mesh.vertices.split(chunk), mesh.normals.split(chunk), strict=True)
            ]
        mesh = mesh.replace(colors=torch.cat(pieces) if pieces else torch.zeros_like(mesh.vertices))
    return mesh


def gradient_normals(
    function: Values, points: Float[Tensor, "n 3"], fallback: Float[Tensor, "n 3"], chunk: int = 1 << 16
) -> Float[Tensor, "n 3"]:
    """Unit gradients, without a graph, of a function whose values grow outward.

    Args:
        function: differentiable in its points.
        points: (N, 3) meters.
        fallback: (N, 3) normals to use where the gradient is 0 or not finite.
        chunk: points at a time.
    """
    pieces = []
    for piece, other in zip(points.detach().split(chunk), fallback.split(chunk), strict=True):
        with torch.enable_grad():
            query = piece.clone().requires_grad_()
            values = function(query)
            usable = torch.where(values.isfinite(), values, 0.0)
            (gradient,) = torch.autograd.grad(usable.sum(), query)
        length = gradient.norm(dim=-1, keepdim=True)
        good = length.isfinite() & (length > 0)
        pieces.append(torch.where(good, gradient / torch.where(good, length, 1.0), other))
    return torch.cat(pieces) if pieces else points.detach().clone()


def on_surface(
    function: Values, points: Float[Tensor, "n 3"], level: float | Float[Tensor, ""] = 0.0
) -> Float[Tensor, "n 3"]:
    """Points of a level set with the exact derivative of their positions by the parameters of the function.

    By implicit differentiation, the surface f(x; θ) = level moves along its normal by dx/dθ = −∇f (∂f/∂θ) / ‖∇f‖², and
    by the same with the opposite sign for the level. So a loss on the vertices of an extracted mesh reaches the weights
    of the network.

    Args:
        function: (N, 3) points to (N,) values, differentiable in its points.
        points: (N, 3) on the surface, meters, such as `mesh.vertices`.
        level: the value on the surface; a tensor () may require a gradient.

    Returns:
        (N, 3) the points after one Newton step along the gradient, which moves vertices of an extracted mesh by a
        fraction of a cell, toward the surface. Differentiable to first order. A point where the gradient is 0 or not
        finite stays and has no gradient.

    Raises:
        ValueError: points has another shape.

    >>> import torch, headfields as hf
    >>> radius = torch.tensor(0.7, requires_grad=True)
    >>> from headfields.mesh.extract import on_surface
    >>> point = on_surface(lambda points: points.norm(dim=-1) - radius, torch.tensor([[0.7, 0.0, 0.0]]))
    >>> torch.autograd.grad(point[0, 0], radius)[0].item()
    1.0
    """
    if points.ndim != 2 or points.shape[-1] != 3:
        raise ValueError(f"on_surface: points has shape {tuple(points.shape)}; expected (N, 3)")
    with torch.enable_grad():
        query = points.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(query).sum(), query)
    squared = slope.square().sum(-1, keepdim=True)
    good = squared.isfinite() & (squared > 1e-12)
    along = torch.where(good, slope / torch.where(good, squared, 1.0), 0.0)
    values = function(points.detach())
    target = level.to(values) if isinstance(level, Tensor) else level
    missing = torch.where(values.isfinite(), target - values, 0.0)
    return points.detach() + missing[:, None] * along
