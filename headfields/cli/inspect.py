"""`headfields inspect`: what a capture has, what was tolerated in it, and what is missing."""

import sys

from headfields.cli.argument_types import CaptureFolder, OptionalFile, OptionalFolder, eyelid_files


def inspect(
    capture: CaptureFolder,
    /,
    decode: bool = False,
    memory: int = 2048,
    head: OptionalFile = None,
    root: OptionalFolder = None,
    eyelids: OptionalFolder = None,
) -> None:
    """Print what a capture has: layout, sizes, splits, mesh, expressions, and every decision that reading it took.

    Decisions come with their evidence: which axes the cameras use, whether the head's motion was taken out, how the
    mouth was closed. Lines that begin with "warning:" need attention. Exits with 1 if --decode finds a broken file.

    Args:
        capture: Folder of the capture.
        decode: Decode every file of every frame, so that a broken one is found now and not in the middle of a run.
        memory: Megabytes for decoded frames.
        head: FLAME model of a capture whose frames have parameters and no meshes (the layouts of VHAP, IMavatar,
            metrical-tracker and Pixel3DMM).
        eyelids: A folder with l_eyelid.npy and r_eyelid.npy of metrical-tracker's repository, for captures of
            metrical-tracker and Pixel3DMM that do not have them.
        root: A folder above the capture that holds everything, for sets whose frames are in sibling folders.
    """
    from headfields.data import load_capture
    from headfields.heads import FlameHead

    model = None if head is None else FlameHead.from_file(head)
    opened = load_capture(capture, memory_budget_mb=memory, head=model, root=root, eyelids=eyelid_files(eyelids))
    if decode:
        opened.validate()
        print(f"{len(opened)} frames decoded", file=sys.stderr)
    template = opened.template  # its regions and its mouth add to the report
    print(opened)
    print(f"mesh: {len(template.canonical_vertices)} vertices, {len(template.faces)} faces")
    regions = ", ".join(f"{name} {int(mask.sum())}" for name, mask in sorted(template.regions.items()))
    print(f"regions (faces): {regions or 'none'}")
    print(f"expression coefficients: {opened.expression_width or 'none'}")
    for line in opened.report:
        print(line)
