"""Everything about a GPU with one command: `python -m benchmarks.gpu --out DIR [--capture DIR]`.

Each part runs in a process of its own with a limit of time, so that one that fails or hangs leaves the others their
figures; models and operations that were measured before the limit, or before Ctrl-C, are kept. Writes PART.json for
each, gpu.json with all, and gpu.md, a page with the device's name. `--small --device cpu` runs everything at tiny
sizes on a machine without a GPU.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

PARTS = {"environment": 180, "tests": 180, "ceilings": 30, "models": 700, "operations": 600}
"""Seconds that each part may take, first to last."""
INTERRUPTED = "interrupted"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--capture", type=Path, help="to train on; a synthetic one if not given")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to check that everything runs")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    if found.device == "cpu" and not found.small:
        parser.error("--device cpu is for --small alone; python -m benchmarks measures a CPU")
    return found


def run_part(name: str, arguments: argparse.Namespace) -> None:
    import torch

    from benchmarks.gpu.settings import GpuSettings

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: torch sees no CUDA device; --small --device cpu runs the parts without one")
    settings = GpuSettings(arguments.out, arguments.device, arguments.small, arguments.capture)
    settings.write(name, importlib.import_module(f"benchmarks.gpu.{name}").run(settings))


def call(command: list[str], seconds: float) -> int:
    """The exit code of a command. Whatever ends this call early ends the command too, with what it has started: a
    part that went on would disturb the figures of the next.

    Raises:
        subprocess.TimeoutExpired: it ran longer.
    """
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(seconds)
    except BaseException:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        raise


def run_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the parts one after the other; their results and states."""
    results: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "small": arguments.small, "parts": {},
    }  # fmt: skip
    options = ["--out", str(arguments.out), "--device", arguments.device, "--in-process"]
    options += ["--small"] if arguments.small else []
    options += [] if arguments.capture is None else ["--capture", str(arguments.capture)]
    for name in arguments.only:
        file, began = arguments.out / f"{name}.json", time.perf_counter()
        file.unlink(missing_ok=True)
        print(f"{name}, at most {PARTS[name]} s", flush=True)
        try:
            code = call([sys.executable, "-m", "benchmarks.gpu", *options, "--only", name], PARTS[name])
            state = "done" if not code and file.exists() else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            state = f"ran past {PARTS[name]} s"
        except KeyboardInterrupt:
            state = INTERRUPTED
        results["parts"][name] = {"state": state, "seconds": time.perf_counter() - began}
        if file.exists():
            results[name] = json.loads(file.read_text())
        if state == INTERRUPTED:
            break
    return results


def main(given: list[str] | None = None) -> int:
    arguments = parse(given)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.in_process:
        for name in arguments.only:
            run_part(name, arguments)
        return 0
    from benchmarks.gpu.page import markdown

    results = run_all(arguments)
    (arguments.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "gpu.md").write_text(markdown(results))
    states = {name: part["state"] for name, part in results["parts"].items() if part["state"] != "done"}
    print(f"{arguments.out / 'gpu.md'}" + (f"; {states}" if states else ""))
    return 1 if states else 0


if __name__ == "__main__":
    sys.exit(main())
