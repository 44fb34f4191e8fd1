"""`headfields distill`: fit Gaussians to what a trained avatar draws."""

import json
import math
import sys
from typing import Any

from headfields.cli.argument_types import NewRun, OptionalFloat, OptionalFolder, OptionalInt, Run
from headfields.cli.errors import CommandError, Interrupted

FIXED = ("teacher", "arguments", "capture", "seed", "distilled")
"""Entries of config.json that a resumed run cannot change."""
MODEL = "gaussian_avatars"
"""The preset of the student."""


def distill(
    run: Run,
    /,
    out: NewRun,
    minutes: OptionalFloat = None,
    steps: OptionalInt = None,
    resume: bool = False,
    views: OptionalInt = None,
    degrees: OptionalFloat = None,
    size: OptionalInt = None,
    seed: OptionalInt = None,
    set: tuple[str, ...] = (),
    capture: OptionalFolder = None,
    limit: int = 20,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Fit Gaussians to a trained avatar of any kind: `headfields distill RUN --out FAST`, to draw it in real time.

    The avatar of RUN draws training images of its capture's states from cameras around the head (kept in OUT/teacher);
    Gaussians on the capture's mesh are fitted to them. Every eighth view is held out. The last line on stdout is one
    JSON object: psnr_teacher, the student against held-out views; psnr_of_teacher and psnr_of_student against test
    frames of the capture; lost, their difference; and the milliseconds that both take for a view.
    OUT/images/distilled.png shows teacher, student and error. OUT is a run: evaluate, render and others take it.

    Ctrl-C keeps what is drawn and saves a checkpoint, and the same command with --resume continues.

    Args:
        run: Folder of the teacher's run.
        out: Folder of the student's run.
        minutes: Stop after this many minutes of fitting in total; 2 if neither this nor --steps is given. Drawing comes
            before it.
        steps: Stop after this many optimizer steps in total.
        resume: Continue drawing or fitting in OUT.
        views: Images that the teacher draws; 120 if not given.
        degrees: Range of yaw around the head; 120 if not given, 360 for all around. What the capture does not show, the
            teacher has made up.
        size: The shorter side of the images, at most; 256 if not given.
        seed: Seed of the order of images; 0 if not given.
        set: Arguments of the preset gaussian_avatars as name=value, e.g. --set count=8000 degree=0.
        capture: Another capture than the run was trained on (same topology).
        limit: At most this many test frames in the comparison, evenly spaced.
        memory: Megabytes for decoded frames.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    import time

    import torch

    from headfields.apps.distillation import TeacherViews, loss_of_quality, view_sheet
    from headfields.cli import open_run, presets
    from headfields.runs.folder import write_picture, writing
    from headfields.runs.lock import run_lock
    from headfields.training.frames import render_frame
    from headfields.training.opened_run import check_unchanged, start_or_resume
    from headfields.training.presets import build, preset_arguments
    from headfields.training.recipes import recipe_of
    from headfields.training.trainer import Trainer

    own = presets.parse_overrides(MODEL, list(set))
    target, before = start_or_resume(out, resume, "distill", "distilled")
    if target.path.resolve() == run.resolve():
        raise CommandError(f"--out is the teacher's run, {run}; name another folder")
    teacher_run, teacher_config = open_run.open_run(run)
    torch_device = open_run.choose_device(device)
    asked = {"views": views, "degrees": degrees, "size": size}
    usual = before.get("distilled", {"views": 120, "degrees": 120.0, "size": 256})
    drawn: dict[str, Any] = {name: usual[name] if value is None else value for name, value in asked.items()}
    if drawn["views"] < 2 or drawn["size"] < 1 or not 0 <= drawn["degrees"] <= 360 or limit < 1:
        raise CommandError(
            f"--views is {drawn['views']}, --size {drawn['size']}, --degrees {drawn['degrees']} and --limit {limit}; "
            "expected 2 views or more, positive numbers, and 0 to 360 degrees"
        )
    limits: dict[str, Any] = {"minutes": minutes, "steps": steps}
    for name, value in limits.items():
        if value is not None and value < 0:  # not after views have been drawn for an hour
            raise CommandError(f"--{name} is {value:g}; expected 0 or more")
    if minutes is None and steps is None:
        limits = before.get("training", {"minutes": 2.0, "steps": None})
    target.check_writable()
    teacher = open_run.open_avatar(teacher_run, teacher_config, memory).to(torch_device).eval()
    source = open_run.capture_of(teacher_config, capture, memory)
    recipe = recipe_of(MODEL, None, torch_device)
    arguments = before["arguments"] if before and not set else preset_arguments(MODEL, own, source, recipe)
    capture_path = capture.resolve() if capture is not None else teacher_config.get("capture")
    config: dict[str, Any] = {
        "model": MODEL, "arguments": arguments, "capture": None if capture_path is None else str(capture_path),
        "head_frame": "keep" if getattr(source, "head_frame", None) is None else "normalize",
        "mouth": getattr(source, "mouth", "close"), "seed": before.get("seed", 0) if seed is None else seed,
        "recipe": recipe.name, "teacher": str(run.resolve()), "distilled": drawn,
        "training": {"minutes": limits["minutes"], "steps": limits["steps"]},
    }  # fmt: skip
    check_unchanged(target, before, config, FIXED)
    with open_run.one_line_warnings(), open_run.one_line_errors():
        pictures = TeacherViews(
            teacher, source, drawn["views"], drawn["degrees"], size=drawn["size"], folder=target.path / "teacher"
        )
        target.create()
        with run_lock(target.path), writing(target.path):
            open_run.write_config(target, {**before, **config}, resume, before)
            whole = pictures.draw(bar=True)
        if not whole:
            raise Interrupted("interrupted while drawing; the same command with --resume continues from there")
        torch.manual_seed(config["seed"])
        student = build(MODEL, arguments, source)
        if not target.checkpoints:
            recipe.start(student, pictures)
        trainer = Trainer(
            student, pictures, seed=config["seed"], out=target.path, device=torch_device,
            **recipe.trainer_arguments(student, pictures),
        )  # fmt: skip
        trainer.config = {**config, "trainer": trainer.config["trainer"]}
        result = trainer.fit(**limits, resume=bool(target.checkpoints))
        if result.interrupted:
            raise Interrupted(f"interrupted at step {result.step}; the same command with --resume continues from there")
        test = open_run.at_most(torch.as_tensor(source.splits.get("test", ())).tolist(), limit)
        quality = loss_of_quality(teacher, student, pictures, source, test)
        write_picture(target.images / "distilled.png", view_sheet(student, pictures))
        for name, avatar in (("teacher", teacher), ("student", student)):
            seconds = []
            for _ in range(3):  # the first warms up
                started = time.perf_counter()
                render_frame(avatar, pictures, 0, 1.0, torch_device).rgb.cpu()
                seconds.append(time.perf_counter() - started)
            quality[f"milliseconds_{name}"] = round(1000 * min(seconds), 2)
    quality = {name: value if value is None or math.isfinite(value) else None for name, value in quality.items()}
    target.write_metrics({"capture": config["capture"], **quality})
    print(f"{result.step} steps in {result.seconds / 60:.1f} minutes: {target.avatar}", file=sys.stderr)
    print(json.dumps(quality, allow_nan=False))
