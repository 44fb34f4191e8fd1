"""A study as data: rows that differ in what they say, captures, seeds, a budget, and what is measured."""

import dataclasses
import difflib
import hashlib
import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from headfields.compare.strata import CHOICES, TEST
from headfields.data import load_capture
from headfields.data.camera_axes import Convention
from headfields.part_names import import_parts
from headfields.similar_names import did_you_mean
from headfields.training.presets import parameters_of, preset_named
from headfields.training.recipes import recipe_of
from headfields.training.region_scores import HEAD, MAPPED, REGIONS

HIGHER = {"psnr": True, "ssim": True, "lpips": False, "flip": False, "depth": False, "normal": False,
          "flicker": False, "distance": False, "color": False, "landmarks": False}  # fmt: skip
"""Measures by their first word, and whether higher is better."""
LOOKS = 4
"""Of a study that adds seeds. Each decides at its share of the level, so that all of them together keep it."""


def kind_of(measure: str) -> str:
    """The measure itself, of one in a region, stratum or condition: "psnr" of "psnr_mouth@unseen, 25 %"."""
    return re.split("[_@]", measure, maxsplit=1)[0]


def region_of(measure: str) -> str:
    """The region of a measure, empty for the image: "mouth" of "psnr_mouth_refined@unseen"."""
    return measure.partition("@")[0].removesuffix("_refined").partition("_")[2]


def measure_in(measure: str, stratum: str, condition: str = "") -> str:
    """The name of a measure in a stratum and under a condition; ordinary test frames have no suffix.

    >>> from headfields.compare.study import measure_in
    >>> measure_in("psnr", "test"), measure_in("psnr", "unseen"), measure_in("psnr_eyes", "cameras", "25 %")
    ('psnr', 'psnr@unseen', 'psnr_eyes@cameras, 25 %')
    """
    where = ", ".join(part for part in ("" if stratum == TEST else stratum, condition) if part)
    return f"{measure}@{where}" if where else measure


def trial_factors(trials: int) -> list[float]:
    """Factors on the learning rates of a row that are tried, a factor of 2 apart, around 1; 1 alone for no trials.

    >>> from headfields.compare.study import trial_factors
    >>> trial_factors(3), trial_factors(4), trial_factors(0)
    ([0.5, 1.0, 2.0], [0.25, 0.5, 1.0, 2.0], [1.0])
    """
    return [2.0 ** (index - trials // 2) for index in range(max(trials, 1))]


@dataclass(frozen=True)
class Row:
    """What one row of a study trains: the study's model, but for what the row says.

    Attributes:
        model: a preset in place of the study's.
        arguments: of the preset, in place of the study's.
        options: of training, in place of the study's: those of `headfields.training.train`, `learning_rate=...`.
        build: a function from a capture to an avatar, in place of a preset: your own composition. It gets `shell` and
            `behind` of the baseline if it has parameters of these names.
        losses: a function from the weight of the depth prior and its first step to a list of losses, in place of those
            of the recipe (`headfields.training.Recipe.losses`).
        sampling: a function from a capture to arguments of `Trainer`, such as `frame_weights`, in place of those that
            all rows have of the baseline's recipe (`headfields.training.Recipe.sampling`).
        captures: other versions of the study's captures, one for each, with the same frames: what tracking costs.
        source: "FILE.py:function", where a study file has `build` from; empty for a function of a script.
        regularizers: a function from the avatar to losses beside those, as a distance needs
            `headfields.losses.Eikonal`.
        run: a function that trains and measures a cell in its own way, in place of an avatar of images: a prior of
            heads, a tracker. It is called with the capture (any folder), a folder to work and go on in, the seed, the
            budget as `steps=`, `rays=` or `seconds=`, and the row's arguments, and returns `{"frames": [{"stratum":
            "test", "frame": 0, "distance_face": 1.2}, ...], "cost": {"seconds": ...}}`: measures by kind (`HIGHER`) and
            region, in the study's strata. All rows of a study have one, or none.
    """

    model: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    build: Callable[[Any], Any] | None = None
    losses: Callable[[float | int, int], list[Any]] | None = None
    sampling: Callable[[Any], Mapping[str, Any]] | None = None
    captures: Sequence[str | Path] = ()
    source: str = ""
    regularizers: Callable[[Any], Sequence[Any]] | None = None
    run: Callable[..., Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        others = (self.model, self.options, self.build, self.losses, self.sampling, self.regularizers)
        if self.run is not None and any(others):
            raise ValueError("Row: run trains and measures by itself; leave out all but its arguments and captures")
        if self.build is not None and (self.model is not None or self.arguments):
            raise ValueError("Row: build makes the avatar by itself; leave out model and arguments")

    def data(self) -> dict[str, Any]:
        """What a study's file says of the row; a function by the hash of its code."""
        said: dict[str, Any] = {"model": self.model, "arguments": dict(self.arguments), "options": dict(self.options)}
        if self.build is not None:
            said["build"] = self.source or getattr(self.build, "__qualname__", repr(self.build))
            said["code"] = code_of(self.build)
        for what in ("losses", "sampling", "regularizers", "run"):
            function = getattr(self, what)
            if function is not None:
                said[what] = [getattr(function, "__qualname__", repr(function)), code_of(function)]
        said["captures"] = [str(folder) for folder in self.captures]
        return {name: value for name, value in said.items() if value}


@dataclass(frozen=True)
class Study:
    """An experiment: rows × captures × seeds, each cell trained with the same budget and measured in the same way.

    Rows share what does not make them: the treatment of the mouth, the shell around the mesh and what lies behind it,
    rays, frames and the weights of pixels are those of the baseline, unless a row says otherwise. `run_study`
    trains and measures the cells, and reports; `Study.load` reads a study from a TOML file.

    Args:
        captures: folders.
        rows: by name; `Row`s.
        steps, rays, seconds: the budget of a cell, one of them: steps of the optimizer; rays, or pixels of whole
            images; or processor seconds, over all threads, which are wall time on a GPU. Preparing the avatar from the
            images is part of the seconds; measuring is not. Learning rates fall over the budget, whichever it is.
        steps_by_row: what the seconds are for each row, in steps, as one quiet machine took them (`headfields compare
            --steps` prints them of cells that ran in seconds). With it cells take so many steps on whatever machine,
            and whatever else it does; without, a slower machine is a smaller budget.
        model: preset of rows that name none.
        arguments: of the presets, for all rows that take them.
        options: of training, for all rows: `rays=512`.
        recipe: of the presets.
        baseline: the row that others are compared with; the first if None.
        primary: the one measure that decides, named before the study runs: "psnr", "ssim", "lpips", "flip",
            "depth", "normal", "flicker", and of a region "psnr_head", "psnr_face", "psnr_mouth", ...; in another
            stratum or condition "psnr@unseen", "psnr@25 %". The others are described only.
        margin: difference of the primary measure that counts as none; None asks for no equivalence.
        seeds: their number.
        trials: learning-rate trials for each row and capture: so many factors of a fixed grid (`trial_factors`) on all
            of its rates, each trained with the whole budget and scored on validation frames; the best is the row's.
            0: the rates as they are.
        most_seeds: seeds are added, at `LOOKS` fixed numbers from `seeds` to this one, until every row's interval is
            narrower than the margin to either side. Each look has its share of the level (Bonferroni). None: `seeds`.
        split: the frames of the stratum "test".
        strata: the frames that are measured, each with columns of its own: "test", "seen", "unseen", "blinks",
            "turned", or a folder within each capture, a capture of the same head: "cameras"
            (`headfields.compare.strata`).
        share: of the training frames that cells are trained on, evenly spaced.
        held_out: frames with jaw or smile among this widest share of all are not trained on; the stratum "unseen" has
            them, and "test" has not.
        front: share of the training frames, those that see the head most from the front, that cells are trained on.
        conditions: by name, entries of the study in place of its own under which all cells are trained and measured
            once more: `{"25 %": {"share": 0.25}, "noise 1": {"captures": ["a_noise1"]}}`, one capture for each.
        refine: also measure with the head's pose (or codes, as `headfields.training.evaluate` takes it) fitted to each
            measured frame: "psnr_refined".
        frames: at most so many of them, evenly spaced; None: all.
        background: gray in [0, 1] behind truth and rendering.
        mouth: treatment of an open mouth, as in `headfields.data.load_capture`, for all rows.
        convention: axes of the cameras' matrices where you know them, as in `headfields.data.load_capture`, for all
            captures.
        level: of the verdicts, over all rows together.
        name: of the report.

    Raises:
        ValueError: an argument is out of range, or a row names what does not exist.

        >>> import headfields as hf
        >>> rows = {"affine": hf.compare.Row(), "length": hf.compare.Row(arguments={"scaling": "length"})}
        >>> study = hf.compare.Study(["captures/demo"], rows, steps=300, model="insta", seeds=5)
        >>> len(study), study.baseline
        (10, 'affine')
        >>> hf.compare.run_study(study, "out")  # doctest: +SKIP
    """

    captures: Sequence[str | Path]
    rows: Mapping[str, Row]
    steps: int | None = None
    seconds: float | int | None = None
    rays: int | None = None
    model: str = "insta"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "cpu"
    baseline: str | None = None
    primary: str = "psnr"
    margin: float | int | None = None
    seeds: int = 3
    trials: int = 0
    most_seeds: int | None = None
    split: str = "test"
    strata: Sequence[str] = (TEST,)
    share: float | int = 1
    held_out: float | int = 0
    front: float | int = 1
    conditions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refine: bool | Mapping[str, Any] = False
    frames: int | None = None
    background: float | int = 1.0
    mouth: str = "close"
    convention: str = "auto"
    level: float = 0.05
    name: str = "study"
    steps_by_row: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "captures", tuple(str(folder) for folder in self.captures))
        object.__setattr__(self, "baseline", self.baseline or next(iter(self.rows), None))
        for what in ("captures", "rows"):
            if not getattr(self, what):
                raise ValueError(f"Study: {what} is empty; name one or more")
        if len({Path(folder).resolve() for folder in self.captures}) < len(self.captures):
            raise ValueError("Study: captures names a folder twice; pairs of equal cells would count as evidence")
        if self.baseline not in self.rows:
            raise ValueError(f"Study: baseline is {self.baseline!r}; rows are {', '.join(self.rows)}")
        if (self.steps, self.rays, self.seconds).count(None) != 2:
            raise ValueError("Study: give the budget of a cell as steps, as rays or as seconds, one of them")
        for name, value in (("steps", self.steps), ("seconds", self.seconds), ("rays", self.rays),
                            ("seeds", self.seeds), ("frames", self.frames), ("margin", self.margin)):  # fmt: skip
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Study: {name} is {value}; expected a positive number")
        if self.steps_by_row:
            if self.seconds is None:
                raise ValueError("Study: steps_by_row says what seconds are in steps; give seconds too, or steps alone")
            other = sorted(set(self.rows) ^ set(self.steps_by_row))
            if other:
                raise ValueError(f"Study: steps_by_row and rows differ in {', '.join(other)}; give each row its steps")
            for name, value in self.steps_by_row.items():
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise ValueError(f"Study: steps_by_row has {value!r} for {name}; expected a number of steps")
        if self.trials < 0 or self.trials == 1:
            raise ValueError(f"Study: trials is {self.trials}; expected 2 or more rates to choose from, or 0 for none")
        if self.most_seeds is not None and (self.most_seeds <= self.seeds or self.margin is None):
            raise ValueError(
                f"Study: most_seeds is {self.most_seeds} with {self.seeds} seeds and margin {self.margin}; expected "
                "more than seeds, and a margin that intervals are to be smaller than"
            )
        if not 0 < self.level < 0.5:
            raise ValueError(f"Study: level is {self.level}; expected a probability such as 0.05")
        object.__setattr__(self, "strata", tuple(self.strata))
        for what, value, least in (("share", self.share, 0), ("front", self.front, 0), ("held_out", self.held_out, -1)):
            if not least < value <= 1 or (what == "held_out" and not 0 <= value < 1):
                raise ValueError(f"Study: {what} is {value}; expected a share of the frames")
        if not self.strata or len(set(self.strata)) < len(self.strata):
            raise ValueError(f"Study: strata is {list(self.strata)}; name one or more, each once")
        if "unseen" in self.strata and not self.held_out:
            raise ValueError(
                'Study: the stratum "unseen" needs held_out, the share of frames with the widest jaw, and of '
                "those with the widest smile, that are not trained on"
            )
        for name in self.conditions:
            if not name or set(name) & set("@,") or name in (*CHOICES, *self.strata):
                raise ValueError(f"Study: a condition is named {name!r}; expected a name of its own without , and @")
            self.under(name)
        named = [measure_in("", stratum, condition) for stratum in self.strata for condition in ("", *self.conditions)]
        where = "".join(self.primary.partition("@")[1:])
        if where not in named:
            raise ValueError(
                f"Study: primary is {self.primary!r}; what is measured is {', '.join(filter(None, named))}"
            )
        if kind_of(self.primary) not in HIGHER:
            raise ValueError(f"Study: primary is {self.primary!r}; expected {', '.join(HIGHER)}, or psnr_mouth")
        region = region_of(self.primary)
        own = any(isinstance(row, Row) and row.run is not None for row in self.rows.values())
        if not own and region not in ("", HEAD, "lids", *REGIONS):
            near = did_you_mean(region, (HEAD, "lids", *REGIONS))
            raise ValueError(
                f"Study: primary is {self.primary!r}; there is no region {region!r}{near}; {HEAD}, lids, "
                f"{', '.join(REGIONS)} are"
            )
        kind = kind_of(self.primary)
        if not own and kind != "psnr" and region not in (MAPPED if kind in ("ssim", "flip") else ("",)):
            raise ValueError(
                f"Study: primary is {self.primary!r}; {kind} is not measured over {region!r} (docs: measures)"
            )
        if self.trials and any(isinstance(row, Row) and row.run is not None for row in self.rows.values()):
            raise ValueError(
                f"Study: trials is {self.trials}; rows that train by a function of their own have no rates"
            )
        if self.convention not in get_args(Convention):
            words = ", ".join(get_args(Convention))
            raise ValueError(f"Study: convention is {self.convention!r}; expected one of {words}")
        for name, row in self.rows.items():
            if not isinstance(row, Row):
                raise TypeError(f"Study: row {name!r} is a {type(row).__name__}; expected a Row")
            self._check_row(name, row)
        if len({row.run is None for row in self.rows.values()}) > 1:
            raise ValueError("Study: some rows have run and others train avatars; their scores have no common footing")

    def _check_row(self, name: str, row: Row) -> None:
        """Refuses options that no training has, and arguments that the row's preset lacks."""
        if row.captures and len(row.captures) != len(self.captures):
            raise ValueError(
                f"Study: row {name!r} has {len(row.captures)} captures; expected one for each of the study's "
                f"{len(self.captures)}"
            )
        if row.run is not None:
            return
        known = (*recipe_of(self.model_of(row), self.recipe).options, "learning_rates")  # type: ignore[arg-type]
        for option in (*self.options, *row.options):
            if option not in known:
                near = did_you_mean(option, known)
                raise ValueError(f"Study: row {name!r} has no option {option!r}{near}; it has {', '.join(known)}")
        if row.build is None:
            parameters = self.parameters_of(row)
            for argument in row.arguments:
                if argument not in parameters:
                    raise ValueError(
                        f"Study: {self.model_of(row)}, row {name!r}, has no argument {argument!r}"
                        f"{did_you_mean(argument, parameters)}; it has {', '.join(parameters)}"
                    )

    def __len__(self) -> int:
        """Number of cells at the first look, without trials."""
        return len(self.captures) * len(self.rows) * self.seeds * (1 + len(self.conditions))

    def under(self, condition: str) -> "Study":
        """The study under a condition; itself under none.

        Raises:
            ValueError: the condition says what a condition cannot change, or has not one capture for each.
        """
        if not condition:
            return self
        changes = dict(self.conditions[condition])
        unknown = sorted(changes.keys() - {"captures", "share", "held_out", "front", "options", "arguments"})
        if unknown or len(changes.get("captures", self.captures)) != len(self.captures):
            raise ValueError(
                f"Study: the condition {condition!r} has {', '.join(changes)}; expected captures, one for each of the "
                "study's, share, held_out, front, options or arguments"
            )
        for what in ("options", "arguments"):
            if what in changes:
                changes[what] = {**getattr(self, what), **changes[what]}
        strata = [stratum for stratum in self.strata if stratum != "unseen" or changes.get("held_out", self.held_out)]
        primary = measure_in(self.primary.partition("@")[0], strata[0])
        return dataclasses.replace(self, conditions={}, strata=strata, primary=primary, **changes)

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which the study may end: fixed before it runs, so that its level is known."""
        if self.most_seeds is None:
            return (self.seeds,)
        growth = (self.most_seeds / self.seeds) ** (1 / (LOOKS - 1))
        return tuple(sorted({min(round(self.seeds * growth**look), self.most_seeds) for look in range(LOOKS)}))

    @property
    def budget(self) -> tuple[str, float | int]:
        """What the budget counts, and how much of it."""
        amounts = {"steps": self.steps, "rays": self.rays, "seconds": self.seconds}
        return next((name, amount) for name, amount in amounts.items() if amount is not None)

    def budget_of(self, row: str) -> tuple[str, float | int]:
        """What the budget of a row's cells counts, and how much of it."""
        return ("steps", self.steps_by_row[row]) if self.steps_by_row else self.budget

    @property
    def stated_budget(self) -> str:
        """The budget of a cell in words."""
        what, amount = self.budget
        return f"the steps that {amount} {what} took on one machine" if self.steps_by_row else f"{amount} {what}"

    @property
    def is_timed(self) -> bool:
        """Whether cells end by the clock, so that their steps depend on the machine and on what else it does."""
        return self.seconds is not None and not self.steps_by_row

    def model_of(self, row: Row) -> str:
        """The preset of a row, or whose recipe a composition is trained with."""
        return (row.model or self.model).replace("-", "_")

    def parameters_of(self, row: Row) -> list[str]:
        """Arguments that the row's preset takes."""
        return [parameter.name for parameter in parameters_of(preset_named(self.model_of(row)))[1:]]

    def arguments_of(self, row: Row) -> dict[str, Any]:
        """Arguments of the row's preset: its own, and those of the study that it takes."""
        parameters = self.parameters_of(row)
        return {**{name: value for name, value in self.arguments.items() if name in parameters}, **row.arguments}

    @property
    def stated(self) -> dict[str, Any]:
        """The convention, where the study says one: layouts that have one of their own refuse it."""
        return {} if self.convention == "auto" else {"convention": self.convention}

    def load_capture(self, folder: str | Path) -> Any:
        """A capture, opened as all of the study are."""
        opening: dict[str, Any] = {"mouth": self.mouth, **self.stated}
        return load_capture(folder, **opening)

    def data(self) -> dict[str, Any]:
        """The study as JSON has it."""
        said = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        plain = {"captures": list(self.captures), "arguments": dict(self.arguments), "options": dict(self.options),
                 "steps_by_row": dict(self.steps_by_row), "strata": list(self.strata),
                 "conditions": {name: dict(own) for name, own in self.conditions.items()},
                 "refine": self.refine if isinstance(self.refine, bool) else dict(self.refine)}  # fmt: skip
        return {**said, **plain, "rows": {name: row.data() for name, row in self.rows.items()}}

    def key(self) -> str:
        """A hash of the study."""
        return digest(self.data())

    def __str__(self) -> str:
        return json.dumps(self.data(), indent=1, default=str)

    def diff(self, other: "Study") -> str:
        """How this study differs from another, line by line; empty if it does not."""
        lines = difflib.unified_diff(str(other).splitlines(), str(self).splitlines(), other.name, self.name, "", "", 1)
        return "\n".join(line.rstrip() for line in lines)

    @classmethod
    def product(cls, make: Callable[..., Any], parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Row]:
        """Rows of every combination of parts, for `Study(rows=...)`.

        Args:
            make: function from a capture and one value for each kind of part, by keyword, to an avatar.
            parts: by kind, values by name: `{"decoder": {"NeRF": make_nerf, "NeuS": make_neus}}`.

        >>> import headfields as hf
        >>> sizes = {"levels": {"4": 4, "8": 8}, "features": {"2": 2}}
        >>> list(hf.compare.Study.product(lambda capture, **parts: None, sizes))
        ['levels 4, features 2', 'levels 8, features 2']
        """
        rows = {}
        for names in itertools.product(*parts.values()):
            chosen = dict(zip(parts, names, strict=True))
            given = {kind: parts[kind][name] for kind, name in chosen.items()}
            title = ", ".join(f"{kind} {name}" for kind, name in chosen.items())
            rows[title] = Row(build=Combination(make, given), source=title)
        return rows

    @classmethod
    def load(cls, path: Path | str, captures: Sequence[Path | str] = ()) -> "Study":
        """Reads a study from a TOML file; its paths are relative to the file.

        A row is a table of `Row`'s entries; `build = "rows.py:mine"` is a function of a Python file. A table
        `[product]` with `make = "rows.py:avatar"` and `parts.KIND = ["name", ...]` adds a row for every combination,
        named "name, name": the function is called with a capture and, by kind, the names.

        Args:
            path: the file.
            captures: folders in place of the file's.

        Raises:
            FileNotFoundError: the file, or one that it names, is missing.
            ValueError: it is no TOML, or has entries that a study lacks.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; a study is a TOML file")
        try:
            import tomllib
        except ModuleNotFoundError:  # Python 3.10
            import tomli as tomllib
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no TOML: {error}") from None
        fields = {entry.name for entry in dataclasses.fields(cls)}
        _check_entries(path, "", said, fields | {"product"})
        product = _product(path, said.pop("product", None))
        rows = said.pop("rows", {} if product else None)
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            raise ValueError(f"{path}: rows is {brief_kind(rows)}; expected tables such as [rows.mine]")
        folders = said.pop("captures", None)
        if captures:
            folders = [str(Path(folder).resolve()) for folder in captures]
        if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
            raise ValueError(f"{path}: captures is {brief_kind(folders)}; expected a list of folders")
        said["captures"] = [str((path.parent / folder).resolve()) for folder in folders]
        for condition in said.get("conditions", {}).values():
            if "captures" in condition:
                condition["captures"] = [str((path.parent / folder).resolve()) for folder in condition["captures"]]
        said.setdefault("name", path.stem)
        try:
            return cls(rows={**{name: _row(path, name, row) for name, row in rows.items()}, **product}, **said)
        except TypeError as error:
            raise ValueError(f"{path}: {error}") from None


class Combination:
    """A function from a capture to the avatar of chosen parts, which other processes can be given."""

    def __init__(self, make: Callable[..., Any], parts: Mapping[str, Any]) -> None:
        self.make, self.parts = make, dict(parts)

    def __call__(self, capture: Any) -> Any:
        return self.make(capture, **self.parts)


def code_of(function: Any) -> str:
    """A hash of a function's code: of the file that defines it, else of its bytecode, and of the values it is given."""
    if isinstance(function, Combination):
        return digest([code_of(function.make), {kind: code_of(part) for kind, part in function.parts.items()}])
    if not callable(function):
        return digest(repr(function))
    try:
        file = inspect.getsourcefile(function)
        content = Path(file or "").read_bytes()
    except (TypeError, OSError):
        code = getattr(function, "__code__", None)
        content = code.co_code + repr(code.co_consts).encode() if code is not None else repr(function).encode()
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return digest([hashlib.sha256(content).hexdigest(), name])


def digest(content: Any) -> str:
    """A short hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:20]


def brief_kind(value: Any) -> str:
    """What a file has in a wrong place, in a word."""
    return "missing" if value is None else f"a {type(value).__name__}"


def _check_entries(path: Path, where: str, said: Mapping[str, Any], known: set[str]) -> None:
    for name in said:
        if name not in known:
            raise ValueError(
                f"{path}: there is no entry {name!r}{where}{did_you_mean(name, known)}; {', '.join(sorted(known))} are"
            )


def _row(path: Path, name: str, said: Mapping[str, Any]) -> Row:
    functions = ("build", "losses", "sampling", "regularizers", "run")
    _check_entries(path, f" in row {name!r}", said, {"model", "arguments", "options", "captures", *functions})
    own: dict[str, Any] = {**said, "source": str(said.get("build", ""))}
    for what in functions:
        if what in said:
            own[what] = _function(path, f"row {name!r}: {what}", str(said[what]))
    own["captures"] = [str((path.parent / folder).resolve()) for folder in said.get("captures", ())]
    return Row(**own)


def _product(path: Path, said: Any) -> dict[str, Row]:
    """The rows of a file's table `[product]`."""
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise ValueError(f"{path}: product is {brief_kind(said)}; expected a table")
    _check_entries(path, " in product", said, {"make", "parts", "options", "regularizers"})
    parts = said.get("parts")
    lists = list(parts.values()) if isinstance(parts, dict) else []
    if not lists or not all(isinstance(names, list) and names for names in lists):
        raise ValueError(f"{path}: product.parts is {brief_kind(parts)}; expected lists of names by kind")
    make = _function(path, "product: make", said.get("make"))
    further = _function(path, "product: regularizers", said["regularizers"]) if "regularizers" in said else None
    options = said.get("options", {})
    known = {str(name) for names in lists for name in names}
    for key in options:  # of a part, or of several that meet in a row: "hash grid, NeuS"
        _check_entries(path, " in product.options", dict.fromkeys(key.split(", ")), known)
    rows = {}
    for names in itertools.product(*lists):
        given = dict(zip(said["parts"], names, strict=True))
        title = ", ".join(map(str, names))
        meeting = [values for key, values in options.items() if set(key.split(", ")) <= set(map(str, names))]
        own = {option: value for values in meeting for option, value in values.items()}
        rows[title] = Row(
            options=own, build=Combination(make, given), source=f"{said['make']} {title}", regularizers=further
        )
    return rows


def _function(path: Path, where: str, source: Any) -> Callable[..., Any]:
    """The function that a study's file names as "FILE.py:function"."""
    file, _, function = str(source).partition(":")
    place = (path.parent / file).resolve()
    if not function or not place.is_file():
        raise FileNotFoundError(f"{path}: {where} is {source!r}; expected FILE.py:function, beside {path}")
    module = import_parts(place)
    if not callable(getattr(module, function, None)):
        raise ValueError(f"{path}: {where}: {place.name} has no function {function!r}")
    return getattr(module, function)
