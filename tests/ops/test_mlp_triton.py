"""Small networks in Triton, where it is installed: interpreted on the CPU, and compiled ahead of time."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from headfields.ops import mlp

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def run(what: str, folder: str) -> dict[str, Any]:
    environment = os.environ | {"TRITON_CACHE_DIR": folder}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.triton_networks", what],
        capture_output=True, text=True, timeout=500, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@needs_triton
def test_values_and_derivatives_are_the_definitions(tmp_path):
    errors = run("interpret", str(tmp_path))
    assert errors.keys() == {"2 layers", "3 layers", "4 layers"}
    for of_network in errors.values():
        assert max(of_network) < 0.02, (
            errors
        )  # float16 has 11 bits; a unit near 0 may be on one side of it or the other


@needs_triton
@pytest.mark.slow
def test_kernels_compile_to_tensor_cores(tmp_path):
    taken = run("compile", str(tmp_path))
    assert taken.keys() == {f"{kernel}_kernel sm_{a}" for kernel in ("forward", "backward") for a in (80, 90)}
    for of_kernel in taken.values():
        assert of_kernel["products"] > 0 and of_kernel["shared"] <= 48 * 1024


def test_a_cpu_has_none_of_them():
    x, weights = torch.rand(5, 3), [torch.rand(16, 3), torch.rand(2, 16)]
    with torch.autocast("cpu", torch.bfloat16):
        assert mlp(x, weights).dtype == torch.bfloat16
    assert not sys.modules["headfields.ops.mlp"]._has_triton(x)
