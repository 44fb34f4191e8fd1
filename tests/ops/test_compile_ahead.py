"""Every Warp kernel compiles for the GPUs that are in use, without one: to PTX, and on sm_90 to bounded registers."""

import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import headfields.ops.kernels as kernels
from headfields.ops.dispatch import warp

NAMES = sorted(module.name for module in pkgutil.iter_modules(kernels.__path__))
# Registers and bytes of stack of the kernels that take the time, on sm_90: lower these as the kernels get better.
CEILINGS = {
    "closest_triangle.closest": (208, 512),
    "ray_mesh.raycast": (192, 576),
    "ray_mesh.interval": (96, 576),
    "nearest_vertices.nearest": (80, 704),
    "occupancy.march": (96, 64),
}
# In a process of its own: Warp remembers of a module for what it was last compiled.
COMPILE = """
import importlib, pathlib, sys
from headfields.ops.dispatch import warp
architecture, kind, folder, *names = sys.argv[1:]
wp = warp()
for name in names:
    module = wp.get_module(importlib.import_module("headfields.ops.kernels." + name).__name__)
    place = pathlib.Path(folder) / name
    place.mkdir()
    wp.compile_aot_module(module, arch=int(architecture), module_dir=place, use_ptx=kind == "ptx")
"""


def compiled(names, architecture: int, kind: str, folder: Path) -> list[Path]:
    """The files of some modules, compiled for one architecture."""
    wp = warp()
    if not (hasattr(wp, "compile_aot_module") and wp.get_cuda_toolkit_version()):
        pytest.skip("this Warp has no compiler for CUDA, or none ahead of time")
    command = [sys.executable, "-c", COMPILE, str(architecture), kind, str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return sorted(folder.rglob(f"*.{kind}"))


@pytest.mark.parametrize(
    "architecture", [90, *(pytest.param(other, marks=pytest.mark.slow) for other in (75, 80, 86, 89, 100, 120))]
)
def test_kernels_compile_to_ptx(architecture, tmp_path):
    files = compiled(NAMES, architecture, "ptx", tmp_path)
    assert [path.parent.name for path in files] == NAMES
    for path in files:
        text = path.read_text()
        assert f".target sm_{architecture}" in text and ".entry" in text


def cuobjdump() -> str | None:
    """The tool of CUDA's toolkit, or of the wheel of Triton."""
    try:
        import triton
    except ImportError:
        return shutil.which("cuobjdump")
    return shutil.which("cuobjdump") or shutil.which(f"{triton.__path__[0]}/backends/nvidia/bin/cuobjdump")


@pytest.mark.slow
def test_registers_and_stack_on_hopper(tmp_path):
    tool = cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump: it is in CUDA's toolkit, and in the wheel of Triton")
    files = compiled(sorted({kernel.split(".")[0] for kernel in CEILINGS}), 90, "cubin", tmp_path)
    used = {}
    for path in files:
        listing = subprocess.run([tool, "-res-usage", str(path)], capture_output=True, text=True, check=True).stdout
        for name, registers, stack in re.findall(
            r"Function (\w+)_cuda_kernel_forward\s*:\s*REG:(\d+) STACK:(\d+)", listing
        ):
            used[f"{path.parent.name}.{re.sub('_[0-9a-f]{8}$', '', name)}"] = (int(registers), int(stack))
    mine = {kernel: used[kernel] for kernel in CEILINGS}
    assert all(mine[kernel][0] <= most[0] and mine[kernel][1] <= most[1] for kernel, most in CEILINGS.items()), mine
