"""Texture coordinates for meshes without: no folds, no overlaps, few charts, room for every part; any mesh at all."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headfields as hf
from headfields.ops import UVRasterizer, unwrap
from headfields.ops._unwrap_topology import components, joined_faces
from tests.shapes import grid_sheet, uv_sphere
from tests.tables import table


def signed_areas(uv: torch.Tensor, uv_faces: torch.Tensor) -> torch.Tensor:
    a, b, c = uv.double()[uv_faces].unbind(1)
    return 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])


def torus(rings: int = 12, segments: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.meshgrid(torch.arange(rings), torch.arange(segments), indexing="ij")
    t, p = a * (2 * torch.pi / rings), b * (2 * torch.pi / segments)
    place = torch.stack([(1 + 0.3 * p.cos()) * t.cos(), (1 + 0.3 * p.cos()) * t.sin(), 0.3 * p.sin()], -1)
    index = lambda i, j: (i % rings) * segments + j % segments  # noqa: E731
    one = torch.stack([index(a, b), index(a + 1, b), index(a + 1, b + 1)], -1)
    two = torch.stack([index(a, b), index(a + 1, b + 1), index(a, b + 1)], -1)
    return place.reshape(-1, 3), torch.cat([one.reshape(-1, 3), two.reshape(-1, 3)])


def corners_agree(vertices: torch.Tensor, faces: torch.Tensor, uv: torch.Tensor, uv_faces: torch.Tensor) -> None:
    """Each texture coordinate belongs to one vertex, all are used, and all lie in the map."""
    pairs = torch.stack([uv_faces.reshape(-1), faces.reshape(-1)], 1).unique(dim=0)
    assert torch.equal(pairs[:, 0], torch.arange(len(uv)))
    assert bool(uv.isfinite().all()) and (not len(uv) or (float(uv.min()) >= 0 and float(uv.max()) <= 1))


def overlap(uv: torch.Tensor, uv_faces: torch.Tensor, side: int = 256) -> float:
    """How much more area the faces have than the texels that they cover, as a part of the latter."""
    covered = UVRasterizer(uv_faces, uv, uv_faces, side, padding=0.0).covered.double().mean()
    return float(signed_areas(uv, uv_faces).abs().sum() / covered - 1)


def sheared(vertices: torch.Tensor, faces: torch.Tensor, uv: torch.Tensor, uv_faces: torch.Tensor) -> torch.Tensor:
    """For each face, how much longer its map is along one direction than along another: 1 for a similarity."""
    a, b, c = vertices.double()[faces].unbind(1)
    along = torch.nn.functional.normalize(b - a, dim=-1)
    across = torch.linalg.cross(torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1), along)
    edges = torch.stack([b - a, c - a], -1)
    flat = torch.stack([(along[..., None] * edges).sum(1), (across[..., None] * edges).sum(1)], 1)
    p, q, r = uv.double()[uv_faces].unbind(1)
    singular = torch.linalg.svdvals(torch.stack([q - p, r - p], -1) @ torch.linalg.inv(flat))
    return singular[:, 0] / singular[:, 1]


SHAPES = {
    "sphere": uv_sphere(12, 16),
    "sheet": grid_sheet(6),
    "torus": torus(),
    "triangle": (torch.eye(3), torch.tensor([[0, 1, 2]])),
    "tetrahedron": (
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
    ),
    "tetrahedron without extent": (torch.ones(4, 3), torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])),
    "two sides of a triangle": (torch.eye(3), torch.tensor([[0, 1, 2], [0, 2, 1]])),
    "a cone": (torch.tensor([[0.0, 0, 0], [0.1, 0, 0.2], [0, 0.3, 0.1]]), torch.tensor([[0, 1, 2], [0, 2, 1]])),
}


@table("name", SHAPES)
def test_simple_shapes_become_one_chart_without_folds(name: str) -> None:
    vertices, faces = SHAPES[name]
    uv, uv_faces = unwrap(vertices, faces)
    corners_agree(vertices, faces, uv, uv_faces)
    assert bool((signed_areas(uv, uv_faces) > 0).all()), "a face is folded over or has no room"
    assert components(joined_faces(uv_faces.numpy())).max() == 0
    assert overlap(uv, uv_faces) < 0.05


def test_a_head_gets_a_chart_for_the_skin_and_one_for_each_eye() -> None:
    head = hf.synthetic.procedural_head()
    vertices = head().vertices[0].detach()
    uv, uv_faces = unwrap(vertices, head.faces)
    corners_agree(vertices, head.faces, uv, uv_faces)
    area = signed_areas(uv, uv_faces)
    assert bool((area > 0).all()) and overlap(uv, uv_faces) < 0.02
    assert float(area.sum()) > 0.7, "much of the map is left empty"
    piece = components(joined_faces(uv_faces.numpy()))
    assert piece.max() == 2
    seen = UVRasterizer(head.faces, uv, uv_faces, 256, padding=0.0).face.unique()
    assert len(seen) > 0.9 * len(head.faces)
    for name in ("left_eyeball", "right_eyeball", "lips", "mouth", "nose"):
        mask = head.regions[name]
        assert float(mask[seen[seen >= 0]].float().sum() / mask.float().sum()) > 0.85, name
    share = area[head.regions["face"]].sum() / area.sum()
    assert float(share) > 0.25
    more = signed_areas(*unwrap(vertices, head.faces, detail=1.0))
    less = signed_areas(*unwrap(vertices, head.faces, detail=0.0))
    face = head.regions["face"]
    assert float(less[face].sum() / less.sum()) < float(share) < float(more[face].sum() / more.sum())
    assert float(sheared(vertices, head.faces, uv, uv_faces).quantile(0.95)) < 4
    nose, crown = vertices[:, 2].argmax(), vertices[:, 1].argmax()
    at = {int(v): uv[uv_faces[head.faces == v]].mean(0) for v in (nose, crown)}
    assert float(at[int(crown)][1]) > float(at[int(nose)][1]) + 0.2, "the face is not upright"


@pytest.mark.slow
def test_weighted_regions_get_more_of_the_map() -> None:
    """Without folds, overlaps, or faces that shear without bound."""
    head = hf.synthetic.procedural_head()
    vertices, mouth = head().vertices[0].detach(), head.regions["mouth"]
    shares, before = [], unwrap(vertices, head.faces)
    for factor in (1.0, 6.0):
        weights = torch.ones(len(head.faces)).masked_fill(mouth, factor)
        uv, uv_faces = unwrap(vertices, head.faces, weights=weights)
        area = signed_areas(uv, uv_faces)
        assert bool((area > 0).all()) and overlap(uv, uv_faces) < 0.02
        assert float(sheared(vertices, head.faces, uv, uv_faces).quantile(0.95)) < 6
        shares.append(float(area[mouth].sum() / area.sum()))
        if factor == 1:
            assert torch.equal(uv, before[0])
    assert shares[1] > 3 * shares[0]


def test_two_nodes_are_no_outline() -> None:
    """Two faces on each other, joined along two edges; the third has more faces, as where a fan closes a mouth."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.4, 0.7, 0], [0.4, -0.8, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 3], [0, 1, 3]])
    uv, uv_faces = unwrap(vertices, faces)
    assert bool((signed_areas(uv, uv_faces) > 0).all()) and overlap(uv, uv_faces) < 0.05


def test_the_same_mesh_gives_the_same_coordinates() -> None:
    vertices, faces = SHAPES["torus"]
    first, second = unwrap(vertices, faces), unwrap(vertices.clone(), faces.int())
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@given(seed=st.integers(0, 9999), count=st.integers(3, 30), faces=st.integers(0, 40), flat=st.booleans())
@settings(max_examples=15)
def test_any_mesh_gets_coordinates(seed: int, count: int, faces: int, flat: bool) -> None:
    """Faces at random: edges of many faces, vertices named twice, pieces without area."""
    generator = np.random.default_rng(seed)
    vertices = torch.from_numpy(generator.random((count, 3))).float()
    if flat:
        vertices[::2] = vertices[0]
    triangles = torch.from_numpy(generator.integers(0, count, (faces, 3)))
    uv, uv_faces = unwrap(vertices, triangles)
    corners_agree(vertices, triangles, uv, uv_faces)
    assert bool((signed_areas(uv, uv_faces) > -1e-6).all())
    assert overlap(uv, uv_faces, 128) < 0.1 if faces else not len(uv)
    UVRasterizer(triangles, uv, uv_faces, 16)


def test_a_template_keeps_its_own_coordinates() -> None:
    vertices, faces = SHAPES["sphere"]
    bare = hf.Template(vertices, faces)
    made = hf.mesh.unwrap_template(bare)
    assert made.uv is not None and made.uv_faces is not None
    assert hf.mesh.unwrap_template(made) is made


def test_errors(unchecked: None) -> None:
    vertices, faces = SHAPES["sphere"]
    with pytest.raises(ValueError, match=r"unwrap: margin is 0\.5"):
        unwrap(vertices, faces, margin=0.5)
    with pytest.raises(ValueError, match="unwrap: detail is 2"):
        unwrap(vertices, faces, detail=2)
    with pytest.raises(ValueError, match="weights holds values that are not finite or not above 0"):
        unwrap(vertices, faces, weights=torch.zeros(len(faces)))
    with pytest.raises(ValueError, match="weights has shape"):
        unwrap(vertices, faces, weights=torch.ones(3))
    with pytest.raises(ValueError, match="values that are not finite"):
        unwrap(torch.full_like(vertices, torch.nan), faces)
    with pytest.raises(ValueError, match="indices must lie in"):
        unwrap(vertices[:5], faces)
    apart = torch.arange(600).reshape(-1, 3)
    with pytest.raises(ValueError, match="200 pieces do not fit"):
        unwrap(torch.rand(600, 3, generator=torch.Generator().manual_seed(0)), apart, margin=0.2)
