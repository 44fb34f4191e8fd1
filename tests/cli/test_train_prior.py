"""`headfields train-prior`, from synthetic people to a file that loads."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import headfields.apps.priors.fit
from headfields.apps.priors.prior import load_prior
from headfields.apps.priors.scans import load_scans, save_scans, store
from headfields.cli import main
from headfields.cli.errors import CommandError
from headfields.cli.nphm import symmetric_pairs
from headfields.mesh import Mesh, save_mesh
from tests.apps.priors.tiny import tiny_head, tiny_scans


@pytest.fixture
def rig(tmp_path: Path) -> Path:
    head = tiny_head()
    arrays = {
        "template": head.template_vertices, "faces": head.faces, "expression": head.expression_basis,
        "identity": head.identity_basis,
    }  # fmt: skip
    np.savez(tmp_path / "rig.npz", expression_names=np.array(["jawOpen"]), **{k: v.numpy() for k, v in arrays.items()})
    return tmp_path / "rig.npz"


@pytest.mark.slow
def test_a_prior_from_a_rig(
    rig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = functools.partial(headfields.apps.priors.fit.fit_scans, steps=2)
    monkeypatch.setattr(headfields.apps.priors.fit, "fit_scans", quick)
    out = tmp_path / "run"
    common = ["train-prior", "--out", str(out), "--steps", "4", "--device", "cpu", "--pictures", "0"]
    drawn = ["--blendshapes", str(rig), "--people", "2", "--expressions", "2", "--held-out", "1"]
    assert main([*common, *drawn, "--scans-per-step", "2"]) == 0
    prior = load_prior(out)
    assert prior.people == ("000", "001")
    assert len(prior.scans) == 4
    assert prior.about["step"] == 4
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["held_out"]) == {"002"}
    assert metrics["training"]["front_mm"] > 0
    assert not list((out / "images").iterdir())
    assert len(load_scans(out / "scans").people) == 3
    assert main([*common, *drawn]) == 1
    assert "--resume continues" in capsys.readouterr().err
    assert main([*common, "--resume", "--seed", "5"]) == 1
    assert "was trained with seed 0, not 5" in capsys.readouterr().err
    geometry = prior.geometry
    assert main([*common, "--resume", "--steps", "5"]) == 0
    assert load_prior(out).about["step"] == 5
    assert not torch.equal(load_prior(out).geometry, geometry)


@pytest.mark.slow
def test_a_run_killed_while_scans_are_written_is_resumed_to_the_same_weights(
    rig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["train-prior", "--steps", "3", "--device", "cpu", "--pictures", "0"]
    drawn = ["--blendshapes", str(rig), "--people", "2", "--expressions", "2", "--held-out", "0", "--seed", "3"]
    drawn += ["--scans-per-step", "2"]
    assert main([*common, *drawn, "--out", str(tmp_path / "whole")]) == 0
    original, count = store.save_arrays, iter(range(99))

    def killed(path: Path, arrays: dict[str, np.ndarray]) -> None:
        if next(count) == 2:
            raise KeyboardInterrupt
        original(path, arrays)

    monkeypatch.setattr(store, "save_arrays", killed)
    out = tmp_path / "killed"
    assert main([*common, *drawn, "--out", str(out)]) == 130
    monkeypatch.undo()
    config = (out / "config.json").read_text()
    capsys.readouterr()
    assert main([*common, "--out", str(out)]) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert main(["train-prior", "--device", "cpu", "--pictures", "0", "--resume", "--out", str(out)]) == 0
    assert json.loads((out / "config.json").read_text()) == json.loads(config), "its options are those of the start"
    interrupted = tmp_path / "interrupted"
    monkeypatch.setattr("headfields.apps.priors.trainer.InterruptFlag.__bool__", lambda flag: True)
    assert main([*common, *drawn, "--out", str(interrupted)]) == 130  # it has drawn its scans
    monkeypatch.undo()
    assert main(["train-prior", "--device", "cpu", "--pictures", "0", "--resume", "--out", str(interrupted)]) == 0
    whole = load_prior(tmp_path / "whole").state_dict()
    for run in (out, interrupted):
        for name, tensor in load_prior(run).state_dict().items():
            assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "procedural", "--data", "here"], "give one of --data and|--data and --head"),
        (["--people", "0"], "--people is 0"),
        (["--data", "here", "--people", "3"], "--people and --expressions are for synthetic scans"),
        (["--data", "nowhere"], "scans.json does not exist"),
    ],
)
def test_impossible_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-prior", "--out", str(tmp_path / "run"), *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_prior_from_registered_meshes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_scans(tiny_scans(anchors=False), tmp_path / "mine")
    folders = ["--out", str(tmp_path / "run"), "--data", str(tmp_path / "mine")]
    common = ["train-prior", *folders, "--device", "cpu", "--pictures", "0"]
    assert main([*common, "--held-out", "3", "--steps", "1"]) == 1
    assert "there are 3 people" in capsys.readouterr().err
    assert main([*common, "--held-out", "0", "--steps", "1", "--scans-per-step", "1"]) == 0
    assert load_prior(tmp_path / "run").people == ("000", "001", "002")
    assert not (tmp_path / "run" / "scans").exists()


@pytest.fixture
def nphm(tmp_path: Path) -> list[str]:
    """Three people as NPHM's preprocessing leaves them, with a pair of anchors and one in the middle."""
    root, random = tmp_path / "nphm", np.random.default_rng(0)
    for person in (3, 17, 230):
        clouds, scan = root / "surface_pointclouds" / f"{person:03d}", root / "scans" / f"{person:03d}" / "000"
        clouds.mkdir(parents=True)
        scan.mkdir(parents=True)
        for kind in ("face", "def_region", "non_face", "off_surface"):
            normals = random.normal(size=(200, 3))
            normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
            rows = [0.4 * normals, normals, random.integers(0, 256, (200, 3))]
            np.save(clouds / f"0_0_{kind}.npy", np.concatenate(rows, axis=1).astype(np.float32))
        vertices = torch.tensor([[0.2, 0.1, 0.3], [-0.2, 0.1, 0.3], [0.0, -0.2, 0.3]]) + 0.001 * person / 230
        save_mesh(scan / "registration.ply", Mesh(vertices, torch.tensor([[0, 1, 2]])))
    np.save(tmp_path / "anchors.npy", np.arange(3))
    (tmp_path / "neutrals.json").write_text('{"17": 0}')
    return [
        "--nphm", str(root), "--nphm-data", str(root / "scans"), "--nphm-anchors", str(tmp_path / "anchors.npy"),
        "--nphm-neutrals", str(tmp_path / "neutrals.json"),
    ]  # fmt: skip


def test_a_prior_from_nphms_folders(
    nphm: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = functools.partial(headfields.apps.priors.fit.fit_scans, steps=2)
    monkeypatch.setattr(headfields.apps.priors.fit, "fit_scans", quick)
    out = tmp_path / "run"
    common = ["train-prior", "--out", str(out), "--device", "cpu", "--scans-per-step", "2"]
    assert main([*common, *nphm, "--steps", "3", "--held-out", "1"]) == 0
    prior = load_prior(out)
    assert prior.people == ("003", "017") and prior.avatar.decoder.anchors.layout.pairs == 1
    assert set(json.loads((out / "metrics.json").read_text())["held_out"]) == {"230"}
    assert main([*common, "--resume", "--steps", "4"]) == 0  # the options of --nphm are remembered
    assert load_prior(out).about["step"] == 4
    capsys.readouterr()
    assert main([*common[:2], str(tmp_path / "other"), *nphm[:2]]) == 1
    assert "--nphm needs --nphm-data too" in capsys.readouterr().err
    assert main([*common[:2], str(tmp_path / "other"), *nphm[2:4]]) == 1
    assert "--nphm-data needs --nphm" in capsys.readouterr().err


def test_anchors_are_pairs_and_then_the_middle() -> None:
    mean = torch.tensor([[0.05, 0.0, 0.1], [-0.051, 0.0, 0.1], [0.0, 0.1, 0.0], [0.001, -0.1, 0.0]])
    assert symmetric_pairs(mean) == 1
    with pytest.raises(CommandError, match=r"0 pairs of mirrored anchors are followed by one that is 5. mm off"):
        symmetric_pairs(mean[[0, 2, 1, 3]])
