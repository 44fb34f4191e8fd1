"""Processes in which a reader may crash, hang or eat memory without harm to the tests."""

import multiprocessing
import resource
import signal
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([  # a process then starts in milliseconds
    "pytest", "scipy.sparse", "trimesh", "headfields.avatar.splat_avatar", "headfields.data",
    "headfields.heads", "headfields.mesh", "headfields.apps.priors.scans", "headfields.apps.rigging",
    "headfields.apps.texturing",
    "headfields.apps.tracking.prior.mononphm_layout", "headfields.apps.tracking.prior.fit",
    "headfields.apps.tracking.rig.fit", "headfields.training.trainer",
])  # fmt: skip
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        kind: "returned", "raised", "crashed" or "timed out".
        errors: names of the error's class and of its bases.
        text: the error's message, or the signal.
        trace: the last lines of the traceback.
    """

    kind: str
    errors: tuple[str, ...] = ()
    text: str = ""
    trace: str = ""

    @property
    def out_of_memory(self) -> bool:
        """Whether it asked for more memory than it was granted; readers turn that into another error."""
        words = ("MemoryError", "more memory than there is", "allocate memory", "Cannot allocate", "bad_alloc")
        return "MemoryError" in self.errors or any(word in self.text for word in words)


def outcomes(
    function: Callable[[Any], Any], cases: Sequence[Any], megabytes: int = 1024, seconds: float = 20
) -> list[Outcome]:
    """Calls a function of the module level for each case, one after the other.

    Args:
        function: what is called; what it returns is dropped.
        cases: its arguments.
        megabytes: memory that a process may take beyond that of the imported library.
        seconds: most that a case may take.
    """
    out: list[Outcome] = []
    while len(out) < len(cases):
        ours, theirs = _context.Pipe()
        process = _context.Process(target=_serve, args=(theirs, function, cases[len(out) :], megabytes), daemon=True)
        process.start()
        theirs.close()
        _collect(out, ours, len(cases), seconds, process)
        process.kill()
        process.join()
        ours.close()
    return out


def _collect(out: list[Outcome], ours: Connection, count: int, seconds: float, process: Any) -> None:
    allowed = seconds + 60  # the first report also waits for the imports
    while len(out) < count:
        if not ours.poll(allowed):
            out.append(Outcome("timed out", text=f"after {seconds} s"))
            return
        try:
            report = ours.recv()
        except EOFError:
            process.join()
            code = process.exitcode
            out.append(Outcome("crashed", text=signal.Signals(-code).name if code < 0 else f"exit status {code}"))
            return
        if report != "ready":
            out.append(report)
        allowed = seconds


def _serve(theirs: Connection, function: Callable[[Any], Any], cases: Iterable[Any], megabytes: int) -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + megabytes * _MEGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    theirs.send("ready")
    for case in cases:
        try:
            function(case)
            report = Outcome("returned")
        except BaseException as error:
            names = tuple(kind.__name__ for kind in type(error).__mro__)
            trace = "".join(traceback.format_tb(error.__traceback__)[-4:])
            report = Outcome("raised", names, " ".join(str(error).split())[:2000], trace)
        theirs.send(report)
