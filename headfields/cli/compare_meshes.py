"""`headfields compare-meshes`: surface metrics of a mesh against the truth."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from headfields.cli.argument_types import OptionalFolder
from headfields.cli.errors import CommandError


def compare_meshes(
    surface: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SURFACE")],
    truth: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TRUTH")],
    /,
    out: OptionalFolder = None,
    align: Literal["none", "rigid", "similarity"] = "none",
    trim: float = 0.0,
    directions: Literal["both", "truth-to-surface"] = "both",
    samples: int = 100_000,
    seed: int = 0,
    limit: float = 5.0,
) -> None:
    """Measure how far a mesh lies from the truth: chamfer distances, normal consistency, F-score and recall.

    Files are PLY, OBJ, glTF, STL or OFF, in meters; the truth may be a scan's points. The last line on stdout is one
    JSON object, distances in meters.

    Args:
        surface: The mesh that is judged.
        truth: Reference mesh.
        out: Folder for metrics.json and errors.png, a heat map of the distances.
        align: Align the surface to the truth first: rigid, or similarity with one scale, starting from
            the given positions.
        trim: In the alignment, the share of the truth's points left out as the farthest, in [0, 1).
        directions: both, or truth-to-surface alone for scans that show a part of the head (MonoNPHM's evaluation).
        samples: Points drawn from each side that has faces.
        seed: Seed of the sampled points.
        limit: Millimeters at the red end of the heat map.
    """
    from headfields.files.atomic import write_text
    from headfields.mesh import align_to_surface, load_mesh
    from headfields.metrics.surface import compare_surfaces

    if limit <= 0:
        raise CommandError(f"--limit is {limit}; expected a positive number of millimeters")
    surface_mesh, truth_mesh = (load_mesh(path, texture=False) for path in (surface, truth))
    result: dict[str, Any] = {"surface": str(surface), "truth": str(truth)}
    if align != "none":
        points = truth_mesh.vertices
        if len(truth_mesh.faces):
            points = truth_mesh.sample(min(samples, 20_000), seed).points
        alignment = align_to_surface(points, surface_mesh, scaling=align == "similarity", trim=float(trim))
        if not alignment.converged:
            print("warning: the alignment has not converged; start from a closer pose", file=sys.stderr)
        motion = alignment.transform.inverse()
        surface_mesh = surface_mesh.transformed(motion)
        result["alignment"] = {
            "kind": align, "scale": float(motion.scale), "rotation": motion.rotation.tolist(),
            "translation": motion.translation.tolist(), "residual": alignment.residual * float(motion.scale),
            "steps": alignment.steps, "converged": alignment.converged,
        }  # fmt: skip
    sides: Any = directions.replace("-", "_")
    result |= compare_surfaces(surface_mesh, truth_mesh, directions=sides, samples=samples, seed=seed).to_json()
    if out is not None:
        write_text(out / "metrics.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
        _write_heat_maps(out / "errors.png", surface_mesh, truth_mesh, limit / 1e3)
    print(json.dumps(result, allow_nan=False))


def _write_heat_maps(path: Path, surface: Any, truth: Any, limit: float) -> None:
    """Each mesh from the front and both quarters, colored by the distance of its vertices to the other."""
    import torch

    from headfields.mesh.distances import SurfaceTree
    from headfields.viz import draw_mesh, heat, save_image, side_by_side, view_camera
    from headfields.viz.heat import heat_legend

    pictures, captions = [], []
    for name, mesh, other in (("surface to truth", surface, truth), ("truth to surface", truth, surface)):
        if not len(mesh.faces):
            continue
        colors = heat(SurfaceTree(other).distances(mesh.vertices).distance, limit)
        for turn in (0.0, -50.0, 50.0):
            pictures.append(draw_mesh(mesh, view_camera(mesh.vertices, turn, size=320), colors))
            captions.append(name if not turn else "")
    if pictures:
        legend = torch.from_numpy(heat_legend(320, limit)).float() / 255
        save_image(path, side_by_side([*pictures, legend], [*captions, ""]))
        print(path, file=sys.stderr)
