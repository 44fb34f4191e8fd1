import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import headfields as hf
from headfields.cli import main
from headfields.data.formats.insta_writer import InstaWriter, write_insta
from headfields.synthetic.head.model import procedural_head_arrays
from tests.cli.test_streams import forked
from tests.data.formats import vhap_folder
from tests.data.tiny import blob, tiny_frames


@pytest.mark.slow
def test_a_capture_with_flame_parameters_becomes_one_with_meshes(tmp_path, capsys):
    head = hf.synthetic.procedural_head()
    vhap_folder.write(tmp_path / "vhap", head, steps=1)
    np.savez(tmp_path / "FLAME.npz", **procedural_head_arrays())
    arguments = [str(tmp_path / "vhap"), "--head", str(tmp_path / "FLAME.npz")]
    assert main(["convert", *arguments, "--out", str(tmp_path / "insta")]) == 0
    text = capsys.readouterr()
    assert "wrote 2 frames" in text.out and "OpenGL axes" in text.err and "labels are drawn" in text.err
    before = hf.data.load_capture(tmp_path / "vhap", head=head, head_frame="keep", mouth="none")
    after = hf.data.load_capture(tmp_path / "insta", head_frame="keep", mouth="none")
    for name in ("vertices", "expression", "pose", "joint_transforms"):
        assert torch.equal(getattr(after.state(1), name), getattr(before.state(1), name)), name
    assert torch.equal(after.image(1), before.image(1))
    assert {key: value.tolist() for key, value in after.splits.items()} == {
        key: value.tolist() for key, value in before.splits.items()
    }
    voted, known = after.template.regions, before.template.regions
    overlap = (voted["mouth"] & known["mouth"]).sum() / voted["mouth"].sum()
    assert voted["mouth"].any() and overlap > 0.9
    assert main(["convert", *arguments, "--out", str(tmp_path / "insta")]) == 1
    assert "not empty" in capsys.readouterr().err


def test_meshes_of_flames_topology_become_parameters_and_back(tmp_path, capsys):
    head = hf.synthetic.procedural_head()
    np.savez(tmp_path / "FLAME.npz", **procedural_head_arrays())
    vhap_folder.write(tmp_path / "vhap", head, steps=1)
    hf.data.save_capture(hf.data.load_capture(tmp_path / "vhap", head=head, mouth="none"), tmp_path / "insta")
    arguments = [str(tmp_path / "insta"), "--to", "vhap", "--out", str(tmp_path / "again")]
    assert main(["convert", *arguments]) == 1
    assert "needs the FLAME model" in capsys.readouterr().err and not (tmp_path / "again").exists()
    assert main(["convert", *arguments, "--head", str(tmp_path / "FLAME.npz")]) == 0
    text = capsys.readouterr()
    assert "wrote 2 images of 1 time steps" in text.out and "dynamic_offset" in text.err
    before = hf.data.load_capture(tmp_path / "insta", head_frame="keep", mouth="none")
    after = hf.data.load_capture(tmp_path / "again", head=head, head_frame="keep", mouth="none")
    assert (after.state([0, 1]).vertices - before.state([0, 1]).vertices).abs().max() < 1e-6
    assert torch.equal(after.image(1), before.image(1))


def test_a_killed_conversion_is_no_capture_and_the_same_command_takes_its_folder(tmp_path: Path, capsys) -> None:
    write_insta(tmp_path / "blob", tiny_frames(4, True), *blob(True), test_frames=1)

    def killed() -> int:
        add = InstaWriter.add
        InstaWriter.add = lambda self, *frame: (
            os.kill(os.getpid(), signal.SIGKILL) if self.count == 2 else add(self, *frame)
        )  # type: ignore[method-assign]
        return main(["convert", str(tmp_path / "blob"), "--out", str(tmp_path / "killed")])

    assert forked(killed) == -signal.SIGKILL
    assert len(list((tmp_path / "killed/images").iterdir())) == 2
    assert main(["inspect", str(tmp_path / "killed")]) == 1
    assert "killed" in capsys.readouterr().err
    written = []
    for name in ("killed", "whole"):
        assert main(["convert", str(tmp_path / "blob"), "--out", str(tmp_path / name)]) == 0
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        written.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert written[0] == written[1] and len(written[0]) > 10


def test_without_a_head_the_remedy_is_said(tmp_path, capsys):
    vhap_folder.write(tmp_path / "vhap", vhap_folder.tiny_head(), steps=1)
    assert main(["convert", str(tmp_path / "vhap"), "--out", str(tmp_path / "insta")]) == 1
    assert "--head FLAME.npz" in capsys.readouterr().err and not (tmp_path / "insta").exists()


def test_inspect_takes_the_head_too(tmp_path, capsys):
    vhap_folder.write(tmp_path / "vhap", hf.synthetic.procedural_head(), steps=1)
    np.savez(tmp_path / "FLAME.npz", **procedural_head_arrays())
    assert main(["inspect", str(tmp_path / "vhap"), "--head", str(tmp_path / "FLAME.npz")]) == 0
    assert "OpenGL axes" in capsys.readouterr().out


def test_inspect_leaves_a_picture_and_a_report(tmp_path, capsys):
    vhap_folder.write(tmp_path / "vhap", hf.synthetic.procedural_head(), steps=1, principal_row=24.0)
    np.savez(tmp_path / "FLAME.npz", **procedural_head_arrays())
    arguments = ["inspect", str(tmp_path / "vhap"), "--head", str(tmp_path / "FLAME.npz"), "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "out/report.txt").read_text() == printed
    table = [line.split() for line in printed.splitlines() if line.startswith("  ") and line.split()[0][1:2] == "."]
    taken = [row for row in table if row[-1] == "(taken)"]
    assert len(table) == 6 and taken[0][-3:] == ["OpenGL", "axes", "(taken)"] and "lower" in taken[1]
    assert all(float(taken[0][0]) >= float(row[0]) for row in table[:4])
    assert "  insta: ready (without" in printed and "  mononphm (headfields track): missing: 68 landmarks" in printed
    picture = np.array(Image.open(tmp_path / "out/contact_sheet.png"))
    assert picture.shape[1] == 3 * 256 and picture.std() > 10
    (tmp_path / "file").write_text("")
    assert main([*arguments, str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err
