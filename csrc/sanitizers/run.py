"""Builds the compiled module with each sanitizer and drives it: `python csrc/sanitizers/run.py KIND...`.

KIND is address, undefined or thread (all three where none is named). For each of them, under build/sanitize/KIND: every
kernel from several threads without Python (csrc/stress.cpp), on every instruction set of this processor; then the tests
of the operations that the module serves, in a copy of the package that holds the sanitized module. Linux with GCC.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
# Must be in the process before Python is; and with them libstdc++, whose __cxa_throw they look for when they start.
RUNTIME = {"address": "libasan.so", "thread": "libtsan.so"}
TESTS = ["closest_triangle", "ray_mesh", "hash_grid", "spherical_harmonics", "compositing", "sampling", "occupancy",
         "mlp", "softplus", "blended_map", "nearest_vertices", "interpolate_rows", "marching_cubes",
         "rasterize_gaussians", "bound_gaussians", "blur", "native_threads", "hostile_calls"]  # fmt: skip
# Warp compiles code at run time, which no sanitizer knows; torch.compile starts processes; the instruction sets are
# what stress.cpp goes through.
LEFT_OUT = "warp or cuda or compile or builders"


def environment(kind: str) -> dict[str, str]:
    """Options of a sanitizer: stop at the first report; leaks of Python itself are not checked. The others' are not
    set: tests/ops/hostile_calls.py limits its own memory where AddressSanitizer does not."""
    options = {
        "address": "detect_leaks=0:halt_on_error=1:detect_stack_use_after_return=1:strict_string_checks=1:"
        "max_allocation_size_mb=4000:allocator_may_return_null=1",
        "undefined": "halt_on_error=1:print_stacktrace=1",
        "thread": f"halt_on_error=1:suppressions={HERE / 'thread.supp'}",
    }
    return {**os.environ, {"address": "ASAN", "undefined": "UBSAN", "thread": "TSAN"}[kind] + "_OPTIONS": options[kind]}


def call(command: list[str | Path], **options) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, check=True, **options)


def instruction_sets() -> list[str]:
    """The instruction sets of this processor."""
    flags = Path("/proc/cpuinfo").read_text() if platform.machine() == "x86_64" else ""
    return ["baseline"] + ["avx2"] * (" avx2 " in flags) + ["avx512"] * (" avx512vl " in flags)


def still(kind: str) -> list[str]:
    """The command prefix without address randomization, which the TSan of older compilers cannot take in full."""
    setarch = shutil.which("setarch")
    return [setarch, platform.machine(), "--addr-no-randomize"] if kind == "thread" and setarch else []


def build(kind: str) -> Path:
    folder = ROOT / "build" / "sanitize" / kind
    cmake = [sys.executable, "-m", "cmake"]
    call(
        [
            *cmake,
            "-S",
            ROOT / "csrc",
            "-B",
            folder,
            "-G",
            "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DHF_SANITIZE={kind}",
        ]
    )
    call([*cmake, "--build", folder, "--target", "stress", "_native"])
    return folder


def library(name: str) -> str:
    """The path of a library of the compiler."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def test(kind: str, folder: Path) -> None:
    """The operations' tests in a copy of the package: the module in the working tree stays as it is."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    leave = shutil.ignore_patterns("_native*", "__pycache__")
    for name in ("headfields", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", tree)
    for module in folder.glob("_native*.so"):
        shutil.copy(module, tree / "headfields")
    settings = {**environment(kind), "OMP_NUM_THREADS": "1", "PYTHONMALLOC": "malloc"}
    if kind in RUNTIME:
        settings["LD_PRELOAD"] = f"{library(RUNTIME[kind])} {library('libstdc++.so.6')}"
    # Under TSan only the test of threads, without its forks, which TSan does not support in a threaded process.
    names, left_out = (["native_threads"], "fork or loader") if kind == "thread" else (TESTS, LEFT_OUT)
    files = [f"tests/ops/test_{name}.py" for name in names]
    # Without pytest's capture of file descriptors, a report at the end of the process is visible.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--capture=sys", "-p", "no:cacheprovider"]
    command += ["-k", f"not ({left_out})", *files]
    call([*still(kind), *command], cwd=tree, env=settings)


def main(kinds: list[str]) -> None:
    for kind in kinds or ["undefined", "address", "thread"]:
        if kind not in ("address", "undefined", "thread"):
            sys.exit(__doc__)
        folder = build(kind)
        for isa in instruction_sets():
            arguments = ["2", "no-forks"] if kind == "thread" else ["2"]
            call([*still(kind), folder / "stress", *arguments], env={**environment(kind), "HEADFIELDS_ISA": isa})
        test(kind, folder)
    print("no sanitizer has anything to report")


if __name__ == "__main__":
    main(sys.argv[1:])
