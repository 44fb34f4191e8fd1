"""Sets of scans: generation, sampling of points, saving and loading."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headfields.apps.priors.scans import load_scans, save_scans
from headfields.apps.priors.scans.batch import PointCounts
from headfields.apps.priors.scans.meshes import FACE, HIDDEN, REAR, STATIC, MeshScans
from headfields.apps.priors.scans.points import PointScans
from headfields.apps.priors.scans.visibility import is_visible, rim_faces, visible_share
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.synthetic.head.model import procedural_head
from headfields.synthetic.scans.generate import generate_scans
from headfields.synthetic.scans.sampler import HeadSampler
from tests.apps.priors.tiny import tiny_head, tiny_scans
from tests.tables import table

COUNTS = PointCounts(face=40, static=20, back=30, near=25, far=15, correspondences=80)


@pytest.fixture(scope="module")
def scans() -> MeshScans:
    return tiny_scans()


def test_points_lie_on_the_right_mesh_with_its_normals_and_colors(scans: MeshScans) -> None:
    batch = scans.sample(torch.tensor([4, 0]), COUNTS, 7)
    assert len(batch) == 2
    assert batch.person.tolist() == [1, 0]
    assert batch.neutral.tolist() == [False, True]
    for row, scan in enumerate((4, 0)):
        tree = TriangleBVH(scans.faces, scans.vertices[scan])
        for points, normals, rgb in (
            (batch.front_points, batch.front_normals, batch.front_rgb),
            (batch.back_points, batch.back_normals, batch.back_rgb),
        ):
            found = tree.closest(points[row])
            assert found.distance.max() < 1e-6
            corners = scans.vertices[scan][scans.faces[found.face]]
            flat = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            flat = torch.nn.functional.normalize(flat, dim=-1)
            assert ((flat * normals[row]).sum(-1) > 0.7).all()
            colors = (scans.rgb[scans.person[scan]][scans.faces[found.face]] * found.barycentric[..., None]).sum(1)
            assert torch.allclose(colors, rgb[row], atol=1e-4)
        assert (scans.kind[tree.closest(batch.back_points[row]).face] == REAR).all()


def test_points_near_the_surface_know_their_side_but_not_beyond_the_neck(scans: MeshScans) -> None:
    batch = scans.sample(torch.tensor([1]), PointCounts(near=4000, face=0, static=0, back=0), 3)
    found = TriangleBVH(scans.faces, scans.vertices[1]).closest(batch.near_points[0])
    known = batch.near_known[0]
    assert 0.5 < known.float().mean() < 1
    assert torch.allclose(batch.near_distance[0].abs()[known], found.distance[known], atol=1e-6)
    assert not known[rim_faces(scans.faces)[found.face]].any()
    inside = batch.near_distance[0] < 0
    middle = scans.vertices[1].mean(0)
    closer = (found.point - middle).norm(dim=-1) > (batch.near_points[0] - middle).norm(dim=-1)
    assert (closer == inside)[known & (found.distance > 1e-3)].float().mean() > 0.99
    assert 0.2 < inside[known].float().mean() < 0.8


def test_correspondences_are_the_same_place_of_the_head(scans: MeshScans) -> None:
    batch = scans.sample(torch.tensor([5, 3]), COUNTS, 1)
    calm = TriangleBVH(scans.faces, scans.vertices[scans.neutral[1]]).closest(batch.neutral_points[0])
    assert calm.distance.max() < 1e-6
    there = (scans.vertices[5][scans.faces[calm.face]] * calm.barycentric[..., None]).sum(1)
    assert torch.allclose(there, batch.posed_points[0], atol=1e-5)
    assert torch.equal(batch.neutral_points[1], batch.posed_points[1])
    assert (batch.neutral_points[0] - batch.posed_points[0]).norm(dim=-1).max() > 1e-3


def test_draws_follow_from_the_seed_alone_and_spread_over_the_area(scans: MeshScans) -> None:
    which = torch.tensor([2, 2])
    first, again, other = (scans.sample(which, COUNTS, seed) for seed in (5, 5, 6))
    for name in ("front_points", "back_rgb", "near_distance", "far_points", "posed_points"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(first.front_points, other.front_points)
    assert not torch.equal(first.front_points[0], first.front_points[1])
    many = scans.sample(torch.tensor([0]), PointCounts(face=0, static=20000, back=0, near=0, far=0), 0)
    face = TriangleBVH(scans.faces, scans.vertices[0]).closest(many.front_points[0]).face
    corners = scans.vertices[0][scans.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1)
    area = area * (scans.kind == STATIC) * scans.visible[0]
    share = torch.bincount(face, minlength=len(area)) / 20000
    assert (share - area / area.sum()).abs().max() < 0.006
    assert (first.far_points - scans.center).norm(dim=-1).max() <= COUNTS.radius


def test_detail_goes_where_triangles_are_small(scans: MeshScans) -> None:
    counts = PointCounts(face=0, static=20000, back=0, near=0, far=0, correspondences=0, detail=0.75)
    batch = scans.sample(torch.tensor([0]), counts, 0)
    assert batch.front_points.shape == (1, 20000, 3)
    face = TriangleBVH(scans.faces, scans.vertices[0]).closest(batch.front_points[0]).face
    corners = scans.vertices[0][scans.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1)
    drawn = (scans.kind == STATIC) & scans.visible[0]
    expected = 0.25 * area * drawn / (area * drawn).sum() + 0.75 * drawn / drawn.sum()
    assert (torch.bincount(face, minlength=len(area)) / 20000 - expected).abs().max() < 0.006
    with pytest.raises(ValueError, match="detail is 2"):
        PointCounts(detail=2)


def with_landmarks(scans: MeshScans) -> MeshScans:
    """The same scans with two landmarks at the front: a corner of an eye and one of the mouth."""
    landmarks = torch.full((68,), -1)
    front = scans.mean_neutral()
    for landmark, height in ((36, 0.03), (54, -0.04)):
        landmarks[landmark] = (front - torch.tensor([0.02, height, 0.1])).norm(dim=-1).argmin()
    return MeshScans(
        scans.vertices, scans.faces, scans.person, scans.rgb, visible=scans.visible, kind=scans.kind,
        landmark_vertices=landmarks,
    )  # fmt: skip


def test_features_are_sampled_densely_where_there_are_landmarks(scans: MeshScans, tmp_path: Path) -> None:
    counts = PointCounts(face=4000, static=0, back=0, near=0, far=0, correspondences=4000, features=0.6)
    marked = with_landmarks(scans)
    places = marked.mean_landmarks()
    assert places is not None and places.isfinite().all(dim=-1).nonzero()[:, 0].tolist() == [36, 54]

    def near(points: torch.Tensor) -> float:
        distance = torch.cdist(points, places[[36, 54]]).amin(dim=-1)
        return float((distance < 0.03).float().mean())

    every, dense = (s.sample(s.neutral[:1], counts, 0) for s in (scans, marked))
    for name in ("front_points", "neutral_points"):
        assert near(getattr(dense, name)[0]) > near(getattr(every, name)[0]) + 0.2, name
    assert torch.equal(every.front_points, scans.sample(scans.neutral[:1], replace(counts, features=0), 0).front_points)
    hidden = with_landmarks(scans)
    hidden.visible[:] = False
    assert hidden.sample(torch.tensor([1]), counts, 0).front_points.isfinite().all()
    save_scans(marked, tmp_path / "set")
    read = load_scans(tmp_path / "set").of([1])
    assert torch.equal(read.landmark_vertices, marked.landmark_vertices)
    with pytest.raises(ValueError, match=r"features 0\.9"):
        PointCounts(detail=0.5, features=0.9)


def test_every_person_shuts_eyes() -> None:
    """The third scan of a person shuts both eyes, the fourth one, of the next person the other."""
    head = procedural_head()
    scans = generate_scans(head, people=2, expressions=5, progress=False)
    offset = (scans.vertices - scans.vertices[scans.neutral[scans.person]])[:, : len(head.template_vertices)].norm(
        dim=-1
    )
    moved = []
    for side in ("left", "right"):
        lid = head.expression_basis[head.expression_names.index(f"blink_{side}")].norm(dim=-1)
        moved.append(offset[:, lid > 0.9 * lid.max()].mean(1) > 0.005)
    left, right = (each.view(2, 5)[:, :4].tolist() for each in moved)
    assert left == [[False, False, True, True], [False, False, True, False]]
    assert right == [[False, False, True, False], [False, False, True, True]]


def test_correspondences_are_drawn_on_lids() -> None:
    """Triangles near an eye are drawn by area times motion, in a scan that moves them and in any other."""
    head, share, eye = tiny_head(40, 56), 0.5, torch.tensor([0.02, 0.03, 0.085])
    near = (head.template_vertices - eye).norm(dim=-1)
    lid = 0.004 * torch.exp(-((near / 0.012) ** 2))[:, None] * torch.tensor([0.0, -1.0, 0.0])
    moved = torch.stack(
        [head.template_vertices, head.template_vertices + lid, head(expression=torch.ones(1, 1)).vertices[0]]
    )
    ball = torch.tensor([[0.0, 0, 0], [0.004, 0, 0], [0, 0.004, 0]]) + eye  # an eyeball: it is no part of the skin
    turned = ball + torch.arange(3.0)[:, None, None] * 0.001
    landmarks = torch.full((68,), -1)
    landmarks[36] = near.argmin()
    count = moved.shape[1]
    scans = MeshScans(
        torch.cat([moved, turned], 1), torch.cat([head.faces, torch.arange(3)[None] + count]),
        torch.zeros(3, dtype=torch.long), torch.full((1, count + 3, 3), 0.5), landmark_vertices=landmarks,
        kind=torch.full((len(head.faces) + 1,), FACE), visible=torch.ones(3, len(head.faces) + 1, dtype=torch.bool),
    )  # fmt: skip
    centers = scans.mean_neutral()[head.faces].mean(1)
    lids = (centers - scans.mean_neutral()[landmarks[36]]).norm(dim=-1) < 0.012
    offset = (scans.vertices - scans.vertices[scans.neutral[scans.person]])[:, head.faces].mean(2)
    corners = scans.mean_neutral()[head.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1)
    weight = area * offset.square().sum(-1).mean(0).sqrt() * lids
    assert 3 <= int((weight > 0).sum()) < 40
    counts = PointCounts(0, 0, 0, 0, 0, correspondences=40000, lids=share)
    drawn = round(share * 30000)  # a quarter of the correspondences is not on the face
    for scan in range(3):
        batch = scans.sample(torch.tensor([scan]), counts, 0)
        assert batch.posed_points.shape == (1, 40000, 3)
        points = batch.posed_points[0, 30000 - drawn : 30000]
        face = TriangleBVH(scans.faces, scans.vertices[scan : scan + 1]).closest(points).face
        drawn_share = torch.bincount(face, minlength=len(scans.faces))[:-1] / drawn
        assert (drawn_share - weight / weight.sum()).abs().max() < 0.02
    none = scans.sample(torch.tensor([1]), replace(counts, lids=0), 0).posed_points
    unmarked = tiny_scans().sample(torch.tensor([1]), counts, 0)
    assert none.shape == unmarked.posed_points.shape, "without landmarks all are drawn by area"
    with pytest.raises(ValueError, match=r"lids 1\.5"):
        PointCounts(lids=1.5)


def test_nothing_is_legal(scans: MeshScans) -> None:
    none = scans.sample(torch.zeros(0, dtype=torch.long), COUNTS, 0)
    assert none.front_points.shape == (0, 60, 3)
    empty = PointCounts(0, 0, 0, 0, 0, 0)
    batch = scans.sample(torch.tensor([1]), empty, 0)
    assert batch.front_points.shape == batch.posed_points.shape == (1, 0, 3)
    assert PointCounts(face=8, back=0).scaled(0.01).back == 0
    assert PointCounts(face=8, back=0).scaled(0.01).face == 1


def test_an_epoch_has_every_scan_once_and_neutral_ones_more_often(scans: MeshScans) -> None:
    epoch = torch.cat([scans.draw(step, 3, 0, extra_neutral=0) for step in range(3)])
    assert epoch.sort().values.tolist() == list(range(9))
    across = torch.cat([scans.draw(step, 2, 0, extra_neutral=0) for step in range(9)])
    assert torch.bincount(across).tolist() == [2] * 9
    assert torch.equal(epoch[:6], across[:6])
    always = torch.cat([scans.draw(step, 3, 0, extra_neutral=1) for step in range(3)])
    assert torch.isin(always, scans.neutral).all()


def test_subsets_keep_people_together(scans: MeshScans) -> None:
    two = scans.of([2, 0])
    assert two.people == ("002", "000")
    assert two.scans == ("002/000", "002/001", "002/002", "000/000", "000/001", "000/002")
    assert two.person.tolist() == [0, 0, 0, 1, 1, 1]
    assert two.neutral.tolist() == [0, 3]
    assert torch.equal(two.vertices[4], scans.vertices[1])
    assert torch.equal(two.anchors[0], scans.anchors[2])
    assert two.anchors.shape[1] == len(scans.anchor_vertices) > 0


def test_a_scanner_sees_the_outside_alone() -> None:
    head = tiny_head()
    inner = head.template_vertices * 0.5 + torch.tensor([0.0, 0.02, 0.0])
    vertices = torch.cat([head.template_vertices, inner])
    count, own = len(head.template_vertices), len(head.faces)
    faces = torch.cat([head.faces, head.faces + count])
    share = visible_share(vertices[None], faces)[0]
    assert (share[:own] > 0.8).all()
    assert (share[own:] == 0).all()
    set_of_one = MeshScans(vertices[None], faces, torch.tensor([0]), torch.zeros(1, 2 * count, 3))
    batch = set_of_one.sample(torch.tensor([0]), COUNTS, 0)
    seen = TriangleBVH(faces, vertices).closest(torch.cat([batch.front_points, batch.back_points], 1)[0]).face
    assert (seen < own).all()


def test_faces_are_seen_if_any_ray_escapes() -> None:
    """`is_visible` stops at the first ray that escapes, and is `visible_share` above 0 all the same."""
    head = procedural_head()
    opened = torch.zeros(2, len(head.expression_names))
    opened[1, head.expression_names.index("mouth_open")] = 1
    vertices = head(expression=opened).vertices
    seen = is_visible(vertices, head.faces)
    assert torch.equal(seen, visible_share(vertices, head.faces) > 0)
    assert 0.5 < seen.float().mean() < 1 and not torch.equal(seen[0], seen[1])
    only = torch.zeros(len(head.faces), dtype=torch.bool)
    only[::2] = True
    assert torch.equal(is_visible(vertices[:1], head.faces, only), seen[:1] | ~only)
    assert is_visible(vertices[:0], head.faces).shape == (0, len(head.faces))


def test_generated_sets_are_the_same_each_time_and_read_back(tmp_path: Path) -> None:
    head = tiny_head()
    made = generate_scans(head, 2, 3, seed=4, out=tmp_path / "set", progress=False)
    again = generate_scans(head, 3, 4, seed=4, progress=False)
    assert torch.equal(made.vertices[:3], again.vertices[:3])
    assert torch.equal(made.rgb, again.rgb[:2])
    assert not torch.equal(made.vertices[0], made.vertices[3])
    assert torch.equal(made.vertices[1, :, 1].argmin(), made.vertices[0, :, 1].argmin())
    before = (tmp_path / "set" / "scans.json").stat().st_mtime_ns
    read = generate_scans(head, 2, 3, seed=4, out=tmp_path / "set", progress=False)
    assert (tmp_path / "set" / "scans.json").stat().st_mtime_ns == before
    for name in ("vertices", "faces", "person", "neutral", "kind", "visible", "rgb"):
        assert torch.equal(getattr(made, name), getattr(read, name)), name
    assert read.scans == made.scans
    assert {"identity", "expression", "gaze"} <= set(np.load(tmp_path / "set" / "000" / "001.npz").files)
    other = generate_scans(head, 2, 3, seed=5, progress=False)
    assert not torch.equal(made.vertices, other.vertices)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(FileExistsError, match="holds no scans"):
        generate_scans(head, 2, 3, out=tmp_path / "mine", progress=False)
    with pytest.raises(ValueError, match="people is 0"):
        generate_scans(head, 0, 3)


def test_faces_of_the_procedural_head_are_drawn_by_name() -> None:
    draws = HeadSampler(procedural_head())
    random = np.random.default_rng(0)
    identity = torch.stack([draws.identity(random) for _ in range(40)])
    assert (identity[:, 20:] == 0).all()
    assert 0.7 < identity[:, :20].std() < 1.1
    faces = torch.stack([draws.expression(random) for _ in range(200)])
    opened = faces[:, draws.head.expression_names.index("mouth_open")]
    assert 0.4 < (opened > 0).float().mean() < 0.7
    assert faces.min() >= 0
    assert faces.max() <= 1
    assert (faces > 0).sum(1).max() <= 9
    vertices = draws.vertices(identity[:2], faces[:2], torch.zeros(2, 2))
    assert torch.isfinite(vertices).all()


def test_a_set_by_hand_needs_no_more_than_meshes_and_colors(tmp_path: Path) -> None:
    scans = tiny_scans()
    save_scans(scans, tmp_path / "set")
    np.savez(tmp_path / "set" / "topology.npz", faces=scans.faces.numpy())
    for path in (tmp_path / "set").glob("*/0*.npz"):
        np.savez(path, vertices=np.load(path)["vertices"])
    read = load_scans(tmp_path / "set")
    assert torch.equal(read.kind, scans.kind)
    assert torch.equal(read.visible, scans.visible)
    assert {FACE, STATIC, REAR} == set(read.kind.tolist())


@table(
    ("change", "message"),
    [
        ({"person": torch.tensor([0, 0, 0, 2, 2, 2, 2, 2, 2])}, "person names"),
        ({"neutral": torch.tensor([0, 1, 6])}, "someone|person 0's"),
        ({"rgb": torch.zeros(3, 5, 3)}, "rgb has 5 vertices"),
        ({"anchor_vertices": torch.tensor([9999])}, "anchor_vertices"),
        ({"landmark_vertices": torch.full((68,), 9999)}, "landmark_vertices holds 9999"),
        ({"faces": torch.tensor([[0, 1, 5000]])}, "faces holds"),
    ],
)
def test_sets_that_do_not_fit_are_refused(change, message, scans: MeshScans, unchecked) -> None:
    arguments = {"vertices": scans.vertices, "faces": scans.faces, "person": scans.person, "rgb": scans.rgb}
    with pytest.raises(ValueError, match=message):
        MeshScans(**(arguments | {"visible": scans.visible} | change))
    with pytest.raises(IndexError, match="scans 0 to 8"):
        scans.sample(torch.tensor([9]), COUNTS, 0)


def test_hidden_faces_are_never_drawn(scans: MeshScans) -> None:
    kind = torch.where(scans.kind == REAR, HIDDEN, scans.kind)
    some = MeshScans(scans.vertices, scans.faces, scans.person, scans.rgb, kind=kind, visible=scans.visible)
    batch = some.sample(torch.tensor([0]), PointCounts(face=200, static=200, back=0, near=0), 0)
    face = TriangleBVH(some.faces, some.vertices[0]).closest(batch.front_points[0]).face
    assert (some.kind[face] != HIDDEN).all()


def test_points_alone_can_be_scans() -> None:
    scans = tiny_scans()
    batch = scans.sample(torch.tensor([0]), PointCounts(face=500, static=500), 0)
    points = PointScans(batch.front_points, 2 * batch.front_normals, batch.front_rgb)
    found = points.sample(torch.tensor([0, 0]), COUNTS, 0)
    assert found.front_points.shape == (2, 60, 3)
    assert torch.allclose(found.front_normals.norm(dim=-1), torch.ones(2, 60))
    assert not found.corresponds.any()
    assert found.near_distance.std() > 1e-3
    with pytest.raises(ValueError, match="not finite"):
        PointScans(points.points * torch.nan, points.normals)
    with pytest.raises(ValueError, match="at least one"):
        PointScans(torch.zeros(0, 5, 3), torch.zeros(0, 5, 3))
