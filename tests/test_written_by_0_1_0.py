"""Files that version 0.1.0 wrote still load, and say the same: avatars of every part, a prior, scans, and a run.

The folder `written_by_0_1_0` holds them, with what version 0.1.0 rendered from the avatars and evaluated of the prior.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import headfields as hf
from headfields.apps.priors.codes import PriorCodes
from headfields.cli import main
from headfields.files.renamed import CLASSES
from tests.data.tiny import blob, tiny_frames

FOLDER = Path(__file__).parent / "written_by_0_1_0"
AVATARS = sorted(path for path in FOLDER.glob("*.safetensors") if path.stem != "prior")


@pytest.mark.parametrize("path", AVATARS, ids=lambda path: path.stem)
def test_an_avatar_renders_what_it_did(path: Path, tmp_path: Path) -> None:
    avatar = hf.Avatar.load(path)
    assert avatar.preview is not None
    camera, state = avatar.preview
    with np.load(FOLDER / "renderings.npz") as renderings:
        before = torch.from_numpy(renderings[path.stem])
    torch.testing.assert_close(avatar.render(camera, state).rgb, before, atol=2e-4, rtol=0)
    avatar.save(tmp_path / "now.safetensors")
    again = hf.Avatar.load(tmp_path / "now.safetensors")
    torch.testing.assert_close(again.render(camera, state).rgb, before, atol=2e-4, rtol=0)


def test_the_avatars_cover_every_renamed_part() -> None:
    written = "".join(path.read_bytes().decode("latin-1") for path in [*AVATARS, FOLDER / "prior.safetensors"])
    # Tables of codes stand in the checkpoints of priors, by their tensors' names alone.
    beside = {"codes.LatentTable", "priors.rows.CodeTable"}
    assert not [name for name in CLASSES if name not in beside and f'headfields.{name}\\"' not in written]


def test_a_prior_has_the_values_it_had() -> None:
    prior = hf.priors.load_prior(FOLDER / "prior.safetensors")
    state = PriorCodes(prior.geometry[:1], prior.appearance[:1], prior.expression[:1]).state()
    torch.manual_seed(0)
    points = 0.1 * torch.rand(64, 3)
    field = prior.avatar.eval().field(state)
    _, values = field.signed_distance(points, torch.zeros(64, dtype=torch.long), color=True)
    assert values.distance is not None and values.rgb is not None
    before = torch.from_numpy(np.load(FOLDER / "prior_values.npy"))
    torch.testing.assert_close(torch.cat([values.distance[:, None], values.rgb], 1), before, atol=1e-5, rtol=1e-4)


def test_scans_are_read() -> None:
    scans = hf.priors.scans.load_scans(FOLDER / "scans")
    assert len(scans) == 9 and len(scans.people) == 3 and bool(scans.vertices.isfinite().all())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The run of version 0.1.0 with its capture, each at a place of its own."""
    capture, run = tmp_path / "tiny", tmp_path / "run"
    hf.data.formats.insta_writer.write_insta(capture, tiny_frames(5, True), *blob(True))
    shutil.copytree(FOLDER / "run", run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"capture": str(capture)}))
    return run


def test_a_run_is_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--split", "train", "--limit", "1"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["psnr"] == pytest.approx(11.3766, abs=0.01)  # as version 0.1.0 evaluates it


def test_a_run_is_resumed(run: Path) -> None:
    capture = str(run.parent / "tiny")
    assert main(["train", "insta", "--capture", capture, "--out", str(run), "--steps", "5", "--resume"]) == 0
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"] == 5
