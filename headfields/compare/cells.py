"""A cell of a study: one row, capture and seed, trained and measured once, in a folder named by what made it.

A cell's key is a hash of its configuration, the capture's bytes, the code that trains it, versions and the device.
Measuring has a key of its own: a changed measure is computed again from the saved avatar, without training.
"""

import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import headfields
from headfields import data
from headfields.avatar.splat_avatar import load_avatar
from headfields.compare.strata import choose_training, frames_of
from headfields.compare.study import HIGHER, Row, Study, digest, kind_of, measure_in
from headfields.data.balance import view_yaw
from headfields.files.versions import FileFormat
from headfields.runs.folder import RunFolder, read_json, versions, write_json
from headfields.runs.lock import run_lock
from headfields.runs.memory import PeakMemory
from headfields.training.evaluation import evaluate
from headfields.training.opened_run import trainer_of
from headfields.training.presets import build, parameters_of, preset, preset_arguments
from headfields.training.recipes import Recipe, recipe_of

FORMAT = FileFormat("headfields.cell", "the result of a study's cell", 1, "run the study again in another folder")
MEASURES = ("metrics", "training/evaluation.py", "training/region_scores.py", "training/surface_scores.py")
"""Code that measures, below the package."""
_ELSEWHERE = ("apps", "cli", "compare", "interop", "synthetic", "viz", *MEASURES)
"""Code that no cell's training runs."""


class InterruptedCell(RuntimeError):
    """Training of a cell was interrupted; it goes on from its checkpoint."""


@dataclass(frozen=True)
class Cell:
    """One row of a study on one capture with one seed.

    Attributes:
        study: the study, under the cell's condition.
        row: name.
        capture: folder.
        seed: number.
        device: that trains and measures.
        condition: name, or empty.
        pair: the study's own capture, of which the condition has another version; the capture if empty.
    """

    study: Study
    row: str
    capture: str
    seed: int
    device: str = "cpu"
    condition: str = ""
    pair: str = ""

    def __str__(self) -> str:
        tail = f" · {self.condition}" if self.condition else ""
        return f"{self.row} · {Path(self.capture).name} · seed {self.seed}{tail}"

    @property
    def spec(self) -> Row:
        return self.study.rows[self.row]

    def training(self) -> dict[str, Any]:
        """What decides the trained avatar, as JSON has it."""
        study, base = self.study, self.study.rows[self.study.baseline or ""]
        return {
            "row": {**self.spec.data(), "model": study.model_of(self.spec)},
            "shared": {"arguments": dict(study.arguments), "options": dict(study.options), "recipe": study.recipe,
                       "mouth": study.mouth, "steps": study.steps, "seconds": study.seconds,
                       "share": study.share, "held_out": study.held_out, "front": study.front},
            "baseline": base.data() | {"model": study.model_of(base)},
            "capture": capture_digest(self.capture),
            "seed": self.seed,
            "code": library_code(),
            "versions": {name: value for name, value in versions().items() if name != "headfields"},
            "device": torch.device(self.device).type,
        }  # fmt: skip

    def key(self) -> str:
        """A hash of what decides the trained avatar."""
        return digest(self.training())

    def measuring(self) -> dict[str, Any]:
        """What decides the scores of the trained avatar."""
        study = self.study
        return {"split": study.split, "frames": study.frames, "background": study.background, "code": measuring_code(),
                "strata": study.strata, "refine": study.refine}  # fmt: skip

    def folder(self, out: Path) -> Path:
        return out / "cells" / self.key()

    def done(self, out: Path) -> dict[str, Any] | None:
        """The cell's result, if it is there and its measures are those of today."""
        path = self.folder(out) / "result.json"
        if not path.exists():
            return None
        result = read_json(path, "run the study again")
        FORMAT.check(path, result)
        return self._named(result) if result.get("measured") == digest(self.measuring()) else None

    def _named(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result with the names of its strata and condition in those of its measures."""
        frames = []
        for row in result["frames"]:
            place = row.get("stratum", "test"), self.condition
            scores = {name: value for name, value in row.items() if kind_of(name) in HIGHER}
            rest = {name: value for name, value in row.items() if name not in scores}
            frames.append(rest | {measure_in(name, *place): value for name, value in scores.items()})
        return {**result, "frames": frames}


def run_cell(cell: Cell, out: Path | str, bar: bool = False) -> dict[str, Any]:
    """Trains a cell, or goes on where it was stopped, measures it, and writes its result.

    Raises:
        RunLockedError: another process has the cell.
        InterruptedCell: Ctrl-C ended its training; a checkpoint is saved.
    """
    out = Path(out)
    found = cell.done(out)
    if found is not None:
        return found
    folder = cell.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with run_lock(folder):
        found = cell.done(out)  # by another process, while this one waited
        if found is not None:
            return found
        source = data.load_capture(Path(cell.capture), mouth=cell.study.mouth)  # type: ignore[arg-type]
        choose_training(source, cell.study.share, cell.study.held_out, cell.study.front)
        trained = folder / "trained.json"
        if not trained.exists():
            write_json(folder / "cell.json", {"cell": str(cell), **cell.training()})
            write_json(trained, _train(cell, source, RunFolder(folder / "run"), bar))
        cost = read_json(trained, "run the study again")
        avatar = load_avatar(RunFolder(folder / "run").avatar).to(cell.device).eval()
        frames, seconds = [], []
        for stratum in cell.study.strata:
            where, chosen = frames_of(cell.study, stratum, source)
            scores = evaluate(
                avatar, where, frames=chosen, background=cell.study.background, device=cell.device, regions=True,
                refine=cell.study.refine,
            )  # fmt: skip
            yaw = view_yaw(where, chosen).rad2deg().tolist()
            frames += [{**row, "stratum": stratum, "yaw": round(angle, 2)}
                       for row, angle in zip(scores["per_frame"], yaw, strict=True)]  # fmt: skip
            seconds.append(scores["seconds_per_frame"])
        result = FORMAT.stamp({
            "row": cell.row, "capture": cell.capture, "seed": cell.seed, "measured": digest(cell.measuring()),
            "frames": frames, "cost": {**cost, "seconds per frame": seconds[0]},
        })  # fmt: skip
        write_json(folder / "result.json", result)
    return cell._named(result)


def gathered(cells: Iterable[Cell], out: Path) -> dict[str, dict[tuple[str, int], dict[str, Any]]]:
    """The results of finished cells by row and by the study's capture and seed, those of all conditions in one."""
    found: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for cell in cells:
        result = cell.done(out)
        if result is None:
            continue
        runs, place = found.setdefault(cell.row, {}), (cell.pair or cell.capture, cell.seed)
        if place in runs:
            result = {**runs[place], "frames": [*runs[place]["frames"], *result["frames"]]}
        runs[place] = result
    return found


def _train(cell: Cell, source: Any, folder: RunFolder, bar: bool) -> dict[str, Any]:
    """Trains the cell's avatar and returns what that cost."""
    study, memory = cell.study, PeakMemory(cell.device)
    torch.manual_seed(cell.seed)
    avatar, recipe = made(study, cell.spec, source)
    if not folder.checkpoints:
        recipe.start(avatar, source)
    training = {**recipe.options, **study.options, **cell.spec.options}
    rates = [options.get("learning_rates", {}) for options in (recipe.trainer, study.options, cell.spec.options)]
    training["learning_rates"] = {
        **rates[0],
        **rates[1].get("learning_rates", {}),
        **rates[2].get("learning_rates", {}),
    }
    further = {"out": folder.path, "device": cell.device, "bar": bar, "picture_seconds": 1e9}
    trainer = trainer_of(recipe, avatar, source, training, cell.seed, further)
    started = time.process_time()
    minutes = None if study.seconds is None else study.seconds / 60
    result = trainer.fit(steps=study.steps, minutes=minutes, resume=bool(folder.checkpoints))
    if result.interrupted or result.stopped:
        why = result.stopped or "interrupted"
        raise InterruptedCell(f"{cell}: {why} at step {result.step}; the same call goes on from there")
    return {
        "steps": result.step, "seconds": result.seconds, "processor seconds": time.process_time() - started,
        "parameters": sum(parameter.numel() for parameter in avatar.parameters()),
        "file, bytes": folder.avatar.stat().st_size, "diverged": result.diverged,
        "peak memory, bytes": memory.peak() or math.nan,
    }  # fmt: skip


def made(study: Study, row: Row, source: Any) -> tuple[Any, Recipe]:
    """The untrained avatar of a row, and the recipe that trains it, both on the footing of the baseline."""
    base = study.rows[study.baseline or ""]
    if row.build is not None:
        taken = [parameter.name for parameter in parameters_of(row.build)]
        shared = {name: value for name, value in footing(study, source).items() if name in taken}
        avatar = row.build(source, **shared)
        whole = bool(getattr(avatar, "whole_images", False))
        recipe = recipe_of("gaussian_avatars" if whole else study.model_of(base), study.recipe)  # type: ignore[arg-type]
    else:
        name = study.model_of(row)
        recipe = recipe_of(name, study.recipe)  # type: ignore[arg-type]
        arguments = preset_arguments(name, study.arguments_of(row), source, recipe)
        for shared, value in footing(study, source).items():
            if shared in study.parameters_of(row) and shared not in {**study.arguments, **row.arguments}:
                arguments[shared] = value
        avatar = build(name, arguments, source)
        whole = bool(getattr(avatar, "whole_images", False))
    of_base = recipe_of(study.model_of(base), study.recipe)  # type: ignore[arg-type]
    if not whole and base.build is None and of_base.options["rays"] > 1:  # both are fields of rays
        same = {name: of_base.options[name] for name in ("rays", "samples", "frames")}
        recipe = dataclasses.replace(recipe, options={**recipe.options, **same}, sampling=of_base.sampling)
    own = {"losses": row.losses, "sampling": row.sampling}
    return avatar, dataclasses.replace(recipe, **{what: part for what, part in own.items() if part is not None})


def footing(study: Study, source: Any) -> dict[str, Any]:
    """Arguments that all fields of rays share: how far matter reaches before and behind the mesh."""
    base = study.rows[study.baseline or ""]
    if base.build is not None:
        return {}
    name = study.model_of(base)
    recipe = recipe_of(name, study.recipe)  # type: ignore[arg-type]
    arguments = preset_arguments(name, study.arguments_of(base), source, recipe)
    usual = {parameter.name: parameter.default for parameter in parameters_of(preset(name))}
    return {shared: arguments.get(shared, usual[shared]) for shared in ("shell", "behind") if shared in usual}


@functools.lru_cache(maxsize=64)
def capture_digest(folder: str) -> str:
    """A hash of the bytes of every file of a capture, by its path within the folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; a study's captures are folders")
    whole = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            whole.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
            for block in iter(lambda: file.read(1 << 20), b""):
                whole.update(block)
    return whole.hexdigest()[:20]


@functools.lru_cache(maxsize=1)
def library_code() -> str:
    """A hash of the library's code that trains."""
    return _code(lambda name: not name.startswith(_ELSEWHERE))


@functools.lru_cache(maxsize=1)
def measuring_code() -> str:
    """A hash of the library's code that measures."""
    return _code(lambda name: name.startswith(MEASURES))


def _code(chosen: Any) -> str:
    root = Path(headfields.__file__).parent
    files = sorted(path for kind in ("*.py", "*.so", "*.pyd") for path in root.rglob(kind))
    whole = hashlib.sha256()
    for path in files:
        name = path.relative_to(root).as_posix()
        if chosen(name):
            whole.update(name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()[:20]


def cells_of(study: Study, device: str = "cpu") -> list[Cell]:
    """The cells, by seed, condition, capture and row: a stopped study has whole pairs."""
    under = {condition: study.under(condition) for condition in ("", *study.conditions)}
    return [
        Cell(own, name, str((row.captures or own.captures)[index]), seed, device, condition, str(pair))
        for seed in range(study.seeds)
        for condition, own in under.items()
        for index, pair in enumerate(study.captures)
        for name, row in study.rows.items()
    ]


def misfits(study: Study) -> Mapping[str, str]:
    """Rows that cannot be built on the first capture, and why."""
    source = data.load_capture(Path(str(study.captures[0])), mouth=study.mouth)  # type: ignore[arg-type]
    reasons = {}
    for name, row in study.rows.items():
        try:
            made(study, row, source)
        except Exception as error:  # whatever a composition of the user raises is the reason
            reasons[name] = f"{type(error).__name__}: {error}"
    return reasons
