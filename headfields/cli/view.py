"""`headfields view`: a run, capture, prior, head model or mesh in the browser."""

import sys
import warnings
import webbrowser
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from headfields.cli.argument_types import OptionalFile, OptionalFolder
from headfields.cli.errors import CommandError
from headfields.cli.faces import face_driver, is_face, refuse_faceless

MESHES = (".obj", ".ply", ".glb", ".gltf", ".stl", ".off")


def view(
    what: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|CAPTURE|PRIOR|RIG.npz|MESH")],
    /,
    motion: Annotated[list[Path], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="DIR|FACE")] = [],  # noqa: B006
    head: OptionalFile = None,
    arkit: OptionalFile = None,
    live: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None,
    capture: OptionalFolder = None,
    proxy: OptionalFolder = None,
    host: str = "localhost",
    port: int = 8080,
    resolution: int = 512,
    allow_host: tuple[str, ...] = (),
    gaussians: Literal["automatic", "browser", "program"] = "automatic",
    background: float = 1.0,
    open: bool = False,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Show a trained avatar, a capture, a prior, a head model or a mesh in the browser, and move it with sliders.

    Prints the address; Ctrl-C ends it. Meshes, and avatars of Gaussians where it is fast enough, are drawn by the
    browser, other avatars by this program: coarse while something moves, sharp at rest. Needs viser:
    pip install 'headfields[viewer]'.

    Args:
        what: Folder of a run, of a capture or of a prior; a head model (RIG.npz), a mesh, or avatar.safetensors.
        motion: Another capture whose motion drives the head; or the motion of a face in ARKit's shapes, a CSV of Live
            Link Face or JSON lines (.csv, .jsonl). May be given several times.
        head: Head model (RIG.npz, FLAME, blendshapes) that the capture was tracked with, for its expressions and
            joints. Without it, expressions are fitted to the tracked meshes.
        arkit: For a face: JSON of ARKit's 52 blendshapes by the head's own (headfields arkit writes it).
        live: Where to listen for a face that drives the head: udp://HOST:PORT or ws://HOST:PORT; udp: is
            udp://127.0.0.1:11111, this machine alone. Live Link Face, headfields drive, or JSON (docs/driving.md).
        capture: Another capture than the run was trained on.
        proxy: Run of an avatar of Gaussians (`headfields distill`) that stands in while something moves.
        host: Address to listen on; 0.0.0.0 lets other machines connect, and whoever connects sees everything.
        port: Port to listen on; the next free one if it is not free.
        allow_host: Further names of this machine under which browsers may ask for the page, as behind a proxy. Requests
            under other names, and those that pages from elsewhere send, are refused.
        resolution: Largest height of pictures that this program draws, in pixels.
        gaussians: Who draws avatars of Gaussians: the browser, this program, or automatic: the browser, until a tab
            draws fewer than ten pictures a second.
        background: Gray behind the head, in [0, 1].
        open: Open the page in this machine's browser.
        memory: Megabytes for decoded frames.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    if not what.exists():
        raise CommandError(f"{what} does not exist; name a run, a capture, a prior, a head model or a mesh")
    if not 0 <= background <= 1:
        raise CommandError(f"--background is {background}; expected a gray level in [0, 1]")
    if not 0 <= port < 65536 or resolution < 16:
        raise CommandError(f"--port is {port} and --resolution {resolution}; expected a port and at least 16 pixels")
    try:
        from headfields.apps.viewer import Viewer
        from headfields.apps.viewer.listening import check_address, require_viser

        require_viser()
        try:
            check_address(host, port)
        except OSError as error:
            raise CommandError(f"--host, --port: {error}") from error
        faces = [path for path in motion if is_face(path)]
        refuse_faceless(arkit, bool(faces) or live is not None)
        captures = [path for path in motion if not is_face(path)]
        scene = _scene(what, captures, head, capture, proxy, background, memory, device)
        driver = scene_driver(scene, arkit) if faces or live is not None else None
        _add_faces(scene, faces, driver)
        # Looking away from the head is no mistake here.
        warnings.filterwarnings("ignore", message="Avatar.render: the head lies outside the image")
        stream = None if live is None else _listen(scene, live, driver, allow_host)
        viewer = Viewer(scene, host, port, resolution, gaussians, allow_host)
    except ModuleNotFoundError as error:
        raise CommandError(str(error)) from error

    if stream is not None:
        from headfields.apps.driving.live import LIVE

        viewer.choose(LIVE)
        stream.on_frame = lambda: viewer.refresh(LIVE)

    def ready() -> None:
        if stream is not None:
            print(f"faces come in at {stream.address}", file=sys.stderr, flush=True)
        print(f"{scene.name}: {viewer.url} (Ctrl-C ends it)", flush=True)
        if open:
            webbrowser.open(viewer.url)

    try:
        viewer.wait(ready)
    finally:
        if stream is not None:
            stream.close()
            reason = f" (the last because of: {stream.counts.reason})" if stream.counts.reason else ""
            print(f"{stream.address}: {stream.counts}{reason}", file=sys.stderr)


def _listen(scene: Any, live: str, driver: Any, allow_host: tuple[str, ...]) -> Any:
    """The stream of faces, whose newest frame is a motion of the scene from now on."""
    from headfields.apps.driving.live import LiveFace
    from headfields.apps.driving.stream import FaceStream

    try:
        stream = FaceStream(live, allowed_hosts=allow_host)
    except (OSError, ValueError) as error:
        raise CommandError(f"--live: {error}") from error
    scene.add(LiveFace(driver, stream).motion)
    return stream


def _add_faces(scene: Any, faces: list[Path], driver: Any) -> None:
    """Adds motions of faces to a scene, at the rate that the panel begins with."""
    from headfields.apps.driving.face_driver import DrivenFace
    from headfields.apps.faces.files import read_face_motion
    from headfields.apps.viewer.motion import PLAYED, Motion

    motions = [read_face_motion(path).resampled(PLAYED) for path in faces]
    for motion in motions:
        driven = DrivenFace(driver, motion)
        scene.add(Motion(driven.name, len(driven), lambda frame, driven=driven: driven.state([frame])))


def scene_driver(scene: Any, arkit: Path | None) -> Any:
    """What drives the head of a scene by a face, from its neutral frame.

    Raises:
        CommandError: the scene has nothing that a face moves.
    """
    rest = scene.motions.get("neutral") or next(iter(scene.motions.values()))
    if scene.articulation is None:
        raise CommandError("there is no head here that a face could move; name a run, a capture or a head model")
    return face_driver(scene.articulation, rest.state_of(0), arkit)


def _scene(
    what: Path, motion: list[Path], head: Path | None, capture: Path | None, proxy: Path | None, background: float,
    memory: int, device: str,
) -> Any:  # fmt: skip
    """The scene of whatever lies at a path."""
    from headfields.apps.viewer import subjects
    from headfields.cli import open_run

    suffix = what.suffix.lower()
    is_prior = what.is_dir() and (what / "prior.safetensors").is_file()
    is_run = what.is_dir() and not is_prior and (what / "config.json").is_file()
    alone = {"--motion": motion, "--head": head, "--capture": capture, "--proxy": proxy}
    if is_prior or what.is_file():
        for option, value in alone.items():
            if value and not (suffix == ".safetensors" and not is_prior and option != "--head"):
                raise CommandError(f"{option} is for a run or a capture, and {what} is neither")
    if is_prior:
        return _prior(what, background)
    if what.is_file():
        if suffix == ".npz":
            return subjects.head_scene(load_head(what), what.stem, background)
        if suffix in MESHES:
            from headfields.mesh import load_mesh

            return subjects.mesh_scene(load_mesh(what), what.stem, background)
        if suffix != ".safetensors":
            raise CommandError(f"{what} is no head model (.npz), mesh ({', '.join(MESHES)}) or avatar (.safetensors)")
    avatar: Any = None
    config: dict[str, Any] = {}
    if is_run:
        run, config = open_run.open_run(what)
        avatar = open_run.open_avatar(run, config, memory)
    elif what.is_file():
        from headfields.avatar.splat_avatar import load_avatar

        if what.name == "prior.safetensors":
            return _prior(what, background)
        avatar = load_avatar(what)
        if capture is None:
            return subjects.avatar_scene(avatar, what.stem, background)
    if avatar is not None:
        avatar = avatar.to(open_run.choose_device(device)).eval()
        open_run.warn_of_frame_codes(avatar, capture)
    source = open_run.capture_of(config, capture, memory) if avatar is not None else open_run.open_capture(what, memory)
    drivers = [open_run.open_driver(each, memory, config.get("mouth", "close")) for each in motion]
    stand_in = None
    if proxy is not None:
        stand_in = open_run.open_avatar(*open_run.open_run(proxy), memory).eval()
        if not hasattr(stand_in, "splats"):
            raise CommandError(f"--proxy {proxy} is no avatar of Gaussians; headfields distill makes one")
    print("reading the capture's meshes ...", file=sys.stderr)
    model = None if head is None else load_head(head)
    return subjects.capture_scene(source, avatar, drivers, model, stand_in, background)


def _prior(path: Path, background: float) -> Any:
    from headfields.apps.priors.prior import load_prior
    from headfields.apps.priors.view import prior_scene

    return prior_scene(load_prior(path), path.stem if path.is_dir() else path.parent.name, background)


def load_head(path: Path) -> Any:
    """The head model in an npz, by its entries: a rigged scan, FLAME's or SMPL-X's format, or blendshapes.

    Raises:
        CommandError: it is none of these.
    """
    from headfields.apps.rigging import RiggedTemplate
    from headfields.files.arrays import load_arrays
    from headfields.files.unpickler import to_array
    from headfields.heads import BlendshapeHead, FlameHead, SmplxHead

    arrays = load_arrays(path)
    if "v_template" not in arrays:
        if {"template", "faces", "expression"} <= set(arrays):
            return BlendshapeHead.from_file(path)
        raise CommandError(f"{path} has neither v_template (FLAME, SMPL-X, a rig) nor template, faces and expression")
    if "scale" in arrays:
        return RiggedTemplate.from_file(path)
    tree = to_array(arrays.get("kintree_table", ()), f"{path}: kintree_table")
    joints = tree.shape[1] if tree.ndim == 2 else 0
    if joints not in (5, 55):
        raise CommandError(f"{path} has {joints} joints; FLAME's format has 5 and SMPL-X's 55")
    return SmplxHead.from_file(path) if joints == 55 else FlameHead.from_file(path)
