"""A capture that breaks while it is trained on: the run ends by name, and its last checkpoint is whole."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headfields.data import CaptureError, load_capture
from headfields.data.formats.insta_writer import write_insta
from headfields.runs import checkpoint
from headfields.training import Trainer
from headfields.training.preset_losses import insta_losses
from tests.data.tiny import blob, tiny_frames
from tests.training.fakes import FakeAvatar


@pytest.mark.parametrize("file, field", [("images/00003.png", "file_path"), ("meshes/00003.obj", "mesh_path")])
def test_last_checkpoint_stays_whole(tmp_path: Path, file: str, field: str) -> None:
    frames = [replace(frame, expression=frame.expression[:1]) for frame in tiny_frames()]
    write_insta(tmp_path / "tiny", frames, *blob(), test_frames=1)
    # One frame's pixels and two meshes fit, so that files are read again all the time, as those of a long capture are.
    capture = load_capture(tmp_path / "tiny", memory_budget_mb=0.03)

    def trainer() -> Trainer:
        torch.manual_seed(0)
        return Trainer(
            FakeAvatar(), capture, insta_losses(), rays_per_step=16, frames_per_step=1, out=tmp_path / "run",
            device="cpu", checkpoint_seconds=1e-6, picture_seconds=1e6, bar=False,
        )  # fmt: skip

    run = trainer()
    run.fit(steps=2)
    whole = (tmp_path / "tiny" / file).read_bytes()
    (tmp_path / "tiny" / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaptureError, match=rf"frame images/00003\.png .*{field} .*(copy|expected|export)"):
        run.fit(steps=200)
    assert not list((tmp_path / "run").rglob("*.tmp"))

    again = FakeAvatar()
    checkpoint.load_weights(tmp_path / "run" / "checkpoint" / "last.safetensors", again)
    assert all(values.isfinite().all() for values in again.state_dict().values())
    (tmp_path / "tiny" / file).write_bytes(whole)
    second = trainer()
    second.load(tmp_path / "run" / "checkpoint" / "last.safetensors")
    step = second.progress.step
    assert 2 <= step <= 200
    assert second.fit(steps=step + 3, resume=True).step == step + 3
