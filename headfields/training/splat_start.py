"""Where Gaussians start: colors from the images of a capture, and none where its mattes are empty."""

import warnings
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from headfields.avatar.splat_avatar import SplatAvatar
from headfields.data.labels import labels_of
from headfields.networks.gaussians import DC
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.ops.triangle_frames import triangle_frames

_HIDDEN = 0.004
"""Meters behind the mesh from which on a Gaussian is hidden by it."""
_STANDS_OFF = 0.002
"""Meters above its triangle from which on a Gaussian is one for hair."""
_BARE = 0.6
"""Share of the frames in which the pixel at a Gaussian for hair has the label of something else (skin, an eye, cloth),
from which on it is dropped: in front of skin it looks like skin, and in profile like haze beside it."""
_CHECK = "check the images' alpha, and that meshes and cameras lie on them"
_EMPTY = 0.3
"""Share of the frames with an empty matte at a Gaussian from which on it is dropped."""


@torch.no_grad()
def start_from_images(avatar: SplatAvatar, capture: Any, frames: int = 24, drop: bool = True) -> None:
    """Gives each Gaussian the mean color of its pixels where it is in view, and drops those where mattes are empty, and
    those for hair (2 mm or more above their triangle) that no frame shows, or where labels say that there is none. It
    warns, and drops none, where the mattes are empty at all of them.

    A Gaussian is in view where the mesh is not in front of it. Those that are never in view keep their color. A short
    training is spared what every image says. Call it before the trainer is made; do not in a run that is resumed.

    Args:
        avatar: its deformer has a mesh.
        capture: training frames, evenly spaced ones, are read.
        frames: number of them.
        drop: whether Gaussians are dropped; else they get colors alone.

    Raises:
        ValueError: the deformer has no mesh, or frames is less than 1.
    """
    mesh = avatar.template_faces
    if mesh is None or frames < 1:
        raise ValueError(
            f"start_from_images: frames is {frames} and the deformer {type(avatar.deformer).__name__}; expected 1 or "
            "more, and a deformer with a mesh, such as headfields.deformers.TriangleBinding"
        )
    gaussians, device = avatar.gaussians, avatar.gaussians.position.device
    split = torch.as_tensor(capture.splits["train"], dtype=torch.long)
    chosen = split[torch.linspace(0, max(len(split) - 1, 0), min(frames, len(split))).round().long()].unique()
    total = torch.zeros(len(gaussians), 3, device=device)
    weight, empty, inside_count, bare, in_view = (torch.zeros(len(gaussians), device=device) for _ in range(5))
    vertices, faces = mesh
    label_of = getattr(capture, "label", lambda frame: None)
    is_bare = torch.ones(256, dtype=torch.bool, device=device)
    is_bare[list(labels_of("background", "hair"))] = False
    tree = TriangleBVH(faces, vertices)
    for frame in chosen.tolist():
        state, camera = capture.state([frame]).to(device), capture.camera([frame]).to(device)
        means = avatar.splats(state).means[0]
        color, inside = _pixels_at(means, camera, capture.image(frame).to(device))
        alpha = color[:, 3]
        away = means - camera.center
        distance = away.norm(dim=-1)
        posed = tree.posed(state.vertices)
        hit = posed.raycast(camera.center.expand_as(means), away / distance[:, None]).distance
        view = inside & (hit > distance - _HIDDEN)
        total += (color[:, :3] * (alpha * view)[:, None]).nan_to_num()
        weight += alpha * view
        empty += inside & (alpha < 0.5)
        inside_count += inside
        label = label_of(frame)
        if label is not None:
            bare += view & is_bare[_nearest_pixel(label.to(device), means, camera).long()]
            in_view += view
    known = weight > 0
    mean = total / weight.clamp_min(1e-6)[:, None]
    gaussians.color.copy_(torch.where(known[:, None], (mean - 0.5) / DC, gaussians.color))
    if not drop:
        return
    frames_of_faces = triangle_frames(vertices, faces)[gaussians.face]
    away = avatar.deformer.rest(gaussians(), gaussians.face).means - frames_of_faces[..., 3]
    height = (away * frames_of_faces[..., 2]).sum(-1)
    over_skin = (height > _STANDS_OFF) & (in_view > 0) & (bare >= _BARE * in_view)
    unseen = (height > _STANDS_OFF) & (weight == 0)
    covered = empty <= _EMPTY * inside_count
    if len(covered) and not bool(covered.any()):
        warnings.warn(
            f"start_from_images: the mattes of {len(chosen)} training frames of {capture.name!r} are empty at all "
            f"{len(covered)} Gaussians, so none is dropped; {getattr(capture, 'if_mattes_are_empty', _CHECK)}",
            stacklevel=2,
        )
        return
    keep = covered & ~over_skin & ~unseen
    if not bool(keep.all()):
        gaussians.take(keep.nonzero()[:, 0])


def _nearest_pixel(values: UInt8[Tensor, "h w"], points: Float[Tensor, "n 3"], camera: Any) -> UInt8[Tensor, " n"]:
    """The image's value at each point, or at the border."""
    pixel = camera.project(points[None])[0][0].nan_to_num().floor().long()
    height, width = values.shape
    return values[pixel[:, 1].clamp(0, height - 1), pixel[:, 0].clamp(0, width - 1)]


def _pixels_at(points: Float[Tensor, "n 3"], camera: Any, image: Float[Tensor, "h w 4"]) -> tuple[Tensor, Tensor]:
    """Color and matte (N, 4) of the image at the points, and whether they are in it."""
    pixel, depth = (value[0] for value in camera.project(points[None]))
    height, width = image.shape[:2]
    size = pixel.new_tensor([width, height])
    grid = (2 * pixel / size - 1)[None, None]
    values = functional.grid_sample(image.movedim(-1, 0)[None], grid, align_corners=False, padding_mode="border")
    inside = (depth > 0) & (pixel > 0).all(-1) & (pixel < size).all(-1)
    return values[0, :, 0].T, inside
