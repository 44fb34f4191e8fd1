"""Closest points on a triangle mesh: build, refit, and queries near the surface and uniform in the box."""

from collections.abc import Iterator

from benchmarks import shapes
from benchmarks.case import OURS, Case, Contestant, Settings
from benchmarks.peers.mesh_contest import MeshContest

TITLE = "Closest triangle"
TEXT = """The procedural head, its longest edges split until it has as many faces as said. *Near the surface*: points
of the surface moved by a normal distribution of 8 mm; *spread out*: evenly in its bounding box. Every contestant gets
the same points, in no order (but for *Morton order*), and gives face, barycentrics or point, and distance. Difference:
of distances, meters. A library that cannot refit builds anew in the rows of *refit*."""

_NEAR = {"Open3D": 8.0, "fcpw": 4.5}
_SPREAD = {"Open3D": 5.0, "fcpw": 3.5}
_BUILD = {"Open3D": 1.0, "fcpw": 1.0, "Warp": 1.0}
_FAST = (OURS, "Open3D", "fcpw", "libigl", "Warp", "cubvh")  # in the cases that show growth


def cases(settings: Settings) -> Iterator[Case]:
    count = settings.pick(200_000, 20_000)
    for faces in settings.pick((10_000, 100_000), (10_000,)):
        contest = MeshContest(shapes.head(faces), settings.device, settings.threads)
        size = {"faces": len(contest.mesh.faces32), "points": count}
        near, uniform = shapes.near_surface(contest.mesh, count), shapes.in_box(contest.mesh, count)
        yield Case("near the surface", size, "queries", count, contest.closest(near), _NEAR)
        yield Case("spread out", size, "queries", count, contest.closest(uniform), _SPREAD)
        yield Case("near the surface, Morton order", size, "queries", count,
                   contest.closest(shapes.morton_ordered(near), _FAST))  # fmt: skip
        yield from _build_and_refit(contest, settings)
    for faces in settings.pick((22_000,), ()):
        contest = MeshContest(shapes.head(faces), settings.device, settings.threads)
        size = {"faces": len(contest.mesh.faces32), "points": count}
        near = contest.closest(shapes.near_surface(contest.mesh, count), _FAST)
        yield Case("near the surface", size, "queries", count, near, {"Open3D": 8.0})
    yield from _growth(settings)
    yield from _frames(settings)


def _build_and_refit(contest: MeshContest, settings: Settings) -> Iterator[Case]:
    faces = len(contest.mesh.faces32)
    probes = shapes.near_surface(contest.mesh, 1000, seed=2)
    yield Case("build", {"faces": faces}, "faces", faces, contest.build(), _BUILD)
    # The goal of 1 ms is for a mesh of 10,000 faces.
    limit = 1.0 if settings.device == "cpu" and faces <= 10_001 else None
    yield Case("refit", {"faces": faces}, "faces", faces, contest.refit(probes), limit=limit)


def _growth(settings: Settings) -> Iterator[Case]:
    count = settings.pick(50_000, 5_000)
    for faces in settings.pick((10_000, 30_000, 100_000, 300_000), (10_000, 40_000)):
        contest = MeshContest(shapes.head(faces), settings.device, settings.threads)
        points = shapes.near_surface(contest.mesh, count, seed=1)
        size = {"faces": len(contest.mesh.faces32), "points": count}
        yield Case("growth with faces", size, "queries", count, contest.closest(points, _FAST))
    contest = MeshContest(shapes.head(10_000), settings.device, settings.threads)
    for count in settings.pick((1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000)):
        points = shapes.near_surface(contest.mesh, count, seed=1)
        size = {"faces": len(contest.mesh.faces32), "points": count}
        yield Case("growth with points", size, "queries", count, contest.closest(points, _FAST))


def _frames(settings: Settings) -> Iterator[Case]:
    """Up to a thousand frames in turn: memory must not grow with their number."""
    mesh = shapes.head(10_000)
    contest = MeshContest(mesh, settings.device, settings.threads)
    for frames in settings.pick((10, 100, 1000), (10, 100)):
        bvh = contest.peer(OURS, "refit")
        posed = [bvh.moved(mesh.moved(k)) for k in range(10)]
        points = bvh.queries(shapes.near_surface(mesh, 1000))

        def track(bvh=bvh, posed=posed, points=points, frames=frames):
            for k in range(frames):
                bvh.refit(posed[k % 10])
                bvh.closest(points)

        size = {"faces": len(mesh.faces32), "points": 1000, "frames": frames}
        yield Case(
            "refit and query, frame by frame", size, "frames", frames, {OURS: lambda t=track: Contestant(OURS, t)}
        )
