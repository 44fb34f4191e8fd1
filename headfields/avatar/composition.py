"""What avatars of every kind share: codes of their frames, parts that are replaced, their file, and checks of parts."""

import contextlib
import functools
import importlib
import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headfields.avatar.saved_checks import load_state, unsound
from headfields.avatar.saving import read_parts, write_parts
from headfields.deformers.chain import Chain
from headfields.files.reading import brief, reading
from headfields.files.versions import FileFormat
from headfields.networks.gaussians import Gaussians
from headfields.networks.latent_table import LatentTable
from headfields.part_base import Part, SizedPart, SizesDisagreeError, undefined_methods
from headfields.parts import Decoder, Deformer, Encoder, Renderer, Sampler
from headfields.records import Camera, Canonical, Features, HeadState, Template
from headfields.records.device_copy import Movable
from headfields.records.display import Displayed
from headfields.records.head_rig import HeadRig
from headfields.renderers.splats import SplatRenderer
from headfields.similar_names import did_you_mean

C = TypeVar("C", bound="Composition")
P = ParamSpec("P")


def explained(constructor: Callable[P, None]) -> Callable[P, None]:
    """Decorator of an avatar's constructor: a part alone, Gaussians in an avatar of a field, and names that are none
    get the remedy."""
    signature = inspect.signature(constructor)
    _, *names = signature.parameters

    @functools.wraps(constructor)
    def construct(*args: P.args, **kwargs: P.kwargs) -> None:
        owner = type(args[0]).__name__
        given = {**dict(zip(names, args[1:], strict=False)), **kwargs}
        if "gaussians" not in names:
            _check_no_gaussians(owner, given)
        unknown = [name for name in kwargs if name not in names]
        if unknown:
            near = did_you_mean(unknown[0], names)
            raise TypeError(f"{owner}: no part is called {unknown[0]!r}{near}; it takes {', '.join(names)}")
        missing = [
            name
            for name in names
            if name not in given and signature.parameters[name].default is inspect.Parameter.empty
        ]
        if missing:
            raise TypeError(_missing(owner, missing, given, "gaussian_avatars" if "gaussians" in names else "insta"))
        constructor(*args, **kwargs)

    return construct


def _check_no_gaussians(owner: str, given: Mapping[str, Any]) -> None:
    for name, part in given.items():
        if name == "gaussians" or isinstance(part, Gaussians | SplatRenderer):
            raise TypeError(
                f"{owner}: {name} is a {type(part).__name__}; Gaussians are no field of rays: compose "
                "headfields.SplatAvatar(gaussians, deformer, renderer), or take a preset: "
                "headfields.models.gaussian_avatars(template)"
            )


def _missing(owner: str, missing: Sequence[str], given: Mapping[str, Any], preset: str) -> str:
    """What to tell who composes an avatar of too few parts."""
    whole = f"headfields.models.{preset}(template)"
    names = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
    said = f"{owner}: {names} {'is' if len(missing) == 1 else 'are'} missing"
    if any(isinstance(value, Template) for value in given.values()):
        return f"{said}, and a template is no part; a preset makes all of them of one: {whole}"
    parts = [name for name in given if name not in ("template", "codes")]
    if not parts:
        return f"{said}; compose one of each, or take a preset: {whole}"
    change = ", ".join(f"{name}=..." for name in parts)
    return f"{said}; compose one of each, or put yours into a whole avatar: {whole}.replace({change})"


class Composition(Movable, Displayed):
    """Base class of avatars: parts, latent tables by the names of their codes, and a file that holds them.

    Attributes:
        deformer: posed space to canonical space, or back.
        template: the mesh that the avatar is built on, or None.
        preview: a camera and a frame for a picture of the avatar, or None; saved with it.
        rig: how the mesh follows expression and joints (`headfields.records.head_rig.HeadRig`), so that `to_html` and a
            notebook can move the avatar without its capture; saved with it, displacements in half precision; None: not
            known. Training of Gaussians sets it.
        trained_on: the arguments `head_frame` and `mouth` with which `headfields.data.load_capture` opened the capture
            that it was trained on, saved with it; None: not known.
    """

    _in_file: ClassVar[Mapping[str, bool]]
    """The parts in the avatar's file, and whether each is needed."""
    deformer: Deformer
    template: Template | None
    preview: tuple[Camera, HeadState] | None
    rig: HeadRig | None
    trained_on: dict[str, str] | None

    @property
    @abstractmethod
    def composition(self) -> dict[str, Any]:
        """The arguments that make an avatar of the same parts, by name."""

    @property
    @abstractmethod
    def encoders(self) -> list[Encoder]:
        """The encoder and the conditions, in the order of their features."""

    @property
    @abstractmethod
    def _further_parts(self) -> tuple[Part, ...]:
        """The parts, besides deformer and encoders, whose `prepare` reads the state."""

    @property
    def _prepared_parts(self) -> tuple[Part, ...]:
        """The parts whose `prepare` reads the state."""
        links = self.deformer.deformers if isinstance(self.deformer, Chain) else [self.deformer]
        return (*links, *self.encoders, *self._further_parts)

    def check_needs(self, state: HeadState) -> None:
        """Raises ValueError if the state lacks what a part needs; the message says which part and which field."""
        for part in self._prepared_parts:
            for name in part.needs:
                state.need(type(part).__name__, name, part.code_widths.get(name))

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block all parts are in evaluation mode; afterwards each is in its own again."""
        modes = [(part, part.training) for part in self.modules()]  # parts may differ, a frozen one from the others
        self.eval()
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode

    def _take(self, template: Template | None, codes: Mapping[str, LatentTable] | None) -> None:
        """Takes the template and the tables of codes, after the parts."""
        if template is not None and not isinstance(template, Template):
            raise TypeError(f"Avatar: template is a {type(template).__name__}; expected a headfields Template, or None")
        self.template = template
        self.codes = nn.ModuleDict()
        if not isinstance(codes, Mapping | None):
            raise TypeError(
                f"Avatar: codes is a {type(codes).__name__}; expected latent tables by the names of the codes, "
                '{"appearance": headfields.networks.LatentTable(len(capture), 8)}'
            )
        for name, table in (codes or {}).items():
            self._add_codes(name, table)
        self.preview = None
        self.rig = None
        self.trained_on = None

    def _settle(self, device: torch.device) -> None:
        """Moves the other parts to the device of the deformer; from now on they are an avatar's."""
        for child in self.children():
            if child is not self.deformer:
                child.to(device)
        for module in self.modules():
            if isinstance(module, Part):
                module.composed = True

    def replace(self: C, **parts: Any) -> C:
        """An avatar with some parts replaced, which shares the others with this one.

        Shared parts are the same objects: training one avatar trains them in both. `copy.deepcopy` of an avatar gives
        one of its own first. Parts given here are built for this avatar if they are new, and keep their weights if they
        have been in another one; new ones take the device of the deformer and, if this avatar has one floating dtype,
        that. The new avatar and the parts given take this avatar's mode (training or evaluation), and the new avatar
        its `preview`.

        Args:
            parts: arguments of `Avatar` by name: `deformer`, `encoder`, `condition`, `decoder`, `renderer`,
                `template`, `codes`. None removes conditions, the template or the codes.

        Raises:
            TypeError: there is no such argument; further as `Avatar`.
            ValueError: as `Avatar`: the parts do not fit, or a shared one is built for sizes that the new ones change.
        """
        own = self.composition
        unknown = [name for name in parts if name not in own]
        if unknown:
            near = did_you_mean(unknown[0], own)
            raise TypeError(f"Avatar.replace: no part is called {unknown[0]!r}{near}; it takes {', '.join(own)}")
        new = {id(part) for part in _parts_in(parts.values()) if not part.composed}
        dtypes = {t.dtype for t in (*self.parameters(), *self.buffers()) if t.is_floating_point()}
        made = type(self)(**(own | parts))
        if len(dtypes) == 1:
            (dtype,) = dtypes
            for part in made.modules():
                if id(part) in new:
                    part.to(dtype)
        shared = {id(part) for part in self.modules()}
        for part in made.modules():
            if id(part) not in shared:
                part.training = self.training
        made.preview, made.rig, made.trained_on = self.preview, self.rig, self.trained_on
        return made

    def _add_codes(self, name: str, table: LatentTable) -> None:
        if not isinstance(table, LatentTable):
            raise TypeError(
                f"Avatar: codes[{name!r}] is a {type(table).__name__}; expected a headfields.networks.LatentTable"
            )
        if name in HeadState.__dataclass_fields__ or "." in name or hasattr(self.codes, name):
            raise ValueError(
                f"Avatar: codes has {name!r}, which is a field of HeadState or of a module, or has a dot; "
                "give the code another name, in the part that reads it too"
            )
        readers = [part for part in self.modules() if isinstance(part, Part) and name in part.needs]
        if not readers:
            read = [need for need in self.needs if need not in HeadState.__dataclass_fields__]
            raise ValueError(
                f"Avatar: codes has {name!r}, and no part needs it; the parts need the codes {read or 'of no name'}. "
                "A part of your own names what it reads in its `needs`"
            )
        for part in readers:
            width = part.code_widths.get(name, table.width)
            if width != table.width:
                raise ValueError(
                    f"Avatar: codes[{name!r}] is a LatentTable {table.width} wide, and {type(part).__name__} reads "
                    f"{width} values of it; make the table {width} wide, or the part read {table.width}"
                )
        table.build()
        self.codes[name] = table

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields of `HeadState`, besides the vertices, that some part reads; codes of tables among them."""
        return tuple(dict.fromkeys(name for part in self._prepared_parts for name in part.needs))

    def with_codes(self, state: HeadState) -> HeadState:
        """The state with the codes of the avatar's tables, to read or to change; a code that it carries stays.

        In training mode and with gradients enabled, the frames' rows count as trained from now on.

        Raises:
            ValueError, IndexError: as `headfields.networks.LatentTable.of_state`.
        """
        lacking = [name for name in self.codes if name not in state.codes]
        if not lacking:
            return state
        tables: Any = self.codes
        return state.replace(codes={**state.codes, **{name: tables[name].of_state(name, state) for name in lacking}})

    def save(
        self,
        path: str | Path,
        tensors: Mapping[str, Tensor] | None = None,
        headers: Mapping[FileFormat, Mapping[str, Any]] | None = None,
    ) -> None:
        """Writes everything to one safetensors file, atomically: parts, arguments, weights, template, preview.

        Args:
            path: the file; its folder is created.
            tensors: further tensors of the file, as a prior has; no name begins with that of a part or with "state.".
            headers: JSON objects beside the avatar's, by the format of which they are, as a prior has.

        Raises:
            TypeError: a part was built with an argument that cannot be saved; the message names it.
            ValueError: a parameter is not finite or a buffer has NaN, which `load` refuses; the message names it.
        """
        names = unsound(self)
        if names:
            raise ValueError(
                f"Avatar.save: {', '.join(names[:4])} has numbers that are not finite; {path} is not written, because "
                "it could not be loaded"
            )
        parts = self.composition
        if not self.codes:
            parts.pop("codes")
        records = {"template": parts.pop("template"), "preview": self.preview, "trained_on": self.trained_on}
        if self.rig is not None:
            records["rig"] = self.rig.map(lambda tensor: tensor.half() if tensor.ndim == 3 else tensor)
        write_parts(path, parts, records, self.state_dict(), tensors, headers)

    def to_html(self, path: str | Path, motion: Any = None, head: Any = None, **options: Any) -> Path:
        """Writes the avatar as one HTML page, which poses and draws it in any browser: no server, no network.

        For avatars of Gaussians on triangles (`gaussian_avatars`, `rgb_avatar`, `flash_avatar`); `headfields distill`
        makes one of a field of rays. A notebook shows the same page for an avatar with a preview.

        Args:
            path: the file; its folder is created.
            motion: what it plays: a `HeadState` of T frames, a `headfields.data.Capture`, or a face that drives a head
                (`headfields.apps.driving.face_driver.DrivenFace`); None: the avatar's preview.
            head: what moves the mesh, whose shapes and joints get sliders: the head model that the avatar was built on,
                or a `HeadRig`; None: the avatar's `rig`, or else the linear rig that fits the motion best.
            options: `camera`, `fps`, `title`, `about`, `arkit` and `link`, as for
                `headfields.viz.page.page.page_html`.

        Returns:
            The path.

        Raises:
            TypeError: the avatar is a field of rays, or has a part that a page cannot compute; the message says which.
            ValueError: motion, head or options do not fit the avatar or each other.
            OSError: the file cannot be written.
        """
        written: Path = importlib.import_module("headfields.viz.page.page").write_page(
            path, self, motion, head, **options
        )
        return written

    @classmethod
    def load(cls: type[C], path: str | Path) -> C:
        """Reads the avatar in a file of `save`. Import the modules of parts defined outside the library first.

        Args:
            path: the file.

        Raises:
            FileNotFoundError: there is no such file.
            FileVersionError: another version of the library wrote it.
            ValueError: it is not a file of an avatar, an entry of it is not what it should be (a part whose module has
                not been imported, a wrong argument, tables of another size or with NaN), or memory would be needed
                that the tensors of the file do not back. The message names the file and the entry.
        """
        with reading(path, "a file of an avatar"):
            saved = read_parts(path, cls._in_file)
            preview = saved.records["preview"]
            pair = isinstance(preview, tuple) and [type(each) for each in preview] == [Camera, HeadState]
            if not (pair or preview is None):
                raise ValueError(f"preview is {brief(preview)}; expected a Camera and a HeadState")
            rig = saved.records["rig"]
            if not (rig is None or isinstance(rig, HeadRig)):
                raise ValueError(f"rig is {brief(rig)}; expected a HeadRig")
            trained_on = saved.records["trained_on"]
            if not (trained_on is None or isinstance(trained_on, dict)) or not all(
                isinstance(value, str) for value in (trained_on or {}).values()
            ):
                raise ValueError(f"trained_on is {brief(trained_on)}; expected arguments of load_capture by name")
            with saved.allowance:
                avatar = cls(**saved.parts, template=saved.records["template"])
                load_state(avatar, saved.state)
            avatar.preview, avatar.trained_on = preview, trained_on
            avatar.rig = None if rig is None else rig.map(lambda tensor: tensor.float())
            return avatar


def _parts_in(values: Iterable[Any]) -> Iterator[Part]:
    """The parts among arguments of an avatar, and within them."""
    for value in values:
        if isinstance(value, nn.Module):
            yield from (module for module in value.modules() if isinstance(module, Part))
        elif isinstance(value, Mapping):
            yield from _parts_in(value.values())
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from _parts_in(value)


def conditions_of(condition: Encoder | Iterable[Encoder] | None) -> list[Any]:
    """One condition, several or none, as a list."""
    if condition is None:
        return []
    several = isinstance(condition, Iterable) and not isinstance(condition, Part | type)
    return list(condition) if several else [condition]  # type: ignore[arg-type]


def given_conditions(conditions: Iterable[Any]) -> Any:
    """None, one condition or a list of several, as a constructor takes them."""
    several = list(conditions)
    return several if len(several) > 1 else several[0] if several else None


def features_of(encoders: Sequence[tuple[Encoder, Any]], canonical: Canonical) -> Features:
    """The features of all encoders; those of the last condition as shared rows where it has such.

    Args:
        encoders: each with the result of its `prepare`.
        canonical: M points.
    """
    encoder, prepared = encoders[-1]
    shared = encoder.shared(canonical, prepared) if len(encoders) > 1 else None
    own = [_encoded(*each, canonical) for each in (encoders if shared is None else encoders[:-1])]
    return Features(own[0] if len(own) == 1 else torch.cat(own, dim=-1), *(shared or ()))


def _encoded(encoder: Encoder, prepared: Any, canonical: Canonical) -> Float[Tensor, "m width"]:
    features: Any = encoder(canonical, prepared)
    expected = (len(canonical), encoder.width)
    if not isinstance(features, Tensor) or features.shape != expected:
        what = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise ValueError(
            f"{type(encoder).__name__}.forward has returned {what}; expected features of shape {expected}: one row for "
            "each point, and as many as its width says"
        )
    return features


def check_fit(part: Encoder, deformer: Deformer) -> None:
    """Raises ValueError, by name, if an encoder reads what the deformer does not give."""
    if part.needs_faces and not deformer.gives_faces:
        raise ValueError(
            f"Avatar: {type(part).__name__} reads the nearest triangle, which {type(deformer).__name__} does "
            "not give; use a surface deformer, or a Chain that has one"
        )
    counts = part.face_count, deformer.face_count
    if part.needs_faces and None not in counts and counts[0] != counts[1]:
        raise ValueError(
            f"Avatar: {type(part).__name__} is made for {counts[0]} faces, and {type(deformer).__name__} has "
            f"{counts[1]}; make both from one template (template.faces, template.regions)"
        )
    if part.most_ambient is not None and deformer.ambient_width > part.most_ambient:
        raise ValueError(
            f"Avatar: {type(deformer).__name__} gives {deformer.ambient_width} hyper-coordinates, and "
            f"{type(part).__name__} reads at most {part.most_ambient}; build the deformer with fewer "
            f"(ambient={part.most_ambient}), or use another encoder"
        )


def check_definition(name: str, part: Part) -> None:
    """Raises TypeError unless the part, and those within it, define what their nouns require."""
    for inner in part.modules():
        if not isinstance(inner, Part):
            continue
        kind = type(inner).__name__
        missing = undefined_methods(inner)
        if missing:
            raise TypeError(
                f"Avatar: {name}: {kind} does not define {' or '.join(missing)}; headfields.parts.{_noun(inner)} "
                "says what it gets and returns"
            )
        if isinstance(inner.needs, str):
            raise TypeError(f"Avatar: {kind}.needs is the string {inner.needs!r}; expected names: ({inner.needs!r},)")
        if isinstance(inner, Decoder) and inner.gives not in ("density", "distance", "offsets"):
            raise ValueError(f"Avatar: {kind}.gives is {inner.gives!r}; expected 'density', 'distance' or 'offsets'")


def _noun(part: Part) -> str:
    nouns = (Deformer, Encoder, Decoder, Renderer, Sampler)
    return next((noun.__name__ for noun in nouns if isinstance(part, noun)), Part.__name__)


def check_width(encoder: Encoder) -> None:
    """Raises ValueError unless the encoder names the number of its features."""
    width = getattr(encoder, "width", None)
    if not isinstance(width, int) or isinstance(width, bool) or width < 0:
        raise ValueError(
            f"Avatar: {type(encoder).__name__}.width is {width!r}; expected the number of its features, set in its "
            "constructor or in build"
        )


def check_devices(avatar: "Composition", device: torch.device) -> None:
    """Raises ValueError unless all tensors are on the deformer's device; those of new parts may be on the CPU yet."""
    for name, part in avatar.named_modules():
        if not isinstance(part, Part):
            continue
        for tensor in (*part.parameters(), *part.buffers()):
            if tensor.device != device and (part.composed or tensor.device.type != "cpu"):
                raise ValueError(
                    f"Avatar: {name}, a {type(part).__name__}, is on {tensor.device} and the deformer "
                    f"{type(avatar.deformer).__name__} on {device}; move one of them with .to(device) first"
                )


@contextlib.contextmanager
def unbuilt_on_error(avatar: "Composition") -> Iterator[None]:
    """After an error within the block, the parts that were new are new again."""
    new = _new_parts(avatar)
    try:
        yield
    except BaseException:
        for part in new:
            part.built_for = None
        raise


@contextlib.contextmanager
def sizes_of(avatar: "Composition", giver: str) -> Iterator[None]:
    """Within the block, parts are built for sizes that `giver` gives: those that are new keep it, errors name it."""
    new = _new_parts(avatar)
    try:
        yield
    except SizesDisagreeError as error:
        error.asker = giver
        raise
    for part in new:
        if part.built_for is not None:
            part.built_by = giver


def _new_parts(avatar: "Composition") -> list[SizedPart]:
    return [part for part in avatar.modules() if isinstance(part, SizedPart) and part.built_for is None]


def warn_of_inverse(camera: Camera, box: Float[Tensor, "2 3"]) -> None:
    """Warns if the head lies outside the image, and would lie inside if world_to_camera were inverted."""
    numbers = [box.detach().flatten(), camera.world_to_camera.detach().flatten(), camera.intrinsics.detach().flatten()]
    if numbers[1].device == numbers[0].device:  # a GPU is waited for once
        low_high, own, lens = torch.cat([x.double() for x in numbers]).cpu().split([6, 16, 9])
    else:
        low_high, own, lens = (x.double().cpu() for x in numbers)
    corners = torch.cartesian_prod(*low_high.reshape(2, 3).unbind(dim=1))
    pose, lens = own.reshape(4, 4), lens.reshape(3, 3)
    height, width = camera.size

    def image(pose: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        local = (points @ pose[:3, :3].T + pose[:3, 3]) @ lens.T
        return local[:, :2] / local[:, 2:], local[:, 2]

    pixels, depth = image(pose, corners)
    outside = ((pixels < 0).all(dim=0) | (pixels > pixels.new_tensor([width, height])).all(dim=0)).any()
    if not bool((depth <= 0).all() | (outside & (depth > 0).all())):
        return
    center, depth = image(torch.linalg.inv(pose), corners.mean(dim=0, keepdim=True))
    if bool(((center >= 0) & (center <= center.new_tensor([width, height]))).all() & (depth > 0).all()):
        warnings.warn(
            "Avatar.render: the head lies outside the image, and inside it with the inverse of camera.world_to_camera; "
            "if the matrix is camera-to-world, pass torch.linalg.inv(matrix)",
            stacklevel=4,
        )
