"""Standard streams that are closed or hung up, signals, and Ctrl-C at any moment of a command."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lightning_fabric  # noqa: F401  (slow to import; the children share it)
import numpy as np
import pytest
import torch

from headfields.apps import self_check
from headfields.cli import COMMANDS, main
from headfields.cli.streams import open_closed_descriptors
from headfields.runs.folder import RunFolder
from headfields.runs.interrupts import InterruptFlag
from tests.cli.test_cli import world  # noqa: F401  (fixture)
from tests.training.test_processes import ROOT, environment


def forked(action) -> int:
    """Exit status of a function in a child process."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = action()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(out: Path, steps: int = 3) -> list[str]:
    return ["train", "disc", "--capture", "disc", "--out", str(out), "--steps", str(steps), "--rays", "16"]


@pytest.mark.parametrize("streams", [["stderr"], ["stdin", "stdout", "stderr"]])
def test_training_without_streams(world, tmp_path, streams):  # noqa: F811
    def run() -> int:
        for name in streams:
            os.close({"stdin": 0, "stdout": 1, "stderr": 2}[name])
            setattr(sys, name, None)
        return main(train(tmp_path / "run"))

    assert forked(run) == 0
    assert RunFolder(tmp_path / "run").avatar.is_file()


def test_training_whose_terminal_hangs_up_saves(world, tmp_path):  # noqa: F811
    """The other end of stderr is closed and SIGHUP comes: the last step is saved."""

    def hang_up() -> None:
        while not RunFolder(tmp_path / "run").read_log():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGHUP)

    def run() -> int:
        read, write = os.pipe()
        os.dup2(write, 2)
        os.close(read)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        threading.Thread(target=hang_up, daemon=True).start()
        return main(train(tmp_path / "run", steps=10**6))

    assert forked(run) == 130
    run = RunFolder(tmp_path / "run")
    assert run.read_log()[-1]["event"] == "interrupted"
    assert main([*train(tmp_path / "run", steps=run.read_log()[-1]["step"] + 1), "--resume"]) == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_set_the_flag_unless_the_process_ignores_them(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.SIG_IGN)
        with InterruptFlag() as flag:
            signal.raise_signal(number)
        assert not flag
        signal.signal(number, signal.SIG_DFL)
        with InterruptFlag() as flag:
            signal.raise_signal(number)
        assert flag and signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_file_does_not_become_stderr(tmp_path):
    def run() -> int:
        os.close(2)
        open_closed_descriptors()
        with open(tmp_path / "file", "w") as file:
            os.write(2, b"what a library prints")
            return int(file.fileno() == 2)

    assert forked(run) == 0
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize(
    ("name", "status", "word"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGHUP", 143, "terminated")],
)
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_signal_at_any_place_ends_with_a_line(monkeypatch, capsys, name, status, word, swallowed):
    """Also where a module in C turns it into an error of its import."""
    number = getattr(signal, name)
    before = signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    usual = signal.getsignal(number)

    def ended(*arguments, **options):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if not swallowed:
                raise
        raise ImportError("a module in C gives up")

    monkeypatch.setattr("tyro.extras.subcommand_cli_from_dict", ended)
    try:
        assert main(["doctor"]) == status
        assert capsys.readouterr().err == f"headfields: {word}\n" and signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_at_any_moment_of_a_start_is_one_line(tmp_path, number, word):
    """But for the first tenth of a second, in which Python itself starts."""
    command = [sys.executable, "-m", "headfields", "synth", str(tmp_path / "capture"), "--frames", "4"]
    for delay in [*np.linspace(0.1, 0.6, 11), *np.linspace(0.8, 8.0, 10)]:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
        time.sleep(delay)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
        assert "Traceback" not in err, (delay, err)
        assert process.returncode == 0 or f"headfields: {word}" in err, (delay, err)


@pytest.mark.slow
def test_warp_says_what_to_set_where_its_cache_cannot_be_written():
    code = (
        "import torch, headfields as hf\n"
        "from headfields.ops.occupancy import lookup_occupancy\n"
        "with hf.use_cpu_backend('warp'):\n"
        "    box = torch.tensor([[0.0, 0, 0], [1, 1, 1]])\n"
        "    lookup_occupancy(torch.rand(4, 3), torch.ones(2, 2, 2, dtype=torch.bool), box)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**environment(), "WARP_CACHE_PATH": "/dev/null/warp"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "OSError: NVIDIA Warp cannot write compiled kernels to its cache" in done.stderr.splitlines()[-1]
    assert "WARP_CACHE_PATH" in done.stderr.splitlines()[-1]


def to_stdout(path: str, arguments: list[str]) -> tuple[int, str]:
    """Exit status and stderr of a command whose stdout is this file, or a pipe that nobody reads, written at once."""
    err, err_write = os.pipe()

    def run() -> int:
        read, write = os.pipe()
        os.close(read)
        os.dup2(os.open(path, os.O_WRONLY) if path else write, 1)
        os.dup2(err_write, 2)
        sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()  # as Python does when it ends: "Exception ignored", and status 120
        return status

    status = forked(run)
    os.close(err_write)
    with open(err) as file:
        return status, file.read()


def test_a_reader_of_stdout_may_go(world, tmp_path, monkeypatch):  # noqa: F811
    """The work and its status are as with a reader."""
    run = tmp_path / "run"
    assert main(train(run)) == 0
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / "figures.json").write_text('{"INSTA": {"psnr": 30.5, "ssim": 0.9, "psnr_head": 28.25}}')
    for command in (["--help"], ["--version"], ["evaluate", str(run)], ["demo", "--out", str(demo)]):
        status, err = to_stdout("", command)
        assert status == 0 and not any(word in err for word in ("error", "Traceback", "ignored")), (command, err)
    assert (run / "metrics.json").is_file()
    monkeypatch.setattr(self_check, "CHECKS", [("bad", lambda device: [(torch.ones(1), torch.zeros(1))])])
    status, err = to_stdout("", ["doctor"])  # it prints before it checks
    assert status == 1 and err.splitlines()[-1].startswith("headfields: error: ") and "bad" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full is Linux's /dev/full")
def test_stdout_on_a_full_disk_is_an_error_in_a_line():
    for command in (["--version"], ["doctor", "--help"]):
        answer = to_stdout("/dev/full", command)
        assert answer == (1, "headfields: error: stdout cannot be written: No space left on device\n"), command


@pytest.mark.slow
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_any_help_into_a_pipe_that_closes_and_without_stdout(command):
    shell = f"{sys.executable} -m headfields {command} --help"
    for line, first in ((f"{shell} | head -1", f"usage: headfields {command}".rstrip()), (f"{shell} >&-", "")):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=ROOT, env=environment(), capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0 and done.stdout.startswith(first) and not done.stderr, done
