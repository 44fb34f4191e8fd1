"""`headfields train-prior`: train a prior of heads (MonoNPHM) on scans."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from headfields.cli.argument_types import Count, NewRun, OptionalFile, OptionalFloat, OptionalFolder, OptionalInt
from headfields.cli.errors import CommandError, Interrupted

FIXED = ("scans", "held_out", "small", "ambient", "seed", "scans_per_step")
"""Entries of config.json that a resumed run cannot change."""
_SOURCES = ("data", "nphm", "head", "blendshapes")
"""Where scans come from: one of them."""


def train_prior(
    out: NewRun,
    people: OptionalInt = None,
    expressions: OptionalInt = None,
    data: OptionalFolder = None,
    head: Literal["procedural"] | None = None,
    blendshapes: OptionalFile = None,
    nphm: OptionalFolder = None,
    nphm_data: OptionalFolder = None,
    nphm_anchors: OptionalFile = None,
    nphm_neutrals: OptionalFile = None,
    held_out: OptionalInt = None,
    minutes: OptionalFloat = None,
    steps: OptionalInt = None,
    resume: bool = False,
    seed: OptionalInt = None,
    sizes: Literal["small", "paper"] | None = None,
    ambient: OptionalInt = None,
    scans_per_step: OptionalInt = None,
    pictures: Count = 12,
    device: str = "auto",
) -> None:
    """Train a prior of heads (MonoNPHM) on scans of many people: `headfields train-prior --out RUN --minutes 25`.

    The scans are synthetic, people and expressions of the procedural head or of a blendshape rig; or they are read,
    registered meshes in a folder or the output of NPHM's preprocessing. RUN receives config.json, scans/ (synthetic
    ones), log.csv, images/ (truth | model of a few people, and of held-out people), checkpoint/, and at the end
    prior.safetensors, for `headfields.apps.priors.load_prior`, and metrics.json. Ctrl-C saves a checkpoint; the same
    command with
    --resume continues from it.

    Args:
        out: Folder of the run.
        people: Number of synthetic people; 300 if not given.
        expressions: Meshes of each synthetic person, the neutral one among them; 10 if not given.
        data: Folder of registered meshes (docs/prior.md lists its files), in place of synthetic ones.
        head: Head model of the synthetic scans, if neither --data nor --blendshapes is given.
        blendshapes: Blendshape rig in place of the procedural head: an npz with template, faces, expression and
            identity.
        nphm: Folder of NPHM's preprocessed scans: surface_pointclouds and deformations. Needs the two that follow.
        nphm_data: Folder of NPHM's people, with registration.ply of their neutral scans.
        nphm_anchors: Indices of the registration's vertices that are anchors: lm_inds_65.npy of MonoNPHM's code.
        nphm_neutrals: JSON of each person's neutral expression, {"17": 0}; the lowest number if not given.
        held_out: Number of people who are fitted at the end instead of trained on, in addition to --people, or the last
            people of a folder; 2 if not given.
        minutes: Stop after this many minutes of training in total; 25 on a CPU if neither limit is given.
        steps: Stop after this many optimizer steps in total.
        resume: Continue from the run's checkpoint, with the options of its config.json.
        seed: Seed of people, weights, scans and points; 0 if not given.
        sizes: Sizes of networks, codes and batches: small, for minutes on a CPU, or the paper's; small on a CPU if not
            given.
        ambient: Number of hyper-coordinates; 2 if not given.
        scans_per_step: Scans per step; 8 with small sizes and 64 with the paper's if not given.
        pictures: How many times in a run pictures are written; 0 writes none, nor any of held-out people.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    import contextlib

    import torch

    from headfields.apps.priors import PriorTrainer, principal_codes
    from headfields.cli import open_run
    from headfields.runs.folder import writing
    from headfields.runs.lock import run_lock
    from headfields.training.opened_run import check_unchanged, start_or_resume

    run, before = start_or_resume(out, resume, "train-prior", "scans")
    torch_device = open_run.choose_device(device)
    sources = {"data": data, "nphm": nphm, "head": head, "blendshapes": blendshapes}
    nphm_options = {"nphm_data": nphm_data, "nphm_anchors": nphm_anchors, "nphm_neutrals": nphm_neutrals}
    config: dict[str, Any] = {
        "scans": _scan_options(
            sources, nphm_options, {"people": people, "expressions": expressions}, before.get("scans", {})
        ),
        "held_out": before.get("held_out", 2) if held_out is None else held_out,
        "small": before.get("small", torch_device.type == "cpu") if sizes is None else sizes == "small",
        "ambient": before.get("ambient", 2) if ambient is None else ambient,
        "seed": before.get("seed", 0) if seed is None else seed,
        "scans_per_step": before.get("scans_per_step") if scans_per_step is None else scans_per_step,
    }
    check_unchanged(run, before, config, FIXED)
    run.check_writable()

    torch.manual_seed(config["seed"])
    recipe = _recipe(config)
    limits: dict[str, Any] = {"minutes": minutes, "steps": steps}
    if minutes is None and steps is None:
        limits = before.get("limits") or {"minutes": recipe.minutes, "steps": None}
    for name, limit in limits.items():  # before scans are drawn, which takes minutes
        if limit is not None and limit < 0:
            raise CommandError(f"--{name} is {limit}; expected 0 or more")
    source = _source(config)
    with open_run.one_line_warnings(), open_run.one_line_errors(), contextlib.ExitStack() as stack:
        if not before:
            chosen, other = ("small", "paper") if config["small"] else ("paper", "small")
            print(f"mononphm: sizes {chosen}, on {torch_device}; --sizes {other} has the others", file=sys.stderr)
        run.create()
        stack.enter_context(run_lock(run.path))
        run.remove_leftovers()
        # before scans are drawn, so that a run that is killed then is resumed
        open_run.write_config(run, config | {"limits": limits}, resume, before)
        scans, held_out_scans = source(run)
        avatar, scans, held_out_scans = _model(config, scans, held_out_scans)
        trainer = PriorTrainer(
            avatar, scans, recipe.weights, recipe.schedule, recipe.counts,
            scans_per_step=config["scans_per_step"] or recipe.scans_per_step, noise=recipe.noise,
            initial_codes=principal_codes(avatar, scans) if recipe.principal else None,
            seed=config["seed"], out=out, device=torch_device, pictures=pictures,
        )  # fmt: skip
        result = trainer.fit(steps=limits["steps"], minutes=limits["minutes"], resume=resume)
        if result.interrupted:
            raise Interrupted(f"interrupted at step {result.step}; the same command with --resume continues from there")
        prior = trainer.prior({"step": result.step, "seconds": round(result.seconds, 1), "trained": config})
        path = run.path / "prior.safetensors"
        with writing(path):
            prior.save(path)
        print(f"{result.step} steps in {result.seconds / 60:.1f} minutes: {path}", file=sys.stderr)
        _measure(run, trainer, prior, held_out_scans)


def _scan_options(
    sources: Mapping[str, Any], nphm_options: Mapping[str, Any], counts: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """The entry "scans" of config.json: the source of the scans and its options.

    Args:
        sources: `--data`, `--nphm`, `--head` and `--blendshapes`, None where not given.
        nphm_options: the options of `--nphm`, None where not given.
        counts: `--people` and `--expressions`, None where not given.
        before: the entry of the run to resume, which holds where an option is not given.
    """
    chosen = {name: value for name, value in sources.items() if value is not None}
    if len(chosen) > 1:
        names = " and ".join(f"--{name}" for name in chosen)
        raise CommandError(f"pass one of --data, --nphm, --head and --blendshapes, not {names}")
    scans: dict[str, Any]
    if chosen:
        scans = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in chosen.items()}
    else:
        scans = {name: before[name] for name in _SOURCES if name in before} or {"head": "procedural"}
    _add_nphm(scans, nphm_options, before)
    if "data" in scans or "nphm" in scans:
        if any(count is not None for count in counts.values()):
            raise CommandError(
                "--people and --expressions are for synthetic scans; a folder of scans has its own people"
            )
        return scans
    for name, default in (("people", 300), ("expressions", 10)):
        scans[name] = before.get(name, default) if counts[name] is None else counts[name]
        if scans[name] < 1:
            raise CommandError(f"--{name} is {scans[name]}; expected at least 1")
    return scans


def _add_nphm(scans: dict[str, Any], options: Mapping[str, Path | None], before: Mapping[str, Any]) -> None:
    """Adds the options of --nphm."""
    chosen = {name: str(path.resolve()) for name, path in options.items() if path is not None}
    if "nphm" not in scans:
        if chosen:
            raise CommandError(f"--{next(iter(chosen)).replace('_', '-')} needs --nphm, the preprocessed folder")
        return
    scans |= {name: before[name] for name in options if name in before} | chosen
    for name, what in (("nphm_data", "the folder with registration.ply"), ("nphm_anchors", "an npy of vertex numbers")):
        if name not in scans:
            raise CommandError(f"--nphm needs --{name.replace('_', '-')} too, {what}")


def _source(config: dict[str, Any]) -> Callable[[Any], tuple[Any, Any]]:
    """Reads the scans, or the head that they are drawn from, and so refuses what cannot be read before a run begins.

    Returns:
        A function of the run's folder that returns the scans to train on, and those of held-out people (or None).
    """
    from headfields.apps.priors.scans import load_scans
    from headfields.cli.nphm import nphm_scans
    from headfields.heads import BlendshapeHead
    from headfields.synthetic import generate_scans, procedural_head

    options, held_out = config["scans"], config["held_out"]
    if "nphm" in options:
        pair = nphm_scans(options, held_out)
        return lambda run: pair
    if "data" in options:
        scans = load_scans(options["data"])
        pair = _divided(scans, held_out)
        return lambda run: pair
    if options.get("head", "procedural") != "procedural":
        raise CommandError(f"--head is {options['head']!r}; expected procedural (or pass --blendshapes FILE)")
    if held_out < 0:
        raise CommandError(f"--held-out is {held_out}; expected 0 or more")
    head = BlendshapeHead.from_file(options["blendshapes"]) if "blendshapes" in options else procedural_head()
    people, expressions = options["people"] + held_out, options["expressions"]

    def generate(run: Any) -> tuple[Any, Any]:
        return _divided(generate_scans(head, people, expressions, config["seed"], run.path / "scans"), held_out)

    return generate


def _divided(scans: Any, held_out: int) -> tuple[Any, Any]:
    """The scans to train on, and those of the last `held_out` people (or None)."""
    people = len(scans.people)
    if not 0 <= held_out < people:
        raise CommandError(f"--held-out is {held_out}, and there are {people} people; expected 0 to {people - 1}")
    trained = scans.of(range(people - held_out))
    return trained, scans.of(range(people - held_out, people)) if held_out else None


def _recipe(config: dict[str, Any]) -> Any:
    """The training recipe for the sizes and the kind of scans."""
    from headfields.apps.priors import PAPER_RECIPE, SMALL_RECIPE
    from headfields.apps.priors.recipes import SMALL_POINTS_RECIPE

    if not config["small"]:
        return PAPER_RECIPE
    return SMALL_POINTS_RECIPE if "nphm" in config["scans"] else SMALL_RECIPE


def _model(config: dict[str, Any], scans: Any, held_out: Any) -> tuple[Any, Any, Any]:
    """The untrained model with anchors on the mean neutral head, and both sets of scans with the same anchors."""
    from headfields.apps.priors.codes import anchors_of
    from headfields.cli.nphm import symmetric_pairs
    from headfields.models import mononphm
    from headfields.models.mononphm import PAPER, SMALL
    from headfields.networks import Anchors
    from headfields.records import Template

    if "nphm" in config["scans"]:
        mean = scans.anchors.mean(dim=0)
        anchors = Anchors(mean, symmetric_pairs(mean), **(SMALL if config["small"] else PAPER)["anchors"])
        return mononphm(anchors, small=config["small"], ambient=config["ambient"]), scans, held_out
    template = Template(canonical_vertices=scans.mean_neutral(), faces=scans.faces, regions={})
    avatar = mononphm(template, small=config["small"], ambient=config["ambient"], landmarks=scans.mean_landmarks())
    vertices = anchors_of(avatar).vertices
    return avatar, scans.with_anchors(vertices), None if held_out is None else held_out.with_anchors(vertices)


def _measure(run: Any, trainer: Any, prior: Any, held_out: Any) -> None:
    """Writes metrics.json: errors on some training scans, and on held-out people, fitted by codes alone."""
    import torch

    from headfields.apps.priors.fit import fit_scans
    from headfields.apps.priors.pictures import comparison
    from headfields.apps.priors.scans.meshes import MeshScans
    from headfields.runs.folder import write_json, write_picture

    count = len(trainer.scans)
    sample = torch.linspace(0, count - 1, min(count, 24)).round().long()
    metrics: dict[str, Any] = {"training": trainer.errors(sample), "held_out": {}}
    if held_out is not None:
        for number, name in enumerate(held_out.people):
            scans = (held_out.person == number).nonzero()[:4, 0]
            fitted = fit_scans(prior, held_out, scans, progress=trainer.bar)
            metrics["held_out"][name] = fitted.errors.summary()
            if trainer.pictures and isinstance(held_out, MeshScans):
                sheet = comparison(prior.avatar, held_out, scans, fitted.codes)
                write_picture(run.images / f"held_out_{name}.png", sheet)
    write_json(run.path / "metrics.json", metrics)
    print(f"training people: {metrics['training']['front_mm']:.2f} mm in front", file=sys.stderr)
    for name, errors in metrics["held_out"].items():
        print(f"held-out person {name}: {errors['front_mm']:.2f} mm in front", file=sys.stderr)
