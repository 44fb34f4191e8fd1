"""Finding out what layout a folder has, and reading it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from jaxtyping import Bool, Float
from torch import Tensor

from headfields.data.capture import Capture
from headfields.data.errors import CaptureError
from headfields.data.formats.insta import is_insta, read_insta
from headfields.data.formats.insta_transforms import read_transforms
from headfields.data.head_frame import HeadFrameChoice
from headfields.data.template import Mouth


def load_capture(
    path: Path | str,
    memory_budget_mb: int | float = 2048,
    regions: Mapping[str, Bool[Tensor, " f"]] | None = None,
    head_frame: HeadFrameChoice = "auto",
    mouth: Mouth = "close",
    skinning: Float[Tensor, "v j"] | None = None,
) -> Capture:
    """Opens a capture, whatever its layout (INSTA's at present).

    JSON, matrices, file headers and a sample of frames are checked now; the other meshes and pixels when they are first
    used (`Capture.validate()` does it all at once).

    Args:
        path: the capture's folder.
        memory_budget_mb: how much decoded frames may take.
        regions: face masks of the canonical mesh (F,), e.g. those of a known topology; what is not given of `"mouth"`,
            `"eyes"` and `"face"` is voted for by the segmentation labels.
        head_frame: what is done with head motion in the vertices. `"normalize"` takes the skull's rigid motion out of
            every frame's vertices and puts it into its camera, so that the head stands still in its canonical pose and
            rays come to it; what a camera sees, depth and pixels stay the same. `"keep"` leaves both as on disk.
            `"auto"` normalizes if the head moves by 2 degrees or 5 mm between the frames looked at, and else leaves
            every bit as it is: right for captures with the pose in the cameras, as INSTA's, and for those with moving
            meshes. `report` says what was found. A mask (V,) normalizes by the vertices that it marks as rigid.
        mouth: what becomes of a tracked mesh that ends at the lips. `"close"`: faces across them; `"interior"`: a
            cavity and teeth (`headfields.heads.mouth.inner`), with which `template` and the vertices of each `state`
            are extended; `"none"`: it stays open.
        skinning: (V, J) skinning weights of the template's vertices. States then have `joint_transforms`, fitted to
            their meshes (`fit_joint_transforms`), which deformers by skinning need and no such layout records.

    Raises:
        ValueError: head_frame is none of these, or a mask of another number of vertices.
        CaptureError: the folder is missing or of no known layout, or names the frame and field that are wrong.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CaptureError(f"load_capture: {folder} is not a folder; name the one that holds transforms*.json")
    if not 0 < memory_budget_mb < math.inf:
        raise CaptureError(f"load_capture: memory_budget_mb is {memory_budget_mb}; expected a positive number")
    if mouth not in get_args(Mouth):
        raise CaptureError(f"load_capture: mouth is {mouth!r}; expected one of {', '.join(get_args(Mouth))}")
    if is_insta(folder):
        return Capture(read_insta(folder), memory_budget_mb, regions, head_frame, mouth, skinning)
    raise CaptureError(
        f"load_capture: {folder} is not in INSTA's layout (transforms*.json whose frames have a mesh_path). "
        f"{_found(folder)}"
    )


def _found(folder: Path) -> str:
    """What the folder looks like instead, for the message."""
    transforms = sorted(path.name for path in folder.glob("transforms*.json"))
    text = ""
    for name in transforms:
        read_transforms(folder / name)  # a file cut short before its first frame is said to be that
        text += (folder / name).read_text(encoding="utf-8", errors="replace")[:200_000]
    if (folder / "flame_params.json").is_file():
        return "It has flame_params.json, as IMavatar and PointAvatar write; that layout is not read yet"
    if any(folder.glob("**/checkpoint/*.frame")):
        return "It has checkpoint/*.frame files, as metrical-tracker writes; export them to INSTA's layout"
    if '"flame_param_path"' in text:
        return "Its frames have flame_param_path, as VHAP and GaussianAvatars write; that layout is not read yet"
    if '"expression"' in text:
        return "Its frames have an expression but no mesh_path, as NeRFace writes; that layout is not read yet"
    if transforms:
        return f"Found {', '.join(transforms)}, whose frames name no meshes; export it with a mesh_path a frame"
    names = sorted(entry.name for entry in folder.iterdir())
    return f"Found {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "The folder is empty"
