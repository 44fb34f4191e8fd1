"""Sets of scans that are wrong: each is an error that names the file, or a tolerance of docs/files.md."""

import json
import shutil

import numpy as np
import pytest
import torch

from headfields.apps.priors.scans import load_scans, save_scans
from headfields.apps.priors.scans.batch import PointCounts
from headfields.apps.priors.scans.meshes import MeshScans
from headfields.apps.priors.scans.nphm import nphm_to_raw, read_nphm
from headfields.data.errors import CaptureError
from headfields.files.arrays import save_array
from tests.tables import table


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    vertices = torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    scans = MeshScans(
        vertices, torch.tensor([[0, 1, 2], [2, 3, 4], [3, 4, 5]]), torch.tensor([0, 0, 1, 1]), torch.rand(2, 6, 3),
        kind=torch.zeros(3, dtype=torch.long), visible=torch.ones(4, 3).bool(), anchor_vertices=torch.tensor([1, 2]),
    )  # fmt: skip
    return save_scans(scans, tmp_path_factory.mktemp("scans") / "set")


def arrays(name, **changes):
    """A change of the arrays of a file: a value, or a function of the one that is there."""

    def apply(folder):
        with np.load(folder / name) as file:
            content = dict(file)
        content |= {key: value(content[key]) if callable(value) else value for key, value in changes.items()}
        np.savez(folder / name, **content)

    return apply


def index(change):
    def apply(folder):
        content = json.loads((folder / "scans.json").read_text())
        change(content)
        (folder / "scans.json").write_text(json.dumps(content))

    return apply


def person(**changes):
    return index(lambda content: content["people"]["000"].update(changes))


def renamed(name):
    return index(lambda content: content["people"].update({name: content["people"].pop("000")}))


FACES = np.array([[0, 1, 2], [2, 3, 4]], np.int32)
SETS = {
    "a scan in millimeters": (
        arrays("000/001.npz", vertices=lambda v: v * 1000),
        "001.npz: vertices extends over .*by 0.001",
    ),
    "NaN": (arrays("000/001.npz", vertices=lambda v: v * np.nan), "001.npz: vertices are not all finite"),
    "whole numbers for vertices": (arrays("000/001.npz", vertices=lambda v: v.astype(int)), "001.npz: vertices has"),
    "a vertex fewer": (arrays("000/001.npz", vertices=lambda v: v[:5]), "001.npz: vertices has"),
    "a person of another topology": (arrays("001/person.npz", rgb=np.zeros((5, 3), np.uint8)), "person.npz: rgb has 5"),
    "negative colors": (arrays("001/person.npz", rgb=np.full((6, 3), -1.0)), "person.npz: rgb ranges"),
    "seen of other faces": (arrays("001/000.npz", seen=np.ones(2, bool)), "000.npz: seen has"),
    "seen as numbers": (arrays("001/000.npz", seen=np.ones(3, int)), "000.npz: seen has"),
    "a face out of range": (arrays("topology.npz", faces=lambda f: f + 1), "faces holds"),
    "a negative face": (arrays("topology.npz", faces=lambda f: f - 1), "faces holds"),
    "fractional faces": (arrays("topology.npz", faces=lambda f: f + 0.5), "topology.npz: faces has dtype float64"),
    "an unknown kind": (arrays("topology.npz", kind=np.array([0, 1, 9], np.uint8)), "topology.npz: kind holds 9"),
    "an anchor twice": (arrays("topology.npz", anchor_vertices=np.array([1, 1])), "names a vertex twice"),
    "an anchor out of range": (arrays("topology.npz", anchor_vertices=np.array([1, -2])), "anchor_vertices"),
    "an expression twice": (person(expressions=["000", "001", "001"]), "'001' is listed twice"),
    "an unknown neutral": (person(neutral="open"), "neutral expression 'open'"),
    "a number for an expression": (person(expressions=[0, 1]), "scans.json: 0 is no name"),
    "an expression elsewhere": (person(expressions=["000", "../001/000"]), "is no name of a person"),
    "a person elsewhere": (renamed("../set/000"), "is no name of a person"),
    "a person anywhere": (renamed("/tmp"), "is no name of a person"),
    "no expression": (person(expressions=[]), "neutral expression"),
    "no index": (lambda f: (f / "scans.json").unlink(), "scans.json does not exist"),
    "no JSON": (lambda f: (f / "scans.json").write_text("{"), "scans.json: not JSON that can be read"),
    "no people": (index(lambda content: content.update(people={})), "has no people"),
    "a scan gone": (lambda f: (f / "001/001.npz").unlink(), "person 001, expression 001"),
    "a scan cut short": (lambda f: (f / "001/001.npz").write_bytes(b"PK\x03\x04half"), "person 001, expression 001"),
    "colors gone": (lambda f: (f / "000/person.npz").unlink(), "person 000"),
    "colors of 255 as floats": (
        arrays("000/person.npz", rgb=np.full((6, 3), 255, np.float32)), "rgb ranges from 255 to 255"
    ),
    "no topology": (lambda f: (f / "topology.npz").unlink(), "topology"),
    "infinite vertices": (arrays("000/001.npz", vertices=lambda v: v / 0), "not all finite; register person 000 001"),
    "a face far out of range": (arrays("topology.npz", faces=np.full((3, 3), 999, np.int32)), "faces holds 999"),
}  # fmt: skip


@table("name", SETS)
def test_a_wrong_set_is_an_error_with_its_name(whole, tmp_path, name):
    change, reason = SETS[name]
    shutil.copytree(whole, tmp_path / "set")
    with np.errstate(divide="ignore", invalid="ignore"):
        change(tmp_path / "set")
    with pytest.raises((CaptureError, FileNotFoundError), match=rf"{tmp_path}.*(?:{reason})"):
        load_scans(tmp_path / "set")


@pytest.mark.parametrize(
    ("rgb", "first"), [(np.full((6, 3), 51, np.uint8), 0.2), (np.full((6, 3), 13107, np.uint16), 0.2)]
)
def test_colors_are_scaled_by_their_type(whole, tmp_path, rgb, first):
    shutil.copytree(whole, tmp_path / "set")
    arrays("000/person.npz", rgb=rgb)(tmp_path / "set")
    assert load_scans(tmp_path / "set").rgb[0, 0, 0].item() == pytest.approx(first)


def columns(places=1.0, colors=1.0, rows=slice(0)):
    def change(table):
        table = np.concatenate([table[:, :3] * places, table[:, 3:6], table[:, 6:] * colors], 1)
        table[rows] = np.nan
        return table

    return change


@table(
    ("change", "reason"),
    [
        (columns(places=1000), "units off; expected NPHM's unit"),
        (columns(colors=300), "has colors from"),
        (columns(colors=-1), "has colors from"),
        (columns(rows=slice(20)), "no row of finite numbers"),
        (lambda table: table[:, :8], "expected .N, 9."),
        (columns(rows=slice(10)), None),  # rows that are not finite are left out
    ],
)
def test_nphm_points(tmp_path, change, reason):
    folder, random = tmp_path / "surface_pointclouds" / "003", np.random.default_rng(0)
    for kind in ("face", "def_region", "non_face", "off_surface"):
        table = np.concatenate([random.normal(size=(20, 6)) * 0.3, random.integers(0, 256, (20, 3))], 1)
        save_array(folder / f"0_0_{kind}.npy", change(table) if kind == "non_face" else table)
    scans = read_nphm(tmp_path)
    if reason is None:
        assert scans.sample(torch.tensor([0]), PointCounts(), 0).back_points.isfinite().all()
        return
    with pytest.raises(CaptureError, match=rf"0_0_non_face\.npy: scan 003/000: .*{reason}"):
        scans.sample(torch.tensor([0]), PointCounts(), 0)


@table(
    ("name", "value", "reason"),
    [
        ("s", np.array(0.0), "the scale is 0.0"),
        ("s", np.array(np.nan), "expected 1 finite number"),
        ("R", 2 * np.eye(3), "is no rotation"),
        ("R", np.diag([1.0, 1, -1]), "is no rotation"),
        ("t", np.full(3, np.inf), "expected 3 finite number"),
    ],
)
def test_nphm_transforms(tmp_path, name, value, reason):
    for key, array in {"s": np.array(1.0), "R": np.eye(3), "t": np.zeros(3), name: value}.items():
        save_array(tmp_path / f"{key}.npy", array)
    with pytest.raises(CaptureError, match=rf"{name}\.npy: .*{reason}"):
        nphm_to_raw(torch.rand(2, 3), tmp_path)


@pytest.mark.parametrize(("vertex", "scale"), [(-1, 1.0), (9, 1.0), (0, 1000.0)])
def test_nphm_anchors(tmp_path, vertex, scale):
    from headfields.mesh import save_mesh
    from headfields.mesh.mesh import Mesh

    for kind in ("face", "def_region", "non_face", "off_surface"):
        save_array(tmp_path / "surface_pointclouds" / "003" / f"0_0_{kind}.npy", np.zeros((2, 9)))
    mesh = Mesh(torch.rand(4, 3) * scale, torch.tensor([[0, 1, 2]]))
    save_mesh(tmp_path / "003" / "000" / "registration.ply", mesh)
    with pytest.raises(CaptureError, match=r"registration\.ply: person 003"):
        read_nphm(tmp_path, data=tmp_path, anchor_vertices=[0, vertex])
