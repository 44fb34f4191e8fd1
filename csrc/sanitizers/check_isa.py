"""Checks that a module built here runs on the oldest processor: `python csrc/sanitizers/check_isa.py BUILD_FOLDER`.

Looks at the object files of a build on x86-64 (binutils' `objdump` and `nm` must be there):
- nothing but the objects of the avx2 and avx512 kernels holds an instruction that a baseline processor lacks;
- those objects define no symbol outside their own namespace: an inline function of a shared header, compiled with AVX
  and merged by the linker with the baseline's copy, would end a baseline processor with an illegal instruction.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Every instruction of AVX and later is named v..., but for BMI's and the like. `verr` and `verw` are ancient, and
# `tzcnt` is a `bsf` with a prefix that old processors ignore, which compilers use where the two do the same.
NEWER = re.compile(
    r"^(v(?!err|erw|mcall|mxon)\w+|k(mov|or|and|xor|not|shift|unpck|test|add|xnor)\w*|"
    r"(andn|bextr|blsi|blsmsk|blsr|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|lzcnt|popcnt|movbe)[lq]?|"
    r"(pshufb|pmulld|pminsd|pmaxsd|pblendvb|blendv\w*|round[sp][sd]|ptest|dpps|pextr[dq]|pinsr[dq]|insertps|haddp[sd]))$"
)
NAMESPACES = ("avx2", "avx512")


def objects(build: Path) -> Iterator[tuple[str, Path]]:
    """Each object of the module, with the instruction set it is compiled for."""
    for path in sorted(build.rglob("*.o")):
        folder = next((part for part in path.parts if part.endswith(".dir")), "")
        if folder.startswith("hf_"):
            yield folder.removeprefix("hf_").removesuffix(".dir"), path
        elif folder.startswith("_native"):
            yield "baseline", path


def newer_instructions(path: Path) -> Iterator[str]:
    """Functions of an object that hold instructions a baseline processor lacks, one instruction each."""
    listing = subprocess.run(
        ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(path)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    function = "?"
    for line in listing.splitlines():
        if line.endswith(">:"):
            function, found = line.split("<", 1)[1][:-2], False
        elif line.startswith(" ") and "\t" in line:
            words = line.split("\t")[1].split()
            words = (
                words[1:]
                if words and words[0] in ("rep", "repz", "repnz", "lock", "notrack", "bnd", "data16")
                else words
            )
            if words and NEWER.match(words[0]) and not found:
                found = True
                yield f"{function}: {' '.join(words)}"


def strangers(path: Path, namespace: str) -> Iterator[str]:
    """Symbols outside its namespace that an object exports, or that a linker may merge with those of others."""
    names = subprocess.run(
        ["nm", "--demangle", "--defined-only", "--extern-only", str(path)], capture_output=True, text=True, check=True
    )
    for line in names.stdout.splitlines():
        _, kind, name = line.split(" ", 2)
        if kind in "WVuU" or not name.startswith(f"{namespace}::"):
            yield f"{kind} {name}"


def problems(build: Path) -> list[str]:
    """The reasons why the module in the build folder would not run on a baseline processor; empty if it would."""
    found, seen = [], set()
    for isa, path in objects(build):
        seen.add(isa)
        if isa == "baseline":
            found += [f"{path.name}: {what} is no baseline instruction" for what in newer_instructions(path)]
        else:
            found += [f"{path.name} ({isa}): defines {name} outside its namespace" for name in strangers(path, isa)]
    if seen != {"baseline", *NAMESPACES}:
        found.append(
            f"{build}: expected the objects of baseline, avx2 and avx512, found those of {sorted(seen) or 'none'}"
        )
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    trouble = problems(Path(sys.argv[1]))
    print("\n".join(trouble) if trouble else "nothing but what is behind the dispatch needs AVX")
    sys.exit(bool(trouble))
