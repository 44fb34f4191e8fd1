"""`headfields mesh` and `headfields compare-meshes`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import headfields.data
from headfields.avatar.avatar import Avatar
from headfields.cli import main
from headfields.decoders import NeRFDecoder
from headfields.deformers import SurfaceCanonicalizer
from headfields.encoders import HashGrid
from headfields.mesh import Mesh, extract, load_mesh, save_mesh
from headfields.records import HeadState
from headfields.renderers import UniformSampler, VolumeRenderer
from tests.avatar.test_composition import CAMERA, FACES, VERTICES
from tests.avatar.test_splat_avatar import avatar as splat_avatar
from tests.cli.test_cli import fails
from tests.ops.test_marching_cubes import BOX


class Frames:
    """A capture of a static head."""

    name, warnings = "frames", ()

    def __len__(self) -> int:
        return 3

    def camera(self, index):
        return CAMERA.map(lambda tensor: tensor.expand(len(index), *tensor.shape))

    def state(self, index):
        return HeadState(vertices=VERTICES.expand(len(index), -1, -1))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of an untrained run."""
    avatar = Avatar(
        deformer=SurfaceCanonicalizer(VERTICES, FACES),
        encoder=HashGrid(levels=2, features=2, log2_table_size=8, base_resolution=4, finest_resolution=8),
        decoder=NeRFDecoder(hidden=8),
        renderer=VolumeRenderer(UniformSampler(4)),
    )
    folder = tmp_path / "run"
    avatar.preview = (CAMERA, Frames().state([0]))
    avatar.save(folder / "avatar.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"format": 1, "model": "insta", "arguments": {}, "capture": "frames"})
    )
    monkeypatch.setattr(headfields.data, "load_capture", lambda path, **options: Frames())
    monkeypatch.delenv("HEADFIELDS_DEBUG", raising=False)
    return folder


def ball(radius: float) -> Mesh:
    return extract(lambda points: points.norm(dim=-1) - radius, BOX * 0.12, 40, progress=False)


def test_mesh_of_a_run(run, tmp_path, capsys):
    level = ["--level", "0.9", "--resolution", "12"]  # densities of random weights are about 1
    assert main(["mesh", str(run), "--out", str(tmp_path / "a.glb"), "--picture", *level]) == 0
    mesh = load_mesh(tmp_path / "a.glb")
    assert len(mesh.faces) and mesh.normals is not None and mesh.colors is not None
    assert f"a.glb: {len(mesh.vertices)} vertices" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 3 * image.height
    assert main(["mesh", str(run), "--out", str(tmp_path / "many"), "--frame", "0", "2", *level]) == 0
    assert sorted(file.name for file in (tmp_path / "many").iterdir()) == ["00000.ply", "00002.ply"]
    file = str(run / "avatar.safetensors")
    solid = ["--space", "canonical", "--solid", "0.01", "--largest"]
    assert main(["mesh", file, "--out", str(tmp_path / "b.ply"), *solid, *level]) == 0
    assert len(load_mesh(tmp_path / "b.ply").faces)
    capsys.readouterr()
    assert "name a capture" in fails(capsys, "mesh", file, "--out", str(tmp_path / "c.ply"), "--frame", "1")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--out", "x.stl"], "must end in one of .ply"),
        (["--out", "x.ply", "--frame", "1", "2"], "for several frames it is a folder"),
        (["--out", "x.ply", "--frame", "99999"], "has frames 0 to"),
        (["--out", "x.ply", "--level", "1e30", "--resolution", "4"], "nothing reaches the level"),
    ],
)
def test_impossible_meshes(run, capsys, options, reason):
    assert reason in fails(capsys, "mesh", str(run), *options)


def test_compare_meshes(tmp_path, capsys):
    save_mesh(tmp_path / "a.ply", ball(0.1))
    save_mesh(tmp_path / "b.obj", ball(0.102))
    command = ["compare-meshes", str(tmp_path / "a.ply"), str(tmp_path / "b.obj"), "--samples", "4000"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["chamfer_l2"] == pytest.approx(0.002, rel=0.02) and result["recall"]["2.5mm"] == 1.0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result
    with Image.open(tmp_path / "out" / "errors.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape[1] > 6 * 320 and pixels.std() > 20


def test_compare_after_alignment(tmp_path, capsys):
    def lump(points):
        return points.norm(dim=-1) - 0.08 - 20 * points.prod(dim=-1) - points[:, 0].square()

    truth = extract(lump, BOX * 0.12, 40, progress=False)
    moved = truth.vertices * 1.03 + torch.tensor([0.004, 0.0, -0.003])
    save_mesh(tmp_path / "surface.ply", truth.replace(vertices=moved))
    save_mesh(tmp_path / "truth.ply", Mesh(truth.vertices, torch.zeros(0, 3, dtype=torch.long)))
    command = ["compare-meshes", str(tmp_path / "surface.ply"), str(tmp_path / "truth.ply"), "--samples", "4000"]
    command += ["--directions", "truth-to-surface"]
    assert main(command) == 0
    before = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main([*command, "--align", "similarity", "--out", str(tmp_path / "out")]) == 0
    after = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert before["chamfer_l2"] > 1e-3 and after["chamfer_l2"] < 1e-6
    assert after["alignment"]["scale"] == pytest.approx(1 / 1.03, rel=1e-4) and after["precision"]["1mm"] is None
    assert (tmp_path / "out" / "errors.png").exists()


def test_impossible_comparisons(tmp_path, capsys):
    save_mesh(tmp_path / "a.ply", ball(0.1))
    missing = str(tmp_path / "b.ply")
    assert "there is no file" in fails(capsys, "compare-meshes", str(tmp_path / "a.ply"), missing)
    assert "--limit is -1" in fails(capsys, "compare-meshes", missing, missing, "--limit", "-1")


def test_gaussians_have_no_surface(tmp_path, capsys):
    splat_avatar().save(tmp_path / "avatar.safetensors")
    message = fails(capsys, "mesh", str(tmp_path / "avatar.safetensors"), "--out", str(tmp_path / "a.ply"))
    assert "is an avatar of Gaussians, which has no surface to extract; headfields export" in message
