"""A cell of a study: one row, capture and seed, trained and measured once, in a folder named by what made it.

A cell's key is a hash of its configuration, the capture's bytes, the code that trains it, versions and the device.
Measuring has a key of its own: a changed measure is computed again from the saved avatar, without training.
"""

import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import headfields
from headfields.avatar.splat_avatar import load_avatar
from headfields.compare.strata import TEST, choose_training, evenly_spaced, stratum_frames
from headfields.compare.study import HIGHER, Row, Study, digest, kind_of, measure_in, region_of, trial_factors
from headfields.data.balance import view_yaw
from headfields.data.content import capture_digest
from headfields.files.versions import FileFormat
from headfields.metrics.image import instruments, load_flip, lpips_installed
from headfields.runs.folder import RunFolder, read_json_object, versions, write_json
from headfields.runs.lock import run_lock
from headfields.runs.memory import PeakMemory
from headfields.training.evaluation import evaluate, picture
from headfields.training.idle_options import idle_options, refuse_idle
from headfields.training.opened_run import trainer_of
from headfields.training.presets import build, parameters_of, preset_arguments, preset_named
from headfields.training.recipes import Recipe, recipe_of
from headfields.training.region_scores import HEAD, IMAGE, MIN_PIXELS, RegionMasks

FORMAT = FileFormat("headfields.cell", "the result of a study's cell", 1, "run the study again in another folder")
MEASURES = ("metrics", "training/evaluation.py", "training/region_scores.py", "training/surface_scores.py")
"""Code that measures, below the package."""
_ELSEWHERE = ("apps", "cli", "compare", "interop", "synthetic", "viz", *MEASURES)
"""Code that no cell's training runs, but for this file."""
TRIAL_SEED = 1_000_000
"""Of learning-rate trials: none of a study's seeds, which would be chosen for by their own trials."""
CURVE = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Shares of the budget at which the curve of a cell has a point; its end is another."""
CURVE_FRAMES = 2
RAYS = ("rays", "samples", "frames")
"""Options of fields of rays that a step of Gaussians, which renders whole images, does not have."""


class InterruptedCell(RuntimeError):
    """Training of a cell was interrupted; it goes on from its checkpoint."""


class ChangedCodeError(RuntimeError):
    """A worker runs other code than the command that gave it a cell."""


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
        factor: on the learning rates of the row.
        trial: whether the cell is a trial of that factor, scored on validation frames.
    """

    study: Study
    row: str
    capture: str
    seed: int
    device: str = "cpu"
    condition: str = ""
    pair: str = ""
    factor: float = 1.0
    trial: bool = False

    def __str__(self) -> str:
        what = f"trial of rates × {self.factor:g}" if self.trial else f"seed {self.seed}"
        tail = f" · {self.condition}" if self.condition else ""
        return f"{self.row} · {Path(self.capture).name} · {what}{tail}"

    @property
    def spec(self) -> Row:
        return self.study.rows[self.row]

    def shared(self) -> dict[str, Any]:
        """What all cells under the cell's condition share."""
        study = self.study
        return {"arguments": dict(study.arguments), "options": dict(study.options), "recipe": study.recipe,
                "mouth": study.mouth, **study.stated, "budget": study.budget, "split": study.split,
                "share": study.share, "held_out": study.held_out, "front": study.front}  # fmt: skip

    def training(self) -> dict[str, Any]:
        """What decides the trained avatar, as JSON has it."""
        study, base = self.study, self.study.rows[self.study.baseline or ""]
        steps = {"steps": study.steps_by_row[self.row]} if study.steps_by_row else {}
        return {
            "row": {**self.spec.data(), "model": study.model_of(self.spec), **steps},
            "shared": self.shared(),
            "baseline": base.data() | {"model": study.model_of(base)},
            "capture": capture_digest(self.capture),
            "seed": self.seed,
            "factor": self.factor,
            "trial": self.trial,
            "code": library_code() if self.spec.run is None else whole_code(),
            "versions": {name: value for name, value in versions().items() if name != "headfields"},
            "device": torch.device(self.device).type,
        }  # fmt: skip

    def key(self) -> str:
        """A hash of what decides the trained avatar."""
        return digest(self.training())

    def measuring(self) -> dict[str, Any]:
        """What decides the scores of the trained avatar."""
        study = self.study
        strata = ["validation"] if self.trial else study.strata
        return {"split": study.split, "frames": study.frames, "background": study.background, "code": measuring_code(),
                "strata": strata, "refine": study.refine}  # fmt: skip

    def folder(self, out: Path) -> Path:
        return out / "cells" / self.key()

    def done(self, out: Path) -> dict[str, Any] | None:
        """The cell's result, if it is there and its measures are those of today."""
        path = self.folder(out) / "result.json"
        if not path.exists():
            return None
        result = read_json_object(path, "run the study again")
        FORMAT.check(path, result)
        return named(result, self.condition) if result.get("measured") == digest(self.measuring()) else None


def named(result: dict[str, Any], condition: str) -> dict[str, Any]:
    """What a cell's result.json has, with the names of its strata and condition in those of its measures."""
    frames = []
    for row in result["frames"]:
        place = row.get("stratum", "test"), condition
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
    result = cell.done(out)
    if result is not None:
        return result
    folder = cell.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with run_lock(folder):
        result = cell.done(out)  # by another process, while this one waited
        if result is not None:
            return result
        if cell.spec.run is not None:
            return named(_run(cell, folder), cell.condition)
        source, validation = opened(cell.study, cell.capture)
        trained = folder / "trained.json"
        if not trained.exists():
            write_json(folder / "cell.json", {"cell": str(cell), **cell.training()})
            write_json(trained, _train(cell, source, validation, RunFolder(folder / "run"), bar))
        cost = read_json_object(trained, "run the study again")
        curve = cost.pop("curve")
        avatar = load_avatar(RunFolder(folder / "run").avatar).to(cell.device).eval()
        frames, seconds = [], []
        for stratum in (TEST,) if cell.trial else cell.study.strata:  # a trial's frames are its test
            where, chosen = source, evenly_spaced(validation, cell.study.frames)
            if not cell.trial:
                where, chosen = stratum_frames(cell.study, stratum, source)
            scores = evaluate(
                avatar, where, frames=chosen, background=cell.study.background, device=cell.device, regions=True,
                refine=False if cell.trial else cell.study.refine,
            )  # fmt: skip
            yaw = view_yaw(where, chosen).rad2deg().tolist()
            frames += [{**row, "stratum": stratum, "yaw": round(angle, 2)}
                       for row, angle in zip(scores["per_frame"], yaw, strict=True)]  # fmt: skip
            seconds.append(scores["seconds_per_frame"])
        result = FORMAT.stamp({
            "row": cell.row, "capture": cell.capture, "seed": cell.seed, "factor": cell.factor, "trial": cell.trial,
            "condition": cell.condition, "pair": cell.pair or cell.capture,
            "measured": digest(cell.measuring()), "instruments": instruments(), "frames": frames, "curve": curve,
            "cost": {**cost, "seconds per frame": seconds[0]},
        })  # fmt: skip
        write_json(folder / "result.json", result)
    return named(result, cell.condition)


def _run(cell: Cell, folder: Path) -> dict[str, Any]:
    """The result of a cell whose row has a function of its own, written to its folder.

    Raises:
        ValueError: the function returns what is no result.
    """
    assert cell.spec.run is not None
    write_json(folder / "cell.json", {"cell": str(cell), **cell.training()})
    what, amount = cell.study.budget_of(cell.row)
    started, processor = time.perf_counter(), time.process_time()
    outcome = cell.spec.run(
        Path(cell.capture),
        folder / "run",
        cell.seed,
        **{what: amount},
        **{**cell.study.arguments, **cell.spec.arguments},
    )
    spent = {"seconds": time.perf_counter() - started, "processor seconds": time.process_time() - processor}
    frames = [{"yaw": 0.0, **frame} for frame in outcome["frames"]]
    strata = {frame["stratum"] for frame in frames}
    if strata != set(cell.study.strata):
        raise ValueError(f"{cell}: run has returned the strata {sorted(strata)}; the study has {cell.study.strata}")
    result = FORMAT.stamp({
        "row": cell.row, "capture": cell.capture, "seed": cell.seed, "factor": cell.factor, "trial": False,
        "condition": cell.condition, "pair": cell.pair or cell.capture, "measured": digest(cell.measuring()),
        "frames": frames, "curve": [], "cost": {**spent, "diverged": None, **outcome.get("cost", {})},
    })  # fmt: skip
    write_json(folder / "result.json", result)
    return result


def gathered(cells: Iterable[Cell], out: Path) -> dict[str, dict[tuple[str, int], dict[str, Any]]]:
    """The results of finished cells by row and by the study's capture and seed, those of all conditions in one."""
    results = ((cell, cell.done(out)) for cell in cells)
    return joined((cell.row, cell.pair or cell.capture, cell.seed, result) for cell, result in results if result)


def joined(
    results: Iterable[tuple[str, str, int, dict[str, Any]]],
) -> dict[str, dict[tuple[str, int], dict[str, Any]]]:
    """Results by row and by capture and seed, from (row, capture, seed, result): those of all conditions in one."""
    by_row: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for row, capture, seed, result in results:
        runs = by_row.setdefault(row, {})
        if (capture, seed) in runs:
            before = runs[capture, seed]
            result = {**before, "frames": [*before["frames"], *result["frames"]]}
        runs[capture, seed] = result
    return by_row


def opened(study: Study, capture: str) -> tuple[Any, list[int]]:
    """A capture of a study with the frames that its cells train on, and its validation frames, which they do not, and
    which are not measured.

    Validation frames are those of the split "val" that are not measured (that of an INSTA capture is part of its test
    frames), else the last tenth of the training frames, which then are no longer among them.
    """
    source = study.load_capture(capture)
    measured, training = (source.splits.get(split, torch.zeros(0)).tolist() for split in (study.split, "train"))
    validation = [frame for frame in source.splits.get("val", torch.zeros(0)).tolist() if frame not in measured]
    if not validation and len(training) > 1:
        validation = training[len(training) - max(1, len(training) // 10) :]
    kept = [frame for frame in training if frame not in validation]
    source.splits = source.splits | {
        "train": torch.tensor(kept, dtype=torch.long), "val": torch.tensor(validation, dtype=torch.long),
    }  # fmt: skip
    source.validation = validation
    choose_training(source, study.share, study.held_out, study.front)
    return source, validation


class Curve:
    """PSNR on validation frames along a cell's budget, of which it takes nothing."""

    def __init__(self, source: Any, frames: Sequence[int], background: float | int) -> None:
        self.source, self.frames, self.background = source, list(frames), background
        self.points: list[list[float]] = []

    def on_step(self, trainer: Any, outcome: Any) -> None:
        if len(self.points) < len(CURVE) and trainer.fraction >= CURVE[len(self.points)] and self.frames:
            with trainer.paused(), trainer.averaged() as avatar:
                self.add(trainer.progress, avatar)
            while len(self.points) < len(CURVE) and trainer.fraction >= CURVE[len(self.points)]:
                self.points.append(self.points[-1])  # a long step passes several

    def add(self, progress: Any, avatar: Any) -> None:
        """Adds [step, rays, wall seconds, processor seconds, PSNR]."""
        psnr = [picture(avatar, self.source, frame, self.background)[1] for frame in self.frames]
        spent = [progress.step, progress.rays, progress.seconds, progress.processor_seconds]
        self.points.append([*map(float, spent), math.fsum(psnr) / len(psnr)])

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points = list(state["points"])


def _train(cell: Cell, source: Any, validation: Sequence[int], folder: RunFolder, bar: bool) -> dict[str, Any]:
    """Trains the cell's avatar and returns what that cost, and its curve."""
    study = cell.study
    what, amount = study.budget_of(cell.row)
    if cell.trial and not validation:
        raise ValueError(f"{cell}: the capture has no frame to spare for validation; leave out trials")
    curve = Curve(source, evenly_spaced(list(validation), CURVE_FRAMES) if not cell.trial else (), study.background)
    further = {"out": folder.path, "device": cell.device, "bar": bar, "picture_seconds": 1e9, "callbacks": [curve]}
    if what == "seconds":
        _warm_up(cell, source)
    memory = PeakMemory(cell.device)
    torch.manual_seed(cell.seed)
    avatar, recipe = made(study, cell.spec, source)
    prepared = _prepare(cell, recipe, avatar, source, folder)
    trainer = trainer_of(recipe, avatar, source, training_options(cell, recipe, avatar), cell.seed, further)
    limits: dict[str, Any] = {what: amount}
    if what == "seconds":
        if prepared >= amount:
            raise ValueError(f"{cell}: preparing the avatar takes {prepared:.1f} s of a budget of {amount} s")
        on_processor = torch.device(cell.device).type == "cpu"
        limits = {"processor_minutes" if on_processor else "minutes": (amount - prepared) / 60}
    result = trainer.fit(**limits, resume=bool(folder.checkpoints))
    if result.interrupted or result.stopped:
        why = result.stopped or "interrupted"
        raise InterruptedCell(f"{cell}: {why} at step {result.step}; the same call goes on from there")
    if curve.frames:
        curve.add(trainer.progress, trainer.avatar)
    return {
        "steps": result.step, "rays": trainer.progress.rays, "seconds": result.seconds,
        "processor seconds": trainer.progress.processor_seconds, "seconds of preparation": prepared,
        "parameters": sum(parameter.numel() for parameter in trainer.avatar.parameters()),
        "file, bytes": folder.avatar.stat().st_size, "peak memory, bytes": memory.peak(), "diverged": result.diverged,
        "curve": curve.points,
    }  # fmt: skip


def _prepare(cell: Cell, recipe: Recipe, avatar: Any, source: Any, folder: RunFolder) -> float:
    """Prepares a new avatar from the images, if its recipe does; the seconds of the budget that this has taken."""
    note = folder.path / "prepared.json"
    if folder.checkpoints:
        return float(read_json_object(note, "run the study again in another folder")["seconds"])
    clock = time.process_time if torch.device(cell.device).type == "cpu" else time.perf_counter
    started = clock()
    recipe.start(avatar, source)
    seconds = clock() - started
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(note, {"seconds": seconds})
    return seconds


def _warm_up(cell: Cell, source: Any) -> None:
    """One step of an avatar that is thrown away, and all frames decoded: what a process does once is no training.

    So a cell that was killed, and does it again, has as much time to train as any other.
    """
    for frame in source.splits["train"].tolist():
        source.image(frame)
        source.state([frame])
    torch.manual_seed(cell.seed)
    avatar, recipe = made(cell.study, cell.spec, source)
    options = training_options(cell, recipe, avatar)
    trainer_of(recipe, avatar, source, options, cell.seed, {"device": cell.device, "bar": False}).fit(steps=1)


def training_options(cell: Cell, recipe: Recipe, avatar: Any) -> dict[str, Any]:
    """The values of the recipe's options and its learning rates: the study's, the row's, times the cell's factor."""
    study, own = cell.study, cell.spec.options
    whole = bool(getattr(avatar, "whole_images", False))
    shared = {name: value for name, value in study.options.items() if not (whole and name in RAYS)}
    training = {**recipe.options, **shared, **own}
    rates = (options.get("learning_rates", {}) for options in (recipe.trainer, shared, own))
    training["learning_rates"] = {name: rate for given in rates for name, rate in given.items()}
    for name in ("learning_rate", "network_learning_rate"):
        training[name] = training[name] * cell.factor
    training["learning_rates"] = {name: rate * cell.factor for name, rate in training["learning_rates"].items()}
    idle = idle_options(recipe, avatar, training)  # the study's are for rows that take them; the row's are refused
    return training | {name: recipe.options[name] for name in idle if name not in own}


def made(study: Study, row: Row, source: Any) -> tuple[Any, Recipe]:
    """The untrained avatar of a row, and the recipe that trains it, both on the footing of the baseline."""
    base = study.rows[study.baseline or ""]
    if row.build is not None:
        parameters = [parameter.name for parameter in parameters_of(row.build)]
        shared = {name: value for name, value in footing(study, source).items() if name in parameters}
        avatar = row.build(source, **shared)
        whole = bool(getattr(avatar, "whole_images", False))
        recipe = recipe_of("gaussian_avatars" if whole else study.model_of(base), study.recipe)  # type: ignore[arg-type]
    else:
        name = study.model_of(row)
        recipe = recipe_of(name, study.recipe)  # type: ignore[arg-type]
        arguments = preset_arguments(name, study.arguments_of(row), source, recipe)
        for argument, value in footing(study, source).items():
            if argument in study.parameters_of(row) and argument not in {**study.arguments, **row.arguments}:
                arguments[argument] = value
        avatar = build(name, arguments, source)
        whole = bool(getattr(avatar, "whole_images", False))
    of_base = recipe_of(study.model_of(base), study.recipe)  # type: ignore[arg-type]
    if not whole and of_base.options["rays"] > 1:  # both are fields of rays
        same = {"rays": of_base.options["rays"], "samples": 0, "frames": of_base.options["frames"]}
        recipe = dataclasses.replace(recipe, options={**recipe.options, **same}, sampling=of_base.sampling)
    own: dict[str, Any] = {"losses": row.losses, "sampling": row.sampling}
    recipe = dataclasses.replace(recipe, **{what: part for what, part in own.items() if part is not None})
    further = row.regularizers
    if further is not None:
        usual = recipe.regularizers
        recipe = dataclasses.replace(recipe, regularizers=lambda avatar: [*usual(avatar), *further(avatar)])
    return avatar, recipe


def footing(study: Study, source: Any) -> dict[str, Any]:
    """Arguments that all fields of rays share: how far matter reaches before and behind the mesh."""
    base = study.rows[study.baseline or ""]
    if base.build is not None:
        return {}
    name = study.model_of(base)
    recipe = recipe_of(name, study.recipe)  # type: ignore[arg-type]
    arguments = preset_arguments(name, study.arguments_of(base), source, recipe)
    usual = {parameter.name: parameter.default for parameter in parameters_of(preset_named(name))}
    return {shared: arguments.get(shared, usual[shared]) for shared in ("shell", "behind") if shared in usual}


@functools.lru_cache(maxsize=1)
def library_code() -> str:
    """A hash of the library's code that trains."""
    return _code(lambda name: not name.startswith(_ELSEWHERE) or name == "compare/cells.py")


@functools.lru_cache(maxsize=1)
def whole_code() -> str:
    """A hash of all of the library's code, of which a row with a function of its own may run any."""
    return _code(lambda name: True)


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


def cells_of(
    study: Study, device: str = "cpu", factors: Mapping[tuple[str, str], float] | None = None, seeds: int | None = None
) -> list[Cell]:
    """The cells, by seed, condition, capture and row: a stopped study has whole pairs.

    Args:
        study, device: of the cells.
        factors: on the learning rates, by row and the study's capture; 1 if None. Rows without one are left out.
        seeds: their number; that of the study if None.
    """
    under = {condition: study.under(condition) for condition in ("", *study.conditions)}
    return [
        Cell(
            own,
            name,
            str((row.captures or own.captures)[index]),
            seed,
            device,
            condition,
            str(pair),
            1.0 if factors is None else factors[name, str(pair)],
        )
        for seed in range(seeds or study.seeds)
        for condition, own in under.items()
        for index, pair in enumerate(study.captures)
        for name, row in study.rows.items()
        if factors is None or (name, str(pair)) in factors
    ]


def trials_of(study: Study, device: str = "cpu") -> list[Cell]:
    """The learning-rate trials of a study, by capture and row; none if it has none."""
    return [
        Cell(study, name, str((row.captures or study.captures)[index]), TRIAL_SEED, device, "", str(pair), factor, True)
        for index, pair in enumerate(study.captures)
        for name, row in study.rows.items()
        for factor in trial_factors(study.trials)
        if study.trials
    ]


def chosen_factors(study: Study, trials: Sequence[Cell], out: Path) -> dict[tuple[str, str], float]:
    """By row and the study's capture, the factor whose trial has the best primary measure; none without a trial."""
    measure = study.primary.partition("@")[0]
    sign = 1.0 if HIGHER[kind_of(measure)] else -1.0
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for cell in trials:
        result = cell.done(out)
        scores = [] if result is None else [row.get(measure) for row in result["frames"]]
        known = [float(score) for score in scores if score is not None and math.isfinite(score)]
        if known:
            place = cell.row, cell.pair
            best[place] = max(best.get(place, (-math.inf, 0.0)), (sign * math.fsum(known) / len(known), cell.factor))
    return {place: factor for place, (_, factor) in best.items()}


def check_primary(study: Study) -> None:
    """Refuses a study whose primary measure no cell will have, before any is trained.

    Raises:
        ValueError: FLIP or LPIPS is asked for and not installed; or a capture has no frame with the region in the
            stratum, such as one without labels.
    """
    if any(row.run is not None for row in study.rows.values()):
        return
    kind, region = kind_of(study.primary), region_of(study.primary)
    for package, there in (("flip", load_flip() is not None), ("lpips", lpips_installed())):
        if kind == package and not there:
            raise ValueError(
                f"primary is {study.primary!r}, and its package is missing: pip install headfields[{kind}]"
            )
    if region in (IMAGE, HEAD):
        return
    stratum, _, condition = study.primary.partition("@")[2].partition(", ")
    if stratum in study.conditions:
        stratum, condition = "", stratum
    under = study.under(condition)
    for folder in under.captures:
        source, frames = stratum_frames(under, stratum or TEST, opened(under, str(folder))[0])
        masks = RegionMasks(source)
        for frame in frames:
            regions = masks(frame, source.image(frame)[..., 3])
            if region in regions and int(regions[region].sum()) >= MIN_PIXELS:
                break
        else:
            raise ValueError(
                f"primary is {study.primary!r}, and no frame of {folder} has {MIN_PIXELS} pixels of {region} there "
                f"(of stratum {stratum or TEST}); regions need labels, and images that are large enough"
            )


def misfits(study: Study) -> Mapping[str, str]:
    """Rows that cannot be built on the first capture, or lack what they need of its frames, and why; none of those that
    train in a way of their own."""
    if any(row.run is not None for row in study.rows.values()):
        return {}
    source, _ = opened(study, str(study.captures[0]))
    state = source.state(source.splits["train"][:1])
    reasons = {}
    for name, row in study.rows.items():
        try:
            avatar, recipe = made(study, row, source)
            refuse_idle("options", row.options, idle_options(recipe, avatar, {**recipe.options, **row.options}))
            if hasattr(avatar, "field"):
                with torch.no_grad():
                    avatar.field(state)
        except Exception as error:  # whatever a composition of the user raises is the reason
            reasons[name] = f"{type(error).__name__}: {error}"
    return reasons
