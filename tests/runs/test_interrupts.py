"""A worker whose parent was killed: it ends by itself, after the step that it is in."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import sys, multiprocessing
from tests.runs.test_interrupts import work

if __name__ == "__main__":
    worker = multiprocessing.get_context("spawn").Process(target=work, args=(sys.argv[1],), daemon=False)
    worker.start()
    worker.join()
"""


def work(folder: str) -> None:
    """Steps of a tenth of a second until it is interrupted; then waits, as a worker for its next call."""
    from headfields.runs.interrupts import InterruptFlag, end_with_parent

    end_with_parent()
    place = Path(folder)
    with InterruptFlag() as interrupt:
        (place / "began").write_text(str(os.getpid()))
        for _ in range(600):
            time.sleep(0.1)
            if interrupt:
                (place / "saved").write_text("")
                break
    time.sleep(600)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has asked for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc, which Linux has")
def test_a_worker_ends_after_its_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    until = time.monotonic() + 120
    while not (tmp_path / "began").exists() or not (tmp_path / "began").read_text():
        assert time.monotonic() < until and parent.poll() is None
        time.sleep(0.05)
    worker = int((tmp_path / "began").read_text())
    time.sleep(0.3)
    assert alive(worker) and not (tmp_path / "saved").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 60
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(worker) and (tmp_path / "saved").exists()


def test_a_process_without_a_parent_of_its_kind_is_left_alone() -> None:
    from headfields.runs.interrupts import end_with_parent

    assert multiprocessing.parent_process() is None
    end_with_parent()
