"""`headfields convert`: a capture of another layout in INSTA's, which every command reads."""

import sys

from headfields.cli.argument_types import CaptureFolder, Folder, OptionalFile, OptionalFolder, eyelid_files
from headfields.cli.errors import CommandError


def convert(
    capture: CaptureFolder,
    /,
    out: Folder,
    head: OptionalFile = None,
    root: OptionalFolder = None,
    eyelids: OptionalFolder = None,
    memory: int = 2048,
) -> None:
    """Convert a capture to INSTA's layout: `headfields convert DIR --head FLAME.npz --out captures/someone`.

    Reads layouts in which frames have FLAME parameters: those of VHAP, GaussianAvatars, IMavatar, PointAvatar,
    metrical-tracker and Pixel3DMM. Writes a mesh for each frame, expressions, poses and joint transforms of the head,
    and labels drawn from the head's regions. Images, mattes, cameras and splits stay as they are. Each camera of a time
    step becomes a frame.

    Args:
        capture: Folder of the capture.
        out: A new or empty folder.
        head: The FLAME model that the capture was tracked with (a pickle, or an npz of convert-flame, which may have
            regions and texture coordinates).
        root: A folder above the capture that holds everything, for sets whose frames are in sibling folders.
        eyelids: A folder with l_eyelid.npy and r_eyelid.npy of metrical-tracker's repository, for captures of
            metrical-tracker and Pixel3DMM that do not have them.
        memory: Megabytes for decoded frames.
    """
    from headfields.data import load_capture, save_capture
    from headfields.data.capture import Capture
    from headfields.data.mesh_labels import with_mesh_labels
    from headfields.heads import FlameHead

    model = None if head is None else FlameHead.from_file(head)
    opened = load_capture(
        capture, memory, head_frame="keep", mouth="none", head=model, root=root, eyelids=eyelid_files(eyelids)
    )
    if not opened.recording.has_label and opened.template.regions:
        opened = Capture(with_mesh_labels(opened.recording, opened.template), memory, mouth="none")
    try:
        count = save_capture(opened, out, progress=True)
    except FileExistsError as error:
        raise CommandError(str(error)) from error
    for line in opened.report:
        print(line, file=sys.stderr)
    print(f"wrote {count} frames to {out}")
    print(f"next: headfields train insta --capture {out} --out RUN --minutes 10")
