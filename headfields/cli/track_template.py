"""`headfields track-template`: track a rigged scan through a capture."""

from headfields.cli.argument_types import Count, Folder, NewRun, OptionalInt, Rig
from headfields.cli.errors import CommandError
from headfields.data.camera_axes import Convention


def track_template(
    rig: Rig,
    capture: Folder,
    out: NewRun,
    frames: OptionalInt = None,
    every: Count = 1,
    resume: bool = False,
    quick: bool = False,
    no_color: bool = False,
    stage1_only: bool = False,
    adapt: bool = False,
    convention: Convention = "auto",
    memory: int = 1024,
) -> None:
    """Track a rigged scan through a capture: `headfields track-template --rig RIG.npz --capture DIR --out RUN`.

    Fits the body's placement, neck, head, jaw and expression of each frame, and one light, to colors, mattes and
    visible landmarks, back views included; then all frames together, smoothly. The capture provides images, mattes,
    landmarks and the lens. RUN receives a picture of each frame, videos, errors.json, profile.json and `capture`, a
    capture with the tracked meshes that `headfields train vp360 --capture RUN/capture` trains on. Frames that fail are
    named and left out. Ctrl-C stops cleanly; the same command with --resume continues to the same result. The
    energy and its weights are our own choice.

    Args:
        rig: The file of `headfields rig`, with its texture.
        capture: Folder of the capture; at least one frame needs landmarks, to start from. Or `tracking/recording` of
            `headfields capture`; several cameras count together.
        out: Folder of the run.
        frames: Only the first N frames.
        every: Only every Nth frame.
        resume: Continue the run in RUN.
        quick: Smaller images and fewer steps.
        no_color: Leave the photometric term out: silhouettes and landmarks alone.
        stage1_only: Leave the pass over all frames together out.
        adapt: First adapt the template's shape and colors to the person of the recording: for a template that is not a
            scan of this person with this hair and these clothes.
        convention: Axes and direction of the matrices in transforms*.json of a capture, if you know them: OpenCV (x
            right, y down, z forward) or OpenGL (x right, y up, z backward), camera-to-world unless it says otherwise.
            auto compares them with the images.
        memory: Megabytes for decoded frames.
    """
    from dataclasses import replace

    from headfields.apps.rigging import RiggedTemplate
    from headfields.apps.tracking.rig.options import Adaptation, RigTrackingOptions
    from headfields.apps.tracking.rig.tracker import RigTracker
    from headfields.cli import open_run
    from headfields.cli.run_tracker import check_frames, print_errors, run_tracker

    check_frames(frames, every)
    template = RiggedTemplate.from_file(rig)
    if template.texture is None and not no_color:
        raise CommandError(f"{rig} has no texture to compare colors with; rig a textured scan, or pass --no-color")
    source = open_run.open_frames(capture, memory, convention)
    options = RigTrackingOptions.quick() if quick else RigTrackingOptions()
    if no_color:
        options = options.without_color()
    if stage1_only:
        options = replace(options, joint_steps=0)
    if adapt:
        options = replace(options, adaptation=Adaptation())
    numbers = list(range(0, len(source), every))[:frames]
    tracked = run_tracker(RigTracker(template, source, out, options, numbers), out, len(numbers), resume)
    print_errors(tracked, len(numbers))
    if tracked.capture is None:
        return
    print(f"next: headfields train vp360 --capture {tracked.capture} --out AVATAR --minutes 10")
