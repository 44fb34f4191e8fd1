"""Shared fixtures. The test run checks the annotations of the package (`tests/annotation_checks.py`)."""

import ctypes
import gc
import os
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import annotation_checks

annotation_checks.install()  # before the library is imported

# glibc hands the memory of each large tensor back to the system, which clears every page anew for the next one: half of
# the time of tests with arrays of some 40 MB. Here the process keeps it, up to a gigabyte.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h
if hasattr(_libc := ctypes.CDLL(None) if sys.platform == "linux" else None, "mallopt"):
    _libc.mallopt(_TRIM_THRESHOLD, 1 << 30)
    _libc.mallopt(_MMAP_MAX, 0)

# A shell's & has Ctrl-C ignored, which tests send to themselves.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Thousands of small files are written and deleted again, which takes a minute on some disks: in memory if it has room.
_MEMORY = "/dev/shm"
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)

# The same examples each time, so that a run which fails can be repeated; HYPOTHESIS_PROFILE=default searches anew, 100.
hypothesis.settings.register_profile("headfields", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "headfields"))


# What is imported and collected, half a million objects, stays: nothing of it is looked through for cycles again. Later
# objects are, after 50,000 new ones instead of 700, which took two fifths of the time of tests that read all sources.
gc.disable()
gc.set_threshold(50_000, 20, 20)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, tests of one file stay on one worker where they can: what they share is made once."""
    if config.getvalue("dist") != "load":  # the default
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    annotation_checks.next_test()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `cuda` are skipped where there is no device."""
    import torch  # not above: with `-n`, the process that hands out tests needs none of it

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was skipped, by reason: a line for each with the number of tests and, where they are few, their files."""
    skipped: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[reason.removeprefix("Skipped: ")].append(report.nodeid.partition("::")[0])
    if skipped:
        terminalreporter.section("skipped, and why", sep="-")
    for reason, where in sorted(skipped.items(), key=lambda item: -len(item[1])):
        files = sorted(set(where))
        named = ", ".join(files) if len(files) <= 3 else f"{len(files)} files"
        terminalreporter.line(f"{len(where):4d}  {reason} ({named})")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers of a test are the same each time, whatever ran before it."""
    import torch

    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True, scope="session")
def left_to_the_system() -> Iterator[None]:
    """Files are written as ever, but no test waits for the disk: what it writes need not outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny file of each kind that the library saves (`tests/files/samples.py`)."""
    from tests.files.samples import write_samples

    return write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Runs a test without the annotation checks, as users' programs run: for `torch.compile` and error messages."""
    with annotation_checks.left_out():
        yield


@pytest.fixture(scope="session")
def head() -> Iterator[Any]:
    """The procedural head, 4,515 vertices; not to be changed."""
    from headfields.synthetic.head.model import procedural_head
    from tests.factories import kept_module

    yield from kept_module(procedural_head())


@pytest.fixture(scope="session")
def tiny_head() -> Iterator[Any]:
    """A blob of 362 vertices with FLAME's joints and coefficients; not to be changed."""
    from tests.data.formats import vhap_folder
    from tests.factories import kept_module

    yield from kept_module(vhap_folder.tiny_head())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny capture with everything in it; not to be changed."""
    from tests.factories import kept_folder, tiny_capture

    yield from kept_folder(tiny_capture(tmp_path_factory.mktemp("shared") / "tiny"))


@pytest.fixture(scope="session")
def head_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A capture of the procedural head; not to be changed."""
    from tests.factories import head_capture, kept_folder

    yield from kept_folder(head_capture(tmp_path_factory.mktemp("shared") / "head"))
