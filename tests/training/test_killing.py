"""A training that is killed, at random moments and in the middle of a checkpoint, and resumed."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from headfields.runs.folder import RunFolder
from tests.training.killing import STEPS
from tests.training.test_processes import ROOT, environment


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 25])
def test_a_killed_training_reaches_what_an_unbroken_one_reaches(tmp_path, kills):
    command = [sys.executable, "-m", "tests.training.killing", str(tmp_path), str(kills)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["leftovers"] > 0, "nothing was torn, so nothing was tested"
    unbroken, torn = (load_file(tmp_path / name / "avatar.safetensors") for name in ("unbroken", "torn"))
    assert unbroken.keys() == torn.keys()
    for name, tensor in unbroken.items():
        assert torch.equal(tensor, torn[name]), name
    assert not list((tmp_path / "torn").rglob("*.tmp")), "what was half-written is still there"
    log = RunFolder(tmp_path / "torn").read_log()
    steps = [entry["step"] for entry in log]
    assert steps == sorted(steps) and steps[-1] == STEPS and log[-1]["event"] == "end"
    seconds = [entry["seconds"] for entry in log]
    assert seconds == sorted(seconds)
    assert len((tmp_path / "torn/log.jsonl").read_text().splitlines()) == len(log), "a half line is left"
