"""Commands that are killed at random moments and continued end with the files of unbroken ones."""

import json
import subprocess
import sys

import pytest

from tests.runs.killing import COMMANDS
from tests.training.test_processes import ROOT, environment


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_commands_end_the_same(tmp_path, command):
    arguments = [sys.executable, "-m", "tests.runs.killing", command, str(tmp_path), "20"]
    done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == 20 and told["different"] == [], told
