"""`headfields mesh`: extract the surface of an avatar."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from headfields.cli.argument_types import OptionalFloat, OptionalFolder
from headfields.cli.errors import CommandError


def mesh(
    avatar: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AVATAR")],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")],
    frame: tuple[int, ...] = (0,),
    resolution: int = 256,
    space: Literal["posed", "canonical"] = "posed",
    level: OptionalFloat = None,
    solid: OptionalFloat = None,
    largest: bool = False,
    open: bool = False,
    picture: bool = False,
    capture: OptionalFolder = None,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Write the surface of an avatar as a mesh with colors: `headfields mesh RUN --frame 10 --out head.ply`.

    Args:
        avatar: Folder of a run, or an avatar's .safetensors file.
        out: File to write, ending in .ply, .obj or .glb; for several frames a folder, which gets a PLY file for each.
        frame: Frames of the capture. A file without a capture has one frame of its own, 0.
        resolution: Cells along the longest side of the box that holds the head.
        space: posed as in the frame, or canonical.
        level: Density at the surface in 1/m (140 if not given: half of the light is absorbed in 5 mm), or distance in
            meters (0 if not given).
        solid: Depth inside the tracked mesh, in meters, below which everything is solid, as a density learns nothing
            there; 0.01 suits heads.
        largest: Keep only the largest connected piece.
        open: Leave out the faces that close the surface at the box and at unknown regions.
        picture: Also write a picture next to the mesh: clay, colors and normals.
        capture: Another capture than the run was trained on, or the capture for an avatar's file.
        memory: Megabytes for the search, and for decoded frames.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    import torch

    from headfields.cli import open_run
    from headfields.mesh import extract, save_mesh
    from headfields.mesh.field_source import DENSITY_LEVEL
    from headfields.mesh.files import FORMATS
    from headfields.viz import draw_mesh, save_image

    if not frame:
        raise CommandError("--frame is empty; name at least one frame")
    several = len(frame) != 1
    if several and out.suffix.lower() in FORMATS:
        raise CommandError(f"--out is {out}; for several frames it is a folder")
    if not several and out.suffix.lower() not in FORMATS:
        raise CommandError(f"--out is {out}; its name must end in one of {', '.join(FORMATS)}")
    torch_device = open_run.choose_device(device)
    model, shots = _avatar_and_frames(avatar, frame, capture, memory)
    model = model.to(torch_device)
    for number, camera, state in shots:
        surface = extract(
            model.field(state.to(torch_device)), resolution=resolution, level=level, space=space, largest=largest,
            closed=not open, solid=solid, memory_mb=memory,
        ).to("cpu")  # fmt: skip
        if not len(surface.faces):
            raise CommandError(
                f"frame {number}: nothing reaches the level; --level takes another, in 1/m for a density (default "
                f"{DENSITY_LEVEL:g}) or in meters for a distance (default 0)"
            )
        path = out / f"{number:05d}.ply" if several else out
        save_mesh(path, surface)
        print(f"{path}: {len(surface.vertices)} vertices, {len(surface.faces)} faces")
        if picture:
            looks: tuple[Any, ...] = ("clay", "normals") if surface.colors is None else ("clay", "colors", "normals")
            image = torch.cat([draw_mesh(surface, camera, look) for look in looks], dim=1)
            print(save_image(path.with_suffix(".png"), image))


def _avatar_and_frames(
    path: Path, frames: tuple[int, ...], capture_path: Path | None, memory: int
) -> tuple[Any, Iterator[tuple[int, Any, Any]]]:
    """The avatar of a run or a file; number, camera and state of each frame."""
    import torch

    from headfields import decoders, deformers, encoders, renderers  # noqa: F401  (registers their parts)
    from headfields.avatar.splat_avatar import load_avatar
    from headfields.cli import open_run

    capture: Any = None
    if path.is_file():
        avatar: Any = load_avatar(path)
        if capture_path is not None:
            capture = open_run.open_capture(capture_path, memory)
    else:
        run, config = open_run.open_run(path)
        avatar = open_run.open_avatar(run, config, memory)
        if capture_path is not None or config.get("capture") is not None:
            capture = open_run.capture_of(config, capture_path, memory)
    if not hasattr(avatar, "field"):
        raise CommandError(
            f"{path} is an avatar of Gaussians, which has no surface to extract; headfields export writes the mesh "
            "that they ride on, with a texture of them"
        )
    open_run.warn_of_frame_codes(avatar, capture_path)
    if capture is None:
        if avatar.preview is None:
            raise CommandError(f"{path} has no frame of its own; name a capture with --capture")
        if frames != (0,):
            raise CommandError(f"{path} has one frame of its own, --frame 0; name a capture with --capture for others")
        return avatar, iter([(0, *avatar.preview)])
    for frame in frames:
        if not 0 <= frame < len(capture):
            raise CommandError(f"--frame {frame}: capture {capture.name!r} has frames 0 to {len(capture) - 1}")

    def shots() -> Iterator[tuple[int, Any, Any]]:
        for frame in frames:
            index = torch.tensor([frame])
            yield frame, capture.camera(index)[0], capture.state(index)

    return avatar, shots()
