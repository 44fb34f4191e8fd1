"""Operations at tiny sizes: peers get the same task as ours, and agree."""

import importlib

import numpy as np
import pytest
import torch

from benchmarks import shapes
from benchmarks.case import OURS, Case, Settings, measure
from benchmarks.operations import OPERATIONS
from benchmarks.peers.mesh_contest import MeshContest
from benchmarks.report import cells
from tests.tables import table

_BRIEF = Settings(quick=True, rounds=(1, 1), seconds=0.0)


@table("name", OPERATIONS)
def test_operations_have_what_the_report_needs(name: str) -> None:
    module = importlib.import_module(f"benchmarks.operations.{name}")
    assert module.TITLE and module.TEXT and callable(module.cases)


def test_splitting_edges_gives_the_number_of_faces_and_the_same_surface() -> None:
    base, fine = shapes.head(0), shapes.head(10_001)
    assert len(fine.faces32) in (10_001, 10_002)

    def area(mesh: shapes.Mesh) -> float:
        a, b, c = mesh.vertices64[mesh.faces32].transpose(1, 0, 2)
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)

    def boundary(mesh: shapes.Mesh) -> tuple[int, int]:
        edges = np.sort(np.stack([mesh.faces64, np.roll(mesh.faces64, -1, 1)], -1).reshape(-1, 2), 1)
        uses = np.unique(edges, axis=0, return_counts=True)[1]
        return int((uses > 2).sum()), int(len(mesh.vertices32) - len(uses) + len(mesh.faces32))

    assert area(fine) == pytest.approx(area(base), rel=1e-5)
    assert boundary(fine) == boundary(base)  # conforming: no more odd edges, and the same Euler characteristic


def test_queries_lie_near_the_surface_and_in_morton_order() -> None:
    mesh = shapes.head(0)
    contest = MeshContest(mesh, "cpu", 1)
    peer = contest.peer(OURS, "closest")
    points = shapes.near_surface(mesh, 2000)
    queries = peer.queries(points)
    distance = peer.distance(queries, peer.closest(queries))
    assert 0.003 < np.median(distance) < 0.012
    ordered = shapes.morton_ordered(points)
    assert sorted(map(tuple, ordered)) == sorted(map(tuple, points))
    steps = [np.linalg.norm(np.diff(p, axis=0), axis=1).mean() for p in (ordered, points)]
    assert steps[0] < 0.3 * steps[1]


_ALL = (OURS, "Open3D", "fcpw", "libigl", "trimesh", "trimesh + embreex", "Warp")


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("closest", (OURS, "trimesh")),
        *(pytest.param(what, _ALL, marks=pytest.mark.slow) for what in ("closest", "refit", "raycast")),
    ],
)
def test_peers_that_are_installed_agree_on_a_mesh(what: str, names: tuple[str, ...]) -> None:
    mesh = shapes.head(0)
    contest = MeshContest(mesh, "cpu", 1)
    points = shapes.near_surface(mesh, 100)
    makers = {
        "closest": lambda: contest.closest(points, names),
        "raycast": lambda: contest.raycast(*shapes.camera_rays(12), names),
        "refit": lambda: contest.refit(points, tuple(name for name in names if "embreex" not in name)),
    }[what]()
    rows = measure(Case(what, {}, "points", 100, makers, tolerance=1e-4), _BRIEF)
    assert rows[0].contestant == OURS and rows[0].milliseconds
    for row in rows[1:]:
        assert "failed" not in row.note, row
        if row.milliseconds is not None:
            assert row.difference is not None and row.difference < 5e-6 and row.unmatched <= 3, row


def test_a_library_without_the_method_gives_the_reason() -> None:
    rows = measure(
        Case(
            "rays",
            {},
            "rays",
            16,
            MeshContest(shapes.head(0), "cpu", 1).raycast(*shapes.camera_rays(4), ("trimesh", "kaolin")),
        ),
        _BRIEF,
    )
    assert [row.milliseconds for row in rows] == [None, None]
    assert rows[1].note == "runs on CUDA only"


@pytest.mark.slow
def test_skinning_agrees_with_smplx() -> None:
    pytest.importorskip("smplx")
    import headfields as hf
    from benchmarks.operations.skinning import _contestants

    for backward in (False, True):
        rows = measure(Case("c", {}, "heads", 2, _contestants(hf.synthetic.procedural_head(), 2, backward)), _BRIEF)
        assert rows[1].contestant == "smplx"
        assert rows[1].difference is not None and rows[1].difference < (1e-2 if backward else 1e-5), rows[1]


def test_nearest_vertices_agree_with_scipy() -> None:
    from benchmarks.operations import nearest_vertices

    contest = nearest_vertices.VertexContest(0, _BRIEF)
    makers = {name: make for name, make in contest.queries(shapes.near_surface(contest.mesh, 200), 4).items()
              if name != "Open3D"}  # fmt: skip
    for row in measure(Case("c", {}, "points", 200, makers), _BRIEF)[1:]:
        assert row.difference is not None and row.difference < 1e-6, row


@pytest.mark.slow
def test_vertex_features_agree_with_the_layers() -> None:
    from benchmarks.operations import vertex_features

    for backward in (False, True):
        with torch.no_grad():
            rows = measure(Case("c", {}, "p", 50, vertex_features.contestants("small", 50, backward, "cpu")), _BRIEF)
        assert rows[1].difference is not None and rows[1].difference < 1e-2, rows[1]


@pytest.mark.slow
def test_hash_grid_agrees_with_its_reference() -> None:
    from benchmarks.operations import hash_grid
    from headfields.ops import HashGridLayout

    layout = HashGridLayout(levels=4, log2_table_size=10)
    contest = hash_grid._contestants(layout, hash_grid.table_of(layout, "cpu"), torch.rand(50, 3))
    for backward in (False, True):
        makers = {name: maker for name, maker in contest(backward).items() if "Warp" not in name}
        ours, reference, compiled, tiny, floor = measure(Case("c", {}, "points", 50, makers), _BRIEF)
        assert ours.contestant == OURS and reference.difference is not None and reference.difference < 1e-4
        assert compiled.note == "on CUDA only" and tiny.note == "runs on CUDA only"
        if floor.milliseconds is None:
            assert "no C++ compiler" in floor.note
        else:
            assert floor.moved and floor.ratio and f"ours is at {floor.ratio:.0%} of this floor" in cells(floor)[""]


@pytest.mark.slow
def test_definitions_that_are_compiled_agree(unchecked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, but for the code that is made."""
    from benchmarks.operations import compositing, hash_grid, mlp, vertex_features
    from headfields.ops import HashGridLayout

    for module in (compositing, hash_grid, mlp, vertex_features):
        monkeypatch.setattr(module, "compiled", lambda function, device: torch.compile(function, backend="eager"))
    layout = HashGridLayout(levels=4, log2_table_size=10)
    grid = hash_grid._contestants(layout, hash_grid.table_of(layout, "cpu"), torch.rand(50, 3))
    for backward in (False, True):
        for makers in (
            compositing.Dense(8, 6, "cpu").contestants(backward), grid(backward),
            mlp.Network(20, (3, 8, 2), 0, "cpu").contestants(backward),
            vertex_features.contestants("small", 50, backward, "cpu"),
        ):  # fmt: skip
            chosen = {name: maker for name, maker in makers.items() if name == OURS or "torch.compile" in name}
            with torch.no_grad():
                compiled = measure(Case("c", {}, "rows", 50, chosen), _BRIEF)[1]
            assert compiled.difference is not None and compiled.difference < 1e-2, compiled


@pytest.mark.slow
def test_uv_peers_agree() -> None:
    import headfields as hf
    from benchmarks.operations import uv

    head = hf.synthetic.procedural_head()
    tensors = [head.template_vertices, head.faces, head.uv, head.uv_faces]
    ours, loop, *cuda = measure(Case("c", {}, "t", 48**2, uv.texels(*tensors, 48, "cpu"), tolerance=1e-3), _BRIEF)
    assert ours.contestant == OURS and loop.difference is not None and loop.difference < 1e-6 and loop.unmatched <= 9
    assert all(row.note == "runs on CUDA only" for row in cuda)
    for backward in (False, True):
        contests = uv.drawing(*tensors[1:], len(tensors[0]), 16, backward, "cpu")
        for makers in (contests, uv.at_points(tensors[1], len(tensors[0]), 50, backward, "cpu")):
            for row in measure(Case("c", {}, "t", 50, makers), _BRIEF)[1:]:
                assert row.difference is not None and row.difference < 1e-4, row


@pytest.mark.slow
def test_warp_hash_grid_agrees() -> None:
    from benchmarks.operations import hash_grid
    from headfields.ops import HashGridLayout

    for features in (2, 8):
        layout = HashGridLayout(features=features, log2_table_size=12)
        contest = hash_grid._contestants(layout, hash_grid.table_of(layout, "cpu"), torch.rand(500, 3))
        for backward in (False, True):
            rows = {r.contestant: r for r in measure(Case("c", {}, "points", 500, contest(backward)), _BRIEF)}
            for name in ("Warp kernel",) if backward else ("Warp kernel", "Warp kernel, points outer"):
                assert rows[name].difference is not None and rows[name].difference < 1e-3, rows[name]  # type: ignore[operator]


@pytest.mark.slow
def test_compositing_and_sampling_agree_with_nerfacc() -> None:
    pytest.importorskip("nerfacc")
    from benchmarks.operations import compositing, sampling

    cases = [compositing.Dense(8, 6, "cpu").contestants(b) for b in (False, True)]
    cases += [compositing.Packed(8, "cpu").contestants(b) for b in (False, True)]
    cases.append(sampling._importance(8, "cpu"))
    grid = sampling.Grid("cpu", side=16)
    cases += [grid.lookups(100), grid.marches(8)]
    for makers in cases:
        peer = measure(Case("c", {}, "rays", 8, makers, tolerance=0.5), _BRIEF)[1]
        assert peer.difference is not None and peer.difference < 1e-4 and peer.unmatched <= 2, peer


@pytest.mark.slow
def test_a_soft_rasterizer_has_nearly_our_derivative_of_the_area() -> None:
    from benchmarks.operations import mesh_rendering

    scene = mesh_rendering.Scene(shapes.head(0), 40, "cpu")
    with torch.no_grad():
        ours, soft = measure(Case("c", {}, "pixels", 1600, scene.coverage()), _BRIEF)
        assert ours.contestant == OURS and soft.difference is not None and soft.difference < 0.1, soft
        assert measure(Case("c", {}, "pixels", 1600, scene.picture()), _BRIEF)[0].milliseconds


@pytest.mark.slow
def test_inverse_skinning_finds_nearly_all() -> None:
    from benchmarks.operations import inverse_skinning

    with torch.no_grad():
        makers = inverse_skinning._Scene("cpu").contestants(300, backward=True)
        rows = {row.contestant: row for row in measure(Case("c", {}, "points", 300, makers), _BRIEF)}
    for name, least in ((OURS, 99.9), ("weight field", 99.9), ("roots", 98.0)):
        assert float(rows[name].note.partition(" %")[0]) >= least, rows[name]
    assert float(rows["roots"].note.split("; ")[1].split(" mm")[0]) < 0.01, rows["roots"].note


@pytest.mark.slow
def test_loops_over_local_networks_agree_with_ours() -> None:
    from benchmarks.operations.anchored import Ensemble

    ensemble = Ensemble(20, True, "cpu")
    for backward, exact in ((False, "headfields, all 13"), (True, OURS)):
        makers = ensemble.contestants(backward)
        answers = {name: maker() for name, maker in makers.items()}
        values = {name: one.answer(one.run()) for name, one in answers.items() if one.answer is not None}
        scale = np.abs(values[exact]).max()
        for name in ("loop, every network", "loop, own points"):
            np.testing.assert_allclose(values[name], values[exact], rtol=1e-3, atol=1e-5 * scale)
        np.testing.assert_allclose(values[OURS], values[exact], rtol=0, atol=0.02 * scale)
