"""`headfields mesh` and `headfields compare-meshes`."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headfields.cli import runs
from headfields.cli.errors import CommandError


@dataclass(frozen=True)
class Options:
    """The arguments of `headfields mesh`; see `headfields.cli.commands.mesh`."""

    out: Path
    frame: tuple[int, ...]
    resolution: int
    space: Any
    level: float | int | None
    solid: float | int | None
    largest: bool
    open: bool
    picture: bool
    capture: Path | None
    memory: int


def mesh(path: Path, options: Options, device_name: str) -> None:
    """Writes meshes of an avatar; prints their paths."""
    from headfields import mesh as meshing

    several = len(options.frame) != 1
    if not options.frame:
        raise CommandError("--frame is empty; name at least one frame")
    if (options.out.suffix.lower() in meshing.FORMATS) == several:
        ends = ", ".join(meshing.FORMATS)
        raise CommandError(
            f"--out is {options.out}; for several frames it is a folder"
            if several
            else f"--out is {options.out}; its name must end in one of {ends}"
        )
    device = runs.choose_device(device_name)
    avatar, shots = _avatar(path, options)
    avatar = avatar.to(device)
    for frame, camera, state in shots:
        found = meshing.extract(
            avatar.field(state.to(device)), resolution=options.resolution, level=options.level, space=options.space,
            largest=options.largest, closed=not options.open, solid=options.solid, memory_mb=options.memory,
        ).to("cpu")  # fmt: skip
        if not len(found.faces):
            raise CommandError(
                f"frame {frame}: nothing reaches the level; --level takes another, in 1/m for a density (default "
                f"{meshing.DENSITY_LEVEL:g}) or in meters for a distance (default 0)"
            )
        out = options.out / f"{frame:05d}.ply" if several else options.out
        meshing.save_mesh(out, found)
        print(f"{out}: {len(found.vertices)} vertices, {len(found.faces)} faces")
        if options.picture:
            _picture(out.with_suffix(".png"), found, camera)


def _avatar(path: Path, options: Options) -> tuple[Any, Iterator[tuple[int, Any, Any]]]:
    """An avatar, of a run or a file, and the cameras and states of its frames."""
    from headfields import decoders, deformers, encoders, renderers  # noqa: F401  (so that their parts are known)
    from headfields.avatar import Avatar

    capture: Any = None
    if path.is_file():
        avatar: Any = Avatar.load(path)
        if options.capture is not None:
            capture = runs.open_capture(options.capture, options.memory)
    else:
        run, config = runs.open_run(path)
        avatar = runs.load_avatar(run, config, options.memory)
        capture = runs.capture_of(config, options.capture, options.memory)
    if capture is None:
        if avatar.preview is None:
            raise CommandError(f"{path} has no frame of its own; name a capture with --capture")
        if options.frame != (0,):
            raise CommandError(f"{path} has one frame of its own, --frame 0; name a capture with --capture for others")
        camera, state = avatar.preview
        return avatar, iter([(0, camera, state)])
    for frame in options.frame:
        if not 0 <= frame < len(capture):
            raise CommandError(f"--frame {frame}: capture {capture.name!r} has frames 0 to {len(capture) - 1}")

    def shots() -> Iterator[tuple[int, Any, Any]]:
        for frame in options.frame:
            index = torch.tensor([frame])
            yield frame, capture.camera(index)[0], capture.state(index)

    return avatar, shots()


def _picture(path: Path, found: Any, camera: Any) -> None:
    from headfields.viz import mesh_picture, save_image

    looks: tuple[Any, ...] = ("clay", "normals") if found.colors is None else ("clay", "colors", "normals")
    save_image(path, torch.cat([mesh_picture(found, camera, look) for look in looks], dim=1))
    print(path)


def compare_meshes(
    surface_path: Path, truth_path: Path, out: Path | None, align: str, trim: float | int, directions: str,
    samples: int, seed: int, limit: float | int,
) -> None:  # fmt: skip
    """Prints the figures as one JSON object; writes them and a picture to a folder."""
    from headfields import mesh as meshing
    from headfields.metrics.surface import compare_surfaces

    if limit <= 0:
        raise CommandError(f"--limit is {limit}; expected a positive number of millimeters")
    surface, truth = (meshing.load_mesh(path, texture=False) for path in (surface_path, truth_path))
    result: dict[str, Any] = {"surface": str(surface_path), "truth": str(truth_path)}
    if align != "none":
        points = truth.sample(min(samples, 20_000), seed).points if len(truth.faces) else truth.vertices
        found = meshing.align_to_surface(points, surface, scaling=align == "similarity", trim=float(trim))
        if not found.converged:
            print("warning: the alignment has not come to rest; begin nearer", file=sys.stderr)
        motion = found.transform.inverse()
        surface = surface.transformed(motion)
        result["alignment"] = {
            "kind": align, "scale": float(motion.scale), "rotation": motion.rotation.tolist(),
            "translation": motion.translation.tolist(), "residual": found.residual * float(motion.scale),
            "steps": found.steps, "converged": found.converged,
        }  # fmt: skip
    metrics = compare_surfaces(surface, truth, directions=directions.replace("-", "_"), samples=samples, seed=seed)  # type: ignore[arg-type]
    result |= metrics.to_json()
    text = json.dumps(result, allow_nan=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        _heat_maps(out / "errors.png", surface, truth, limit / 1e3)
    print(text)


def _heat_maps(path: Path, surface: Any, truth: Any, limit: float) -> None:
    """Each side from the front and both quarters, colored by the distance of its vertices to the other."""
    from headfields import mesh as meshing
    from headfields.viz import save_image, side_by_side
    from headfields.viz.meshes import front_camera, heat, heat_legend, mesh_picture

    pictures, captions = [], []
    for name, mesh, other in (("surface to truth", surface, truth), ("truth to surface", truth, surface)):
        if not len(mesh.faces):
            continue
        colors = heat(meshing.SurfaceTree(other).distances(mesh.vertices).distance, limit)
        for turn in (0.0, -50.0, 50.0):
            pictures.append(mesh_picture(mesh, front_camera(mesh, 320, turn), colors))
            captions.append(name if not turn else "")
    if pictures:
        legend = torch.from_numpy(heat_legend(320, limit)).float() / 255
        save_image(path, side_by_side([*pictures, legend], [*captions, ""]))
        print(path, file=sys.stderr)
