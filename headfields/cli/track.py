"""`headfields track`: fit a prior's head to a capture."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from headfields.cli.argument_types import Count, Folder, NewRun, OptionalFile, OptionalInt
from headfields.data.camera_axes import Convention


def track(
    capture: Folder,
    prior: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    out: NewRun,
    frames: OptionalInt = None,
    every: Count = 1,
    resume: bool = False,
    quick: bool = False,
    hold_pose: bool = False,
    image: bool = False,
    stage1_only: bool = False,
    landmarks: OptionalFile = None,
    hair: Literal["auto", "yes", "no"] = "auto",
    mesh: OptionalInt = None,
    seed: OptionalInt = None,
    convention: Convention = "auto",
    memory: int = 2048,
    device: str = "auto",
) -> None:
    """Fit a prior's head to a capture: `headfields track --capture DIR --prior FILE --out RUN`.

    Shape, appearance, light and a color affine once, expression and head pose for each frame: first frame by frame,
    then all together, smoothly. RUN receives meshes, codes, poses, a picture of each frame, a video, errors.json (how
    well each frame fits, and why frames failed), profile.json, and the same in MonoNPHM's layout. Frames that fail are
    named and left out. Ctrl-C stops cleanly; the same command with --resume continues to the same result. Weights
    and steps are MonoNPHM's, except for the regularizers on unlikely codes.

    Args:
        capture: Folder of the capture; it needs landmarks. Or the folder that MonoNPHM's tracker takes as input, or
            `tracking/recording` of `headfields capture`, of whose cameras the first is read.
        prior: Folder of `headfields train-prior`, or its prior.safetensors.
        out: Folder of the run.
        frames: Only the first N frames.
        every: Only every Nth frame.
        resume: Continue the run in RUN.
        quick: Fewer rays, samples and steps, for minutes on a CPU, and poses held a little to where frames start; our
            own choice.
        hold_pose: Trust the capture's head pose, and stay close to it; our own choice.
        image: The first frame alone, with the weights and steps for a single image.
        stage1_only: Leave the second stage out.
        landmarks: File of the prior's landmarks; landmarks.npz next to the prior, or derived from its scans, if not
            given.
        hair: Whether the prior's heads have hair; if not, the capture's hair is masked out. auto: no, for priors
            trained on parametric heads.
        mesh: Cells along the longest side of the grid for meshes; 0 makes none.
        seed: Seed of rays and samples.
        convention: Axes and direction of the matrices in transforms*.json of a capture, if you know them: OpenCV (x
            right, y down, z forward) or OpenGL (x right, y up, z backward), camera-to-world unless it says otherwise.
            auto compares them with the images.
        memory: Megabytes for decoded frames.
        device: cpu, cuda, cuda:1, ...; auto is CUDA where there is one.
    """
    from dataclasses import replace

    from headfields.apps.tracking import PriorTracker, PriorTrackingOptions, open_prior
    from headfields.apps.tracking.prior.options import Stage1
    from headfields.cli import open_run
    from headfields.cli.run_tracker import check_frames, print_errors, run_tracker
    from headfields.synthetic import procedural_head

    check_frames(frames, every)
    torch_device = open_run.choose_device(device)
    source = open_run.open_frames(capture, memory, convention)
    if others := getattr(source, "others", ()):
        print(
            f"warning: {capture} has {1 + len(others)} cameras; a prior is fitted to the first, {source.name}, alone "
            "(headfields capture and track-template fit all of them together)",
            file=sys.stderr,
        )
    model = open_prior(prior, landmarks, {"auto": None, "yes": True, "no": False}[hair], procedural_head())
    options = PriorTrackingOptions.quick() if quick else PriorTrackingOptions()
    if image:
        options = replace(options, stage1=Stage1.single_image(), stage2=None)
    if stage1_only:
        options = replace(options, stage2=None)
    if hold_pose:
        options = options.holding_pose()
    if mesh is not None:
        options = replace(options, mesh_resolution=mesh)
    if seed is not None:
        options = replace(options, seed=seed)
    numbers = list(range(0, len(source), every))[: 1 if image else frames]
    tracker = PriorTracker(model, source, out, options, numbers, device=torch_device)
    print_errors(run_tracker(tracker, out, len(numbers), resume), len(numbers))
    print(out)
