"""A mesh of a field, or of any function of points."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.mesh.fields import FieldSource, Space
from headfields.mesh.mesh import Mesh
from headfields.mesh.sparse import Values, isosurface
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
    """The surface of an avatar's field, or of any function of points, with normals and colors.

    The field is asked coarse to fine, only near the surface: see `isosurface` for what may be missed.

    Args:
        source: `avatar.field(state)`, or a function of points (N, 3), meters, to values (N,) that are below the level
            inside (a signed distance; of a density, give the negative and a negative level).
        bounds: (2, 3) corners of the box, meters; of a field, the box that holds its matter if None.
        resolution: cells along the box's longest side.
        level: the value on the surface; if None, 0, and `headfields.mesh.DENSITY_LEVEL` for a field that gives
            density.
        space: of a field: `"posed"` or `"canonical"` (see `FieldSource`).
        frame: of a field: which row of its state.
        colors: of a field, whether to ask it for colors, as seen from straight above the surface; of a function,
            another one, of points and normals to sRGB, or True for none.
        normals: `"gradient"`, of the values; or `"mesh"`, the mean of the faces', smoother where the values are rough.
            If None, `"gradient"` but for a field that gives density.
        largest: only the connected piece with most faces.
        closed: False leaves out the faces that close the surface where it leaves the box or the field is undefined.
        solid: of a field on a tracked mesh: meters; what lies deeper in it is matter (see `FieldSource`).
        coarse, lipschitz, chunk, memory_mb, progress: as `isosurface` takes them; of a field that gives distance,
            lipschitz is 1 if None.

    Returns:
        A `Mesh` without a gradient (see `on_surface` for one); without vertices where there is no surface. The avatar
        is asked in evaluation mode.

    Raises:
        ValueError: bounds are missing, or an argument is out of range or does not go with the source.
    """
    if normals not in (None, "gradient", "mesh"):
        raise ValueError(f"extract: normals is {normals!r}; expected 'gradient', 'mesh' or None")
    if isinstance(source, Field):
        was_training = source.avatar.training
        source.avatar.eval()
        try:
            bound = FieldSource(source, space, frame, level, solid)
            if colors not in (True, False):
                raise ValueError("extract: colors is a function; a field gives its own, so say True or False")
            return _extract(
                bound.values, bound.bounds() if bounds is None else bounds, resolution, 0.0,
                bound.colors if colors else None, normals or ("gradient" if bound.distance else "mesh"), largest,
                closed, coarse, lipschitz if lipschitz is not None else bound.lipschitz, chunk, memory_mb, progress,
            )  # fmt: skip
        finally:
            source.avatar.train(was_training)
    if bounds is None:
        raise ValueError("extract: bounds is None; a function needs the box (2, 3) to look in")
    if space != "posed" or frame or solid is not None:
        raise ValueError("extract: space, frame and solid go with a headfields.Field, and source is a function")
    return _extract(
        source, bounds, resolution, level or 0.0, colors if callable(colors) else None, normals or "gradient",
        largest, closed, coarse, lipschitz, chunk, memory_mb, progress,
    )  # fmt: skip


def _extract(
    function: Values, bounds: Tensor, resolution: int, level: float, colors: Colors | None, normals: str,
    largest: bool, closed: bool, coarse: int | None, lipschitz: float | None, chunk: int, memory_mb: int,
    progress: bool | None,
) -> Mesh:  # fmt: skip
    found = isosurface(function, bounds, resolution, level, coarse, lipschitz, chunk, memory_mb, progress)
    mesh = Mesh(found.vertices, found.faces)
    if not closed:
        mesh = mesh.select(~found.cap)
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
    function: Values, points: Float[Tensor, "n 3"], otherwise: Float[Tensor, "n 3"], chunk: int = 1 << 16
) -> Float[Tensor, "n 3"]:
    """Unit gradients of a function (values grow to the outside) at points, without a graph.

    Args:
        function: differentiable in its points.
        points: (N, 3) meters.
        otherwise: (N, 3) what is given where the gradient is 0 or not finite.
        chunk: points at a time.
    """
    pieces = []
    for piece, other in zip(points.detach().split(chunk), otherwise.split(chunk), strict=True):
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
    """Points of a surface with the exact gradient of where it is, by whatever the function depends on.

    The surface f(x; θ) = level moves, where it is not held, along its normal: dx/dθ = −∇f (∂f/∂θ) / ‖∇f‖² (implicit
    differentiation), and by the level the same with the other sign. So a loss on the vertices of an extracted mesh
    reaches the weights of the network that made it.

    Args:
        function: (N, 3) points to (N,) values, differentiable in its points.
        points: (N, 3) on the surface, meters, say `mesh.vertices`.
        level: the value there; a tensor () may require a gradient.

    Returns:
        (N, 3): the points after one Newton step along the gradient (from an extracted mesh, a fraction of a cell at
        most, and nearer to the surface), with the gradient. A point where the function's gradient is 0 or not finite
        stays where it is and has none. First order.

    Raises:
        ValueError: points has another shape.
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
    wanted = level.to(values) if isinstance(level, Tensor) else level
    short = torch.where(values.isfinite(), wanted - values, 0.0)
    return points.detach() + short[:, None] * along
