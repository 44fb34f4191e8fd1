from collections import Counter

import pytest
import torch

from headfields.apps.rigging.landmarks import find_scan_landmarks
from headfields.apps.rigging.lips import cut_lips, lip_sides, lips_parted
from headfields.apps.rigging.mesh_repair import close_pinholes
from headfields.mesh import Mesh
from headfields.ops.mesh_topology import boundary_loops
from tests.apps.rigging.conftest import sealed_scan


def sheet(count=24, jitter=0.0):
    """A curved sheet that faces +z, with a texture seam at the border of its right half."""
    t = torch.linspace(-0.06, 0.06, count, dtype=torch.float64)
    y, x = torch.meshgrid(t, t, indexing="ij")
    generator = torch.Generator().manual_seed(3)
    points = torch.stack([x, y, 0.1 - 3 * (x * x + y * y)], -1).reshape(-1, 3)
    points[:, :2] += jitter * (torch.rand(len(points), 2, generator=generator, dtype=torch.float64) - 0.5)
    index = torch.arange(count * count).reshape(count, count)
    a, b, c, d = (part.reshape(-1) for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    faces = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    uv = (points[:, :2] / 0.14 + 0.5).float()
    right = points[faces].mean(1)[:, 0] > 0.013
    uv_faces = faces.clone()
    uv_faces[right] += len(uv)
    return Mesh(points.float(), faces, uv=torch.cat([uv, uv * 0.5]), uv_faces=uv_faces)


LINE = torch.tensor([[-0.031, -0.003, 0.097], [-0.01, 0.0021, 0.1], [0.012, 0.0019, 0.1], [0.028, -0.002, 0.097]])


@pytest.mark.parametrize("jitter", [0.0, 0.003])
def test_a_cut_opens_one_border_and_changes_nothing_else(jitter):
    mesh = sheet(jitter=jitter)
    cut = cut_lips(mesh, LINE)
    borders = boundary_loops(cut.mesh.faces)
    assert len(borders) == 2
    chain = torch.cat([cut.upper, cut.lower[1:-1].flip(0)])
    assert {frozenset(b.tolist()) for b in borders} >= {frozenset(chain.tolist())}
    assert torch.equal(cut.upper[[0, -1]], cut.lower[[0, -1]])
    assert torch.equal(cut.mesh.vertices[cut.upper], cut.mesh.vertices[cut.lower])
    x = cut.mesh.vertices[cut.upper, 0]
    assert (x.diff() > 0).all() and -0.032 < x[0] < -0.024 and 0.021 < x[-1] < 0.029
    # The surface is the same: its area, and where the texture lies on it.
    before, after = (m.vertices[m.faces].double() for m in (mesh, cut.mesh))
    area = [torch.linalg.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]).norm(dim=1) for t in (before, after)]
    assert abs(area[0].sum() - area[1].sum()) < 2e-3 * area[0].sum() and area[1].min() > 1e-9
    corner = cut.mesh.uv[cut.mesh.uv_faces].double()
    place = after[..., :2] / 0.14 + 0.5
    assert torch.minimum((corner - place).abs(), (corner - 0.5 * place).abs()).max() < 0.03
    directed = Counter(e for a, b, c in cut.mesh.faces.tolist() for e in ((a, b), (b, c), (c, a)))
    assert max(directed.values()) == 1
    used = torch.unique(cut.mesh.faces)
    assert len(used) == len(cut.mesh.vertices) and (cut.origin[: len(mesh.vertices)] >= 0).all()


def test_sides_of_the_cut(jitter=0.002):
    cut = cut_lips(sheet(jitter=jitter), LINE)
    sides = lip_sides(cut.mesh.vertices, cut.mesh.faces, LINE)
    y, x = cut.mesh.vertices[:, 1], cut.mesh.vertices[:, 0]
    middle = x.abs() < 0.012
    assert (sides[middle & (y > 0.005) & (y < 0.02)] == 1).all()
    assert (sides[middle & (y < -0.002) & (y > -0.02)] == -1).all()
    assert (sides[x.abs() > 0.055] == 0).all()
    parted = lips_parted(cut.mesh.vertices, cut.mesh.faces, LINE)
    assert parted[1:3].all()
    assert not lips_parted(sheet().vertices, sheet().faces, LINE).any()


def test_a_line_off_the_mesh_is_refused():
    with pytest.raises(ValueError, match="cut_lips: the line crosses"):
        cut_lips(sheet(), LINE + torch.tensor([0.0, 0.3, 0.0]))


def test_landmarks_are_found_on_a_sealed_face(sealed, head):
    landmarks = find_scan_landmarks(sealed.vertices, sealed.faces)
    truth = head.landmarks(head.template_vertices[None])[0].double()
    off = {int(i): float((p - truth[i]).norm()) for i, p in zip(landmarks.indices, landmarks.points, strict=True)}
    assert off[30] < 0.006 and off[8] < 0.016 and off[27] < 0.014 and off[62] < 0.004
    assert off[60] < 0.009 and off[64] < 0.009, off
    assert not lips_parted(sealed.vertices, sealed.faces, landmarks.lips).any()


@pytest.mark.parametrize("seed", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_landmarks_of_other_people(head, seed):
    shape = torch.zeros(1, head.shape_basis.shape[0])
    shape[0, :20] = torch.randn(20, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        place = head(shape=shape).vertices[0]
    scan = sealed_scan(head, place, 6)
    landmarks = find_scan_landmarks(100 * scan.vertices, scan.faces)  # centimeters
    truth = head.landmarks(place[None])[0].double()
    off = {int(i): float((p / 100 - truth[i]).norm()) for i, p in zip(landmarks.indices, landmarks.points, strict=True)}
    assert off[30] < 0.004 and off[8] < 0.010 and off[27] < 0.012 and off[62] < 0.005, off
    assert off[60] < 0.006 and off[64] < 0.006, off


def test_landmarks_are_not_guessed():
    ball = torch.nn.functional.normalize(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    with pytest.raises(ValueError, match="find_scan_landmarks"):
        find_scan_landmarks(ball, torch.tensor([[0, 1, 2]]))


@pytest.mark.parametrize("textured", [True, False])
def test_pinholes_by_the_line_are_closed_and_others_are_not(textured):
    mesh = sheet()
    if not textured:
        mesh = Mesh(mesh.vertices, mesh.faces)
    middle = mesh.vertices[mesh.faces].mean(1)
    away = (middle[:, :2] - torch.tensor([0.0, 0.002])).norm(dim=1) < 0.006
    elsewhere = (middle[:, :2] - torch.tensor([0.0, 0.04])).norm(dim=1) < 0.006
    keep = ~(away | elsewhere)
    holed = Mesh(
        mesh.vertices, mesh.faces[keep], uv=mesh.uv, uv_faces=None if mesh.uv_faces is None else mesh.uv_faces[keep]
    )
    closed = close_pinholes(holed, LINE)
    assert len(boundary_loops(holed.faces)) == 3 and len(boundary_loops(closed.faces)) == 2
    assert len(closed.vertices) == len(mesh.vertices) + 1 and torch.equal(closed.faces[: keep.sum()], holed.faces)
    new = closed.faces[keep.sum() :]
    corners = closed.vertices[new]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normal[:, 2] >= 0).all() and normal[:, 2].sum() > 0  # the hole of a grid has flat corners
    if textured:
        at = closed.uv[closed.uv_faces[keep.sum() :]]
        assert (at - (corners[..., :2] / 0.14 + 0.5)).abs().max() < 1e-5
    assert not lips_parted(holed.vertices, holed.faces, LINE).any()
    assert torch.equal(close_pinholes(mesh, LINE).faces, mesh.faces)
