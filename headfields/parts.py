"""The four nouns (Deformer, Encoder, Decoder, Renderer), the `Part` they derive from, and the `Field` between them.

A part declares what it needs of the `HeadState` (`needs`) and, for encoders, the width of its output (`width`), so that
a composition that cannot work fails when it is built. Its constructor arguments are recorded, so that any composition
of parts, a user's own among them, can be saved to one file and built again. It is built once, for the sizes of its
first avatar, and keeps its weights in every further avatar of these sizes.
"""

import contextlib
import functools
import importlib
import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.records import (
    Canonical,
    Correction,
    Features,
    FieldValues,
    HeadState,
    Inverse,
    Rays,
    Record,
    Samples,
    Splats,
    Template,
)
from headfields.records.device_copy import Movable

_registry: dict[str, type["Part"]] = {}


class Part(Movable):
    """A building block of an `Avatar`. Subclasses are looked up by name when an avatar is loaded.

    Attributes:
        needs: the fields of `HeadState` (or names of codes) that the part reads.
        code_widths: the number of values that the part reads of codes, by name, where it knows it when it is built; an
            avatar checks its latent tables against it.
        arguments: the constructor's arguments, by parameter name.
        rate_group: name under which `headfields.training.Trainer` takes one learning rate for all parameters of the
            part; None: each parameter has the rate of tables or of networks, by its own name.
        composed: whether the part is in an avatar.
    """

    needs: tuple[str, ...] = ()
    code_widths: Mapping[str, int] = MappingProxyType({})
    rate_group: str | None = None
    arguments: dict[str, Any]
    composed: bool = False
    _required: ClassVar[tuple[str, ...]] = ()
    """Methods that a subclass has to define."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _registry[f"{cls.__module__}.{cls.__qualname__}"] = cls
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls)  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        self.arguments = {}

    def prepare(self, state: HeadState) -> Any:
        """Values that depend on the frames alone, computed once per call and passed to `forward` as `prepared`."""
        return None

    def at_step(self, step: int) -> None:
        """Called on every part of an avatar, nested ones included, before each training step; `step` counts from 0.

        For schedules (coarse-to-fine bands, a late start). Keep their values in buffers, so that checkpoints and saved
        avatars have them. Does nothing by default.
        """

    def adopt_sizes(self, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Called with the tensors of a checkpoint, by their names in this part, before their values are loaded.

        A part whose numbers of rows training changes takes theirs (`headfields.networks.Gaussians`), in the optimizer
        too. Does nothing by default.
        """


def _recording(cls: type[Part]) -> Callable[..., None]:
    """The constructor of a class, which records its arguments: that of the part's own class ends last."""
    constructor = cls.__init__
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def construct(self: Part, *args: Any, **kwargs: Any) -> None:
        arguments = _constructor_arguments(type(self).__name__, signature, self, args, kwargs)
        constructor(self, *args, **kwargs)
        self.arguments = arguments

    return construct


_MODULE = re.compile(r"\b(?:\w+\.)+(?=[A-Z])")
"""The modules before the names of classes."""


def _constructor_arguments(
    name: str, signature: inspect.Signature, part: Part, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a constructor by name; a TypeError says which are missing or unknown, and what it takes."""
    try:
        return _by_name(signature, part, args, kwargs)
    except TypeError as error:
        parameters = list(signature.parameters.values())[1:]
        if any(isinstance(value, Template) for value in args) and "faces" in signature.parameters:
            remedy = "it takes template.canonical_vertices and template.faces, not the template"
        else:
            takes = ", ".join(map(str, parameters)) or "none"
            remedy = f"it takes {_MODULE.sub('', takes)}"
        raise TypeError(f"{name}: {error}; {remedy}") from None


def _by_name(
    signature: inspect.Signature, part: Part, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """All arguments of a call, defaults too, but for `self`."""
    bound = signature.bind(part, *args, **kwargs)
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


class SizesDisagreeError(ValueError):
    """A part is to be built for other sizes than those it has been built for; `asker` is who gives the other ones."""

    def __init__(self, part: "SizedPart", built_for: str, asked_for: str) -> None:
        super().__init__(part, built_for, asked_for)
        self.part, self.built_for, self.asked_for = part, built_for, asked_for
        self.asker = DIRECT_CALL

    def __str__(self) -> str:
        name = type(self.part).__name__
        return (
            f"{name} was built with {self.built_for} by {self.part.built_by}, and {self.asker} asks for "
            f"{self.asked_for}; a part is built once and keeps its weights: make a new {name} for the other sizes, or "
            "keep them the same"
        )


DIRECT_CALL = "a direct call of build"


class SizedPart(Part):
    """A part that is built for the sizes of an avatar, once: a later `build` for the same sizes changes nothing.

    Attributes:
        built_for: the arguments of `build`, by name; None before.
        built_by: which parts of its first avatar gave them.
    """

    built_for: dict[str, Any] | None = None
    built_by: str = DIRECT_CALL

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        build = getattr(cls, "build", None)  # the class's own, or one inherited from a class that is no part
        if build is not None and not hasattr(build, "built_once"):
            cls.build = _built_once(build)  # type: ignore[attr-defined]


def _built_once(build: Callable[..., None]) -> Callable[..., None]:
    """`build` for a first call; for a later one, a check that its sizes are the same.

    A `super().build` within `build` is a first call, too: the part has not been built before the outer one ends.
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def built_once(self: SizedPart, *args: Any, **kwargs: Any) -> None:
        sizes = {name: _plain(value) for name, value in _by_name(signature, self, args, kwargs).items()}
        if self.built_for is None:
            try:
                build(self, *args, **kwargs)
            except BaseException:
                self.built_for = None  # what `super().build` has set
                raise
            self.built_for = sizes
            return
        differ = [name for name, size in sizes.items() if not _agree(self.built_for.get(name), size)]
        if differ:
            was, asked = (", ".join(f"{name}={_rounded(each[name])}" for name in differ)
                          for each in (self.built_for, sizes))  # fmt: skip
            raise SizesDisagreeError(self, was, asked)

    built_once.built_once = True  # type: ignore[attr-defined]
    return built_once


def _plain(value: Any) -> Any:
    """The value, a tensor as nested lists: sizes are compared, printed and copied."""
    return value.tolist() if isinstance(value, Tensor) else value


def _agree(first: Any, second: Any) -> bool:
    """Whether two sizes are one; boxes, up to a thousandth of their longest side. None is any size."""
    if first is None or second is None:
        return True
    if not (isinstance(first, list) and isinstance(second, list)):
        return bool(first == second)
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    return a.shape == b.shape and (not a.numel() or bool((a - b).abs().max() <= 1e-3 * (a.max() - a.min())))


def _rounded(size: Any) -> Any:
    return (
        [_rounded(entry) for entry in size]
        if isinstance(size, list)
        else round(size, 4)
        if isinstance(size, float)
        else size
    )


def check_part(owner: str, name: str, value: Any, noun: type[Part]) -> None:
    """Raises TypeError, naming the argument `name` of `owner`, unless `value` is an instance of `noun`."""
    if isinstance(value, noun):
        return
    expected = f"expected a headfields {noun.__name__}"
    if isinstance(value, type):
        raise TypeError(f"{owner}: {name} is the class {value.__name__}; {expected}, so call it: {value.__name__}(...)")
    kind = type(value).__name__
    if isinstance(value, Sampler) and noun is Renderer:
        expected += f", and {kind} is its sampler: headfields.renderers.VolumeRenderer({kind}(...))"
    elif isinstance(value, Deformer | Encoder | Decoder | Sampler | Renderer):
        other = next(base for base in (Deformer, Encoder, Decoder, Sampler, Renderer) if isinstance(value, base))
        expected += f", and {kind} is a {other.__name__}"
    raise TypeError(f"{owner}: {name} is {'None' if value is None else f'a {kind}'}; {expected}")


def undefined_methods(part: Part) -> list[str]:
    """Names of the methods that the part's noun requires and that its class leaves out."""
    return [
        name
        for base in type(part).__mro__
        for name in vars(base).get("_required", ())
        if getattr(type(part), name) is vars(base)[name] and name not in vars(part)
    ]


def _undefined(part: Part, method: str) -> NoReturn:
    raise NotImplementedError(f"{type(part).__name__}.{method} is not defined")


def part_class(name: str) -> type[Part]:
    """The `Part` subclass registered under `module.ClassName`.

    Imports nothing but the library's own files of parts. A class of a script or a notebook, whose module is called
    `__main__`, is found under the name of the script's file too, and under that of the one imported module with a class
    of its name.

    Raises:
        ValueError: no class of that name has been imported.
    """
    if name not in _registry and _OWN.fullmatch(name):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name.rpartition(".")[0])
    cls = _registry.get(name) or _class_of_script(name)
    if cls is None and name.startswith("__main__."):
        raise ValueError(
            f"{name} was defined in a script or a notebook; put the class into a module (my_parts.py) and import it "
            "first, or name it on the command line: --import my_parts.py"
        )
    if cls is None:
        raise ValueError(
            f"{name} is not a part of headfields or of any module imported so far; "
            "import the module that defines it first, or name its file on the command line: --import my_parts.py"
        )
    return cls


_OWN = re.compile(r"headfields\.(deformers|encoders|decoders|renderers|networks)(\.[a-z]\w*)*\.[A-Z]\w*")


def _class_of_script(name: str) -> type[Part] | None:
    """A class of the running script under the name of its file, and one of an imported file under `__main__`."""
    module, _, own = name.partition(".")
    if module == "__main__":
        same = [cls for key, cls in _registry.items() if cls.__qualname__ == own and not key.startswith("headfields.")]
        return same[0] if len(same) == 1 else None
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return _registry.get(f"__main__.{own}") if script and Path(script).stem == module else None


def import_parts(source: str | Path) -> ModuleType:
    """Imports a module that defines parts, so that avatars with these parts can be loaded.

    The module of a file is called as the file is, without ".py", as it is by a script next to it that imports it: a
    part has one name in saved files, however its module was imported. The file's folder is put first in `sys.path`,
    for what the file imports and for worker processes.

    Args:
        source: a Python file, or the name of a module of an installed package or below the current folder.

    Raises:
        FileNotFoundError: there is no such file or module.
        ValueError: the file's name is no name of a module, or that of another imported module.
    """
    path = Path(source)
    if path.suffix != ".py":
        _search_first(Path.cwd())
        try:
            return importlib.import_module(str(source))
        except ModuleNotFoundError as error:
            if error.name is None or not str(source).startswith(error.name):
                raise  # the module is there, and imports another that is not
            raise FileNotFoundError(f"{source}: there is no such module; name a file, as my_parts.py") from error
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name the Python file that defines the parts")
    if not path.stem.isidentifier():
        raise ValueError(f"{path} cannot be imported as {path.stem!r}; give it a name such as my_parts.py")
    known = sys.modules.get(path.stem)
    if known is None:
        _search_first(path.resolve().parent)
        known = importlib.import_module(path.stem)
    if Path(getattr(known, "__file__", None) or ".").resolve() != path.resolve():
        raise ValueError(f"{path}: another module is named {path.stem} already; rename the file")
    return known


def _search_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def part_name(part: Part) -> str:
    """`module.ClassName` of a part, as `part_class` takes it."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


class Deformer(Part):
    """Canonicalizes points: posed space to canonical space; and, where `poses` is True, poses Gaussians: the way back.

    Gaussians have coordinates of the deformer's own, in which they are constant while the head moves: those of a
    triangle, say, or those of canonical space. `attach` gives them for Gaussians in canonical space, `rest` is its
    inverse, and `pose` takes them to posed space.

    Attributes:
        poses: True if it defines `attach`, `rest` and `pose`.
        ambient_width: number of hyper-coordinates in `Canonical.ambient`.
        gives_faces: True if `Canonical.face` is filled.
        face_count: F, the number of faces that `Canonical.face` indexes, for checks; None: unknown.
        corrects: True if it has learned corrections, which losses read with `corrections`.
        follows_head: False if canonical space has the axes of posed space, whatever the head does: a head that turns
            together with its camera is then another picture, and belongs in one frame (`load_capture(head_frame=)`),
            of which `Trainer` warns.
        moves_points: False if points stay where they are, and only which rays and points count is decided.
    """

    poses: bool = False
    follows_head: bool = True
    moves_points: bool = True
    ambient_width: int = 0
    gives_faces: bool = False
    face_count: int | None = None
    corrects: bool = False
    _required = ("bounds", "posed_bounds", "near_far", "forward")

    def bounds(self) -> Float[Tensor, "2 3"]:
        """Corners (minimum, maximum) of the axis-aligned box in canonical space that encoders cover, meters."""
        _undefined(self, "bounds")

    def posed_bounds(self, prepared: Any) -> Float[Tensor, "2 3"]:
        """Corners of a box in posed space that contains the head in all prepared frames, meters."""
        _undefined(self, "posed_bounds")

    def near_far(self, rays: Rays, prepared: Any) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The interval of each ray that can contain matter.

        Args:
            rays: N rays in posed space.
            prepared: the result of `prepare`.

        Returns:
            near, far (N,), meters along the ray; near >= far on a ray without such an interval.
        """
        _undefined(self, "near_far")

    def forward(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: Any
    ) -> Canonical:
        """Maps points and directions to canonical space; M = 0 is legal.

        Args:
            points: (M, 3) in posed space, meters.
            directions: (M, 3) unit directions in posed space.
            frame: (M,) each point's row of the state.
            prepared: the result of `prepare`.

        Returns:
            The canonical points; `valid` is False where the deformer is undefined, and such points are empty space.
        """
        _undefined(self, "forward")

    def corrections(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], prepared: Any, jacobians: bool = False
    ) -> list[Correction]:
        """The learned corrections at M posed points; an empty list by default, and while they are off.

        Args:
            points: (M, 3) in posed space, meters.
            frame: (M,) each point's row of the state.
            prepared: the result of `prepare`.
            jacobians: whether to compute their Jacobians.
        """
        return []

    def attach(self, splats: Splats, face: Int[Tensor, " n"] | None = None) -> tuple[Splats, Int[Tensor, " n"]]:
        """Gaussians in canonical space, in the deformer's coordinates, and the triangles that they are attached to.

        Args:
            splats: (N, ...) in canonical space, meters.
            face: (N,) the triangles, if they are chosen; the nearest ones if None.

        Returns:
            (N, ...), and (N,) indices of triangles, -1 for a deformer without.
        """
        _undefined(self, "attach")

    def rest(self, splats: Splats, face: Int[Tensor, " n"]) -> Splats:
        """Gaussians in canonical space, meters: the inverse of `attach`.

        Args:
            splats: (..., N, ...) in the deformer's coordinates.
            face: (N,) their triangles.
        """
        _undefined(self, "rest")

    def pose(self, splats: Splats, face: Int[Tensor, " n"], prepared: Any) -> Splats:
        """Gaussians in the posed space of B frames: centers, rotations and scales; N = 0 is legal.

        Args:
            splats: (N, ...), the same in all frames, or (B, N, ...), in the deformer's coordinates.
            face: (N,) their triangles.
            prepared: the result of `prepare`.

        Returns:
            (B, N, ...), meters.
        """
        _undefined(self, "pose")

    def walk(
        self, position: Float[Tensor, "n 3"], face: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n 3"], Int[Tensor, " n"]] | None:
        """Called before each training step: positions and triangles of Gaussians that have left their triangles.

        None, the default: Gaussians stay with their triangles.
        """
        return None


class Encoder(SizedPart):
    """Turns canonical points (and the state) into features.

    Attributes:
        width: number of features per point.
        needs_faces: True if the encoder reads `Canonical.face` or `barycentric`, which not every deformer gives.
        face_count: F, the number of faces that it was made for, for checks; None: any.
        most_ambient: the largest number of hyper-coordinates that it can read; None: any, or it ignores them.
    """

    width: int
    needs_faces: bool = False
    face_count: int | None = None
    most_ambient: int | None = None
    _required = ("forward",)

    def build(self, bounds: Float[Tensor, "2 3"], ambient_width: int) -> None:
        """Called by `Avatar`, before `width` is read; only the first call has an effect.

        Args:
            bounds: (2, 3) corners of the canonical box, meters.
            ambient_width: A, the number of the deformer's hyper-coordinates.
        """

    def forward(self, canonical: Canonical, prepared: Any) -> Float[Tensor, "m width"]:
        """Features of each point; M = 0 is legal.

        Args:
            canonical: M points in canonical space.
            prepared: the result of `prepare`.

        Returns:
            (M, width).
        """
        _undefined(self, "forward")

    def shared(self, canonical: Canonical, prepared: Any) -> tuple[Float[Tensor, "k width"], Int[Tensor, " m"]] | None:
        """The features of `forward` as rows (K, width) that points share, and the row (M,) of each point.

        Encoders of values that depend on the frame alone override this; as the last encoder of an avatar they then
        reach the decoder as `Features.shared`. None, the default: each point has features of its own.
        """
        return None


class Decoder(SizedPart):
    """Turns features and directions into density or signed distance, and color.

    Attributes:
        gives: `"density"` or `"distance"`; the renderer turns it into weights.
        color_needs_normals: True if `color` reads `FieldValues.canonical_normal`. `forward` then never gives a color;
            the field computes the normals first and calls `color`.
    """

    gives: str = "density"
    color_needs_normals: bool = False
    _required = ("forward",)

    def build(self, width: int, bounds: Float[Tensor, "2 3"] | None = None) -> None:
        """Called by `Avatar`, after the encoders are built; only the first call has an effect.

        Args:
            width: number of features of a point, of all encoders together.
            bounds: (2, 3) corners of the canonical box, meters; None outside an avatar.
        """

    def forward(self, features: Features, canonical: Canonical, prepared: Any, color: bool = True) -> FieldValues:
        """Values at M points; M = 0 is legal.

        Args:
            features: the encoders' features of M points.
            canonical: the M points, with their unit viewing directions in canonical space.
            prepared: the result of `prepare`.
            color: False leaves `rgb` out, for occupancy and meshing.

        Returns:
            `density` (M,) in 1/m or `distance` (M,) in meters, as `gives` declares, and `rgb` (M, 3) unless left out.

        A decoder that can compute the color later fills `FieldValues.geometry` with the values needed for it and
        defines `color`; a renderer then requests the color of visible samples only.
        """
        _undefined(self, "forward")

    def color(self, values: FieldValues, canonical: Canonical, prepared: Any) -> Float[Tensor, "m 3"]:
        """The color (M, 3) of M points from `values.geometry`; M = 0 is legal.

        Args:
            values: the result of `forward` at these points; with `canonical_normal` if `color_needs_normals`.
            canonical: the M points.
            prepared: the result of `prepare`.
        """
        raise NotImplementedError(f"{type(self).__name__}.color is not defined, but its values have a geometry")


class Field(ABC):
    """An avatar bound to the B frames of one call: what samplers, renderers, losses and mesh extraction query.

    `headfields.Avatar.field` makes one; whatever depends on the frames alone is computed then. Posed points are in the
    space of `state.vertices`, in meters, and each belongs to a row of the state, its `frame`. A sampler or a renderer
    needs no more of an avatar than these methods, so a test may pass a subclass with a formula of its own.

    Attributes:
        avatar: the module that holds all parts, for its mode and for losses that look for a part in it.
        deformer, decoder: two of its parts, for their declared properties.
        state: the B frames.
        renderer_prepared: the result of `Renderer.prepare`.
    """

    avatar: nn.Module
    deformer: Deformer
    decoder: Decoder
    state: HeadState
    renderer_prepared: Any

    @abstractmethod
    def near_far(self, rays: Rays) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The interval (N,), (N,) of each ray that can contain matter, meters; near >= far: there is none."""

    @abstractmethod
    def posed_bounds(self) -> Float[Tensor, "2 3"]:
        """Corners of a box in posed space that contains the head in all frames, meters."""

    @abstractmethod
    def canonicalize(
        self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"], frame: Int[Tensor, " m"]
    ) -> Canonical:
        """Maps posed points to canonical space, differentiable as the deformer is.

        Args:
            points: (M, 3) in posed space, meters.
            directions: (M, 3) unit viewing directions in posed space.
            frame: (M,) each point's row of the state.
        """

    @abstractmethod
    def invert(self, points: Float[Tensor, "n 3"], frame: Int[Tensor, " n"], **options: Any) -> Inverse:
        """Posed positions of canonical points, for landmarks and meshes.

        Args:
            points: (N, 3) in canonical space, meters.
            frame: (N,) the row of the state in which each is posed.
            options: options of `headfields.deformers.invert`, which states what is differentiable.
        """

    @abstractmethod
    def corrections(
        self, points: Float[Tensor, "m 3"], frame: Int[Tensor, " m"], jacobians: bool = False
    ) -> list[Correction]:
        """The deformer's learned corrections at M posed points, for losses; an empty list while they are off.

        Args:
            points: (M, 3) in posed space, meters.
            frame: (M,) each point's row of the state.
            jacobians: whether to compute their Jacobians.

        Raises:
            ValueError: the deformer has no learned correction.
        """

    @abstractmethod
    def decode(self, canonical: Canonical, color: bool = True) -> FieldValues:
        """Density (1/m) or signed distance (m), and color, at M canonical points; `canonical.valid` is not consulted.

        Args:
            canonical: the M points.
            color: False leaves the color out, for occupancy and meshing.
        """

    @abstractmethod
    def density(self, canonical: Canonical) -> Float[Tensor, " m"]:
        """The density (M,), 1/m, at M canonical points, for samplers; of distances, by `Renderer.density`."""

    @abstractmethod
    def color(self, values: FieldValues, canonical: Canonical) -> FieldValues:
        """`values`, decoded without color at the M points `canonical`, completed with the color.

        Cheaper than `decode` if the decoder fills `values.geometry`; otherwise decodes again.
        """

    @abstractmethod
    def signed_distance(
        self,
        points: Float[Tensor, "m 3"],
        frame: Int[Tensor, " m"],
        directions: Float[Tensor, "m 3"] | None = None,
        color: bool = False,
        create_graph: bool | None = None,
    ) -> tuple[Canonical, FieldValues]:
        """Signed distances at M posed points, with their exact gradients through decoder, encoders and deformer.

        Works under `torch.no_grad` too, in chunks, because each point needs a graph until its gradient is computed.

        Args:
            points: (M, 3) in posed space, meters; M = 0 is legal.
            frame: (M,) each point's row of the state.
            directions: (M, 3) unit viewing directions in posed space, for colors; (0, 0, -1) if None.
            color: whether to compute the color of all points; pass the result to `color` for that of some.
            create_graph: whether distances and gradients are differentiable themselves, through every part: for an
                eikonal loss, light on normals, or NeuS's opacity. None: if gradients are enabled.

        Returns:
            The canonical points, of which those that are not `valid` have no meaning; and values with `distance` (M,)
            in meters, `gradient` (M, 3) by the posed points, `normal` (M, 3), the gradient normalized,
            `canonical_normal`, the decoder's `geometry`, and with `color` also `rgb`.

        Raises:
            ValueError: the decoder gives no distance.
        """


@dataclass(frozen=True)
class Rendering(Record):
    """Rendering of N rays (from `Avatar.render`, for an image: H, W instead of N).

    Attributes:
        rgb: (N, 3) color over the background, sRGB in [0, 1].
        opacity: (N,) in [0, 1].
        depth: (N,) expected distance along the ray, meters, weighted by opacity (divide to normalize).
        normal: (N, 3) expected normal in posed space, weighted by opacity (normalize for a direction), of fields of
            distances.
        samples, weights: the packed samples and their weights, for losses.
        coarse: the rendering of the same rays by a coarse network, of renderers that train one.
        canonical: the samples in canonical space, in training mode.
        field: the field that was rendered, in training mode, for losses that query it.
        gradient: (M, 3) derivative of the distance by the posed point at the samples, of fields of distances.
        splats: the Gaussians in posed space, of an avatar of Gaussians.
        attached: the same in the coordinates of the deformer.
        rasterized: the result of `headfields.ops.rasterize_gaussians`, in training mode, for density control.
        means2d_offset, means2d_absgrad: (B, N, 2) zeros whose gradient, after the backward pass, is that by the
            projected centers, and the sum of its magnitudes over pixels.
    """

    rgb: Float[Tensor, "*n 3"]
    opacity: Float[Tensor, "*n"]
    depth: Float[Tensor, "*n"]
    normal: Float[Tensor, "*n 3"] | None = None
    samples: Samples | None = None
    weights: Float[Tensor, " m"] | None = None
    coarse: "Rendering | None" = None
    canonical: Canonical | None = None
    field: Field | None = None
    gradient: Float[Tensor, "m 3"] | None = None
    splats: Splats | None = None
    attached: Splats | None = None
    rasterized: Any = None
    means2d_offset: Float[Tensor, "b n 2"] | None = None
    means2d_absgrad: Float[Tensor, "b n 2"] | None = None


class Sampler(SizedPart):
    """Chooses the sample positions along rays."""

    _required = ("forward",)

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Called through the renderer with the corners (2, 3) of the canonical box, meters; has effect once."""

    def forward(self, rays: Rays, field: Field) -> tuple[Samples, Canonical]:
        """Samples of N rays in posed space; N = 0 and M = 0 are legal.

        Args:
            rays: N rays, meters.
            field: the field of the rays' frames.

        Returns:
            M samples sorted by ray and distance, without those at invalid points, and their canonical points.
        """
        _undefined(self, "forward")

    def padded(self, rays: Rays, field: Field, buffers: Any) -> tuple[Samples, Canonical]:
        """As `forward`, into buffers of a fixed size (`headfields.renderers.padded`), without a wait for the device.

        Samplers that have no such form leave this out.
        """
        _undefined(self, "padded")

    def observe(self, canonical: Canonical, density: Float[Tensor, " m"]) -> None:
        """Called by the renderer in training with the density (M,), 1/m, detached, at M points of this sampler."""

    def due(self, step: int) -> bool:
        """Whether `update` has to be called before this training step."""
        return False

    def update(self, field: Field, step: int) -> None:
        """Called, through the renderer, before each `step` that is due, with the field of its frames."""


class Renderer(SizedPart):
    """Renders rays through a field.

    A renderer may have encoders and decoders of its own: the avatar builds the encoders and checks what both need, and
    the renderer prepares them, in `prepare`, whose result is `Field.renderer_prepared`.

    Attributes:
        takes: the fields it can render: a tuple of `Decoder.gives` values.
    """

    takes: tuple[str, ...] = ("density",)
    _required = ("forward",)

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """The renderer's own encoders."""
        return ()

    @property
    def decoders(self) -> tuple[Decoder, ...]:
        """The renderer's own decoders."""
        return ()

    def build(self, bounds: Float[Tensor, "2 3"]) -> None:
        """Called by `Avatar`, last, with the corners `bounds` (2, 3) of the canonical box, meters; has effect once."""

    def forward(self, rays: Rays, field: Field, background: Float[Tensor, "n 3"]) -> Rendering:
        """Renders N rays; N = 0 is legal.

        Args:
            rays: rays in posed space, meters.
            field: the field of the rays' frames.
            background: (N, 3) color behind each ray, sRGB in [0, 1].
        """
        _undefined(self, "forward")

    def draw_pieces(
        self, pieces: Sequence[slice], draw: Callable[[slice], "Rendering"], device: torch.device
    ) -> "list[Rendering]":
        """`draw` of each piece of an image's rays; a renderer may prepare something for each, and draw a piece again.

        Args:
            pieces: the rays of each.
            draw: calls the renderer with them.
            device: that of the state.
        """
        return [draw(piece) for piece in pieces]

    def due(self, step: int) -> bool:
        """Whether `update` has to be called before this training step."""
        return False

    def update(self, field: Field, step: int) -> None:
        """Called by the trainer before each step that is due, e.g. to update an occupancy grid."""

    def density(self, values: FieldValues) -> Float[Tensor, " m"]:
        """The density (M,), 1/m, for samplers; a renderer of distances converts them."""
        if values.density is None:
            raise ValueError(
                f"{type(self).__name__}.density: the decoder gives no density; define it in the renderer, as "
                "headfields.renderers.SurfaceRenderer does for distances"
            )
        return values.density
