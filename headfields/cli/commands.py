"""The subcommands: their arguments and help texts. What they do is in the modules they import when they run."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from headfields.cli.arguments import Capture, Number, OtherCapture, OtherFile, Run


def synth(
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    /,
    frames: int = 120,
    size: int = 256,
    seed: int = 0,
    noise: float = 0.0,
    noise_seed: int = 0,
    identity: Annotated[int | None, Number] = None,
) -> None:
    """Write a synthetic capture: a procedural head that moves, with images, mattes, labels, depth and meshes.

    It is in INSTA's layout, so it is read like a real one. No licensed model or data is needed.

    Args:
        out: Folder to write; it must not exist, or be empty.
        frames: Number of frames; the last of them are for testing.
        size: Side of the square images, in pixels.
        seed: Of the head's shape, texture and motion.
        noise: How wrong meshes, cameras and expressions are tracked: 0 not at all, 1 as a usual monocular tracker
            (0.5 degrees, 1 mm, 3 mm in depth, 0.05 of an expression weight, 2 degrees of gaze, over a quarter of a
            second; a tenth of the time 0.1 s late). Images stay exact, and the truth is kept in truth.npz.
        noise_seed: Of these errors.
        identity: Whose head it is: a number that draws a person. The mean head if not given.
    """
    from headfields.cli import making

    making.synth(out, frames, size, seed, noise, noise_seed, identity)


def train(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    /,
    capture: Capture,
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    minutes: Annotated[float | None, Number] = None,
    steps: Annotated[int | None, Number] = None,
    resume: bool = False,
    seed: Annotated[int | None, Number] = None,
    rays: Annotated[int | None, Number] = None,
    samples: Annotated[int | None, Number] = None,
    frames: Annotated[int | None, Number] = None,
    learning_rate: Annotated[float | None, Number] = None,
    network_learning_rate: Annotated[float | None, Number] = None,
    schedule: Literal["constant", "exponential"] | None = None,
    depth: Annotated[float | None, Number] = None,
    opacity: Annotated[float | None, Number] = None,
    set: tuple[str, ...] = (),
    mouth: Literal["close", "interior", "none"] | None = None,
    memory: int = 2048,
    device: str = "auto",
    devices: Annotated[int, Number] = 1,
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None,
) -> None:
    """Train a model on a capture: `headfields train insta --capture DIR --out RUN --minutes 10`.

    RUN receives config.json, log.jsonl, images/ (truth | rendering | error of a validation frame), checkpoint/ and at
    the end avatar.safetensors. Ctrl-C saves a checkpoint; the same command with --resume goes on from it. Say when
    to stop with --minutes or --steps; both count from the start of training, over resumptions. With --resume, options
    that are not given are those that the run was started with; of those that differ from them, a line on stderr tells.

    Args:
        model: A preset of headfields.models, e.g. insta.
        capture: Folder of the capture.
        out: Folder of the run.
        minutes: Stop after so many minutes of training in all.
        steps: Stop after so many optimizer steps in all.
        resume: Go on from the run's checkpoint, with the model and options of its config.json.
        seed: Of weights, frames and pixels; 0 if not given. A run that is gone on with keeps its own.
        rays: Rays a step at first. Not given, this and what follows is the model's own; of INSTA, 2048. More give a
            smoother gradient and take longer.
        samples: Samples a step, which the number of rays is made to follow as emptiness is learned; INSTA: 14000.
            0 keeps the number of rays.
        frames: Frames a step that the rays come from; INSTA: 8.
        learning_rate: Adam's, of the tables; INSTA: 0.02. It was released with 0.00175 for everything,
            constant over 33,000 steps; a short run learns faster with more, falling.
        network_learning_rate: Adam's, of the networks, which bear less than the tables; INSTA: 0.001.
        schedule: constant (as INSTA was released) or exponential: to a tenth over the run, better for short ones, and
            what is taken if not given.
        depth: Weight of the depth prior; INSTA: 0.1; 0 leaves it out. As published 1.25, which costs quality in a
            short run.
        opacity: Weight of a loss on the matte, 0 if not given (as INSTA); 0.1 clears the background sooner.
        set: Arguments of the preset as name=value, e.g. --set levels=8 log2_table_size=16.
        mouth: What becomes of a tracked mesh that ends at the lips. close (if not given): faces across them; interior:
            a cavity with teeth; none: it stays open. evaluate and render take the run's.
        memory: Megabytes that decoded frames may take.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
        devices: How many processes train together, each on a GPU of its own (on the CPU: sharing its cores). They
            share the rays of each step; the command starts the others itself, unless torchrun does.
        precision: 32-true (if not given), bf16-mixed or 16-mixed: the networks compute in 16 bits. For GPUs.
    """
    from headfields.cli import training

    options = training.Options(
        model=model, capture=capture, out=out, minutes=minutes, steps=steps, resume=resume, seed=seed, rays=rays,
        samples=samples, frames=frames, learning_rate=learning_rate,
        network_learning_rate=network_learning_rate, schedule=schedule, depth=depth,
        opacity=opacity, overrides=list(set), mouth=mouth,
        memory=memory, device=device, devices=devices, precision=precision,
    )  # fmt: skip
    training.train(options)


def evaluate(
    run: Run,
    /,
    split: str = "test",
    capture: OtherCapture = None,
    background: float = 1.0,
    limit: Annotated[int | None, Number] = None,
    refine: bool = False,
    refine_expression: bool = False,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Render frames that training has not seen and compare: PSNR and SSIM, whole and within the matte.

    The last line on stdout is one JSON object: psnr, ssim, psnr_masked, ssim_masked, frames, seconds_per_frame, and
    lpips where the lpips package is installed. RUN/metrics.json has the same for every frame. A run that is still
    training, or was cut off, is measured at its last checkpoint.

    Args:
        run: Folder of the run.
        split: Which frames: test, val, train or all.
        capture: Another capture than the run was trained on (same topology).
        background: Gray behind truth and rendering, in [0, 1]. Figures over different ones do not compare.
        limit: At most so many frames, spread evenly over the split.
        refine: Also fit each frame's head pose (and latent codes) to its image and measure again: psnr_refined and so
            on, beside the figures as tracked. These use the test image: quality without misalignment, not prediction.
        refine_expression: The same with the expression coefficients, where the capture says how the mesh follows them
            (blendshapes.npz).
        memory: Megabytes that decoded frames may take.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    from headfields.cli import measuring

    measuring.evaluate(run, split, capture, background, limit, memory, device, refine, refine_expression)


def render(
    run: Run,
    /,
    mode: Literal["frames", "turntable", "expressions"] = "frames",
    motion: OtherCapture = None,
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
    split: str = "test",
    frames: Annotated[str | None, tyro.conf.arg(metavar="START:STOP[:STEP]")] = None,
    limit: Annotated[int | None, Number] = None,
    compare: bool = False,
    degrees: float = 60.0,
    seconds: float = 4.0,
    fps: int = 25,
    scale: float = 1.0,
    background: float = 1.0,
    capture: OtherCapture = None,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Render pictures or a video of a trained avatar.

    frames: the frames of a split, one PNG each. turntable: a video around the head. expressions: a video from the
    most neutral frame to the strongest of each of the first expressions, and back. --motion DIR: a video of another
    capture's images beside the avatar, which does what that head does; the two may be different head models.

    Args:
        run: Folder of the run.
        mode: What to render, unless --motion is given.
        motion: Capture whose motion drives the avatar.
        out: Where to: a folder for frames, an .mp4 or .gif else. RUN/renders/... if not given.
        split: Frames to render, or of the driving capture.
        frames: Which frames instead of a split, as 0:100:2.
        limit: At most so many frames, spread evenly over the split.
        compare: In frames: truth | rendering | error side by side.
        degrees: In turntable: how far around in all; 360 goes round, less swings from side to side.
        seconds: Length of a turntable, or of one expression.
        fps: Frames a second of videos.
        scale: Size of the pictures relative to the capture's.
        background: Gray behind the head, in [0, 1].
        capture: Another capture than the run was trained on, for its frames and cameras.
        memory: Megabytes that decoded frames may take.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    from headfields.cli import showing

    options = showing.Options(
        mode="motion" if motion is not None else mode, motion=motion, out=out, split=split, frames=frames,
        limit=limit, compare=compare, degrees=degrees, seconds=seconds, fps=fps, scale=scale, background=background,
    )  # fmt: skip
    showing.render(run, options, capture, memory, device)


def mesh(
    avatar: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AVATAR")],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")],
    frame: tuple[int, ...] = (0,),
    resolution: int = 256,
    space: Literal["posed", "canonical"] = "posed",
    level: Annotated[float | None, Number] = None,
    solid: Annotated[float | None, Number] = None,
    largest: bool = False,
    open: bool = False,
    picture: bool = False,
    capture: OtherCapture = None,
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Write the surface of an avatar as a mesh with colors: `headfields mesh RUN --frame 10 --out head.ply`.

    Args:
        avatar: Folder of a run, or an avatar's .safetensors file.
        out: File to write, ending in .ply, .obj or .glb; for several frames a folder, which gets a PLY file for each.
        frame: Which frames of the capture. A file without a capture has one frame of its own, 0.
        resolution: Cells along the longest side of the box that holds the head.
        space: posed as in the frame, or canonical.
        level: Density on the surface in 1/m (140 if not given: half of the light stopped in 5 mm), or distance in
            meters (0 if not given).
        solid: Meters: what lies deeper inside the tracked mesh is solid, as a density learns nothing there; 0.01 does
            well for heads.
        largest: Only the largest connected piece.
        open: Leave out what closes the surface where it meets the box, or where nothing is known.
        picture: Also write a picture beside the mesh: clay, colors and normals.
        capture: Another capture than the run was trained on, or the capture for an avatar's file.
        memory: Megabytes that the search may take, and decoded frames.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    from headfields.cli import meshing

    options = meshing.Options(
        out=out, frame=frame, resolution=resolution, space=space, level=level, solid=solid, largest=largest, open=open,
        picture=picture, capture=capture, memory=memory,
    )  # fmt: skip
    meshing.mesh(avatar, options, device)


def compare_meshes(
    surface: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SURFACE")],
    truth: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TRUTH")],
    /,
    out: OtherCapture = None,
    align: Literal["none", "rigid", "similarity"] = "none",
    trim: float = 0.0,
    directions: Literal["both", "truth-to-surface"] = "both",
    samples: int = 100_000,
    seed: int = 0,
    limit: float = 5.0,
) -> None:
    """Say how far a mesh lies from the truth: chamfer distances, normal consistency, F-score and recall.

    Files are PLY, OBJ, glTF, STL or OFF, in meters; the truth may be a scan's points. The last line on stdout is one
    JSON object, distances in meters.

    Args:
        surface: The mesh that is judged.
        truth: What it is compared with.
        out: Folder for metrics.json and errors.png, a heat map of the distances.
        align: Lay the surface over the truth first: rigid, or similarity with one scale. From where they are.
        trim: In the alignment, the share of the truth's points left out as the farthest, in [0, 1).
        directions: both, or truth-to-surface alone for scans that show a part of the head (MonoNPHM's evaluation).
        samples: Points drawn from each side that has faces.
        seed: Of the draw.
        limit: Millimeters at the red end of the heat map.
    """
    from headfields.cli import meshing

    meshing.compare_meshes(surface, truth, out, align, trim, directions, samples, seed, limit)


def convert_flame(
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.npz")],
    expression_count: Annotated[int | None, Number] = None,
    masks: OtherFile = None,
    landmarks: OtherFile = None,
    contour: OtherFile = None,
    mediapipe: OtherFile = None,
    uv: OtherFile = None,
    force: bool = False,
) -> None:
    """Make a plain npz of a FLAME model: `headfields convert-flame generic_model.pkl --out FLAME_NEUTRAL.npz`.

    The models of flame.is.tue.mpg.de (2017, 2020, 2023) are pickles, which may hold chumpy objects and may run code.
    This reads them without chumpy and without running anything: a file that names anything but numpy, scipy.sparse,
    torch tensors and chumpy is refused, and the name is printed. The npz has dense arrays, 300 shape and 100
    expression components, and is read by smplx too. The files beside the model can go into it, so that one file is
    all that FlameHead.from_file needs. It prints what it found.

    Args:
        file: The model: generic_model.pkl, FLAME_NEUTRAL.pkl, flame2023.pkl, or an npz.
        out: The file to write, ending in .npz.
        expression_count: How many components are expression. Only needed where the model has fewer than 400: the last
            so many are taken. In a full model the first so many after the 300th.
        masks: FLAME_masks.pkl: named regions.
        landmarks: flame_static_embedding.pkl (51 landmarks), or landmark_embedding.npy as DECA has it (with contour).
        contour: flame_dynamic_embedding.npy: the 17 contour landmarks for 79 angles.
        mediapipe: mediapipe_landmark_embedding.npz: 105 landmarks.
        uv: head_template_mesh.obj: texture coordinates.
        force: Write over a file that exists.
    """
    from headfields.cli import converting

    converting.convert_flame(file, out, expression_count, masks, landmarks, contour, mediapipe, uv, force)


def doctor() -> None:
    """Say what is installed and what runs where, and try every kernel against its reference.

    Exits with 1 if a kernel gives a wrong answer or cannot run.
    """
    from headfields.cli import examining

    examining.doctor()
