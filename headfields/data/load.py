"""Opening a capture: its layout is detected from the folder's files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.data.calibration import CALIBRATIONS
from headfields.data.camera_axes import Convention, named_convention
from headfields.data.capture import Capture
from headfields.data.errors import CaptureError, NoOpenMouthError
from headfields.data.formats.checkpoint_folder import tracker_of
from headfields.data.formats.imavatar import is_imavatar, read_imavatar
from headfields.data.formats.insta import is_insta, read_insta
from headfields.data.formats.metrical_folder import read_metrical_folder
from headfields.data.formats.mononphm import is_mononphm
from headfields.data.formats.nerface import is_nerface
from headfields.data.formats.nersemble import is_nersemble, read_nersemble
from headfields.data.formats.pixel3dmm import read_pixel3dmm
from headfields.data.formats.transforms import read_transforms
from headfields.data.formats.vhap import is_vhap, read_vhap
from headfields.data.formats.vhap_tracking import is_vhap_tracking, read_vhap_tracking
from headfields.data.head_frame import HeadFrameChoice
from headfields.data.image_files import has_images
from headfields.data.recording import Recording
from headfields.data.template import Mouth
from headfields.data.untracked import is_untracked
from headfields.data.video_frames import VIDEO_SUFFIXES
from headfields.files.reading import reading
from headfields.heads.mouth.border import mouth_loop
from headfields.heads.skinned import SkinnedHead
from headfields.mesh.mesh import Mesh

__all__ = ["load_capture"]


def load_capture(
    path: Path | str,
    memory_budget_mb: int | float = 2048,
    regions: Mapping[str, Bool[Tensor, " f"]] | None = None,
    head_frame: HeadFrameChoice = "auto",
    mouth: Mouth | Literal["auto"] = "close",
    skinning: Float[Tensor, "v j"] | None = None,
    head: SkinnedHead | None = None,
    root: Path | str | None = None,
    eyelids: tuple[Path | str, Path | str] | None = None,
    avatar: Any = None,
    convention: Convention = "auto",
) -> Capture:
    """Opens a capture in the layout of INSTA (a mesh for each frame), or in one with FLAME parameters for each frame:
    those of VHAP and GaussianAvatars (exported or not), of IMavatar and PointAvatar, of metrical-tracker, of Pixel3DMM,
    and of NeRSemble's benchmark of avatars.

    JSON, matrices, file headers and a sample of frames are checked at once, the other meshes and pixels when they are
    first used. `Capture.validate()` checks everything.

    Args:
        path: the capture's folder.
        memory_budget_mb: memory for decoded frames.
        regions: face masks (F,) of the canonical mesh, e.g. those of a known topology. Segmentation labels vote for
            `"mouth"`, `"eyes"` and `"face"` where they are missing here.
        head_frame: treatment of head motion in the vertices. `"normalize"` moves the skull's rigid motion from every
            frame's vertices into its camera, so that the head stands still in its canonical pose; images and depth do
            not change. `"keep"` leaves both as on disk. `"auto"` normalizes if the head moves by 2 degrees or 5 mm
            between the sampled frames, and otherwise leaves every bit as it is, so it suits captures with the pose in
            the cameras, as INSTA's, and captures with moving meshes. `report` has the decision. A mask (V,) normalizes
            by the vertices that it marks as rigid.
        mouth: treatment of a tracked mesh that ends at the lips. `"close"`: faces across them; `"interior"`: a
            cavity and teeth (`headfields.heads.mouth.inner`) that extend `template` and the vertices of each `state`;
            `"none"`: it stays open. `"auto"`: `"interior"` where the mesh has an open mouth, else `"close"`; `report`
            and `Capture.mouth` have the decision.
        skinning: (V, J) skinning weights of the template's vertices. States then have `joint_transforms` fitted to
            their meshes (`fit_joint_transforms`), which skinning deformers need and the layout does not record.
        head: the FLAME model of a capture with FLAME parameters, `headfields.heads.FlameHead.from_file(...)`; its
            regions are the capture's, unless `regions` has others. Of INSTA's layout, which has meshes, the head that
            they are of, for its regions alone; None: labels vote.
        root: folder above `path` that holds everything, for sets whose frames refer to sibling folders
            (`../OTHER/images/...`), as those that join several sequences do. VHAP's layout.
        eyelids: blendshapes of the left and the right eyelid, `l_eyelid.npy` and `r_eyelid.npy` of metrical-tracker's
            repository; None: those of the capture's folder, if it has them. Layouts of metrical-tracker and Pixel3DMM.
        avatar: an avatar that was trained by a `Trainer` with a folder, or read from its file: the capture is opened as
            its own was, with its `head_frame` and `mouth`, so that the meshes have the same vertices.
        convention: axes and direction of the matrices in `transforms*.json`, where you know them: `"opencv"` (x right,
            y down, z forward) or `"opengl"` (x right, y up, z backward), camera-to-world, or these with
            `-world-to-camera`. `"auto"` takes the one that puts the meshes onto the mattes. Layouts of INSTA and VHAP.

    Raises:
        ValueError: convention or head_frame is an unknown word, or a mask of another number of vertices; or `avatar` is
            given and does not know its capture, or with `head_frame` or `mouth`.
        CaptureError: the folder is missing or in no known layout, or a file is wrong; the message names the frame and
            the field.
    """
    if avatar is not None:
        head_frame, mouth = _as_trained(avatar, head_frame, mouth)
    if not isinstance(path, str | Path):
        raise TypeError(f"load_capture: path is a {type(path).__name__}; expected the folder of a capture")
    folder = Path(path)
    if not folder.is_dir():
        video = folder.is_file() and folder.suffix.lower() in VIDEO_SUFFIXES
        raise CaptureError(f"load_capture: {folder} is {f'a video; {_MAKES_ONE}' if video else _NO_FOLDER}")
    if head is not None and not isinstance(head, SkinnedHead):
        raise CaptureError(
            f"load_capture: head is a {type(head).__name__}; expected a head model, as "
            "headfields.heads.FlameHead.from_file(...) reads it"
        )
    if not 0 < memory_budget_mb < math.inf:
        raise CaptureError(f"load_capture: memory_budget_mb is {memory_budget_mb}; expected a positive number")
    if mouth not in (*get_args(Mouth), "auto"):
        raise CaptureError(f"load_capture: mouth is {mouth!r}; expected one of {', '.join(get_args(Mouth))}, auto")
    if convention != "auto":
        named_convention(convention)
    layout = _layout(folder)
    if layout is None:
        if (folder / "log.jsonl").exists() and (folder / "config.json").exists():
            raise CaptureError(
                f"load_capture: {folder} is the folder of a run; headfields.load_run(...) opens it, and its capture is "
                "load_run(...).capture"
            )
        raise CaptureError(f"load_capture: {folder} is in none of the layouts of {_LAYOUTS}. {_describe(folder)}")
    with reading(folder, "a capture", CaptureError):
        recording, own_regions = _read(folder, layout, head, None if root is None else Path(root), eyelids, convention)
    recording.report.insert(0, f"layout: {layout}")
    regions = {**own_regions, **(regions or {})} or None
    treatment = "interior" if mouth == "auto" else mouth
    capture = Capture(recording, memory_budget_mb, regions, head_frame, treatment, skinning)
    if mouth == "auto":
        try:
            capture.inner_mouth  # noqa: B018  (built on first use)
        except NoOpenMouthError as error:
            capture.mouth = "close"
            capture.report.append(f"mouth without an inside: {error}")
    return capture


def _as_trained(avatar: Any, head_frame: HeadFrameChoice, mouth: str) -> tuple[Any, Any]:
    """`head_frame` and `mouth` of the capture that an avatar was trained on."""
    if head_frame != "auto" or mouth != "close":
        raise ValueError("load_capture: avatar is given, which says head_frame and mouth; leave these out")
    if isinstance(avatar, str | Path):
        raise TypeError(f"load_capture: avatar is the path {str(avatar)!r}; pass headfields.load_avatar(...) of it")
    known = getattr(avatar, "trained_on", None)
    if known is None:
        raise ValueError(
            f"load_capture: the avatar ({type(avatar).__name__}) does not say how its capture was opened, which a "
            "Trainer with out= notes at its end; give head_frame and mouth, or open the run: "
            "headfields.load_run(RUN).capture"
        )
    return known.get("head_frame", "keep"), known.get("mouth", "close")


_LAYOUTS = (
    "INSTA (transforms*.json whose frames have a mesh_path), VHAP (a flame_param_path), IMavatar (flame_params.json), "
    "VHAP's tracker (tracked_flame_params_*.npz), metrical-tracker and Pixel3DMM (checkpoint/*.frame), "
    "and NeRSemble's benchmark (calibration/camera_params.json and sequences/)"
)

_NO_FOLDER = "not a folder; name the one that holds transforms*.json"
_MAKES_ONE = "headfields capture VIDEO_OR_FOLDER --head HEAD --out DIR tracks a head through it and makes a capture"


def _layout(folder: Path) -> str | None:
    """The name of the folder's layout."""
    if is_insta(folder):
        return "INSTA"
    if is_vhap(folder):
        return "VHAP"
    if is_imavatar(folder):
        return "IMavatar"
    if is_vhap_tracking(folder):
        return "VHAP's tracker"
    if is_nersemble(folder):
        return "NeRSemble's benchmark"
    return None if is_mononphm(folder) else tracker_of(folder)


def _read(
    folder: Path,
    layout: str,
    head: SkinnedHead | None,
    root: Path | None,
    eyelids: tuple[Path | str, Path | str] | None,
    convention: Convention = "auto",
) -> tuple[Recording, dict[str, Bool[Tensor, " f"]]]:
    """The recording, and the face regions that its head model knows."""
    if layout == "INSTA":
        if root is not None or eyelids is not None:
            raise CaptureError(
                f"load_capture: {folder} is in INSTA's layout, whose frames have meshes; leave root and eyelids out"
            )
        recording = read_insta(folder, convention)
        return recording, {} if head is None else _regions_of_mesh(head, recording.canonical, folder)
    if head is None:
        raise CaptureError(
            f"load_capture: {folder} is in the layout of {layout}, whose frames have FLAME parameters and no meshes; "
            'pass head=headfields.heads.FlameHead.from_file("FLAME.npz"), the one that it was tracked with (commands: '
            "headfields convert DIR --head FLAME.npz --out OTHER writes the meshes)"
        )
    if root is not None and layout != "VHAP":
        raise CaptureError(f"load_capture: root is for VHAP's layout; leave it out for {folder}, in that of {layout}")
    if eyelids is not None and layout not in ("metrical-tracker", "Pixel3DMM"):
        raise CaptureError(
            f"load_capture: eyelids are for layouts that move them, metrical-tracker's and Pixel3DMM's; leave them out "
            f"for {folder}, in that of {layout}"
        )
    if convention != "auto" and layout != "VHAP":
        raise CaptureError(
            f"load_capture: convention is {convention!r}, and {folder} is in the layout of {layout}, which has one of "
            "its own; leave it out: it is for transforms files, in the layouts of INSTA and VHAP"
        )
    regions = {name: mask.cpu() for name, mask in _regions(head).items()}
    if layout == "VHAP":
        return read_vhap(folder, head, root, convention), regions
    if layout == "IMavatar":
        return read_imavatar(folder, head), regions
    if layout == "VHAP's tracker":
        return read_vhap_tracking(folder, head), regions
    if layout == "NeRSemble's benchmark":
        return read_nersemble(folder, head), regions
    if layout == "Pixel3DMM":
        return read_pixel3dmm(folder, head, eyelids), regions
    return read_metrical_folder(folder, head, eyelids), regions


def _regions(head: SkinnedHead) -> dict[str, Bool[Tensor, " f"]]:
    try:
        border = mouth_loop(head.faces, head.template_vertices, head.weights[:, head.jaw_joint])
    except ValueError:  # a mesh with a closed mouth
        border = None
    return head.derived_regions(border)


def _regions_of_mesh(head: SkinnedHead, mesh: Mesh, folder: Path) -> dict[str, Bool[Tensor, " f"]]:
    """The head's regions as masks of the faces of a mesh of its vertices.

    The mesh may have other faces, as INSTA's has, which closes the mouth and has fewer at the eyeballs: a face that the
    head lacks is in a region if all of its vertices are.
    """
    count = len(head.template_vertices)
    if len(mesh.vertices) != count:
        raise CaptureError(
            f"load_capture: the head has {count:,} vertices, and the meshes of {folder} {len(mesh.vertices):,}; pass "
            "the head that they are of, or leave it out"
        )
    places = torch.tensor([count * count, count, 1])
    own, keys = ((faces.long().cpu().sort(dim=1).values * places).sum(1) for faces in (head.faces, mesh.faces))
    own, order = own.sort()
    at = torch.searchsorted(own, keys).clamp(max=len(own) - 1)
    known = own[at] == keys
    masks = {}
    for name, region in _regions(head).items():
        inside = torch.zeros(count, dtype=torch.bool)
        inside[head.faces.cpu()[region.cpu()].reshape(-1)] = True
        masks[name] = torch.where(known, region.cpu()[order[at]], inside[mesh.faces.cpu()].all(1))
    return masks


def _describe(folder: Path) -> str:
    """The other layout that the folder has, for the error message."""
    transforms = sorted(path.name for path in folder.glob("transforms*.json"))
    for name in transforms:
        read_transforms(folder / name)  # reports a file that is cut short before its first frame
    if is_mononphm(folder):
        return (
            "It has source and pipnet, the input of MonoNPHM's tracker, without tracked meshes; open it with "
            "headfields.data.load_mononphm, or track it: headfields track"
        )
    if is_nerface(folder):
        return (
            "It is a data set of NeRFace: cameras and expressions of a face model of its own, which pose no other "
            "head, and no meshes, so that no avatar here can be trained on it as it is. Open it with "
            "headfields.data.load_nerface, an untracked recording, or fit a head to its images (commands: headfields "
            "capture DIR/train --head FLAME.npz --out OTHER --landmarks FOLDER)"
        )
    if transforms:
        return (
            f"Found {', '.join(transforms)}, whose frames have no mesh_path: images with cameras, as nerfstudio's, and "
            "no tracked meshes. headfields capture DIR --head HEAD --out OTHER tracks a head through them, with these "
            "cameras"
        )
    if is_untracked(folder):
        return (
            "It is a recording without tracked meshes (headfields.data.untracked.load_untracked), which headfields "
            "track and track-template take; headfields capture writes such a one into tracking/recording of its capture"
        )
    if has_images(folder) or any((folder / name).is_file() for name in CALIBRATIONS):
        return f"It has images, and no tracked meshes; {_MAKES_ONE}"
    names = sorted(entry.name for entry in folder.iterdir())
    return f"Found {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "The folder is empty"
