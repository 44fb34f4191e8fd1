"""`headfields export`: an avatar, a capture or a rig for other programs."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from headfields.cli.argument_types import OptionalFile, OptionalFolder, OptionalInt
from headfields.cli.errors import CommandError
from headfields.cli.faces import driven_face, is_face
from headfields.cli.unused import refuse_unused
from headfields.cli.view import load_head

_USD = (".usd", ".usda", ".usdc", ".usdz")
_VIDEO = (".webm", ".mov")
_VIEWERS_LOW_PASS = 0.3
"""Pixels² that 3DGS, and viewers that draw its files as it does, add to a Gaussian's variance on screen."""
_UNUSED = {
    "gaussians": ("in_place", "texture", "scale", "link"),
    "mesh": ("space", "scale", "link"),
    "pictures": ("space", "in_place", "texture", "link"),
    "page": ("space", "texture", "scale"),
}
"""Options that each kind of file does not read."""


def export(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")],
    motion: Annotated[Path | None, tyro.conf.arg(metavar="DIR|FACE")] = None,
    frames: Annotated[str | None, tyro.conf.arg(metavar="START:STOP[:STEP]")] = None,
    gaussians: bool = False,
    space: Literal["posed", "canonical"] = "posed",
    arkit: OptionalFile = None,
    in_place: bool = False,
    fps: int = 25,
    texture: OptionalInt = None,
    limit: OptionalInt = None,
    scale: float = 1.0,
    link: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None,
    capture: OptionalFolder = None,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Export a head for other programs: `headfields export RUN --out head.glb --motion CAPTURE`.

    By the ending of --out: a textured mesh with morph targets and a skin, animated by a capture's motion (.glb, .usd,
    .usda, .usdc, .usdz); the Gaussians of an avatar of Gaussians (.ply; .spz, compressed; with --gaussians also .glb,
    in KHR_gaussian_splatting); a page that poses and draws an avatar of Gaussians in a browser, without a server
    (.html); a video with a transparent background (.webm in VP9, .mov in ProRes 4444); or a folder, of PNGs with
    transparency, or with --gaussians of a .ply for each frame.

    Args:
        source: Folder of a run, folder of a capture, or a rig (RIG.npz of headfields rig, or a FLAME or SMPL-X file).
        out: File or folder to write.
        motion: Capture whose motion animates the head; its own, or any other, of any head model. Or the motion of a
            face in ARKit's shapes, a CSV of Live Link Face or JSON lines (.csv, .jsonl). For pages, videos and
            Gaussians: the run's own capture if not given.
        frames: Frames of the motion; all if not given. Of Gaussians in a file: one, as 10:11 (0 if not given).
        gaussians: Write the avatar's Gaussians rather than a mesh or pictures.
        space: Gaussians posed as in the frame, or canonical.
        arkit: JSON of ARKit's 52 blendshapes by the head's own expressions and joints (docs/export.md); {} where its
            expressions have ARKit's names already. Of a page: what faces that come in live move.
        in_place: Leave out the head's motion before the camera. Give it for captures of several cameras.
        fps: Frames per second of the motion.
        texture: Side of the texture, in texels; 0 leaves it out. If not given, four times the side of the capture's
            images, as a power of two, at most 1024.
        limit: At most this many frames, evenly spaced.
        scale: Size of images relative to the capture's.
        link: Of a page: the address of what made it (a paper, a project), at its foot.
        capture: Another capture than the run was trained on.
        memory: Megabytes for decoded frames.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    given = dict(locals())
    ending = out.suffix.lower()
    known = (".glb", ".html", ".ply", ".spz", "", *_USD, *_VIDEO)
    if ending not in known:
        raise CommandError(f"--out is {out}; expected a folder, or one of {', '.join(filter(None, known))}")
    if fps < 1 or (texture or 0) < 0 or not 0 < scale <= 64:
        raise CommandError(
            f"--fps is {fps}, --texture {texture} and --scale {scale}; expected 1 or more, 0 or more, and 0 to 64"
        )
    if limit is not None and limit < 1:
        raise CommandError(f"--limit is {limit}; expected at least 1")
    if gaussians and ending not in (".glb", ".ply", ".spz", ""):
        raise CommandError(f"--gaussians goes with a .ply, a .spz, a .glb or a folder, and --out is {out}")
    kind = (
        "gaussians" if gaussians or ending in (".ply", ".spz") else "mesh" if ending in (".glb", *_USD) else "pictures"
    )
    kind = "page" if ending == ".html" else kind
    unused = set(_UNUSED[kind])
    if kind != "mesh" and not is_face(motion):
        unused |= {"gaussians": {"arkit", "fps"}, "page": set()}.get(kind, {"arkit"})
    refuse_unused(export, given, unused, f"for {kind} ({out.name})")
    if kind == "mesh" and motion is None:
        refuse_unused(export, given, ("frames", "limit", "fps", "in_place"), "without --motion")
    if is_face(motion):
        refuse_unused(export, given, ("in_place",), "for a face, which turns the head's own neck")
    if kind == "pictures" and not ending and not is_face(motion):
        refuse_unused(export, given, ("fps",), "for single pictures")
    opened = _Source(source, capture, memory, device, arkit, fps)
    if kind == "page":
        _export_page(opened, out, motion, frames, arkit, in_place, fps, limit, link)
    elif kind == "gaussians":
        _export_gaussians(opened, out, motion, frames, space, limit)
    elif kind == "mesh":
        _export_mesh(opened, out, motion, frames, arkit, in_place, fps, texture, limit)
    else:
        _export_pictures(opened, out, motion, frames, fps, limit, scale)


class _Source:
    """What `source` names: a rig's head, a capture, or a run's avatar with its capture."""

    def __init__(
        self, path: Path, capture: Path | None, memory: int, device: str, arkit: Path | None, fps: int
    ) -> None:
        from headfields.cli import open_run

        self.arkit, self.fps = arkit, fps

        self.path, self.memory, self.device = path, memory, open_run.choose_device(device)
        self.head: Any = None
        self.capture: Any = None
        self.avatar: Any = None
        self.mouth: Any = "close"
        if path.is_file() and path.suffix.lower() in (".npz", ".pkl"):
            self.head = load_head(path)
        elif path.is_file():
            raise CommandError(f"{path} is a file; expected the folder of a run or a capture, or RIG.npz")
        elif (path / "config.json").exists():
            folder, config = open_run.open_run(path)
            self.avatar = open_run.open_avatar(folder, config, memory).to(self.device)
            open_run.warn_of_frame_codes(self.avatar, capture)
            self.capture, self.mouth = open_run.capture_of(config, capture, memory), config.get("mouth", "close")
        else:
            self.capture = open_run.open_capture(path, memory)

    def needs_avatar(self, what: str) -> Any:
        if self.avatar is None:
            raise CommandError(f"{what} need the folder of a run, and {self.path} is none")
        return self.avatar

    def driver(self, motion: Path | None) -> Any:
        from headfields.cli import open_run

        if motion is not None and is_face(motion):
            return driven_face(motion, self.fps, self.arkit, self.head, self.capture)
        own = self.capture is not None and (motion is None or motion.resolve() == self.capture.path.resolve())
        return self.capture if own or motion is None else open_run.open_driver(motion, self.memory, self.mouth)


def _frames(capture: Any, frames: str | None, limit: int | None) -> list[int]:
    from headfields.cli import open_run

    return open_run.select_frames(capture, "all", frames, limit)


def _export_mesh(
    source: _Source, out: Path, motion: Path | None, frames: str | None, arkit: Path | None, in_place: bool, fps: int,
    texture: int | None, limit: int | None,
) -> None:  # fmt: skip
    from headfields.apps.export import rig_of_capture, rig_of_head, save_rigged_gltf, save_usd
    from headfields.apps.export.arkit import arkit_rig, read_mapping
    from headfields.apps.export.captures import fit_motion

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    driver = None if motion is None else source.driver(motion)  # before anything that takes long
    chosen = [] if driver is None else _frames(driver, frames, limit)
    mapping = None if arkit is None else read_mapping(arkit)
    if source.head is not None:
        rig = rig_of_head(source.head)
    else:
        rig = rig_of_capture(source.capture, progress=say)
        if texture != 0:
            rig = rig.replace(mesh=rig.mesh.replace(texture=_texture(source, rig, texture)))
    moving = None
    if driver is not None:
        moving, errors = _motion(source, rig, driver, chosen, fps, in_place)
        say(f"motion of {len(moving)} frames: {1e3 * float(errors.mean()):.2f} mm from the meshes, root mean square")
    limited = rig.limited()
    dropped = (limited.weights - rig.weights).abs().sum(1)
    if float(dropped.max()) > 1e-3:
        say(f"{int((dropped > 1e-3).sum())} of {len(dropped)} vertices have more than 4 joints; the weakest go")
    if mapping is not None:
        mapped = arkit_rig(rig, mapping)
        still = [
            name for name, target in zip(mapped.target_names, mapped.targets, strict=True) if not bool(target.any())
        ]
        if moving is not None:
            moving, errors = fit_motion(mapped, rig.posed(moving), fps)
            say(f"in ARKit's blendshapes: {1e3 * float(errors.mean()):.2f} mm from the meshes, root mean square")
        rig = mapped
        if still:
            say(f"{len(still)} of ARKit's 52 do nothing: {', '.join(still)}")
    else:
        rig, kept = rig.without_still_targets()
        moving = None if moving is None else moving.replace(target_weights=moving.target_weights[:, kept])
    save = save_rigged_gltf if out.suffix.lower() == ".glb" else save_usd
    print(
        f"{save(out, rig, moving)}: {len(rig.mesh.vertices)} vertices, {len(rig.mesh.faces)} faces, {len(rig.targets)} "
        f"targets, {len(rig.joints)} joints, {0 if moving is None else len(moving)} frames"
    )


def _texture(source: _Source, rig: Any, resolution: int | None) -> Any:
    from headfields.apps.export.textures import texture_of_avatar, texture_of_capture, texture_side

    capture = source.capture
    resolution = texture_side(capture.size) if resolution is None else resolution
    what = "the capture's images" if source.avatar is None else "renderings from around the head"
    print(
        f"texture of {resolution} x {resolution} texels from {what}; how long it takes is said below, and --texture 0 "
        "leaves it out",
        file=sys.stderr,
    )
    if source.avatar is None:
        return texture_of_capture(capture, rig, resolution, progress=True)
    frames = capture.splits["train"] if len(capture.splits["train"]) else capture.splits["all"]
    vertices = capture.state(frames).vertices[:, : len(rig.mesh.vertices)]
    calm = frames[int((vertices - rig.mesh.vertices).square().sum(-1).mean(-1).argmin())]
    state = capture.state(calm[None]).to(source.device)
    return texture_of_avatar(source.avatar, state, rig, capture.camera(calm[None]), resolution, progress=True)


def _motion(source: _Source, rig: Any, driver: Any, frames: list[int], fps: int, in_place: bool) -> tuple[Any, Any]:
    from headfields.apps.export.captures import fit_motion, head_poses
    from headfields.apps.export.heads import motion_of_head
    from headfields.apps.retargeting import Retargeter
    from headfields.apps.retargeting.sources import surface_of_capture, surface_of_head

    state = driver.state(frames)
    if source.head is not None:
        moving = errors = None
        with contextlib.suppress(ValueError):  # it is of another head: its motion is carried over
            moving, errors = motion_of_head(source.head, state, fps)
        if errors is None or float(errors.mean()) > 2e-3:
            retargeter = Retargeter(surface_of_capture(driver), surface_of_head(source.head))
            moving, errors = fit_motion(rig, retargeter(state).vertices.detach(), fps)
    else:
        vertices = state.vertices
        if driver is not source.capture and hasattr(driver, "camera"):
            vertices = Retargeter.from_captures(driver, source.capture)(state).vertices.detach()
        moving, errors = fit_motion(rig, vertices[:, : len(rig.mesh.vertices)], fps)
    assert moving is not None
    if not in_place and hasattr(driver, "camera"):
        placed = head_poses(driver, frames)[:, None] @ moving.joint_transforms
        moving = moving.replace(joint_transforms=placed)
    return moving, errors


def _export_gaussians(
    source: _Source, out: Path, motion: Path | None, frames: str | None, space: str, limit: int | None
) -> None:
    from tqdm import tqdm

    from headfields.apps.export.gltf import save_gltf_splats
    from headfields.apps.export.spz import save_spz
    from headfields.avatar.splat_avatar import SplatAvatar
    from headfields.data import save_gaussians

    avatar = source.needs_avatar("Gaussians")
    if not isinstance(avatar, SplatAvatar):
        raise CommandError(
            f"{source.path} holds an avatar of a field, which has no Gaussians; headfields distill RUN makes one of "
            "Gaussians, and headfields mesh RUN its surface"
        )
    folder = not out.suffix
    chosen = _frames(source.driver(motion), frames, limit) if folder or frames is not None else [0]
    if not folder and len(chosen) != 1:
        raise CommandError(
            f"--out is {out}, and --frames names {len(chosen)} frames; for several frames it is a folder"
        )
    shots = _shots(source, motion, chosen)
    writers = {".glb": save_gltf_splats, ".spz": save_spz}
    for number, (_, state) in tqdm(zip(chosen, shots, strict=True), total=len(chosen), unit="frame", file=sys.stderr):
        splats = _splats(avatar, state.to(source.device), space)
        path = out / f"{number:05d}.ply" if folder else out
        try:
            written = writers.get(path.suffix.lower(), save_gaussians)(path, splats)
        except ModuleNotFoundError as error:
            raise CommandError(str(error)) from error
    low_pass = avatar.renderer.low_pass
    if low_pass != _VIEWERS_LOW_PASS:
        print(
            f"drawn here with a low-pass of {low_pass:g} pixels²; viewers of Gaussians add {_VIEWERS_LOW_PASS:g}, "
            f"which makes thin ones thicker there (--set low_pass={_VIEWERS_LOW_PASS:g} trains for them)",
            file=sys.stderr,
        )
    print(
        f"{out if folder else written}: {splats.count} Gaussians, {len(chosen)} frame{'s' if len(chosen) > 1 else ''}"
    )


def _export_page(
    source: _Source, out: Path, motion: Path | None, frames: str | None, arkit: Path | None, in_place: bool, fps: int,
    limit: int | None, link: str | None,
) -> None:  # fmt: skip
    from tqdm import tqdm

    from headfields.apps.export.arkit import read_mapping
    from headfields.avatar.splat_avatar import SplatAvatar
    from headfields.records import Camera, HeadState
    from headfields.viz.page.page import check_link
    from headfields.viz.page.rigs import capture_rig

    if link is not None:
        check_link("export", link)  # before frames are read
    avatar = source.needs_avatar("pages")
    if not isinstance(avatar, SplatAvatar):
        raise CommandError(
            f"{source.path} holds an avatar of a field of rays, and a page draws Gaussians; first `headfields distill "
            f"{source.path} --out FAST`, then `headfields export FAST --out {out}`"
        )
    mapping = None if arkit is None else read_mapping(arkit)
    chosen = _frames(source.driver(motion), frames, limit)
    rig = capture_rig(source.capture)
    print(f"the mesh is fitted within {1e3 * rig.error:.2f} mm, root mean square", file=sys.stderr)
    shots = tqdm(_shots(source, motion, chosen), total=len(chosen), unit="frame", file=sys.stderr)
    cameras, states = zip(*((_one(camera), state) for camera, state in shots), strict=True)
    camera = Camera.cat(list(cameras))
    written = avatar.to_html(
        out, HeadState.cat(list(states)), rig, camera=camera[0] if in_place else camera, fps=fps,
        title=source.path.resolve().name.replace("_", " "), arkit=mapping, link=link,
    )  # fmt: skip
    print(f"{written}: {len(avatar.gaussians)} Gaussians, {len(chosen)} frames, {written.stat().st_size / 1e6:.1f} MB")


def _one(camera: Any) -> Any:
    """A camera as a batch of one."""
    return camera.map(lambda tensor: tensor[None]) if camera.world_to_camera.ndim == 2 else camera


def _splats(avatar: Any, state: Any, space: str) -> Any:
    import torch

    with torch.no_grad(), avatar.evaluating():
        if space == "posed":
            return avatar.splats(state)
        return avatar.deformer.rest(avatar.gaussians(), avatar.gaussians.face)


def _shots(source: _Source, motion: Path | None, frames: list[int]) -> Iterator[tuple[Any, Any]]:
    """Camera and state of each frame of a motion, on the avatar's head."""
    from headfields.cli import motion as shots

    driver = source.driver(motion)
    if driver is source.capture:
        for frame in frames:
            shot = shots.recorded(driver, frame)
            yield shot.camera, shot.state
    elif not hasattr(driver, "camera"):  # the motion of a face
        for shot in shots.driven(source.capture, driver, frames):
            yield shot.camera, shot.state
    else:
        for shot in shots.retargeted(source.capture, driver, frames):
            yield shot.camera, shot.state


def _export_pictures(
    source: _Source, out: Path, motion: Path | None, frames: str | None, fps: int, limit: int | None, scale: float
) -> None:
    import torch
    from tqdm import tqdm

    from headfields.viz import save_image
    from headfields.viz.video import write_transparent_video

    avatar = source.needs_avatar("pictures and videos")
    chosen = _frames(source.driver(motion), frames, limit)

    def images() -> Iterator[Any]:
        shots = _shots(source, motion, chosen)
        for camera, state in tqdm(shots, total=len(chosen), unit="frame", file=sys.stderr):
            view = camera if scale == 1 else camera.scaled(scale)
            image = avatar.render(view.to(source.device), state.to(source.device), 0.0)
            alpha = image.opacity.clamp(0, 1)[..., None]
            straight = (image.rgb / alpha.clamp_min(1e-3)).clamp(0, 1)
            yield (torch.cat([straight, alpha], dim=-1).nan_to_num(0.0) * 255).round().to(torch.uint8).cpu().numpy()

    if out.suffix:
        print(write_transparent_video(out, images(), fps))
        return
    for number, pixels in zip(chosen, images(), strict=True):
        save_image(out / f"{number:05d}.png", torch.from_numpy(pixels))
    print(f"{out}: {len(chosen)} images")
