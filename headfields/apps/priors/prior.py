"""A trained prior: a model of heads with the codes of its training people and scans; loading and saving."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headfields.apps.priors.code_statistics import CodeStatistics, PriorStatistics
from headfields.apps.priors.codes import PriorCodes, anchors_of
from headfields.avatar.avatar import Avatar
from headfields.files.reading import brief, reading
from headfields.files.safetensors import read_safetensors
from headfields.files.versions import FileFormat
from headfields.part_base import Part
from headfields.records import HeadState
from headfields.records.display import Displayed

__all__ = ["Prior", "load_prior"]

FORMAT = FileFormat("headfields.prior", "a prior", 2, "train it again, or load it with the version that saved it")
_TABLES = ("geometry", "appearance", "expression")


class Prior(nn.Module, Displayed):
    """A model of many heads: an avatar, and learned codes of people and scans.

    The file of `save` is also an avatar's: `Avatar.load` reads the model alone. `headfields.apps.priors.fit_scans` fits
    codes to scans of a new person.

    Args:
        avatar: the model, as `headfields.models.mononphm` makes it, trained.
        geometry, appearance: (P, C) codes of P people.
        expression: (S, E) codes of S scans.
        person: (S,) number of each scan's person.
        neutral: (P,) number of each person's neutral scan.
        people, scans: P and S names.
        about: further JSON content: how it was trained, its errors.

    Raises:
        TypeError: the avatar has no anchors.
        ValueError: numbers of rows do not fit, or a number of a person or scan is out of range.
    """

    geometry: Tensor
    appearance: Tensor
    expression: Tensor
    person: Tensor
    neutral: Tensor

    def __init__(
        self,
        avatar: Avatar,
        geometry: Float[Tensor, "p g"],
        appearance: Float[Tensor, "p a"],
        expression: Float[Tensor, "s e"],
        person: Int[Tensor, " s"],
        neutral: Int[Tensor, " p"],
        people: tuple[str, ...],
        scans: tuple[str, ...],
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        anchors_of(avatar)
        if not len(geometry) == len(appearance) == len(people) == len(neutral) or not (
            len(expression) == len(scans) == len(person)
        ):
            raise ValueError(
                f"Prior: {len(geometry)} geometry codes, {len(appearance)} of appearance, {len(people)} people and "
                f"{len(neutral)} neutral scans; {len(expression)} expression codes, {len(scans)} scans, {len(person)} "
                "owners: each of the two groups must agree"
            )
        for name, index, count in (("person", person, len(people)), ("neutral", neutral, len(scans))):
            if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < count:
                raise ValueError(f"Prior: {name} has numbers that are not in [0, {count})")
        self.avatar = avatar
        self.people, self.scans, self.about = tuple(people), tuple(scans), dict(about or {})
        for name, value in (("geometry", geometry), ("appearance", appearance), ("expression", expression)):
            self.register_buffer(name, value.detach().clone())
        self.register_buffer("person", person.detach().long().clone())
        self.register_buffer("neutral", neutral.detach().long().clone())

    def mean(self) -> PriorCodes:
        """The codes (one row) of the mean person, with the mean of the neutral expressions."""
        expression = self.expression[self.neutral].mean(0, keepdim=True)
        return PriorCodes(self.geometry.mean(0, keepdim=True), self.appearance.mean(0, keepdim=True), expression)

    def statistics(self) -> PriorStatistics:
        """Mean and principal axes of the codes over all people, and over all scans."""
        mean = self.mean()
        return PriorStatistics(*(CodeStatistics.of(getattr(self, name), getattr(mean, name)[0]) for name in _TABLES))

    def codes(self, scans: Int[Tensor, " b"]) -> PriorCodes:
        """The codes (B rows) of training scans, by number."""
        owner = self.person[scans]
        return PriorCodes(self.geometry[owner], self.appearance[owner], self.expression[scans])

    def state(self, codes: PriorCodes | None = None) -> HeadState:
        """The state of `codes`, for `avatar.render` and `avatar.field`; of the mean codes if None."""
        return (self.mean() if codes is None else codes).state()

    def save(self, path: str | Path) -> None:
        """Writes model, codes and names to one safetensors file, atomically.

        Args:
            path: the file; its folder is created.
        """
        names = (*_TABLES, "person", "neutral")
        header = {"people": self.people, "scans": self.scans, "about": self.about}
        tensors = {f"prior.{name}": getattr(self, name) for name in names}
        self.avatar.save(path, tensors, {FORMAT: header})

    @staticmethod
    def load(path: str | Path) -> "Prior":
        """Reads what `save` wrote, or the prior of a run of `headfields train-prior`.

        Args:
            path: the file or the folder.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a prior's, or an entry is not what it should be, as in `Avatar.load`.
        """
        return load_prior(path)


def load_prior(path: str | Path) -> Prior:
    """Reads a prior from a file, or from the folder of a run of `headfields train-prior`.

    Args:
        path: the file, or a folder with prior.safetensors.

    Raises:
        FileNotFoundError: there is no such file.
        FileVersionError: another version of the library wrote it.
        ValueError: the file is not a prior's, or an entry is not what it should be, as in `Avatar.load`.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "prior.safetensors").is_file():
            raise FileNotFoundError(
                f"load_prior: {path} has no prior.safetensors; a run of `headfields train-prior` writes it at its end"
            )
        path = path / "prior.safetensors"
    with reading(path, "a prior's file"):
        tensors, header = read_safetensors(path, FORMAT)
        names: dict[str, tuple[str, ...]] = {}
        for name in ("people", "scans"):
            value = header.get(name)
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise ValueError(f"{name} is {brief(value)}; expected a list of names")
            names[name] = tuple(value)
        about = header.get("about")
        if not isinstance(about, dict):
            raise ValueError(f"about is {brief(about)}; expected a JSON object")
        tables = {name: _table(tensors, name, floating=True) for name in _TABLES}
        indices = {name: _table(tensors, name, floating=False) for name in ("person", "neutral")}
        avatar = Avatar.load(path)
        for part in avatar.modules():
            for name, width in part.code_widths.items() if isinstance(part, Part) else ():
                table = tables.get(name.removesuffix("_code"))
                if table is not None and table.shape[1] != width:
                    raise ValueError(
                        f"prior.{name.removesuffix('_code')} has codes of {table.shape[1]} numbers, and "
                        f"{type(part).__name__} reads {width}"
                    )
        return Prior(
            avatar, tables["geometry"], tables["appearance"], tables["expression"], indices["person"],
            indices["neutral"], names["people"], names["scans"], about,
        )  # fmt: skip


def _table(tensors: Mapping[str, Tensor], name: str, floating: bool) -> Tensor:
    """A table of codes, or a list of indices; raises ValueError for another tensor."""
    tensor = tensors.get(f"prior.{name}")
    if tensor is None:
        raise ValueError(f"the tensor prior.{name} is missing")
    if floating and not (tensor.ndim == 2 and tensor.is_floating_point() and bool(tensor.isfinite().all())):
        raise ValueError(
            f"prior.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected finite codes, (N, C)"
        )
    if not floating and not (tensor.ndim == 1 and tensor.dtype == torch.int64):
        raise ValueError(f"prior.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected int64, (N,)")
    return tensor
