"""Measures operations and their peers: `python -m benchmarks [--quick] [--only NAME ...] [--out DIR]`.

Each operation runs in a process of its own, bound to `--threads` cores, so that every library has the same number of
threads and no operation inherits state from another. Writes NAME.md, NAME.png and NAME.json into `--out`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.operations import OPERATIONS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=OPERATIONS, default=list(OPERATIONS), metavar="NAME",
                        help="of " + ", ".join(OPERATIONS))  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds, to check that everything runs")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--threads", type=int, default=2, help="of every library; 2 if not given")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    if arguments.in_process:
        machine.bind(arguments.threads)
        from benchmarks.run import run  # after the cores are bound: libraries count them on import

        for name in arguments.only:
            run(name, arguments.out, arguments.quick, arguments.threads, arguments.device)
        return 0
    failed = []
    for name in arguments.only:
        options = ["--only", name, "--out", str(arguments.out), "--threads", str(arguments.threads)]
        options += ["--device", arguments.device, "--in-process", *(["--quick"] if arguments.quick else [])]
        environment = {**os.environ, **machine.thread_variables(arguments.threads)}
        if subprocess.run([sys.executable, "-m", "benchmarks", *options], env=environment).returncode:
            failed.append(name)
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
