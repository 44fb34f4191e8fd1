"""The self-check of `headfields doctor` launches every kernel of every backend."""

import ast
import sys
from pathlib import Path

import pytest

import headfields.ops
from headfields.apps import self_check
from headfields.ops import dispatch, warp_launch

NO_KERNELS = {"isa", "bvh_build", "bvh_leaf_floats", "bvh_node_floats", "vertex_leaf_floats", "hash_grid_rows"}
"""Functions of the compiled module that build on the host or tell a size."""


@pytest.mark.skipif(dispatch.native is None, reason="the compiled module is not installed")
def test_every_native_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()

    class Recorder:
        def __getattr__(self, name: str):
            called.add(name)
            return getattr(native, name)

    native = dispatch.native
    for name, module in list(sys.modules.items()):
        if name.startswith("headfields.ops.") and getattr(module, "native", None) is native:
            monkeypatch.setattr(module, "native", Recorder())
    monkeypatch.setattr(self_check, "_backends", lambda: ["cpu native"])
    failed = [str(result) for result in self_check.run() if not result.passed]
    assert not failed
    kernels = {name for name in dir(native) if not name.startswith("_")} - NO_KERNELS
    assert kernels - called == set()


@pytest.mark.slow
def test_every_warp_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: set[str] = set()
    find = warp_launch._kernel

    def recording(name):
        specialization = not isinstance(name, str)
        launched.add(f"hash_grid.{name.key.split('__')[-1]}" if specialization else name)
        return find(name)

    monkeypatch.setattr(warp_launch, "_kernel", recording)
    monkeypatch.setattr(self_check, "_backends", lambda: ["cpu warp"])
    failed = [str(result) for result in self_check.run() if not result.passed]
    assert not failed
    kernels = set()
    for file in Path(headfields.ops.__file__).parent.glob("kernels/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and any("kernel" in ast.unparse(d) for d in node.decorator_list):
                kernels.add(f"{file.stem}.{node.name}")
    assert kernels - launched == set()
