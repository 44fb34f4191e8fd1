"""Results for NeRSemble's benchmark."""

import imageio.v2 as imageio
import pytest
import torch

import headfields.heads
from headfields.cli.errors import CommandError
from headfields.cli.nersemble import render_results, result_path
from tests.data.formats import nersemble_folder as made
from tests.data.formats import vhap_folder


def test_held_out_sequences_are_rendered_from_the_benchmarks_cameras(tmp_path, monkeypatch, capsys):
    head = vhap_folder.tiny_head()
    person = made.write(tmp_path / "393", head, holdout=("FREE",))
    monkeypatch.setattr(headfields.heads.FlameHead, "from_file", lambda path: head)
    shots = []

    def image_of(shot):
        """As gray as the frame's number, of the benchmark's size."""
        shots.append(shot)
        return torch.full((*shot.camera.size, 3), (len(shots) % 4) / 4)

    with pytest.raises(CommandError, match="needs --head"):
        render_results(image_of, {}, person, None, tmp_path / "out", 64)
    assert render_results(image_of, {}, person, tmp_path / "FLAME.npz", tmp_path / "out", 64) == 4
    paths = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.mp4"))
    assert paths == [f"393/FREE/cam_{serial}.mp4" for serial in made.SERIALS]
    frames = imageio.mimread(tmp_path / "out" / paths[0])
    assert len(frames) == made.STEPS and frames[0].shape == (*made.SIZE, 3)
    assert [round(float(frame.mean()) / 64) for frame in frames] == [1, 2, 3]
    expected = made.posed(head, made.rows_of(head, 1), 2) / made.SCALE
    assert (shots[2].state.vertices[0] - expected).abs().max() < 3e-6
    (tmp_path / "out" / paths[2]).unlink()  # the others are kept
    assert render_results(image_of, {}, person, tmp_path / "FLAME.npz", tmp_path / "out", 64) == 1
    assert "is there already" in capsys.readouterr().err


def test_paths_of_results(tmp_path):
    path = result_path(tmp_path, tmp_path / "mono_flame_avatar/017", "FREE", "222200037")
    assert path == tmp_path / "017/FREE/cam_222200037.mp4"
    with pytest.raises(CommandError, match="expected the person's number"):
        result_path(tmp_path, tmp_path / "someone", "FREE", "222200037")
