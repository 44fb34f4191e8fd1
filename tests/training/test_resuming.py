"""Resuming a run: from the checkpoint before a broken one, with other options, next to another process."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch

from headfields.files.safetensors import BrokenFileError
from headfields.runs.folder import RunFolder
from headfields.runs.lock import RunLockedError, run_lock
from tests.training.test_processes import ROOT, environment
from tests.training.test_trainer import make, same, weights


@pytest.fixture
def run(tmp_path):
    """A run of 12 steps whose previous checkpoint is at step 6."""
    trainer = make(out=tmp_path)
    trainer.fit(steps=6)
    trainer.fit(steps=12)
    folder = RunFolder(tmp_path)
    assert [path.name for path in folder.checkpoints] == ["last.safetensors", "previous.safetensors"]
    return folder


def through(steps: int) -> dict[str, torch.Tensor]:
    trainer = make()
    trainer.fit(steps=steps)
    return weights(trainer)


@pytest.mark.parametrize("damage", ["cut short", "empty", "no file of this kind", "zeros"])
def test_a_broken_checkpoint_falls_back_to_the_one_before(run, damage):
    whole = run.checkpoint.read_bytes()
    pieces = {"cut short": whole[:-100], "empty": b"", "no file of this kind": b"PK\x03\x04" * 99, "zeros": bytes(9999)}
    run.checkpoint.write_bytes(pieces[damage])
    trainer = make(out=run.path)
    with pytest.warns(
        UserWarning, match=r"last\.safetensors is not a whole.*is now last\.broken.*previous.*\(step 6\)"
    ):
        result = trainer.fit(steps=15, resume=True)
    assert result.step == 15 and same(weights(trainer), through(15))
    assert (run.path / "checkpoint/last.broken").read_bytes() == pieces[damage]
    steps = [entry["step"] for entry in run.read_log()]
    assert (
        steps == sorted(steps) and [entry["event"] for entry in run.read_log() if "event" in entry].count("resume") == 2
    )


def test_a_missing_checkpoint_falls_back_too(run):
    run.checkpoint.unlink()
    trainer = make(out=run.path)
    trainer.fit(steps=12, resume=True)
    assert same(weights(trainer), through(12))


def test_no_checkpoint_that_can_be_read_is_an_error_that_names_them(run):
    for path in run.checkpoints:
        path.write_bytes(b"half of a file")
    with pytest.raises(BrokenFileError, match=r"last\.safetensors is not.*previous\.safetensors is not.*start anew"):
        make(out=run.path).fit(steps=15, resume=True)
    assert len(run.checkpoints) == 2


def test_another_models_checkpoint_does_not_fall_back(run):
    from headfields.runs import checkpoint

    module = torch.nn.Linear(2, 2)
    checkpoint.save(run.checkpoint, module, torch.optim.Adam(module.parameters()), None, {}, checkpoint.Progress())
    with pytest.raises(ValueError, match="belongs to another model"):
        make(out=run.path).fit(steps=15, resume=True)
    assert run.checkpoint.exists()


def test_other_options_cause_warnings(run):
    trainer = make(out=run.path, rays_per_step=128, schedule="exponential")
    with pytest.warns(UserWarning) as caught:
        trainer.fit(steps=15, resume=True)
    texts = [str(warning.message) for warning in caught]
    assert any("rays_per_step=256 (now 128), schedule='constant' (now 'exponential')" in text for text in texts)
    assert any("whose end was at steps=12 (now 15)" in text for text in texts)
    assert not any("headfields/training" in warning.filename for warning in caught), "it should point at fit's caller"


def test_the_same_options_cause_none(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(out=run.path).fit(steps=15, resume=True)


def test_a_new_run_puts_the_old_one_aside(run):
    before = run.checkpoint.read_bytes()
    trainer = make(out=run.path)
    with pytest.warns(UserWarning, match=r"held another run.*replaced\.safetensors"):
        trainer.fit(steps=4)
    assert (run.path / "checkpoint/replaced.safetensors").read_bytes() == before
    assert same(weights(trainer), through(4))
    assert [entry["step"] for entry in run.read_log()][-1] == 4 and run.read_log()[0]["event"] == "start"


def test_the_log_goes_back_to_the_checkpoint(run):
    for step in (12, 13, 20):
        run.log(step=step, seconds=99.0, loss=0.0)
    with open(run.path / "log.jsonl", "a") as file:
        file.write('{"step": 21, "lo')
    make(out=run.path).fit(steps=14, resume=True)
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps) and 13 not in [line["step"] for line in lines if line.get("loss") == 0.0]


def test_leftovers_of_a_killed_process_are_removed(run):
    (run.path / "checkpoint/.last.safetensors.123.tmp").mkdir()
    (run.path / "checkpoint/.last.safetensors.123.tmp/.tmpAbCdEf").write_bytes(b"half")
    (run.path / "images/.step_000001.png.123.tmp").touch()
    (run.path / ".config.json.123.tmp").touch()
    make(out=run.path).fit(steps=13, resume=True)
    assert not list(run.path.rglob("*tmp*"))


def test_one_writer_per_folder(run):
    code = (
        "import sys\nfrom pathlib import Path\nfrom headfields.runs.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], cwd=ROOT, env=environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "held\n"
        before = run.checkpoint.read_bytes()
        with pytest.raises(RunLockedError, match=f"is in use by process {other.pid} on"):
            make(out=run.path).fit(steps=13, resume=True)
        assert run.checkpoint.read_bytes() == before
    finally:
        other.kill()
        other.communicate()
    assert make(out=run.path).fit(steps=13, resume=True).step == 13  # a dead process holds nothing


def test_a_thread_may_acquire_the_lock_again_and_another_may_not(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def acquire() -> None:
        with run_lock(tmp_path):
            pass

    with run_lock(tmp_path), ThreadPoolExecutor(1) as pool:
        acquire()
        with pytest.raises(RunLockedError, match="another thread"):
            pool.submit(acquire).result()
    acquire()
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_without_hard_links_the_last_two_are_kept_as_well(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    trainer = make(out=tmp_path)
    for steps in (2, 4, 6):
        trainer.fit(steps=steps)
    from headfields.runs.checkpoint import load_weights
    from tests.training.fakes import FakeAvatar

    assert [load_weights(path, FakeAvatar()).step for path in RunFolder(tmp_path).checkpoints] == [6, 4]
