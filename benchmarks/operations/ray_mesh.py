"""First hits of rays with a triangle mesh."""

from collections.abc import Iterator

from benchmarks import shapes
from benchmarks.case import Case, Settings
from benchmarks.peers import nvdiffrast
from benchmarks.peers.mesh_contest import MeshContest

TITLE = "Rays and a mesh"
TEXT = """The first hit of each ray. *Camera*: the rays of a square image of the head, row by row; *random*: from a
sphere around it to points in its box, in no order. Difference: of distances along the ray, meters; counted apart are
rays that meet another surface than ours, or none where ours meets one: at silhouettes and edges that is rounding."""

_TOLERANCE = 1e-4  # meters
_GOALS = {"Open3D": 1.0}


def cases(settings: Settings) -> Iterator[Case]:
    side, count = settings.pick((512, 200_000), (128, 20_000))
    for faces in settings.pick((10_000, 100_000), (10_000,)):
        contest = MeshContest(shapes.head(faces), settings.device, settings.threads)
        size = {"faces": len(contest.mesh.faces32), "rays": side * side}
        camera = contest.raycast(*shapes.camera_rays(side))
        yield Case("camera", size, "rays", side * side, camera, _GOALS, tolerance=_TOLERANCE)
        size = {"faces": len(contest.mesh.faces32), "rays": count}
        random = contest.raycast(*shapes.random_rays(contest.mesh, count))
        yield Case("random", size, "rays", count, random, _GOALS, tolerance=_TOLERANCE)
    for faces in settings.pick((10_000, 30_000, 100_000, 300_000), (10_000, 40_000)):
        contest = MeshContest(shapes.head(faces), settings.device, settings.threads)
        size = {"faces": len(contest.mesh.faces32), "rays": count}
        rays = shapes.random_rays(contest.mesh, count, seed=3)
        yield Case("growth with faces", size, "rays", count, contest.raycast(*rays), tolerance=_TOLERANCE)
    mesh = shapes.head(10_000)
    for pixels in settings.pick((128, 256, 512, 1024), (64, 128)):
        work = pixels * pixels
        size = {"faces": len(mesh.faces32), "pixels": work}
        yield Case(
            "image of the mesh",
            size,
            "pixels",
            work,
            nvdiffrast.images(mesh, pixels, settings.device),
            tolerance=_TOLERANCE,
        )
