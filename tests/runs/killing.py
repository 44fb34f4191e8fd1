"""Kills a command at random moments, continues it until it ends, and compares: `python -m ... COMMAND OUT KILLS`.

COMMAND is train-prior, track, track-template or rig, on inputs as small as they can be. Run by `test_killing.py`; for
20 kills of each:

    for command in train-prior track track-template rig; do
        python -m tests.runs.killing $command /tmp/kills/$command 20
    done

Prints one JSON object: the kills, the runs that they were spread over, and the files that differ from those of an
unbroken run. Processes are forked from one that has imported everything, so that most kills meet the work.
"""

import functools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headfields.apps.priors
import headfields.apps.priors.fit
import headfields.apps.priors.trainer
from headfields.apps.priors.scans.batch import PointCounts
from headfields.apps.tracking import PriorTracker
from headfields.apps.tracking.prior.options import Stage2
from headfields.cli import main as headfields_main
from headfields.cli.errors import CommandError
from headfields.cli.run_tracker import run_tracker
from headfields.mesh import save_mesh
from headfields.synthetic import procedural_head
from headfields.synthetic.rig_captures import write_rig_capture
from tests.apps.priors.tiny import tiny_head
from tests.apps.rigging.conftest import sealed_scan
from tests.apps.tracking.prior.ball import BallRecording, ball_prior, tiny_options
from tests.apps.tracking.rig.conftest import bust

Command = Callable[[Path, bool], None]
_TIMED = {"log.jsonl", "log.csv", "profile.json", ".lock", "previous.safetensors"}
"""Files that hold times."""


def train_prior(inputs: Path) -> Command:
    head = tiny_head()
    arrays = {
        "template": head.template_vertices, "faces": head.faces, "expression": head.expression_basis,
        "identity": head.identity_basis,
    }  # fmt: skip
    np.savez(inputs / "rig.npz", **{name: value.numpy() for name, value in arrays.items()})
    headfields.apps.priors.fit.fit_scans = functools.partial(headfields.apps.priors.fit.fit_scans, steps=2)
    headfields.apps.priors.trainer.CHECKPOINT_SECONDS = 0.05
    counts = PointCounts(face=24, static=8, back=8, near=16, far=8, correspondences=8)
    headfields.apps.priors.SMALL_RECIPE = replace(headfields.apps.priors.SMALL_RECIPE, counts=counts)

    def run(out: Path, again: bool) -> None:
        options = ["--resume", "--pictures", "0"] if again else [
            "--blendshapes", str(inputs / "rig.npz"), "--people", "2", "--expressions", "2", "--held-out", "1",
            "--scans-per-step", "2", "--steps", "8", "--pictures", "0", "--seed", "3",
        ]  # fmt: skip
        _succeed(headfields_main(["train-prior", "--out", str(out), "--device", "cpu", *options]))

    return run


def track(inputs: Path) -> Command:
    torch.manual_seed(0)
    recording, prior = BallRecording(3), ball_prior()
    stage1 = replace(tiny_options().stage1, steps=10)
    options = replace(
        tiny_options(), stage1=stage1, stage2=Stage2(steps_a_frame=8), mesh_resolution=16, checkpoint_every=4
    )

    def run(out: Path, again: bool) -> None:
        run_tracker(PriorTracker(prior, recording, out, options, bar=False), out, len(recording), resume=again)

    return run


def track_template(inputs: Path) -> Command:
    rig, capture = inputs / "rig.npz", inputs / "talk"
    bust().save(rig)
    write_rig_capture(bust(), capture, "talk", frames=4, size=64, rate=4.0, progress=False)
    command = ["track-template", "--rig", str(rig), "--capture", str(capture), "--quick"]

    def run(out: Path, again: bool) -> None:
        _succeed(headfields_main([*command, "--out", str(out), *(["--resume"] if again else [])]))

    return run


def rig(inputs: Path) -> Command:
    head = procedural_head()
    scan = save_mesh(inputs / "scan.obj", sealed_scan(head, head.template_vertices))

    def run(out: Path, again: bool) -> None:
        _succeed(headfields_main(["rig", str(scan), "--out", str(out / "rig.npz"), "--size", "32"]))

    return run


COMMANDS = {"train-prior": train_prior, "track": track, "track-template": track_template, "rig": rig}


def _succeed(status: int) -> None:
    if status:
        raise SystemExit(status)


def live(run: Command, out: Path, seconds: float | None = None) -> bool:
    """Forks the command and kills it after a time; whether it was still alive."""
    # What a run killed before its config.json leaves is no run yet.
    again = (out / "config.json").exists()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            run(out, again)
            status = 0
        except CommandError as error:
            print(error, file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(status)
    began = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, f"the command failed with status {status}"
            return False
        if seconds is not None and time.monotonic() - began > seconds:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.002)


def differences(whole: Path, torn: Path) -> Iterator[str]:
    """Files of one folder that the other lacks, or that hold something else; times aside."""
    first, second = ({path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (whole, torn))
    first, second = ({path for path in paths if path.name not in _TIMED} for paths in (first, second))
    yield from (f"{path} is in one alone" for path in sorted(first ^ second))
    for path in sorted(first & second):
        if path.suffix == ".mp4":
            continue
        if not _same(whole / path, torn / path):
            yield f"{path} differs"
    yield from (f"{path} is left over" for path in sorted(torn.rglob("*.tmp")))


def _same(first: Path, second: Path) -> bool:
    if first.suffix == ".json":
        return bool(_timeless(json.loads(first.read_text())) == _timeless(json.loads(second.read_text())))
    if first.suffix == ".npz":
        with np.load(first) as one, np.load(second) as two:
            return one.files == two.files and all(np.array_equal(one[name], two[name]) for name in one.files)
    if first.suffix == ".safetensors":
        one, two = (_tensors(path) for path in (first, second))
        return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    return first.read_bytes() == second.read_bytes()


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if key != "seconds"}
    return [_timeless(value) for value in content] if isinstance(content, list) else content


def main() -> None:
    name, out, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    inputs = out / "inputs"
    inputs.mkdir(parents=True)
    run = COMMANDS[name](inputs)
    began = time.monotonic()
    live(run, out / "whole")
    whole = time.monotonic() - began
    seed = os.getpid()
    moments, killed, runs, different = random.Random(seed), 0, 0, []
    while killed < kills:
        torn, runs = out / f"torn{runs}", runs + 1
        while killed < kills and live(run, torn, seconds=moments.uniform(0.0, 0.8) * whole):
            killed += 1
        live(run, torn)
        different += [f"{torn.name}: {text}" for text in differences(out / "whole", torn)]
    print(json.dumps({"kills": killed, "runs": runs, "seconds": whole, "seed": seed, "different": different}))


if __name__ == "__main__":
    main()
