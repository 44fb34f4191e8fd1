"""The subcommands about rigged scans: their arguments and help texts. What they do is in the modules they import."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from headfields.cli.arguments import Capture, Number, OtherCapture, OtherFile


def synth_template(
    rig: Annotated[Path, tyro.conf.arg(metavar="RIG.npz")],
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    kind: Literal["chair", "talk"] = "talk",
    frames: int = 96,
    size: int = 224,
    seed: int = 0,
    rate: float = 10.0,
) -> None:
    """Draw a capture of a rigged scan on a turning chair: `headfields synth-template --rig RIG.npz --out DIR`.

    In INSTA's layout, with the exact meshes, and truth.npz. Light fixed in the room, small relief and folds that the
    meshes do not have, landmarks where they are seen.

    Args:
        rig: What `headfields rig` made.
        out: Folder to write; it must not exist, or be empty.
        kind: chair: one turn with a still face, four stretches of it for testing. talk: talking and grimacing with
            all-round motion of head and torso while the chair goes round, a sixth of it for testing, with expressions
            that are made nowhere else.
        frames: Number of frames.
        size: Side of the square images, in pixels.
        seed: Of the motion, relief and folds.
        rate: Frames a second of talking.
    """
    from headfields.cli import template_tracking

    template_tracking.synth_template(rig, out, kind, frames, size, seed, rate)


def track_template(
    rig: Annotated[Path, tyro.conf.arg(metavar="RIG.npz")],
    capture: Capture,
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    frames: Annotated[int | None, Number] = None,
    every: Annotated[int, Number] = 1,
    resume: bool = False,
    quick: bool = False,
    no_color: bool = False,
    stage1_only: bool = False,
    memory: int = 1024,
) -> None:
    """Track a rigged scan through a capture: `headfields track-template --rig RIG.npz --capture DIR --out RUN`.

    Fits where the body is, neck, head, jaw and expression of each frame, and one light, to colors, mattes and whatever
    landmarks are visible, back views included; then all frames together, smoothly. Of the capture images, mattes,
    landmarks and the lens are used. RUN receives a picture of each frame, videos, errors.json, profile.json and
    `capture`, a capture with the tracked meshes that `headfields train vp360 --capture RUN/capture` trains on. Frames
    that fail are named and left out. Ctrl-C ends it in good order; the same command with --resume goes on to the same
    result. The energy and its weights are our own choice.

    Args:
        rig: What `headfields rig` made, with its texture.
        capture: Folder of the capture; one frame at least needs landmarks, to start from.
        out: Folder of the run.
        frames: So many frames alone, from the first.
        every: Every so many frames.
        resume: Go on with what is in RUN.
        quick: Smaller images and fewer steps.
        no_color: Leave the photometric term out: outlines and landmarks alone.
        stage1_only: Leave the pass over all frames together out.
        memory: Megabytes that decoded frames may take.
    """
    from headfields.cli import template_tracking

    template_tracking.track_template(
        rig, capture, out, frames, every, resume, quick, not no_color, not stage1_only, memory
    )


def rig(
    scan: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SCAN.obj")],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="RIG.npz")],
    landmarks: OtherFile = None,
    body: OtherFile = None,
    texture: OtherFile = None,
    eyes: Literal["auto", "open", "closed"] = "auto",
    scale: float = 1.0,
    inner_mouth: bool = True,
    size: int = 384,
) -> None:
    """Rig a textured scan of a head: skeleton, expressions, regions and landmarks from a parametric body.

    The scan stands upright and looks toward +z, its lips closed. A body is laid over it and registered as rigidly as
    possible; skinning weights, expressions, regions and landmarks are taken over by closest triangles. A sealed mouth
    is cut along the lips and gets an inside. Pictures of the rig, posed, are written beside it: look at them.

    Args:
        scan: An OBJ file, with texture coordinates if it has a texture.
        out: The file to write. Pictures go to the folder of its name with _pictures.
        landmarks: A JSON of landmarks by name or number (docs/rigging.md); found on the shape if not given.
        body: An SMPL-X or FLAME file with landmarks; a body made by code if not given.
        texture: The image, where the OBJ's material does not name it.
        eyes: Whether the scan's lids are shut; auto looks at the texture between them.
        scale: Meters per unit of the OBJ file.
        inner_mouth: Whether a mouth that is cut open gets a cavity and teeth.
        size: Of each picture, in pixels.
    """
    from headfields.cli import rigging

    rigging.rig(scan, out, landmarks, body, texture, eyes, scale, inner_mouth, size)


def template(
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    scan: OtherFile = None,
    capture: OtherCapture = None,
    proxy: OtherFile = None,
    refine: int = 0,
    resolution: int = 1024,
    views: Annotated[int | None, Number] = None,
    convention: Literal["auto", "opencv", "opengl"] = "auto",
    even_exposure: bool = True,
    landmarks: OtherFile = None,
    body: OtherFile = None,
    texture: OtherFile = None,
    eyes: Literal["auto", "open", "closed"] = "auto",
    scale: float = 1.0,
    inner_mouth: bool = True,
    size: int = 384,
) -> None:
    """Make the template of a 360-degree portrait: from a textured scan, or from posed images and a proxy mesh.

    `headfields template --scan head.obj --out template.npz` rigs the scan, as headfields rig does. `headfields template
    --capture DIR --proxy mesh.obj --out template.obj` bakes a texture for the mesh out of images taken from around, and
    --refine 200 first moves the mesh to what they show; with --out template.npz the result is rigged as well. Pictures
    are written beside the file: look at them.

    Args:
        out: The file to write: .npz is a rig, .obj a textured mesh.
        scan: An OBJ file of a head and shoulders with its texture.
        capture: Folder of posed images (transforms.json, as NeRF's and Nerfstudio's, or a capture); the subject stands
            still.
        proxy: An OBJ file in the frame of the cameras, e.g. of multi-view stereo or a registered body.
        refine: Steps by which the proxy is moved to the images; 0 leaves its shape as it is.
        resolution: Side of the baked texture, in texels.
        views: Use at most so many images, evenly spread.
        convention: Axes of the camera-to-world matrices; auto asks on which the mesh lands on the mattes.
        even_exposure: Whether differences of brightness between images are taken out.
        landmarks: For the rig: a JSON of landmarks (docs/rigging.md); found on the shape if not given.
        body: For the rig: an SMPL-X or FLAME file; a body made by code if not given.
        texture: Of a scan, where its material does not name it.
        eyes: For the rig: whether the lids are shut; auto looks.
        scale: Meters per unit of the OBJ file.
        inner_mouth: For the rig: whether a mouth that is cut open gets a cavity and teeth.
        size: Of each picture, in pixels.
    """
    from headfields.cli import templates

    templates.template(
        templates.Sources(scan, capture, proxy, texture, scale),
        templates.Baking(refine, resolution, views, convention, even_exposure),
        templates.RigOptions(landmarks, body, eyes, inner_mouth),
        out,
        size,
    )
