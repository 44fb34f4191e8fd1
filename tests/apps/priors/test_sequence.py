"""Scans over time: files, poses, one identity, resuming."""

import json
import math
from pathlib import Path

import pytest
import torch

from headfields.apps.priors.losses import PriorWeights
from headfields.apps.priors.prior import Prior
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.apps.priors.sequence import FittedSequence, ScanFiles, SequenceOptions, fit_sequence
from headfields.cli import main as headfields
from headfields.mesh import Mesh, save_mesh
from headfields.ops.rotations import rotation_angle, rotation_matrices

TURNS = torch.tensor([[0.0, 0.05, 0.0], [0.0, 0.2, 0.05], [0.05, 0.35, 0.0]])
SHIFTS = torch.tensor([[0.0, 0.0, -0.6], [0.01, 0.0, -0.6], [0.02, 0.01, -0.61]])


@pytest.fixture(scope="module")
def folder(scans: MeshScans, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans of a head that turns 20 degrees while its chin drops, far from the prior's place."""
    out = tmp_path_factory.mktemp("scans")
    for row, (turn, shift) in enumerate(zip(rotation_matrices(TURNS), SHIFTS, strict=True)):
        vertices = scans.vertices[3 + row] @ turn.T + shift
        save_mesh(out / f"scan{9 + row}.ply", Mesh(vertices, scans.faces, colors=scans.rgb[1]))
    return out


def test_one_identity_and_a_pose_for_each_scan(prior: Prior, folder: Path, tmp_path: Path) -> None:
    files = ScanFiles.read(folder, count=600)
    assert files.names == ("scan9", "scan10", "scan11") and files.rgb is not None
    options = SequenceOptions(steps=30, points=400, rate=0.05)
    fitted = fit_sequence(prior, files, tmp_path / "run", options, progress=False)
    assert not fitted.interrupted
    assert torch.equal(fitted.codes.geometry[0], fitted.codes.geometry[2])
    assert not torch.equal(fitted.codes.expression[0], fitted.codes.expression[2])
    # the egg's own axis is constrained by its nose alone
    relative = fitted.rotations.mT @ fitted.rotations[:1]
    true = rotation_matrices(TURNS) @ rotation_matrices(TURNS[:1]).mT
    assert float(torch.rad2deg(rotation_angle(relative @ true.mT)).max()) < 6
    assert float(fitted.face_mm.max()) < 6
    mesh = fitted.mesh(prior, 2, resolution=32)
    assert float((mesh.vertices.mean(0) - files.points[2].mean(0)).norm()) < 0.04, "in the scan's own space"
    read = FittedSequence.load(tmp_path / "run")
    assert read.names == fitted.names and torch.equal(read.codes.expression, fitted.codes.expression)
    assert all(parameter.requires_grad for parameter in prior.avatar.parameters())


def test_a_fit_that_goes_on_ends_as_one_that_was_not_broken(
    prior: Prior, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ScanFiles.read(folder, count=200)
    options = SequenceOptions(steps=4, points=60)
    whole = fit_sequence(prior, files, None, options, progress=False)
    count = iter(range(100))
    with monkeypatch.context() as patch:
        flag = "headfields.apps.priors.sequence.InterruptFlag.__bool__"
        patch.setattr(flag, lambda self: next(count) >= 2)
        broken = fit_sequence(prior, files, tmp_path, options, progress=False)
    assert broken.interrupted
    with pytest.raises(ValueError, match="other scans, options"):
        fit_sequence(prior, files, tmp_path, SequenceOptions(steps=5, points=60), resume=True, progress=False)
    resumed = fit_sequence(prior, files, tmp_path, options, resume=True, progress=False)
    assert not resumed.interrupted
    for name in ("geometry", "appearance", "expression"):
        assert torch.equal(getattr(resumed.codes, name), getattr(whole.codes, name)), name
    assert torch.equal(resumed.rotations, whole.rotations)


def test_smoothness_holds_expressions_together(prior: Prior, folder: Path) -> None:
    files = ScanFiles.read(folder, count=200)
    none = PriorWeights(**dict.fromkeys(PriorWeights.__dataclass_fields__, 0.0) | {"surface": 1.0})
    spread = []
    for smooth in (0.0, 1e3):
        options = SequenceOptions(steps=60, points=60, smooth=smooth, weights=none, rate=0.02)
        expression = fit_sequence(prior, files, None, options, progress=False).codes.expression
        spread.append(float((expression[1:] - expression[:-1]).norm()))
    assert spread[1] < 0.1 * spread[0], spread


def test_wrong_scans_are_named(scans: MeshScans, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no scans"):
        ScanFiles.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        ScanFiles.read(tmp_path / "missing")
    bare = save_mesh(tmp_path / "bare.ply", Mesh(scans.vertices[0], torch.zeros(0, 3, dtype=torch.long)))
    with pytest.raises(ValueError, match=r"bare\.ply holds points without normals"):
        ScanFiles.read([folder / "scan9.ply", bare])
    with pytest.raises(ValueError, match=r"scan9\.ply.*meters"):
        ScanFiles.read(folder, scale=1000.0)
    (tmp_path / "scan9.ply").write_bytes((folder / "scan9.ply").read_bytes())
    with pytest.raises(ValueError, match="two scans are called 'scan9'"):
        ScanFiles.read([folder / "scan9.ply", tmp_path / "scan9.ply"])
    (tmp_path / "broken.ply").write_bytes(b"ply\n")
    with pytest.raises(ValueError, match=r"broken\.ply"):
        ScanFiles.read([tmp_path / "broken.ply"])
    with pytest.raises(ValueError, match="smooth is nan"):
        SequenceOptions(smooth=math.nan)


def test_the_command_writes_codes_and_meshes(
    prior: Prior, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prior.save(tmp_path / "prior.safetensors")
    command = ["track-scans", "--prior", str(tmp_path), "--scans", str(folder), "--out", str(tmp_path / "run"),
               "--steps", "2", "--points", "60", "--resolution", "16"]  # fmt: skip
    assert headfields(command) == 0
    assert json.loads(capsys.readouterr().out)["scans"] == 3
    assert sorted(path.name for path in (tmp_path / "run" / "meshes").iterdir()) == [
        "scan10.ply", "scan11.ply", "scan9.ply"
    ]  # fmt: skip
    assert set(json.loads((tmp_path / "run" / "metrics.json").read_text())["face_mm"]) == {"scan9", "scan10", "scan11"}
    assert headfields(command) == 1 and "holds a run already" in capsys.readouterr().err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["steps"] == 2 and config["points"] == 60 and config["scale"] == 1.0
    assert headfields([*command, "--resume", "--smooth", "0.5"]) == 1
    assert "smooth 0.02, not 0.5" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config
    assert headfields([*command, "--resume"]) == 0
