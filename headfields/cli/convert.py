"""`headfields convert`: a capture of one layout in another, INSTA's or VHAP's."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from headfields.cli.argument_types import CaptureFolder, Folder, OptionalFile, OptionalFolder, eyelid_files
from headfields.cli.errors import CommandError
from headfields.data.camera_axes import Convention

if TYPE_CHECKING:
    from headfields.data import Capture
    from headfields.heads import FlameHead


def convert(
    capture: CaptureFolder,
    /,
    out: Folder,
    to: Literal["insta", "vhap"] = "insta",
    head: OptionalFile = None,
    root: OptionalFolder = None,
    eyelids: OptionalFolder = None,
    memory: int = 2048,
    convention: Convention = "auto",
) -> None:
    """Convert a capture to another layout: `headfields convert DIR --head FLAME.npz --out captures/someone`.

    Reads the layouts of INSTA, VHAP, GaussianAvatars, IMavatar, PointAvatar, metrical-tracker, Pixel3DMM and NeRSemble.
    Images, mattes, cameras and splits stay as they are.

    `--to insta`, which every command reads: a mesh for each frame, expressions, poses and joint transforms of the head,
    and labels drawn from the head's regions where the capture has none. Each camera of a time step becomes a frame.

    `--to vhap`, which GaussianAvatars' code trains on: FLAME's parameters for each time step. Where the capture has
    meshes, they must be of FLAME's topology; parameters are then fitted, and offsets hold the rest, so that the meshes
    are the same.

    A conversion that is stopped leaves nothing, one that is killed a folder that the same command takes again; it then
    begins anew.

    Args:
        capture: Folder of the capture.
        out: A new or empty folder.
        to: The layout to write.
        head: The FLAME model that the capture was tracked with (a pickle, or an npz of convert-flame, which may have
            regions and texture coordinates).
        root: A folder above the capture that holds everything, for sets whose frames are in sibling folders.
        eyelids: A folder with l_eyelid.npy and r_eyelid.npy of metrical-tracker's repository, for captures of
            metrical-tracker and Pixel3DMM that do not have them.
        memory: Megabytes for decoded frames.
        convention: Axes and direction of the matrices in transforms*.json, if you know them: OpenCV (x right, y down, z
            forward) or OpenGL (x right, y up, z backward), camera-to-world unless it says otherwise. auto compares.
    """
    from headfields.data import load_capture
    from headfields.data.formats.insta import is_insta
    from headfields.heads import FlameHead

    if to == "vhap" and head is None:
        raise CommandError(
            "convert --to vhap needs the FLAME model: the layout has its parameters in place of meshes; pass --head "
            "FLAME.npz, the model that the capture was tracked with"
        )
    model = None if head is None else FlameHead.from_file(head)
    opened = load_capture(
        capture,
        memory,
        head_frame="keep",
        mouth="none",
        head=None if to == "vhap" and is_insta(capture) else model,
        root=root,
        eyelids=eyelid_files(eyelids),
        convention=convention,
    )
    try:
        if to == "vhap":
            _to_vhap(opened, out, model)
        else:
            _to_insta(opened, out, memory)
    except FileExistsError as error:
        raise CommandError(str(error)) from error


def _to_insta(opened: "Capture", out: Path, memory: int) -> None:
    from headfields.apps.capturing.mesh_labels import with_mesh_labels
    from headfields.data import save_capture
    from headfields.data.capture import Capture

    if not opened.recording.has_label and opened.template.regions:
        opened = Capture(with_mesh_labels(opened.recording, opened.template), memory, mouth="none")
    count = save_capture(opened, out, progress=True)
    for line in opened.report:
        print(line, file=sys.stderr)
    print(f"wrote {count} frames to {out}")
    print(f"next: headfields train insta --capture {out} --out RUN --minutes 10")


def _to_vhap(opened: "Capture", out: Path, model: "FlameHead | None") -> None:
    from headfields.apps.export import save_vhap

    export = save_vhap(opened, out, model, progress=True)
    for line in [*opened.report, *export.report]:
        print(line, file=sys.stderr)
    print(f"wrote {export.frames} images of {export.steps} time steps to {out}")
    print(f"next: python train.py -s {out} -m RUN --bind_to_mesh (in GaussianAvatars' code; --eval holds out test)")
