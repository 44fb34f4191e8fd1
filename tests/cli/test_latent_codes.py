"""Commands on a run whose avatar has codes by frame: training frames, held-out frames, another recording."""

import json
from pathlib import Path

import pytest
import torch

import headfields as hf
from headfields.cli import main
from headfields.data.formats.insta_writer import write_insta
from headfields.runs.folder import RunFolder
from tests.data.tiny import blob, tiny_frames


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of an avatar in which every frame's light, its code, is its own."""
    for name in ("own", "other"):
        write_insta(tmp_path / name, tiny_frames(4), *blob(), test_frames=2)
    capture = hf.data.load_capture(tmp_path / "own")
    torch.manual_seed(0)
    table = hf.networks.LatentTable(len(capture), 2, std=1.0, unseen="nearest")
    avatar = hf.Avatar(
        deformer=hf.deformers.Static(torch.tensor([[-0.15] * 3, [0.15] * 3])),
        encoder=hf.encoders.Frequency(2),
        condition=hf.encoders.FrameCode("light", 2),
        decoder=hf.decoders.NeRFDecoder(8, density_bias=3.0),
        renderer=hf.renderers.VolumeRenderer(sampler=hf.renderers.UniformSampler(4)),
        codes={"light": table},
    )
    table.trained[:2] = True
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_config({"capture": str(tmp_path / "own"), "model": "insta", "arguments": {}})
    avatar.save(folder.avatar)
    return folder.path


def test_held_out_frames_of_the_runs_own_capture(run: Path, capsys: pytest.CaptureFixture, unchecked: None) -> None:
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])["frames"] == 2 and "warning" not in output.err
    assert main(["render", str(run), "--mode", "frames", "--split", "all", "--device", "cpu"]) == 0
    assert len(list((run / "renders/all").iterdir())) == 4


def test_frames_of_another_recording(run: Path, capsys: pytest.CaptureFixture, unchecked: None) -> None:
    other = str(run.parent / "other")
    assert main(["evaluate", str(run), "--device", "cpu", "--capture", other]) == 0
    assert f"warning: --capture {other}: frame i has the avatar's code of frame i (light)" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    assert "code of frame" not in capsys.readouterr().err


def test_a_motion_has_no_frames_of_its_own(run: Path, unchecked: None) -> None:
    """Retargeted states have no `frame_id`: their code is the mean, whatever frames the driver has."""
    avatar = hf.Avatar.load(run / "avatar.safetensors")
    state = hf.data.load_capture(run.parent / "own").state([1]).replace(frame_id=None)
    code = avatar.eval().with_codes(state).codes["light"]
    torch.testing.assert_close(code[0], avatar.codes["light"].table[:2].mean(dim=0))
