"""`headfields train-prior`."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headfields.cli import runs
from headfields.cli.errors import CommandError, Interrupted
from headfields.cli.nphm import nphm_scans, symmetric_pairs
from headfields.runs.folder import RunFolder, RunWriteError, write_json, writing
from headfields.runs.lock import RunLockedError
from headfields.training.trainer import NanLossError

FIXED = ("scans", "held_out", "small", "ambient", "seed", "scans_per_step")
"""What a resumed run cannot change."""
_SOURCES = ("data", "nphm", "head", "blendshapes")
"""Where scans come from: one of them."""


@dataclass(frozen=True)
class Options:
    """The arguments of `headfields train-prior`; see `prior_commands.train_prior`. None where not given."""

    out: Path
    data: Path | None
    head: str | None
    blendshapes: Path | None
    nphm: Path | None
    nphm_data: Path | None
    nphm_anchors: Path | None
    nphm_neutrals: Path | None
    people: int | None
    expressions: int | None
    held_out: int | None
    minutes: float | int | None
    steps: int | None
    resume: bool
    seed: int | None
    small: bool | None
    ambient: int | None
    scans_per_step: int | None
    pictures: int
    device: str


def train_prior(options: Options) -> None:
    """Trains a prior, and leaves a run folder."""
    run = RunFolder(options.out)
    there = bool(run.checkpoints)
    if there and not options.resume:
        raise CommandError(f"{run.path} holds a run already; --resume goes on with it, another --out starts a new one")
    before = run.config() if there else {}
    device = runs.choose_device(options.device)
    config = _config(options, before, device)
    run.check_writable()
    from headfields.priors import PriorTrainer, principal_codes

    torch.manual_seed(config["seed"])
    recipe = _recipe(config)
    if options.minutes is None and options.steps is None:
        limits = before.get("limits") or {"minutes": recipe.minutes, "steps": None}
    else:
        limits = {"minutes": options.minutes, "steps": options.steps}
    scans, held_out = _scans(config, run)
    avatar, scans, held_out = _model(config, scans, held_out)
    with _plain_reasons():
        trainer = PriorTrainer(
            avatar, scans, recipe.weights, recipe.schedule, recipe.counts,
            scans_per_step=config["scans_per_step"] or recipe.scans_per_step, noise=recipe.noise,
            starts=principal_codes(avatar, scans) if recipe.principal else None,
            seed=config["seed"], out=options.out, device=device, pictures=options.pictures,
        )  # fmt: skip
        run.create()
        run.write_config(config | {"limits": limits})
        result = trainer.fit(steps=limits["steps"], minutes=limits["minutes"], resume=options.resume)
        if result.interrupted:
            raise Interrupted(f"interrupted at step {result.step}; the same command with --resume goes on from there")
        prior = trainer.prior({"step": result.step, "seconds": round(result.seconds, 1), "trained": config})
        path = run.path / "prior.safetensors"
        with writing(path):
            prior.save(path)
        print(f"{result.step} steps in {result.seconds / 60:.1f} minutes: {path}", file=sys.stderr)
        _measure(run, trainer, prior, held_out)


def _config(options: Options, before: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What is given, else what the run was started with, else the defaults; what cannot change is not changed."""
    sources = [name for name in _SOURCES if getattr(options, name) is not None]
    if len(sources) > 1:
        raise CommandError(
            f"give one of --data, --nphm, --head and --blendshapes, not {' and '.join('--' + s for s in sources)}"
        )
    old = before.get("scans", {})
    if sources:
        value = getattr(options, sources[0])
        scans: dict[str, Any] = {sources[0]: str(value.resolve()) if isinstance(value, Path) else value}
    else:
        scans = {key: old[key] for key in _SOURCES if key in old} or {"head": "procedural"}
    _with_nphm(scans, options, old)
    if "data" in scans or "nphm" in scans:
        if options.people is not None or options.expressions is not None:
            raise CommandError("--people and --expressions say what is drawn; a folder says itself who there is")
    else:
        for name, usual in (("people", 80), ("expressions", 10)):
            given = getattr(options, name)
            scans[name] = old.get(name, usual) if given is None else given
            if scans[name] < 1:
                raise CommandError(f"--{name} is {scans[name]}; expected at least 1")
    defaults: dict[str, Any] = {
        "held_out": 2, "small": device.type == "cpu", "ambient": 2, "seed": 0, "scans_per_step": None,
    }  # fmt: skip
    config = {"scans": scans}
    for name, usual in defaults.items():
        given = getattr(options, name)
        config[name] = before.get(name, usual) if given is None else given
    for name in FIXED:
        if name in before and before[name] != config[name]:
            raise CommandError(
                f"--resume: {options.out} was trained with {name} {before[name]!r}, not {config[name]!r}; "
                "give what it was trained with, or another --out"
            )
    return config


def _with_nphm(scans: dict[str, Any], options: Options, old: dict[str, Any]) -> None:
    """Adds what goes with --nphm."""
    given = {name: getattr(options, name) for name in ("nphm_data", "nphm_anchors", "nphm_neutrals")}
    given = {name: str(path.resolve()) for name, path in given.items() if path is not None}
    if "nphm" not in scans:
        if given:
            raise CommandError(f"--{next(iter(given)).replace('_', '-')} goes with --nphm, the preprocessed folder")
        return
    scans |= {name: old[name] for name in ("nphm_data", "nphm_anchors", "nphm_neutrals") if name in old} | given
    for name, what in (("nphm_data", "the folder with registration.ply"), ("nphm_anchors", "an npy of vertex numbers")):
        if name not in scans:
            raise CommandError(f"--nphm needs --{name.replace('_', '-')} too, {what}")


def _scans(config: dict[str, Any], run: RunFolder) -> tuple[Any, Any]:
    """The scans to train on, and those of people held out (or None)."""
    from headfields.heads import BlendshapeHead
    from headfields.priors.scans import load_scans
    from headfields.synthetic import generate_scans, procedural_head

    chosen, held_out = config["scans"], config["held_out"]
    if "nphm" in chosen:
        return nphm_scans(chosen, held_out)
    if "data" in chosen:
        everyone = load_scans(chosen["data"])
    else:
        if chosen.get("head", "procedural") != "procedural":
            raise CommandError(f"--head is {chosen['head']!r}; expected procedural (or give --blendshapes FILE)")
        head = BlendshapeHead.from_file(chosen["blendshapes"]) if "blendshapes" in chosen else procedural_head()
        everyone = generate_scans(
            head, chosen["people"] + held_out, chosen["expressions"], config["seed"], out=run.path / "scans"
        )
    people = len(everyone.people)
    if not 0 <= held_out < people:
        raise CommandError(f"--held-out is {held_out}, and there are {people} people; expected 0 to {people - 1}")
    trained = everyone.of(range(people - held_out))
    return trained, everyone.of(range(people - held_out, people)) if held_out else None


def _recipe(config: dict[str, Any]) -> Any:
    """What suits the sizes, and the kind of scans."""
    from headfields.priors import PAPER_RECIPE, SMALL_POINTS_RECIPE, SMALL_RECIPE

    if not config["small"]:
        return PAPER_RECIPE
    return SMALL_POINTS_RECIPE if "nphm" in config["scans"] else SMALL_RECIPE


def _model(config: dict[str, Any], scans: Any, held_out: Any) -> tuple[Any, Any, Any]:
    """The untrained model, with anchors on the mean neutral head, and the scans with the same."""
    from headfields.models import mononphm
    from headfields.models.mononphm import PAPER, SMALL
    from headfields.networks import Anchors
    from headfields.priors.terms import anchors_of
    from headfields.records import Template

    if "nphm" in config["scans"]:
        mean = scans.anchors.mean(dim=0)
        anchors = Anchors(mean, symmetric_pairs(mean), **(SMALL if config["small"] else PAPER)["anchors"])
        return mononphm(anchors, small=config["small"], ambient=config["ambient"]), scans, held_out
    template = Template(canonical_vertices=scans.mean_neutral(), faces=scans.faces, regions={})
    avatar = mononphm(template, small=config["small"], ambient=config["ambient"])
    vertices = anchors_of(avatar).vertices
    return avatar, scans.with_anchors(vertices), None if held_out is None else held_out.with_anchors(vertices)


def _measure(run: RunFolder, trainer: Any, prior: Any, held_out: Any) -> None:
    """Writes metrics.json: errors of some training scans, and of people held out, fitted by codes alone."""
    from headfields.priors.pictures import comparison
    from headfields.priors.scans import MeshScans
    from headfields.runs.folder import write_picture

    count = len(trainer.scans)
    chosen = torch.linspace(0, count - 1, min(count, 24)).round().long()
    metrics: dict[str, Any] = {"training": trainer.errors(chosen), "held_out": {}}
    if held_out is not None:
        for number, name in enumerate(held_out.people):
            which = (held_out.person == number).nonzero()[:4, 0]
            fitted = prior.fit(held_out, which, progress=trainer.bar)
            metrics["held_out"][name] = fitted.errors.summary()
            if trainer.pictures and isinstance(held_out, MeshScans):
                sheet = comparison(prior.avatar, held_out, which, fitted.codes)
                write_picture(run.images / f"held_out_{name}.png", sheet)
    write_json(run.path / "metrics.json", metrics)
    print(f"training people: {metrics['training']['front_mm']:.2f} mm in front", file=sys.stderr)
    for name, found in metrics["held_out"].items():
        print(f"held-out person {name}: {found['front_mm']:.2f} mm in front", file=sys.stderr)


@contextlib.contextmanager
def _plain_reasons() -> Iterator[None]:
    """Errors that are no mistake in the program, as one line."""
    try:
        yield
    except (NanLossError, RunLockedError, RunWriteError) as error:
        raise CommandError(str(error)) from error
