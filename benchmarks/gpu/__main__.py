"""Everything about a GPU with one command: `python -m benchmarks.gpu --out DIR [--capture DIR]`.

Parts have items (a file of tests, a preset, an operation), and each item runs in a process of its own with a limit of
time, so that an illegal access or a hang ends that item alone. What failed runs once more with CUDA_LAUNCH_BLOCKING=1,
under which an error is raised where it arises. Results are written after each item: gpu.json, and gpu.md, a page with
the device's name. The same command goes on with what is not done, so use a new folder for new code. `--small --device
cpu` runs everything at tiny sizes on a machine without a GPU, `--device pretend` on the tests' pretend device.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Part:
    """Limits of a part, seconds.

    Attributes:
        seconds: of all its items together; those that are not begun by then are left out.
        item: of each.
        again: whether an item that failed runs again with CUDA_LAUNCH_BLOCKING=1.
    """

    seconds: float
    item: float
    again: bool = True


PARTS = {
    "environment": Part(180, 180, again=False),
    "tests": Part(900, 180),
    "ceilings": Part(30, 30, again=False),
    "graphs": Part(480, 90),
    "capture_failures": Part(90, 60),
    "programs": Part(600, 240),
    "models": Part(700, 150),
    "operations": Part(600, 90),
    "sanitizer": Part(360, 120, again=False),
}
"""First to last."""
INTERRUPTED = "interrupted"
_BLOCKING = {"CUDA_LAUNCH_BLOCKING": "1"}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--capture", type=Path, help="to train on; a synthetic one if not given")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no item after that")
    parser.add_argument("--device", choices=("cuda", "cpu", "pretend"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to check that everything runs")
    parser.add_argument("--item", help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    if found.device != "cuda" and not found.small:
        parser.error(f"--device {found.device} is for --small alone; python -m benchmarks measures a CPU")
    return found


def run_item(arguments: argparse.Namespace) -> None:
    """Runs one item in this process."""
    on_device: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if arguments.device == "pretend":
        from benchmarks.gpu.pretend import pretended

        on_device = pretended()
    settings = _settings(arguments)
    (part,) = arguments.only
    with on_device:
        settings.write(
            part, arguments.item, importlib.import_module(f"benchmarks.gpu.{part}").run(settings, arguments.item)
        )


def call(command: list[str], seconds: float, log: Path, environment: dict[str, str]) -> int:
    """The exit code of a command, whose output goes to a file. Whatever ends this call early ends the command too, with
    what it has started: an item that went on would disturb the figures of the next.

    Raises:
        subprocess.TimeoutExpired: it ran longer.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, start_new_session=True, stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment
        )
    try:
        return process.wait(seconds)
    except BaseException:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        raise


class Day:
    """The items of all parts, one after the other.

    Args:
        arguments: the command's.

    Attributes:
        results: what gpu.json holds.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.settings = arguments, _settings(arguments)
        self._end = time.monotonic() + 60 * arguments.minutes
        self.file = arguments.out / "gpu.json"
        self.results: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.results |= {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "small": arguments.small}
        self.results.setdefault("parts", {})

    def run(self) -> bool:
        """Whether everything is done, and nothing failed."""
        try:
            for name in self.arguments.only:
                self._run_part(name)
        except KeyboardInterrupt:
            self.results["parts"][name]["state"] = INTERRUPTED
        self._write()
        return all(part["state"] == "done" for part in self.results["parts"].values())

    def _run_part(self, name: str) -> None:
        module, limits, began = importlib.import_module(f"benchmarks.gpu.{name}"), PARTS[name], time.monotonic()
        part = self.results["parts"].setdefault(name, {"seconds": 0.0, "state": ""})
        rows: dict[str, Any] = self.results.setdefault(name, {})
        if why := getattr(module, "missing", lambda settings: "")(self.settings):
            part["state"] = "done"
            part["skipped"] = why
            return
        try:
            items = module.items(self.settings) if hasattr(module, "items") else [name]
        except Exception as error:
            part["state"] = f"{type(error).__name__}: {error}"
            return
        before = part["seconds"]
        for item in items:
            if rows.get(item, {}).get("state") == "done":
                continue
            used = time.monotonic() - began
            if before + used > limits.seconds or time.monotonic() > self._end:
                spent = before + used > limits.seconds
                rows[item] = {"state": f"not begun: {'the part' if spent else 'the run'} has used its time"}
                continue
            print(f"{name}: {item}, at most {limits.item:.0f} s", flush=True)
            rows[item] = self._run(name, item, limits.item, {})
            if limits.again and rows[item]["state"] != "done" and self.arguments.device == "cuda":
                rows[item]["blocking"] = self._run(name, item, limits.item, _BLOCKING)["state"]
            part["seconds"] = before + time.monotonic() - began
            self._write()
        failed = [item for item in items if rows[item]["state"] != "done"]
        part["state"] = f"{len(failed)} of {len(items)} not done" if failed else "done"

    def _run(self, part: str, item: str, seconds: float, environment: dict[str, str]) -> dict[str, Any]:
        """What an item has measured, with its state."""
        file, began = self.settings.file(part, item), time.monotonic()
        log = file.with_suffix(".blocking.log" if environment else ".log")
        file.unlink(missing_ok=True)
        try:
            code = call(self._command(part, item), seconds, log, environment)
            state = "done" if not code else f"exit code {code}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            state = f"ran past {seconds:g} s"
        row: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        if state == "done":
            state = row.get("error", "done") if row else f"no result: {last_line(log)}"
        return row | {"state": state, "seconds": round(time.monotonic() - began, 1)}

    def _command(self, part: str, item: str) -> list[str]:
        given = self.arguments
        command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(given.out), "--device", given.device]
        command += ["--small"] if given.small else []
        command += [] if given.capture is None else ["--capture", str(given.capture)]
        command += ["--only", part, "--item", item]
        wrap = getattr(importlib.import_module(f"benchmarks.gpu.{part}"), "wrapped", None)
        return command if wrap is None else wrap(command)

    def _write(self) -> None:
        from benchmarks.gpu.page import markdown

        draft = self.file.with_suffix(".tmp")
        draft.write_text(json.dumps(self.results, indent=1) + "\n")
        draft.replace(self.file)
        (self.arguments.out / "gpu.md").write_text(markdown(self.results))


def last_line(log: Path) -> str:
    """What a process said last: an exception, as a rule."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _settings(arguments: argparse.Namespace) -> Any:
    from benchmarks.gpu.settings import GpuSettings

    return GpuSettings(arguments.out, arguments.device, arguments.small, arguments.capture)


def main(given: list[str] | None = None) -> int:
    arguments = parse(given)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.item is not None:
        run_item(arguments)
        return 0
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit("benchmarks.gpu: torch sees no CUDA device; --small --device cpu runs the parts without one")
    day = Day(arguments)
    done = day.run()
    print(
        arguments.out / "gpu.md",
        *(f"{n}: {p['state']}" for n, p in day.results["parts"].items() if p["state"] != "done"),
        sep="\n",
    )
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
