"""`headfields inspect`: what a capture has, what was tolerated in it, and what is missing for which model."""

import sys
from typing import TYPE_CHECKING

from headfields.cli.argument_types import CaptureFolder, OptionalFile, OptionalFolder, eyelid_files
from headfields.data.camera_axes import Convention

if TYPE_CHECKING:
    from headfields.data import Capture


def inspect(
    capture: CaptureFolder,
    /,
    out: OptionalFolder = None,
    decode: bool = False,
    memory: int = 2048,
    head: OptionalFile = None,
    root: OptionalFolder = None,
    eyelids: OptionalFolder = None,
    convention: Convention = "auto",
) -> None:
    """Print what a capture has: layout, sizes, splits, mesh, expressions, and every decision that reading it took.

    Decisions come with their evidence: which axes the cameras use, with the score of every convention that was tried,
    whether the head's motion was taken out, how the mouth was closed. Then, for each model, what it lacks. Lines that
    begin with "warning:" need attention. Exits with 1 if --decode finds a broken file.

    Args:
        capture: Folder of the capture.
        out: Folder for report.txt, what is printed, and contact_sheet.png: six frames with matte, labels, landmarks and
            the mesh drawn over the image. The picture shows at a glance what no score tells.
        decode: Decode every file of every frame, so that a broken one is found now and not in the middle of a run.
        memory: Megabytes for decoded frames.
        head: FLAME model of a capture whose frames have parameters and no meshes (the layouts of VHAP, IMavatar,
            metrical-tracker, Pixel3DMM and NeRSemble).
        eyelids: A folder with l_eyelid.npy and r_eyelid.npy of metrical-tracker's repository, for captures of
            metrical-tracker and Pixel3DMM that do not have them.
        root: A folder above the capture that holds everything, for sets whose frames are in sibling folders.
        convention: Axes and direction of the matrices in transforms*.json, if you know them: OpenCV (x right, y down, z
            forward) or OpenGL (x right, y up, z backward), camera-to-world unless it says otherwise. auto compares.
    """
    from headfields.data import load_capture
    from headfields.heads import FlameHead

    model = None if head is None else FlameHead.from_file(head)
    opened = load_capture(
        capture, memory_budget_mb=memory, head=model, root=root, eyelids=eyelid_files(eyelids), convention=convention
    )
    if decode:
        opened.validate()
        print(f"{len(opened)} frames decoded", file=sys.stderr)
    template = opened.template  # its regions and its mouth add to the report
    regions = ", ".join(f"{name} {int(mask.sum())}" for name, mask in sorted(template.regions.items()))
    lines = [
        str(opened),
        f"mesh: {len(template.canonical_vertices)} vertices, {len(template.faces)} faces",
        f"regions (faces): {regions or 'none'}",
        f"expression coefficients: {opened.expression_width or 'none'}",
        *opened.report,
        *_conventions(opened),
        *_requirements(opened),
    ]
    print("\n".join(lines))
    if out is not None:
        from headfields.files.atomic import write_text
        from headfields.viz import contact_sheet

        contact_sheet(opened, path=out / "contact_sheet.png")
        write_text(out / "report.txt", "\n".join(lines) + "\n")
        print(f"wrote {out / 'contact_sheet.png'} and {out / 'report.txt'}", file=sys.stderr)


def _conventions(capture: "Capture") -> list[str]:
    """A table of the readings that were tried: score, reading, and which was taken."""
    lines = []
    for each in capture.recording.conventions:
        lines.append(f"{each.subject}: how well the heads fit the images, 0 to 1")
        for name, score in sorted(each.scores.items(), key=lambda entry: -entry[1] if entry[1] == entry[1] else 1.0):
            number = f"{score:.3f}" if score == score else "  -  "
            lines.append(f"  {number}  {name}{'  (taken)' if name == each.chosen else ''}")
    return lines


def _requirements(capture: "Capture") -> list[str]:
    from headfields.apps.capturing.requirements import capture_requirements

    return ["models:", *(f"  {each.line()}" for each in capture_requirements(capture))]
