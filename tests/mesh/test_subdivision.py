"""Subdivision: shape, seams, attributes and new vertices of a mesh whose long edges are split."""

import pytest
import torch

import headfields as hf
from headfields.records import Template
from tests.shapes import uv_sphere

VERTICES, FACES = uv_sphere(8, 12, radius=0.1)
FRONT = VERTICES[FACES].mean(1)[:, 2] > 0.03
TEMPLATE = hf.mesh.unwrap_template(Template(VERTICES, FACES, regions={"mouth": FRONT}, face_count=len(FACES) - 3))


def edges(faces: torch.Tensor) -> torch.Tensor:
    return faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)


def area(template: Template) -> torch.Tensor:
    a, b, c = template.canonical_vertices[template.faces].unbind(1)
    return torch.linalg.cross(b - a, c - a).norm(dim=-1) / 2


@pytest.mark.parametrize("rounds", [1, 2])
def test_long_edges_of_the_region_are_split_and_the_surface_stays(rounds: int) -> None:
    fine = hf.mesh.subdivide(TEMPLATE, FRONT, longest=0.02, rounds=rounds)
    new = fine.template
    directed = {tuple(edge) for edge in edges(new.faces).tolist()}
    assert len(directed) == 3 * len(new.faces) and all((b, a) in directed for a, b in directed)  # watertight, oriented
    assert torch.equal(new.canonical_vertices[: len(VERTICES)], VERTICES)
    torch.testing.assert_close(area(new).sum(), area(TEMPLATE).sum())
    torch.testing.assert_close(area(new)[new.regions["mouth"]].sum(), area(TEMPLATE)[FRONT].sum())
    assert float(area(new).min()) > 0
    torch.testing.assert_close(fine.extend(VERTICES[None])[0], new.canonical_vertices)
    torch.testing.assert_close(fine.weights.sum(1), torch.ones(len(fine.index)))
    lengths = (lambda e: (new.canonical_vertices[e[:, 0]] - new.canonical_vertices[e[:, 1]]).norm(dim=-1))(
        edges(new.faces[new.regions["mouth"]])
    )
    before = (VERTICES[edges(FACES[FRONT])[:, 0]] - VERTICES[edges(FACES[FRONT])[:, 1]]).norm(dim=-1)
    assert float(lengths.max()) <= max(0.02, float(before.max()) / 2**rounds) * 1.5  # 1.5: diagonals of split faces
    tracked = torch.arange(len(FACES)) < len(FACES) - 3
    flagged = hf.mesh.subdivide(TEMPLATE.replace(regions={"tracked": tracked}), FRONT, 0.02, rounds).template
    assert new.face_count == int(flagged.regions["tracked"].sum())


def test_texture_coordinates_are_in_the_middle_of_their_edges() -> None:
    """On both sides of a seam: a map of the old mesh's positions shows the same at the new mesh's coordinates."""
    fine = hf.mesh.subdivide(TEMPLATE, FRONT, longest=0.02, rounds=1).template
    assert fine.uv is not None and fine.uv_faces is not None and TEMPLATE.uv_faces is not None
    assert fine.uv_faces.shape == fine.faces.shape and float(fine.uv.min()) >= 0 and float(fine.uv.max()) <= 1
    corners, positions = fine.uv[fine.uv_faces].reshape(-1, 2), fine.canonical_vertices[fine.faces].reshape(-1, 3)
    old = {tuple(uv.tolist()) for uv in TEMPLATE.uv}  # type: ignore[union-attr]
    assert old <= {tuple(uv.tolist()) for uv in fine.uv}
    # each texture coordinate is of one vertex, as in the old mesh
    pairs = torch.cat([corners, positions], dim=1).unique(dim=0)
    assert len(pairs) == len(fine.uv[fine.uv_faces.unique()])


def test_nothing_to_split() -> None:
    for region, longest, rounds in ((torch.zeros_like(FRONT), 0.001, 2), (FRONT, 1.0, 2), (FRONT, 0.001, 0)):
        fine = hf.mesh.subdivide(TEMPLATE, region, longest, rounds)
        assert torch.equal(fine.template.faces, FACES) and len(fine.index) == 0
        assert torch.equal(fine.extend(VERTICES[None]), VERTICES[None])


def test_its_errors(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"region has shape \(3,\)"):
        hf.mesh.subdivide(TEMPLATE, torch.ones(3, dtype=torch.bool), 0.01)
    with pytest.raises(ValueError, match="longest is 0"):
        hf.mesh.subdivide(TEMPLATE, FRONT, 0)
