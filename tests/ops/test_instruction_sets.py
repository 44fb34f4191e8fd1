"""The kernels are compiled once per instruction set: every one gives the same answers, and a baseline one is there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from headfields.ops.dispatch import native
from headfields.ops.reference.closest_triangle import closest_face, closest_on_face
from tests.ops import isa_probe

pytestmark = pytest.mark.skipif(native is None, reason="the compiled module is not installed")
SETS = {"baseline": 0, "avx2": 1, "avx512": 2}


@pytest.fixture(scope="module")
def here():
    """Every kernel's results on the instruction set of this process."""
    return isa_probe.run(native)


def probe(isa: str, folder: Path) -> dict[str, np.ndarray]:
    if SETS[isa] > SETS[native.isa()]:
        pytest.skip(f"this processor has no {isa}")
    done = subprocess.run(
        [sys.executable, isa_probe.__file__, native.__file__, str(folder / "results.npz")],
        env={**os.environ, "HEADFIELDS_ISA": isa}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(folder / "results.npz") as results:
        return dict(results)


@pytest.mark.parametrize("isa", SETS)
def test_every_set_gives_the_same(isa, here, tmp_path):
    results = probe(isa, tmp_path)
    assert results.pop("isa") == isa
    assert set(results) == set(here)
    for name, want in here.items():
        have = results[name]
        assert have.dtype == want.dtype and have.shape == want.shape
        if name.endswith("_face"):  # equally near to rounding: the distances, below, decide
            assert ((have >= 0) == (want >= 0)).all() and (have == want).mean() > 0.99
        elif name.endswith("_weights"):
            same = results[name.replace("_weights", "_face")] == here[name.replace("_weights", "_face")]
            np.testing.assert_allclose(have[same], want[same], rtol=0, atol=1e-4)
        elif want.dtype.kind in "iu":
            np.testing.assert_array_equal(have, want)
        else:
            scale = np.nanmax(np.abs(np.where(np.isfinite(want), want, 0.0)), initial=1.0)
            tolerance = (1e-11 if want.dtype == np.float64 else 5e-6) * scale
            np.testing.assert_allclose(have, want, rtol=1e-5, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("isa", SETS)
def test_closest_matches_brute_force(isa, tmp_path):
    results = probe(isa, tmp_path)
    faces, vertices, points, index = (torch.from_numpy(results[k]) for k in ("faces", "vertices", "points", "mesh"))
    usable = points.abs().amax(1) < 1e18
    face = closest_face(points[usable].double(), vertices.double(), faces, index[usable])
    _, want, distance = closest_on_face(points[usable].double(), vertices.double(), faces, index[usable], face)
    have = torch.from_numpy(results["closest_distance"])
    assert torch.isinf(have[~usable]).all() and (results["closest_face"][~usable.numpy()] == -1).all()
    torch.testing.assert_close(have[usable].double(), distance, atol=2e-6, rtol=1e-6)
    within = torch.from_numpy(results["within_face"])[usable]
    assert (within >= 0).equal(have[usable] <= 0.3) and 20 < (within >= 0).sum() < len(within)
    same = torch.from_numpy(results["closest_face"])[usable] == face
    assert same.float().mean() > 0.99
    torch.testing.assert_close(
        torch.from_numpy(results["closest_point"])[usable][same].double(), want[same], atol=2e-6, rtol=0
    )


def test_nothing_but_what_is_behind_the_dispatch_needs_avx():
    """On the object files of the newest build in the working tree; an installed package has none."""
    root = Path(__file__).parents[2]
    folders = sorted(root.glob("build/*/CMakeFiles/hf_avx2.dir"), key=lambda path: path.stat().st_mtime)
    if not folders or not shutil.which("objdump") or not shutil.which("nm"):
        pytest.skip("no x86-64 build of the module in build/, or no objdump and nm to look into it")
    script, build = root / "csrc" / "sanitizers" / "check_isa.py", folders[-1].parents[1]
    done = subprocess.run([sys.executable, script, build], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unknown_set_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, isa_probe.__file__, native.__file__, str(tmp_path / "results.npz")],
        env={**os.environ, "HEADFIELDS_ISA": "sse9"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "HEADFIELDS_ISA=sse9: expected baseline, avx2 or avx512" in done.stderr
