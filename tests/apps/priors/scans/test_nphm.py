"""Reader of the NPHM dataset, and its errors on broken folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from headfields import Avatar
from headfields.apps.priors import PriorTrainer
from headfields.apps.priors.scans.batch import PointCounts
from headfields.apps.priors.scans.nphm import nphm_to_raw, read_nphm
from headfields.data import CaptureError
from headfields.decoders import AnchoredDecoder
from headfields.deformers import HyperDeformer
from headfields.encoders import Coordinates
from headfields.mesh import Mesh, save_mesh
from headfields.networks import Anchors
from headfields.renderers import HierarchicalSampler, SurfaceRenderer, UnclampedAlpha
from tests.tables import table

COUNTS = PointCounts(face=12, static=4, back=6, near=5, far=7, correspondences=9)
KINDS = {"face": 0.1, "def_region": 0.2, "non_face": 0.3, "off_surface": 0.4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people with two expressions each; x tells the person, y the expression, z the kind."""
    root = tmp_path_factory.mktemp("nphm")
    random = np.random.default_rng(0)
    for person in (17, 230):
        clouds = root / "surface_pointclouds" / f"{person:03d}"
        clouds.mkdir(parents=True)
        for expression in (0, 4):
            for kind, depth in KINDS.items():
                for chunk in range(2):
                    rows = np.zeros((30, 9), np.float32)
                    rows[:, :3] = (person / 1000, expression / 10, depth)
                    rows[:, 3:6] = (0, 0, 2.0)
                    rows[:, 6:] = random.integers(0, 256, (30, 3))
                    np.save(clouds / f"{expression}_{chunk}_{kind}.npy", rows)
            if (person, expression) != (230, 4):
                pairs = root / "deformations" / f"{person:03d}" / f"{expression:03d}"
                pairs.mkdir(parents=True)
                moved = random.normal(size=(20, 3)).astype(np.float32)
                np.save(pairs / "corresp_0.npy", np.concatenate([moved, moved + 0.4], 1))
        scan = root / "scans" / f"{person:03d}" / "000"
        scan.mkdir(parents=True)
        vertices = torch.arange(30.0).reshape(10, 3) / 10 + person / 1000
        save_mesh(scan / "registration.ply", Mesh(vertices, torch.tensor([[0, 1, 2]])))
        np.save(scan / "s.npy", np.array(2.0))
        np.save(scan / "R.npy", np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))
        np.save(scan / "t.npy", np.array([0.1, 0.2, 0.3]))
    return root


def test_points_are_in_meters_and_of_the_right_scan(folder: Path) -> None:
    scans = read_nphm(folder, data=folder / "scans", anchor_vertices=[3, 1])
    assert scans.people == ("017", "230")
    assert scans.scans == ("017/000", "017/004", "230/000", "230/004")
    assert scans.neutral.tolist() == [0, 2]
    batch = scans.sample(torch.tensor([3, 0]), COUNTS, 5)
    assert batch.person.tolist() == [1, 0]
    assert batch.neutral.tolist() == [False, True]
    assert batch.trusted_back.tolist() == [False, True], "hair is that of the neutral scan"
    assert torch.allclose(batch.front_points[0, 0], torch.tensor([0.230, 0.4, 0.1]) / 4)
    assert torch.allclose(batch.front_points[0, -1], torch.tensor([0.230, 0.4, 0.2]) / 4)
    assert torch.allclose(batch.back_points[1, 0], torch.tensor([0.017, 0.0, 0.3]) / 4)
    assert torch.allclose(batch.near_points[..., 2], torch.tensor(0.1))
    assert torch.allclose(batch.front_normals, torch.tensor([0.0, 0.0, 1.0]))
    assert 0 <= batch.front_rgb.min() < 0.2 < 0.8 < batch.front_rgb.max() <= 1
    assert batch.corresponds.tolist() == [False, True]
    assert torch.allclose(batch.posed_points[1] - batch.neutral_points[1], torch.tensor(0.1), atol=1e-6)
    assert not batch.near_known.any()
    assert torch.allclose(batch.anchors[1, 1], torch.tensor([0.3, 0.4, 0.5]) / 4 + 0.017 / 4)
    again = scans.sample(torch.tensor([3, 0]), COUNTS, 5)
    assert torch.equal(batch.front_rgb, again.front_rgb)
    assert not torch.equal(batch.front_rgb, scans.sample(torch.tensor([3, 0]), COUNTS, 6).front_rgb)
    assert scans.sample(torch.zeros(0, dtype=torch.long), COUNTS, 0).front_points.shape == (0, 16, 3)


def test_people_without_a_neutral_scan_are_left_out(folder: Path) -> None:
    scans = read_nphm(folder, {17: -1, 230: 4})
    assert scans.people == ("230",) and scans.neutral.tolist() == [1]
    with pytest.raises(CaptureError, match="no folder for person any"):
        read_nphm(folder, {17: -1, 230: -1})


def test_files_as_the_released_preprocessing_names_them(folder: Path, tmp_path: Path) -> None:
    """It asks for a name that is not there yet, and writes to the one that it would read instead."""
    other = tmp_path / "nphm"
    shutil.copytree(folder, other)
    for path in (other / "surface_pointclouds").glob("*/*.npy"):
        expression, chunk, kind = path.stem.split("_", 2)
        path.rename(path.with_name(f"{kind.replace('off_surface', 'off')}_{expression}_{chunk}.npy"))
    scans, rows = torch.tensor([3, 0]), read_nphm(folder)
    first, second = rows.sample(scans, COUNTS, 5), read_nphm(other).sample(scans, COUNTS, 5)
    for name in ("front_points", "back_rgb", "near_points", "posed_points"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    unread = other / "surface_pointclouds" / "017" / "4_0_face.npy"
    np.save(unread, np.zeros((5, 9), np.float32))  # both names: the first is read, as released
    read = read_nphm(other).sample(torch.tensor([1, 1, 1, 1]), COUNTS, 5).front_points[:, :12]
    assert bool((read == 0).all(-1).any())


def test_people_and_neutral_expressions_can_be_chosen(folder: Path) -> None:
    scans = read_nphm(folder, neutrals={230: 4}, people=[230])
    assert scans.people == ("230",)
    assert scans.neutral.tolist() == [1]
    assert scans.sample(torch.tensor([0, 1]), COUNTS, 0).trusted_back.tolist() == [False, True]
    assert scans.anchors.shape == (1, 0, 3)
    assert not scans.anchored.any()


def test_points_go_back_to_the_raw_scan(folder: Path) -> None:
    points = torch.tensor([[0.1, -0.05, 0.2]])
    raw = nphm_to_raw(points, folder / "scans" / "017" / "000")
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    back = 2.0 * raw @ turn.T + torch.tensor([0.1, 0.2, 0.3])
    assert torch.allclose(back / 4, points, atol=1e-6)


def test_a_prior_is_trained_on_them(folder: Path) -> None:
    scans = read_nphm(folder, data=folder / "scans", anchor_vertices=[3, 1, 2])
    anchors = Anchors(scans.anchors.mean(0), 1, global_width=4, local_width=2, hidden=4)
    avatar = Avatar(
        HyperDeformer(anchors, 1, expression_width=3, identity_width=2, hidden=8, layers=2, skip=1),
        Coordinates(points=False),
        AnchoredDecoder(anchors, hidden=8, layers=1, appearance_hidden=4, appearance_layers=1, appearance_width=2),
        SurfaceRenderer(HierarchicalSampler(coarse=4, fine=4), UnclampedAlpha()),
    )
    result = PriorTrainer(avatar, scans, counts=COUNTS, scans_per_step=2, bar=False).fit(steps=2)
    assert result.step == 2
    assert result.prior.scans == scans.scans
    assert np.isfinite(result.loss)
    assert result.prior.geometry.abs().sum() > 0


def clouds(root: Path) -> Path:
    return root / "surface_pointclouds" / "017"


OPENING = {
    "no clouds": (lambda r: shutil.rmtree(r / "surface_pointclouds"), "surface_pointclouds: does not exist"),
    "kind missing": (
        lambda r: [clouds(r).joinpath(f"4_{k}_non_face.npy").unlink() for k in (0, 1)],
        "person 017, expression 4: no 4_.*non_face",
    ),
    "person empty": (lambda r: [p.unlink() for p in clouds(r).iterdir()], "person 017 has no files"),
    "registration gone": (
        lambda r: (r / "scans" / "017" / "000" / "registration.ply").unlink(),
        r"registration\.ply: person 017, expression 0",
    ),
    "registration broken": (
        lambda r: (r / "scans" / "230" / "000" / "registration.ply").write_bytes(b"ply\nnonsense"),
        r"registration\.ply: person 230, expression 0",
    ),
    "other registration": (
        lambda r: save_mesh(
            r / "scans" / "017" / "000" / "registration.ply", Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
        ),
        "has 3 vertices, and an anchor is vertex 3",
    ),
}
DRAWING = {
    "cut": (lambda r: [p.write_bytes(p.read_bytes()[:90]) for p in clouds(r).glob("0_*_face.npy")], "scan 017/000"),
    "columns": (lambda r: [np.save(p, np.zeros((9, 6))) for p in clouds(r).glob("0_*_face.npy")], r"expected \(N, 9\)"),
    "nan": (
        lambda r: [np.save(p, np.full((9, 9), np.nan)) for p in clouds(r).glob("0_*_face.npy")],
        "no row of finite numbers",
    ),
    "pairs": (
        lambda r: np.save(r / "deformations" / "017" / "000" / "corresp_0.npy", np.zeros((4, 9))),
        r"corresp_0\.npy: scan 017/000.*expected \(N, 6\)",
    ),
}


@table("name", [*OPENING, *DRAWING])
def test_broken_folders_name_person_expression_and_file(name: str, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(folder, root)
    change, message = (OPENING | DRAWING)[name]
    change(root)
    with pytest.raises(CaptureError, match=message):
        scans = read_nphm(root, data=root / "scans", anchor_vertices=[3, 1])
        for seed in range(4):
            scans.sample(torch.tensor([0]), COUNTS, seed)


def test_what_cannot_be_asked_for(folder: Path) -> None:
    with pytest.raises(ValueError, match="anchor_vertices need data"):
        read_nphm(folder, anchor_vertices=[1])
    with pytest.raises(CaptureError, match="no folder for person 5"):
        read_nphm(folder, people=[5])
    with pytest.raises(CaptureError, match="neutral expression 9"):
        read_nphm(folder, neutrals={17: 9})
