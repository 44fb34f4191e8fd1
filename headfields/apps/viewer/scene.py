"""The scene of the viewer without a browser: what is shown, from which settings, and what is drawn for it."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from headfields.apps.viewer.articulation import Articulation, Control
from headfields.apps.viewer.looks import FAR, Look, Picture, drawn
from headfields.apps.viewer.motion import Motion
from headfields.metrics.image import psnr
from headfields.ops.reference.rasterize_gaussians import harmonic_colors
from headfields.ops.rotations import rotation_from_quaternion
from headfields.records import Camera, HeadState, Splats
from headfields.records.inverse import inverse_intrinsics
from headfields.viz.heat import heat
from headfields.viz.images import to_uint8
from headfields.viz.mesh import draw_wireframe, view_camera

__all__ = ["LAYERS", "CameraView", "Scene", "SplatArrays", "View"]

LAYERS = ("avatar", "mesh", "wireframe", "landmarks", "cameras")
MOST_CAMERAS = 12
THUMBNAIL = 96
"""Longer side of a camera's thumbnail, pixels."""
LINE, POINT = (40, 90, 200), (220, 40, 40)
FRUSTUM = 0.12
"""Depth of a drawn camera over the size of the head."""
ON_SURFACE = 0.01
"""Meters behind what an avatar shows at which a line or point still counts as on it, not hidden by it."""
_DISTANCE_LIMIT = 0.15
"""Absolute error of a color that is drawn in the darkest red."""


@dataclass(frozen=True)
class View:
    """What is set up in the panel.

    Attributes:
        motion: name of the motion.
        frame: its frame.
        values: offsets of the controls by name; missing ones are 0.
        look: how the avatar is shown.
        canonical: whether the head is shown in canonical space.
        layers: those of `LAYERS` that are shown.
    """

    motion: str
    frame: int = 0
    values: Mapping[str, float | int] = field(default_factory=dict)
    look: Look = "color"
    canonical: bool = False
    layers: frozenset[str] = frozenset({"avatar"})


@dataclass(frozen=True)
class SplatArrays:
    """Gaussians as a rasterizer without harmonics draws them.

    Attributes:
        centers: (N, 3) meters.
        covariances: (N, 3, 3).
        colors: (N, 3) sRGB in [0, 1].
        opacities: (N, 1) in [0, 1].
    """

    centers: Float[np.ndarray, "n 3"]
    covariances: Float[np.ndarray, "n 3 3"]
    colors: Float[np.ndarray, "n 3"]
    opacities: Float[np.ndarray, "n 1"]


@dataclass(frozen=True)
class CameraView:
    """A camera of the capture and a small image of its frame.

    Attributes:
        frame: number of the frame.
        camera: one camera.
        thumbnail: (h, w, 3) of 8 bits.
    """

    frame: int
    camera: Camera
    thumbnail: UInt8[np.ndarray, "h w 3"]


class Scene:
    """A head to look at and what moves it. Every method is safe to call from several threads.

    Args:
        name: for the title.
        avatar: anything with `render(camera, state, background)`, as `headfields.Avatar`, `headfields.SplatAvatar` and
            `MeshPainter`.
        motions: states by frame; the first is shown first.
        articulation: what sliders move.
        faces: (F, 3) of the states' mesh, for the mesh, wireframe and nearest triangles; None: there is no mesh.
        canonical: the vertices (V, 3) of canonical space; None: the avatar has none.
        capture: cameras, images and landmarks of the motion that is `recorded`; None: there are none.
        landmarks: (L,) vertices that are landmarks; None: there are none.
        proxy: an avatar of Gaussians that stands in for `avatar` while something moves.
        center: (3,) what the camera looks at first; the middle of the first state's mesh if None.
        extent: size of the head, meters, for the first camera; what the mesh needs if None.
        background: gray behind the head in [0, 1].
    """

    def __init__(
        self,
        name: str,
        avatar: Any,
        motions: Sequence[Motion],
        articulation: Articulation | None = None,
        faces: Int[Tensor, "f 3"] | None = None,
        canonical: Float[Tensor, "v 3"] | None = None,
        capture: Any = None,
        landmarks: Int[Tensor, " l"] | None = None,
        proxy: Any = None,
        center: Float[Tensor, "3"] | None = None,
        extent: float | int | None = None,
        background: float | int = 1.0,
    ) -> None:
        if not motions:
            raise ValueError("Scene: motions is empty; pass at least one, Motion.still('rest', state)")
        self.name, self.avatar, self.capture, self.proxy = name, avatar, capture, proxy
        self.motions = {motion.name: motion for motion in motions}
        if len(self.motions) != len(motions):
            raise ValueError(f"Scene: two of the motions {[motion.name for motion in motions]} have one name")
        self.articulation, self.faces, self.canonical = articulation, faces, canonical
        self.landmarks, self.background = landmarks, background
        self._drawing = threading.Lock()
        self._state: tuple[Any, HeadState] | None = None
        vertices = motions[0].state_of(0).vertices[0]
        usable = vertices[vertices.isfinite().all(-1)]
        if not len(usable):
            usable = torch.zeros(1, 3) if center is None else center[None]
        middle = 0.5 * (usable.amin(0) + usable.amax(0))
        self.center: Float[Tensor, "3"] = (middle if center is None else center).cpu()
        span = 2 * float((usable - middle).norm(dim=-1).max())
        self.extent = max(span if extent is None else extent, 1e-3)

    @property
    def controls(self) -> tuple[Control, ...]:
        """The sliders."""
        return () if self.articulation is None else self.articulation.controls

    @property
    def layers(self) -> tuple[str, ...]:
        """Those of `LAYERS` that this scene has."""
        has = {
            "avatar": True, "mesh": self.faces is not None, "wireframe": self.faces is not None,
            "landmarks": self.landmarks is not None, "cameras": self.capture is not None,
        }  # fmt: skip
        return tuple(name for name in LAYERS if has[name])

    def add(self, motion: Motion) -> None:
        """Adds a motion; before a `Viewer` shows the scene, which lists them.

        Raises:
            ValueError: there is one of this name.
        """
        if motion.name in self.motions:
            raise ValueError(f"Scene.add: there is a motion {motion.name} already; pass another name")
        self.motions[motion.name] = motion

    def first_view(self) -> View:
        """The first motion's first frame as it is."""
        return View(next(iter(self.motions)))

    def first_camera(self, size: tuple[int, int] = (512, 512)) -> Camera:
        """A camera in front of the head."""
        side = min(size)
        camera = view_camera(
            self.center[None], size=side, center=self.center, extent=self.extent, distance=4 * self.extent
        )
        height, width = size
        lens = camera.intrinsics.clone()
        lens[0, 2], lens[1, 2] = width / 2, height / 2
        return Camera(camera.world_to_camera, lens, size)

    def state(self, view: View) -> HeadState:
        """The state of the view, one frame.

        Raises:
            KeyError: there is no such motion.
        """
        key = (view.motion, view.frame, tuple(sorted(view.values.items())), view.canonical)
        known = self._state
        if known is not None and known[0] == key:
            return known[1]
        motion = self.motions[view.motion]
        state = motion.state_of(min(max(view.frame, 0), motion.count - 1))
        if self.articulation is not None:
            state = self.articulation.apply(state, view.values)
        if view.canonical and self.canonical is not None:
            joints = state.joint_transforms
            if joints is not None:
                joints = torch.eye(4).to(joints).expand_as(joints)
            state = state.replace(vertices=self.canonical.to(state.vertices)[None], joint_transforms=joints)
        self._state = key, state
        return state

    def gaussians(self, view: View, moving: bool = False) -> Any | None:
        """The avatar of Gaussians that this view shows by its colors: the own one, or while `moving` the proxy."""
        if view.look != "color" or "avatar" not in view.layers:
            return None
        if hasattr(self.avatar, "splats"):
            return self.avatar
        return self.proxy if moving else None

    @torch.no_grad()
    def splats(self, view: View, eye: Float[Tensor, "3"], moving: bool = False) -> SplatArrays | None:
        """The Gaussians of the view; None if the avatar has none, or is not shown by its colors.

        Args:
            view: the settings.
            eye: (3,) the point that harmonics are evaluated for, meters.
            moving: whether the proxy will do.
        """
        avatar = self.gaussians(view, moving)
        if avatar is None:
            return None
        state = self.state(view)
        with self._drawing, avatar.evaluating():
            return _arrays(avatar.splats(state), eye)

    @torch.no_grad()
    def picture(self, view: View, camera: Camera, stand_in: bool = False) -> Picture:
        """The avatar as an image, in the look of the view; empty if its layer is off.

        Args:
            view: the settings.
            camera: one camera.
            stand_in: whether the proxy is drawn, where there is one.
        """
        if "avatar" not in view.layers:
            gray = np.full((*camera.size, 3), round(255 * self.background), np.uint8)
            return Picture(gray, np.full(camera.size, FAR, np.float32))
        state = self.state(view)
        with self._drawing:
            avatar = self.proxy if stand_in and self.proxy is not None else self.avatar
            rendering = avatar.render(camera, state, self.background)
        mesh = None if self.faces is None else (state.vertices[0], self.faces)
        distance = float((camera.center.reshape(3).cpu() - self.center).norm())
        depths = (distance - self.extent / 2, distance + self.extent / 2)
        return drawn(rendering, camera, view.look, self.background, mesh, depths)

    def vertices(self, view: View) -> Float[np.ndarray, "v 3"]:
        """The mesh of the view, meters."""
        return self.state(view).vertices[0].detach().cpu().numpy()

    def mesh(self, view: View) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
        """The vertices of the view, meters, and its faces: a vertex that is not finite is moved to the middle, without
        its faces, because a browser makes one sphere around all vertices."""
        assert self.faces is not None
        vertices, faces = self.vertices(view), self.faces.cpu().numpy()
        lost = ~np.isfinite(vertices).all(-1)
        if not lost.any():
            return vertices, faces
        return np.where(lost[:, None], self.center.numpy(), vertices), faces[~lost[faces].any(-1)]

    def points(self, view: View) -> Float[np.ndarray, "l 3"]:
        """The landmarks of the view, meters; those that are not known or not finite are left out."""
        if self.landmarks is None:
            return np.zeros((0, 3), np.float32)
        points = self.vertices(view)[self.landmarks[self.landmarks >= 0].numpy()]
        return points[np.isfinite(points).all(-1)]

    def cameras(self, most: int = MOST_CAMERAS) -> list[CameraView]:
        """Evenly spaced cameras of the capture with their images; reads the frames.

        Args:
            most: largest number of them.

        Raises:
            CaptureError: a frame cannot be read.
        """
        if self.capture is None or not len(self.capture):
            return []
        frames = np.unique(np.linspace(0, len(self.capture) - 1, min(most, len(self.capture))).round().astype(int))
        views = []
        for frame in frames.tolist():
            image = Image.fromarray(to_uint8(self.capture.image(frame)))
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            views.append(CameraView(frame, self.capture.camera([frame])[0], np.asarray(image)))
        return views

    def truth_frame(self, view: View) -> int | None:
        """The frame of the capture that the view shows as recorded; None if its motion is another."""
        motion = self.motions[view.motion]
        return min(view.frame, motion.count - 1) if motion.recorded and self.capture is not None else None

    @torch.no_grad()
    def error(self, view: View, size: int = 256) -> tuple[UInt8[np.ndarray, "h w 3"], float] | None:
        """Truth | rendering | error from the frame's own camera, and the PSNR in dB; None if the frame has no truth.

        Args:
            view: the settings; sliders that are not at 0 count as errors.
            size: largest height of the three images, pixels; the PSNR is that of this size.

        Raises:
            CaptureError: the frame cannot be read.
        """
        frame = self.truth_frame(view)
        if frame is None:
            return None
        camera = self.capture.camera([frame])[0]
        rgba = self.capture.image(frame)
        truth = rgba[..., :3] * rgba[..., 3:] + self.background * (1 - rgba[..., 3:])
        factor = min(size / camera.size[0], 1.0)
        if factor < 1:
            camera = camera.scaled(factor)
            channels = truth.permute(2, 0, 1)[None]
            resized = torch.nn.functional.interpolate(channels, size=camera.size, mode="area")
            truth = resized[0].permute(1, 2, 0)
        state = self.state(view)
        with self._drawing:
            image = self.avatar.render(camera, state, self.background).rgb.cpu().clamp(0, 1)
        difference = heat((image - truth).abs().mean(-1).flatten(), _DISTANCE_LIMIT).reshape(*camera.size, 3)
        row = to_uint8(torch.cat([truth, image, difference], dim=1))
        figure = psnr(image, truth)
        assert figure is not None  # only a mask without pixels has none
        return row, float(figure)

    @torch.no_grad()
    def snapshot(self, view: View, camera: Camera) -> UInt8[np.ndarray, "h w 3"]:
        """Everything that is set up, in one image at full quality: avatar, mesh, wireframe, landmarks, cameras.

        Args:
            view: the settings.
            camera: one camera.
        """
        picture = self.picture(view, camera)
        image, depth = picture.rgb, picture.depth
        if self.faces is not None and {"mesh", "wireframe"} & view.layers:
            posed = self.state(view).vertices
            if "mesh" in view.layers:
                image, depth = self._over(image, depth, camera, posed)
            if "wireframe" in view.layers:
                pixels, along = camera.project(posed[0])
                faces = [(corners, LINE) for corners in self.faces.tolist()]
                image = draw_wireframe(image, pixels, along, faces)
        canvas = Image.fromarray(image)
        draw = ImageDraw.Draw(canvas)
        if "landmarks" in view.layers:
            _dots(draw, camera, torch.from_numpy(self.points(view)), depth)
        if "cameras" in view.layers:
            for each in self.cameras():
                _frustum(draw, camera, each.camera, FRUSTUM * self.extent)
        return np.asarray(canvas)

    def _over(
        self, image: np.ndarray, depth: np.ndarray, camera: Camera, posed: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """The clay mesh, half transparent over what is behind it."""
        from headfields.apps.viewer.mesh_painter import MeshPainter
        from headfields.mesh.mesh import Mesh

        assert self.faces is not None
        painter = MeshPainter(Mesh(posed[0], self.faces))
        clay = drawn(painter.render(camera, HeadState(posed)), camera, "color")
        front = clay.depth < depth + 1e-3
        mixed = np.where(front[..., None], (0.4 * image + 0.6 * clay.rgb).round().astype(np.uint8), image)
        return mixed, np.minimum(depth, clay.depth)


def _arrays(splats: Splats, eye: Float[Tensor, "3"]) -> SplatArrays:
    """The Gaussians of all frames (one, for the viewer) in one list, their harmonics as seen from a point; those that
    are not finite are left out, as the rasterizer leaves them out."""
    rotation = rotation_from_quaternion(splats.quaternions.float())
    axes = rotation * splats.scales.float()[..., None, :]
    covariances = axes @ axes.transpose(-1, -2)
    if splats.colors is not None:
        colors = splats.colors
    else:
        assert splats.harmonics is not None
        colors = harmonic_colors(splats.means.float(), splats.harmonics.float(), eye[None].to(splats.means))

    def array(tensor: Tensor, *shape: int) -> np.ndarray:
        return tensor.detach().float().cpu().reshape(-1, *shape).numpy()

    arrays = (
        array(splats.means, 3), array(covariances, 3, 3), array(colors.clamp(0, 1), 3),
        array(splats.opacities.clamp(0, 1), 1),
    )  # fmt: skip
    finite = np.all([np.isfinite(each.reshape(len(each), -1)).all(-1) for each in arrays], axis=0)
    return SplatArrays(*(arrays if finite.all() else (each[finite] for each in arrays)))


def _dots(draw: Any, camera: Camera, points: Float[Tensor, "l 3"], depth: np.ndarray) -> None:
    """Points that nothing hides, as dots."""
    height, width = camera.size
    pixels, along = camera.project(points)
    for (x, y), z in zip(pixels.tolist(), along.tolist(), strict=True):
        column, row = int(x), int(y)
        if z > 0 and 0 <= column < width and 0 <= row < height and z < float(depth[row, column]) + ON_SURFACE:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=POINT)


def _frustum(draw: Any, camera: Camera, other: Camera, depth: float | int) -> None:
    """The outline of another camera: its center and its image at a depth."""
    height, width = other.size
    corners = torch.tensor([[0, 0], [width, 0], [width, height], [0, height]], dtype=torch.float32)
    lens = inverse_intrinsics(other.intrinsics.reshape(3, 3))
    local = torch.cat([corners, torch.ones(4, 1)], 1) @ lens.T * depth
    pose = other.world_to_camera.reshape(4, 4)
    world = (local - pose[:3, 3]) @ pose[:3, :3]
    ends = torch.cat([other.center.reshape(1, 3), world])
    pixels, along = camera.project(ends)
    if float(along.min()) <= 0:
        return
    flat = [tuple(pixel) for pixel in pixels.tolist()]
    for start, end in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)):
        draw.line([flat[start], flat[end]], fill=LINE)
