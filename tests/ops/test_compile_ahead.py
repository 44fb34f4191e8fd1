"""Every Warp kernel compiles for the GPUs that are in use, without one: to PTX, and on sm_90 to bounded registers."""

import json
import pkgutil
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import headfields.ops.kernels as kernels
from headfields.ops.dispatch import warp

NAMES = sorted(module.name for module in pkgutil.iter_modules(kernels.__path__) if not module.name.endswith("_triton"))
# Registers and bytes of stack of the kernels that take the time, on sm_90: lower these as the kernels get better.
CEILINGS = {
    "closest_triangle.closest": (120, 512),
    "ray_mesh.raycast": (128, 512),
    "ray_mesh.interval": (80, 512),
    "nearest_vertices.nearest": (72, 640),
    "eigen.symmetric": (56, 0),
    "splat_colors.colors": (32, 64),
    "splat_colors.colors_backward": (64, 192),
    "splat_project.project": (64, 120),
    "occupancy.march": (88, 0),
    "splat_project.project_backward": (128, 160),
    "splat_tiles.draw": (80, 0),  # as many blocks fit on a multiprocessor as with 72
    "splat_tiles.draw_backward": (72, 0),
    "triangle_frames.gradients": (56, 0),
    "triangle_frames.gradients_gradient": (96, 0),
    "hash_grid.gather": (64, 0),
    "hash_grid.scatter": (56, 0),
    "hash_grid.point_gradient": (80, 0),
}
# The hash grids that are compiled: INSTA's first and second derivatives, and its rows in half precision.
GRIDS = [(3, 8, False, False), (3, 8, False, True), (3, 8, True, False)]
RANKING = ("closest_triangle", "nearest_vertices", "ray_mesh")
"""Kernels whose results are ranked, and equals by their index."""
# In a process of its own: Warp remembers of a module for what it was last compiled.
COMPILE = """
import importlib, json, pathlib, sys
from headfields.ops.dispatch import warp
architecture, kind, folder, grids, *names = sys.argv[1:]
wp = warp()
for name in names:
    source = importlib.import_module("headfields.ops.kernels." + name)
    modules = [wp.get_module(source.__name__)]
    if name == "hash_grid":
        modules = [source.specialized(*grid).gather.module for grid in json.loads(grids)]
    for index, module in enumerate(modules):
        place = pathlib.Path(folder) / name / str(index)
        place.mkdir(parents=True)
        wp.compile_aot_module(module, arch=int(architecture), module_dir=place, use_ptx=kind == "ptx")
"""


def compiled(names, architecture: int, kind: str, folder: Path, grids=GRIDS) -> list[Path]:
    """The files of some modules, compiled for one architecture."""
    wp = warp()
    if not (hasattr(wp, "compile_aot_module") and wp.get_cuda_toolkit_version()):
        pytest.skip("this Warp has no compiler for CUDA, or none ahead of time")
    command = [sys.executable, "-c", COMPILE, str(architecture), kind, str(folder), json.dumps(grids), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return sorted(folder.rglob(f"*.{kind}"))


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        (90, ("nearest_vertices",)),
        *(pytest.param(each, NAMES, marks=pytest.mark.slow) for each in (75, 80, 86, 89, 90, 100, 120)),
    ],
    ids=str,
)
def test_kernels_compile_to_ptx(architecture, names, tmp_path):
    files = compiled(names, architecture, "ptx", tmp_path)
    assert {path.relative_to(tmp_path).parts[0] for path in files} == set(names)
    assert len(files) == len(names) + ("hash_grid" in names) * (len(GRIDS) - 1)
    for path in files:
        text = path.read_text()
        assert f".target sm_{architecture}" in text and ".entry" in text
        if path.parent.name in RANKING:
            assert "fma.rn" not in text, "equal distances are equal numbers only without fused products"


def cuobjdump() -> str | None:
    """The tool of CUDA's toolkit, or of the wheel of Triton."""
    try:
        import triton
    except ImportError:
        return shutil.which("cuobjdump")
    return shutil.which("cuobjdump") or shutil.which(f"{triton.__path__[0]}/backends/nvidia/bin/cuobjdump")


def listing(option: str, path: Path) -> str:
    """What cuobjdump tells of a cubin."""
    tool = cuobjdump()
    assert tool is not None
    return subprocess.run([tool, option, str(path)], capture_output=True, text=True, check=True).stdout


needs_cuobjdump = pytest.mark.skipif(
    cuobjdump() is None, reason="no cuobjdump: it is in CUDA's toolkit, and in the wheel of Triton"
)


@pytest.mark.slow
@needs_cuobjdump
def test_registers_and_stack_on_hopper(tmp_path):
    files = compiled(sorted({kernel.split(".")[0] for kernel in CEILINGS}), 90, "cubin", tmp_path, GRIDS[:1])
    used = {}
    for path in files:
        for name, registers, stack in re.findall(
            r"Function (\w+)_cuda_kernel_forward\s*:\s*REG:(\d+) STACK:(\d+)", listing("-res-usage", path)
        ):
            name = re.sub("_[0-9a-f]{8}$", "", name).removeprefix("specialized__locals__")
            used[f"{path.relative_to(tmp_path).parts[0]}.{name}"] = (int(registers), int(stack))
    mine = {kernel: used[kernel] for kernel in CEILINGS}
    assert all(mine[kernel][0] <= most[0] and mine[kernel][1] <= most[1] for kernel, most in CEILINGS.items()), mine


@pytest.mark.slow
@needs_cuobjdump
def test_hash_grid_moves_sixteen_bytes_at_once(tmp_path):
    (path,) = compiled(["hash_grid"], 90, "cubin", tmp_path, GRIDS[:1])
    found = {}
    for part in listing("-sass", path).split("Function : specialized__locals__")[1:]:
        name = re.match(r"[a-z_]+(?=_[0-9a-f]{8})", part)
        found[name[0]] = Counter(re.findall(r"\b(?:LDG|STG|REDG?|ATOMG?)\.[\w.]*", part))
    # 8 corners of 8 floats each.
    assert found["gather"]["LDG.E.128.CONSTANT"] == 16
    assert found["scatter"].keys() == {"LDG.E", "LDG.E.128.CONSTANT", "REDG.E.ADD.F32x4.FTZ.RN.STRONG.GPU"}
    assert found["scatter"]["REDG.E.ADD.F32x4.FTZ.RN.STRONG.GPU"] == 16
    assert found["point_gradient"]["LDG.E.128.CONSTANT"] == 18
