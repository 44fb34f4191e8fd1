"""`headfields track-scans`: fit a prior of heads to scans or point clouds over time."""

import json
import math
import sys
from pathlib import Path
from typing import Annotated

import tyro

from headfields.cli.argument_types import Count, Folder, NewRun
from headfields.cli.errors import CommandError, Interrupted

Prior = Annotated[Path, tyro.conf.arg(metavar="PRIOR")]


def track_scans(
    prior: Prior,
    scans: Folder,
    out: NewRun,
    steps: Count = 300,
    smooth: float = 0.02,
    points: Count = 3000,
    scale: float = 1.0,
    resolution: Count = 128,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Track a head in scans with a prior: `headfields track-scans --prior RUN --scans DIR --out RUN`.

    Fits one identity to all scans of a folder, meshes or point clouds with normals, and to each an expression and a
    pose, smooth in time. OUT receives sequence.safetensors, for `headfields.apps.priors.sequence.FittedSequence.load`,
    metrics.json and meshes/NAME.ply, the head of each scan in the scan's own space. Ctrl-C keeps what is fitted and
    saves a checkpoint; the same command with --resume continues.

    Args:
        prior: The prior: its file, or the folder of a run of train-prior.
        scans: Folder of PLY, OBJ, glTF, OFF or STL files of one head, in the order of the numbers in their names. The
            first faces +z with y up, to some 20 degrees.
        out: Folder of the run.
        steps: Optimizer steps, over all scans together.
        smooth: Weight of changes of the expression from scan to scan; 0 fits each scan's for itself.
        points: Points of all scans together in a step.
        scale: Meters in a unit of the files: 0.001 for millimeters.
        resolution: Cells along the longest side of the meshes; 0 writes none.
        resume: Continue the run in OUT.
        seed: Seed of the points.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    from tqdm import tqdm

    from headfields.apps.priors import load_prior
    from headfields.apps.priors.sequence import ScanFiles, SequenceOptions, fit_sequence
    from headfields.cli import open_run
    from headfields.mesh import save_mesh
    from headfields.runs.folder import write_json, writing
    from headfields.training.opened_run import check_unchanged, start_or_resume

    if resolution < 0:
        raise CommandError(f"--resolution is {resolution}; expected cells, or 0 for no meshes")
    run, before = start_or_resume(out, resume, "track-scans", "tracked_scans")
    config = {
        "tracked_scans": str(scans.resolve()), "prior": str(prior.resolve()), "steps": steps, "smooth": smooth,
        "points": points, "scale": scale, "seed": seed,
    }  # fmt: skip
    check_unchanged(run, before, config, tuple(config))
    options = SequenceOptions(steps=steps, smooth=smooth, points=points, seed=seed)
    model = load_prior(prior).to(open_run.choose_device(device))
    with open_run.one_line_warnings(), open_run.one_line_errors():
        files = ScanFiles.read(scans, scale=scale, seed=seed)
        run.create()
        run.write_config({**config, "resolution": resolution})
        fitted = fit_sequence(model, files, run.path, options, resume)
        if fitted.interrupted:
            raise Interrupted("interrupted; the same command with --resume continues from there")
        errors = [round(value, 4) if math.isfinite(value) else None for value in fitted.face_mm.tolist()]
        write_json(run.path / "metrics.json", {"face_mm": dict(zip(fitted.names, errors, strict=True))})
        for row, name in enumerate(
            tqdm(fitted.names if resolution else (), desc="meshes", unit="scan", file=sys.stderr)
        ):
            path = run.path / "meshes" / f"{name}.ply"
            with writing(path):
                save_mesh(path, fitted.mesh(model, row, resolution).to("cpu"))
    print(json.dumps({"scans": len(fitted.names), "face_mm": round(float(fitted.face_mm.mean()), 4)}))
