"""The page: an avatar of Gaussians, what moves it, a clip and a camera, in one HTML file."""

import base64
import html
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from jaxtyping import Float
from PIL import Image, features
from torch import Tensor

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.files.atomic import write_text
from headfields.ops.rotations import rotation_matrices
from headfields.ops.skinning import blend_shapes
from headfields.records import Camera, HeadState
from headfields.records.display import Displayed
from headfields.records.head_rig import HeadRig
from headfields.viz.mesh import view_camera
from headfields.viz.page.face_mapping import face_mapping
from headfields.viz.page.model import check_avatar, describe_avatar
from headfields.viz.page.packing import Packer
from headfields.viz.page.rigs import MOTION, capture_rig, exact_rig, fitted_rig, with_motion

__all__ = ["Page", "page_html", "write_page"]

_FOLDER = Path(__file__).parent
_SCRIPTS = ("unpack.js", "draw.js", "live.js", "page.js")
_WORKER = ("layers.js", "pose.js")
_SHAPE_STEP = 2e-6
"""Meters: displacements of vertices are kept to a micrometer."""
_POSTER = 512
_MOVES = 1e-4
"""Meters: shapes that move no vertex by so much have no slider."""
_JOINT_REACH = math.radians(20)
_TRIED, _TURNS = math.radians(10), 1e-3
"""Radians, meters: a joint of a fitted rig has a slider for an axis if so much of a turn moves a vertex so far."""


def write_page(path: Path | str, avatar: Any, *arguments: Any, **options: Any) -> Path:
    """Writes the page of an avatar; arguments and errors as `page_html`.

    Raises:
        OSError: the file cannot be written.
    """
    return Page(page_html(avatar, *arguments, **options)).save(path)


@torch.no_grad()
def page_html(
    avatar: Any,
    motion: Any = None,
    head: Any = None,
    camera: Camera | None = None,
    fps: float | int = 25,
    title: str = "Head avatar",
    about: str | None = None,
    arkit: Mapping[str, Mapping[str, Any]] | None = None,
    link: str | None = None,
) -> str:
    """One HTML page that poses and draws an avatar in the browser, without a server and without a network.

    Args:
        avatar: an avatar of Gaussians on triangles: what `gaussian_avatars`, `rgb_avatar` and `flash_avatar` make.
        motion: what the page plays: a `HeadState` of T frames; or a `headfields.data.Capture`, or a face that drives a
            head (`headfields.apps.driving.face_driver.DrivenFace`), whose frames they are; the avatar's preview, or its
            template at rest, if None.
        head: what moves the mesh: the head model that the avatar was built on, or a `HeadRig`
            (`headfields.viz.page.rigs`). If None, the avatar's `rig`, or else the linear rig that fits the motion best.
        camera: the view at the start; or T cameras, before which the head moves as it did when it was recorded. If
            None, that of the capture or the preview, or one in front of the head. Where neighboring frames have the
            same mesh (several cameras at a time) one of them is played, and the head stays in its place.
        fps: frames per second of the motion.
        title: heading of the page.
        about: a line below it; what the page holds if None.
        arkit: for faces that come in live, what a weight of ARKit's name moves on a head without a shape of that name:
            a mapping as `headfields arkit` writes it (`headfields.apps.export.arkit.read_mapping`).
        link: address of what made it (a paper, a project), http or https, at the page's foot; a browser opens it when
            it is pressed, and never by itself.

    Returns:
        The page.

    Raises:
        TypeError: the avatar is a field of rays, or has a part that a page cannot compute; the message says which.
        ValueError: the head has another number of vertices than the avatar's mesh, there are neither one nor T
            cameras, fps is not positive, `arkit` names what the head lacks, or `link` is no address of a site.
    """
    check_avatar(avatar)
    made = _made(link)
    if not 0 < fps < math.inf:
        raise ValueError(f"to_html: fps is {fps}; expected a positive number of frames per second")
    template, preview = avatar.template_faces, avatar.preview
    assert template is not None
    head = avatar.rig if head is None else head
    if motion is None:
        motion = preview[1] if preview is not None else HeadState(template[0][None])
        camera = preview[0] if preview is not None and camera is None else camera
    elif not isinstance(motion, HeadState):
        source, frames = motion, torch.as_tensor(motion.splits["all"])
        motion = source.state(frames)
        if hasattr(source, "camera"):  # a capture, and no driven face
            head = capture_rig(source) if head is None else head
            camera = source.camera(frames) if camera is None else camera
    state = avatar.with_codes(motion.to(template[0].device)).detach().to("cpu")
    new = torch.ones(len(state), dtype=torch.bool)
    new[1:] = (state.vertices[1:] != state.vertices[:-1]).flatten(1).any(1)
    if not bool(new.all()) and camera is not None:  # several cameras at a time: one frame, seen by the first of them
        state, camera = (
            state[new],
            Camera(camera.world_to_camera.reshape(-1, 4, 4)[0], camera.intrinsics.reshape(-1, 3, 3)[0], camera.size),
        )
    if head is None:
        rig, state = fitted_rig(state)
    else:
        rig = head if isinstance(head, HeadRig) else exact_rig(head)
        state = with_motion(rig, state)
    if len(rig.neutral) != len(template[0]):
        raise ValueError(
            f"to_html: head has {len(rig.neutral)} vertices, and the avatar's mesh {len(template[0])}; pass the head "
            "that the avatar was built on"
        )
    camera = (view_camera(rig.neutral) if camera is None else camera).detach().to("cpu").require_pinhole("to_html")
    views, lenses = camera.world_to_camera.reshape(-1, 4, 4), camera.intrinsics.reshape(-1, 3, 3)
    if len(views) not in (1, len(state)):
        raise ValueError(f"to_html: camera has {len(views)} cameras, and there are {len(state)} frames; pass one, or T")
    camera = Camera(views[0], lenses[0], camera.size)
    packer = Packer()
    parts = {"expression": len(rig.expression) or _width(avatar, state), "pose": _pose_width(avatar, rig, state)}
    codes = {name: len(shapes) for name, shapes in rig.codes.items()}
    codes |= {name: state.codes[name].shape[1] for name in avatar.needs if name in state.codes}
    clip = _clip(state, parts, codes)
    joints = _joints(rig, parts["pose"] // 3)
    described: dict[str, Any] = {
        "title": title, "about": about if about is not None else _about(avatar, rig, len(state)),
        "avatar": describe_avatar(avatar, packer), "rig": _rig(rig, packer),
        "parameters": {**parts, "codes": codes}, "names": list(rig.expression_names),
        "sliders": _sliders(rig, clip, parts, codes), "joints": joints,
        "face": face_mapping(arkit or {}, rig, joints),
        "neutral": _neutral(clip, parts, codes, rig).tolist(),
        "clip": {"frames": len(clip) if clip.shape[1] else 0, "fps": float(fps)},
        "camera": {
            "view": camera.world_to_camera.flatten().tolist(), "lens": camera.intrinsics.flatten().tolist(),
            "height": camera.size[0], "width": camera.size[1],
        },
        "center": (0.5 * (rig.neutral.amin(0) + rig.neutral.amax(0))).tolist(),
        "extent": float((rig.neutral.amax(0) - rig.neutral.amin(0)).norm()),
    }  # fmt: skip
    packer.ranged("clip", clip)
    # From the head's place in each frame to that in the first, as its camera sees it.
    moves = torch.linalg.inv(views[:1].double()) @ views.double()
    described["clip"]["moves"] = bool((moves - moves[:1]).abs().amax() > 1e-5)
    packer.exact("moves", moves[:, :3].flatten(1) if described["clip"]["moves"] else moves[:0, :3].flatten(1))
    described["table"] = packer.table
    filled = {
        "title": html.escape(title), "style": _text("page.css"),
        "pose": "\n".join(_text(name) for name in _WORKER),
        "script": "\n".join(_text(name) for name in _SCRIPTS), "made": made, "data": packer.stream(),
        "info": json.dumps(described, separators=(",", ":")).replace("<", "\\u003c"),
        "poster": _poster(avatar, camera, state[:1]),
    }  # fmt: skip
    first, *rest = _text("page.html").split("{{")
    return first + "".join(filled[name] + after for name, after in (part.split("}}", 1) for part in rest))


@dataclass(frozen=True, eq=False)
class Page(Displayed):
    """A page of an avatar; a notebook shows it within its own, and keeps it alive when it is saved.

    Attributes:
        content: the page, of `page_html`.
        height: of the frame in a notebook, pixels.
    """

    content: str
    height: int = 560

    def __repr__(self) -> str:
        return f"Page({len(self.content) / 1e6:.1f} MB)"

    def html(self) -> str:
        """The page as a frame that needs no file; it may run its scripts, save pictures, open its link, and no more."""
        page = self.content.replace("&", "&amp;").replace('"', "&quot;")
        look = f'style="width:100%;height:{self.height}px;border:0;border-radius:10px"'
        may = 'sandbox="allow-scripts allow-downloads allow-popups"'
        return f'<iframe title="Head avatar" {may} {look} srcdoc="{page}"></iframe>'

    def save(self, path: Path | str) -> Path:
        """Writes the page."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.content)
        return path


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def check_link(op: str, link: str) -> None:
    """Refuses what is no address of a site.

    Raises:
        ValueError: it is none of http or https with a host, or has blanks.
    """
    address = urlsplit(link)
    if address.scheme not in ("http", "https") or not address.hostname or any(letter.isspace() for letter in link):
        raise ValueError(f"{op}: link is {link!r}; expected an address of a site: https://...")


def _made(link: str | None) -> str:
    from headfields import __version__

    made = f"Made with headfields {__version__}"
    if link is None:
        return made
    check_link("to_html", link)
    address = urlsplit(link)
    shown = html.escape(f"{address.hostname}{address.path}".rstrip("/"))
    return f'{made} · <a href="{html.escape(link)}" target="_blank" rel="noopener noreferrer">{shown}</a>'


def _about(avatar: SplatAvatar, rig: HeadRig, frames: int) -> str:
    said = f"{len(avatar.gaussians):,} Gaussians on {len(rig.neutral):,} vertices"
    if rig.error >= 5e-6:
        said += f"; the mesh is fitted within {1e3 * rig.error:.2f} mm"
    return said


def _width(avatar: SplatAvatar, state: HeadState) -> int:
    """Expression values that the networks read though no shape of the mesh follows them."""
    return state.expression.shape[1] if "expression" in avatar.needs and state.expression is not None else 0


def _pose_width(avatar: SplatAvatar, rig: HeadRig, state: HeadState) -> int:
    """Numbers of a pose: three a joint, if a mesh or a network reads it."""
    if rig.parents:
        return 3 * len(rig.parents)
    if state.pose is not None and (rig.pose_joints or "pose" in avatar.needs):
        return 3 * state.pose.shape[1]
    return 0


def _clip(state: HeadState, parts: dict[str, int], codes: dict[str, int]) -> Float[Tensor, "t p"]:
    """A row of parameters for each frame: expression, pose, codes."""
    count = len(state)
    columns = [] if state.expression is None else [state.expression]
    rows = [_padded(columns[0] if columns else torch.zeros(count, 0), parts["expression"])]
    rows.append(_padded(torch.zeros(count, 0) if state.pose is None else state.pose.flatten(1), parts["pose"]))
    rows += [_padded(state.codes.get(name, torch.zeros(count, 0)), width) for name, width in codes.items()]
    return torch.cat([row.float() for row in rows], dim=1)


def _padded(rows: Tensor, width: int) -> Tensor:
    rows = rows[:, :width]
    return torch.cat([rows, rows.new_zeros(len(rows), width - rows.shape[1])], 1)


def _neutral(clip: Tensor, parts: dict[str, int], codes: dict[str, int], rig: HeadRig) -> Float[Tensor, " p"]:
    """Zero, but for codes of the look, which keep the first frame's."""
    neutral = torch.zeros(clip.shape[1])
    start = parts["expression"] + parts["pose"]
    for name, width in codes.items():
        if name not in rig.codes and len(clip):
            neutral[start : start + width] = clip[0, start : start + width]
        start += width
    return neutral


def _rig(rig: HeadRig, packer: Packer) -> dict[str, Any]:
    packer.ranged("neutral", rig.neutral)
    packer.around_zero("expression", rig.expression, _SHAPE_STEP)
    for name, shapes in rig.codes.items():
        packer.around_zero(f"code_{name}", shapes, _SHAPE_STEP)
    if rig.correctives is not None:
        packer.around_zero("correctives", rig.correctives, _SHAPE_STEP)
    if rig.weights is not None and rig.joints is not None:
        packer.ranged("weights", rig.weights)
        packer.exact("joints", rig.joints)
        moved = rig.joint_shapes
        packer.exact("joint_shapes", rig.joints.new_zeros(0, *rig.joints.shape) if moved is None else moved)
    if rig.mean_pose is not None:
        packer.exact("mean_pose", rig.mean_pose)
    return {
        "codes": list(rig.codes),
        "poseJoints": list(rig.pose_joints),
        "parents": list(rig.parents),
        "error": rig.error,
    }


def _sliders(rig: HeadRig, clip: Tensor, parts: dict[str, int], codes: dict[str, int]) -> list[dict[str, Any]]:
    """Groups of sliders, with the range that the clip has, or a usual one."""
    groups = []
    low, high = (clip.amin(0), clip.amax(0)) if len(clip) else (torch.zeros(clip.shape[1]),) * 2
    named = bool(rig.expression_names)

    def reach(at: int, least_low: float, least_high: float) -> dict[str, float]:
        return {"low": min(float(low[at]), least_low), "high": max(float(high[at]), least_high)}

    usual = (0.0, 1.0) if named and not bool((low[: parts["expression"]] < -0.05).any()) else (-2.0, 2.0)
    items = []
    for index, shape in enumerate(rig.expression):
        if float(shape.norm(dim=-1).amax()) >= _MOVES:
            name = rig.expression_names[index] if named else f"expression {index + 1}"
            items.append({"part": "expression", "index": index, "name": name, **reach(index, *usual)})
    groups.append(("Expression", items))
    items = []
    joints = range(parts["pose"] // 3)
    for joint in joints if not rig.pose_joints else rig.pose_joints:
        name = rig.joint_names[joint] if joint < len(rig.joint_names) else f"joint {joint}"
        for axis, turn in enumerate(("pitch", "yaw", "roll")):
            if joint in rig.pose_joints and not _turns(rig, joint, axis):
                continue
            at = parts["expression"] + 3 * joint + axis
            items.append({
                "part": "pose", "index": 3 * joint + axis, "name": f"{name} {turn}", "label": turn,
                "joint": name.replace("_", " "), "unit": "°", **reach(at, -_JOINT_REACH, _JOINT_REACH),
            })  # fmt: skip
    groups.append(("Joints", items))
    start = parts["expression"] + parts["pose"]
    for code, width in codes.items():
        names = rig.code_names.get(code, tuple(f"{code} {i + 1}" for i in range(width)))
        ends = (-2.0, 2.0) if code == MOTION else (0.0, 1.0)
        if code in rig.codes:
            items = [
                {"part": f"code {code}", "index": i, "name": names[i], **reach(start + i, *ends)} for i in range(width)
            ]
            groups.append((code.capitalize(), items))
        start += width
    return [{"title": name, "items": entries} for name, entries in groups if entries]


def _joints(rig: HeadRig, count: int) -> dict[str, int]:
    """The joints that move the mesh, by name."""
    named = enumerate(rig.joint_names[:count])
    return {name: joint for joint, name in named if rig.parents or joint in rig.pose_joints}


def _turns(rig: HeadRig, joint: int, axis: int) -> bool:
    """Whether a joint turns about an axis: one that a fitted rig has never seen turn so barely moves the mesh."""
    if rig.weights is not None or rig.correctives is None:
        return True
    angle = torch.zeros(3)
    angle[axis] = _TRIED
    features = (rotation_matrices(angle) - torch.eye(3)).flatten()
    start = 9 * rig.pose_joints.index(joint)
    return float(blend_shapes(features, rig.correctives[start : start + 9]).norm(dim=-1).amax()) >= _TURNS


def _poster(avatar: SplatAvatar, camera: Camera, state: HeadState) -> str:
    """The first frame as the browser shows it until, or instead of, the page's own drawing; without a background."""
    device = avatar.gaussians.position.device
    view = camera.scaled(min(1.0, _POSTER / max(camera.size)))
    image = avatar.render(view.to(device), state.to(device), 0.0)
    straight = image.rgb / image.opacity.clamp_min(1e-3)[..., None]
    pixels = torch.cat([straight, image.opacity[..., None]], -1).clamp(0, 1).mul(255).round().to(torch.uint8)
    kind = "webp" if features.check("webp") else "png"
    buffer = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
