"""Cameras, with lens distortion, and their rays."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headfields.records.annotated import is_readable
from headfields.records.base import Record
from headfields.records.inverse import inverse_intrinsics
from headfields.records.lens import FISHEYE, RADIAL_TANGENTIAL, distort, undistort
from headfields.records.precision import full_precision

_LAST_ROW, _IDENTITY = np.array([0.0, 0.0, 0.0, 1.0]), np.eye(3)
_ROUNDING = 1e-2
"""Tolerance of what must be rigid: matrices that are read from text are rounded."""


def _image_size(size: Any) -> tuple[int, int]:
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise TypeError(f"Camera: size is {size!r}; expected two integers, (height, width) in pixels") from None
    return height, width


def _plain(point: Any) -> Any:
    return point.tolist() if isinstance(point, Tensor) else point


@dataclass(frozen=True)
class Camera(Record):
    """One pinhole camera, or a batch of them, with the distortion of its lens if it has any.

    Attributes:
        world_to_camera: (..., 4, 4) rigid transform, OpenCV axes (x right, y down, z forward), meters. Of a
            camera-to-world matrix it is the inverse, `torch.linalg.inv(matrix)`.
        intrinsics: (..., 3, 3) in pixels; the center of the first pixel is (0.5, 0.5). One lens of many cameras may be
            (3, 3).
        size: (height, width) in pixels, integers.
        distortion: coefficients of the lens in OpenCV's order: (..., 5) radial-tangential k1, k2, p1, p2, k3, or (...,
            4) fisheye k1, k2, k3, k4; None for images without distortion. `project` and `rays` go through it;
            rasterizers refuse it (`DistortedCameraError`). One lens of many cameras may be (5,) or (4,).

    Raises:
        TypeError: a matrix is not a floating-point tensor, or size not two integers.
        ValueError: a shape does not fit; on the CPU also: world_to_camera is not rigid, its last row is not
            (0, 0, 0, 1) or that of intrinsics not (0, 0, 1), a focal length is not positive, or a coefficient is not
            finite.
    """

    world_to_camera: Float[Tensor, "*#batch 4 4"]
    intrinsics: Float[Tensor, "*#batch 3 3"]
    size: tuple[int, int]
    distortion: Float[Tensor, "*#batch c"] | None = None

    def __post_init__(self) -> None:
        if type(self.size) is not tuple or any(type(side) is not int for side in self.size):
            object.__setattr__(self, "size", _image_size(self.size))
        for name, other in (("intrinsics", "world_to_camera"), ("world_to_camera", "intrinsics")):
            one, many = getattr(self, name), getattr(self, other)
            if isinstance(one, Tensor) and isinstance(many, Tensor) and one.ndim == 2 < many.ndim:
                object.__setattr__(self, name, one.expand(*many.shape[:-2], *one.shape))
        lens, many = self.distortion, self.world_to_camera
        if isinstance(lens, Tensor):
            if lens.ndim == 0 or lens.shape[-1] not in (RADIAL_TANGENTIAL, FISHEYE):
                raise ValueError(
                    f"Camera: distortion has shape {tuple(lens.shape)}; expected (..., 5), OpenCV's k1, k2, p1, p2, k3 "
                    "(k3 is 0 where there are four), or (..., 4), its fisheye's k1, k2, k3, k4; images of other models "
                    "are undistorted beforehand"
                )
            if lens.ndim == 1 and isinstance(many, Tensor) and many.ndim > 2:
                object.__setattr__(self, "distortion", lens.expand(*many.shape[:-2], *lens.shape))
        super().__post_init__()
        if min(self.size) < 0:
            raise ValueError(f"Camera: size is {self.size}; expected (height, width) in pixels, not negative")
        if is_readable(self.world_to_camera, self.intrinsics):
            self._check_values()

    def _check_values(self) -> None:
        bent = self.distortion
        if bent is not None and is_readable(bent) and not bool(bent.detach().isfinite().all()):
            raise ValueError(f"Camera: distortion holds {bent.tolist()}; expected finite coefficients")
        pose = self.world_to_camera.detach().double().reshape(-1, 4, 4).numpy()
        lens = self.intrinsics.detach().double().reshape(-1, 3, 3).numpy()
        wrong = ~((lens[:, 0, 0] > 0) & (lens[:, 1, 1] > 0) & np.isfinite(lens.sum((1, 2))))
        if wrong.any():
            raise ValueError(
                f"Camera: intrinsics is {lens[wrong][0].tolist()}; expected finite numbers with positive focal lengths "
                "fx and fy: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
            )
        wrong = ~(np.abs(lens[:, 2] - _LAST_ROW[1:]).max(1) < _ROUNDING)
        if wrong.any():
            raise ValueError(
                f"Camera: intrinsics has the last row {lens[wrong][0, 2].tolist()}; expected [0, 0, 1] (the principal "
                "point is the last column)"
            )
        wrong = ~(np.abs(pose[:, 3] - _LAST_ROW).max(1) < _ROUNDING)
        if wrong.any():
            raise ValueError(
                f"Camera: world_to_camera has the last row {pose[wrong][0, 3].tolist()}; expected [0, 0, 0, 1] (the "
                "translation is the last column)"
            )
        rotation = pose[:, :3, :3]
        (a, b, c), (d, e, f), (g, h, i) = rotation.transpose(1, 2, 0)
        determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        gram = rotation @ rotation.transpose(0, 2, 1)
        rigid = (np.abs(gram - _IDENTITY).max((1, 2)) < _ROUNDING) & (determinant > 0)
        wrong = ~(rigid & np.isfinite(pose[:, :3, 3].sum(1)))
        if wrong.any():
            raise ValueError(
                f"Camera: world_to_camera is not rigid: {pose[wrong][0, :3].tolist()}; expected a rotation, without "
                "scale and mirroring, and a translation in meters"
            )

    @classmethod
    def look_at(
        cls,
        eye: Float[Tensor, "*batch 3"] | Sequence[float | int],
        target: Float[Tensor, "*batch 3"] | Sequence[float | int],
        up: Float[Tensor, "*batch 3"] | Sequence[float | int] = (0.0, 1.0, 0.0),
        *,
        size: tuple[int, int],
        fov: float | int | None = None,
        focal: float | int | None = None,
    ) -> "Camera":
        """A camera at one point that looks at another, which it sees in the center of its image.

        Args:
            eye: (3,) the camera's center, meters; (B, 3) for B cameras.
            target: (3,) or (B, 3), meters.
            up: (3,) the direction that is up in the image; y by default.
            size: (height, width) in pixels.
            fov: vertical field of view, degrees.
            focal: focal length, pixels; instead of `fov`.

        Returns:
            One camera or B, float32 unless `eye` is a tensor of another dtype. Differentiable in eye, target and up.

        Raises:
            ValueError: eye and target are one point, `up` is along the view, fov is not in (0, 180), or not exactly one
                of fov and focal is given.

        >>> import headfields as hf
        >>> camera = hf.Camera.look_at((0, 0, 1.2), (0, 0, 0), size=(48, 64), fov=20)  # from the front of a head
        >>> camera.project(torch.tensor([[0.1, 0.05, 0.0]]))[0].round()  # its left is on the right
        tensor([[43., 18.]])
        """
        device = next((each.device for each in (eye, target, up) if isinstance(each, Tensor)), None)
        dtype = eye.dtype if isinstance(eye, Tensor) else torch.float32
        start, end, upward = (torch.as_tensor(x, dtype=torch.float64, device=device) for x in (eye, target, up))
        forward = end - start
        right = torch.linalg.cross(*torch.broadcast_tensors(forward, upward))
        length = right.norm(dim=-1)
        if is_readable(length) and not bool((length > 1e-6 * forward.norm(dim=-1) * upward.norm(dim=-1)).all()):
            raise ValueError(
                f"Camera.look_at: eye {_plain(eye)}, target {_plain(target)} and up {_plain(up)} give no direction; "
                "eye and target must differ, and up must not be along the view"
            )
        right, forward = (torch.nn.functional.normalize(x, dim=-1) for x in torch.broadcast_tensors(right, forward))
        return cls._posed("Camera.look_at", start, right, forward, size, fov, focal, dtype)

    @classmethod
    def orbit(
        cls,
        target: Float[Tensor, "3"] | Sequence[float | int],
        distance: float | int,
        yaw: float | int | Float[Tensor, " b"] | Int[Tensor, " b"] = 0.0,
        pitch: float | int | Float[Tensor, " b"] | Int[Tensor, " b"] = 0.0,
        *,
        size: tuple[int, int],
        fov: float | int | None = None,
        focal: float | int | None = None,
    ) -> "Camera":
        """A camera on a sphere around a point that looks at it: from the front, the left (yaw 90) or behind (180).

        Args:
            target: (3,) the center of the image, meters, y up, face toward +z.
            distance: from the target, meters.
            yaw: degrees about the vertical axis (y), positive toward the head's left (+x); (B,) for B cameras.
            pitch: degrees by which the camera looks from above; -90 to 90.
            size: (height, width) in pixels.
            fov: vertical field of view, degrees.
            focal: focal length, pixels; instead of `fov`.

        Returns:
            One camera or B, float32 unless `target` is a tensor of another dtype.

        Raises:
            ValueError: distance is not positive, fov is not in (0, 180), or not exactly one of fov and focal is given.

        >>> import torch, headfields as hf
        >>> turntable = hf.Camera.orbit((0, 0, 0), 1.2, yaw=torch.arange(0, 360, 90), size=(64, 64), fov=20)
        >>> len(turntable), turntable[1].center.round(decimals=3).add(0).tolist()
        (4, [[1.2000000476837158, 0.0, 0.0]])
        """
        if not 0 < distance < math.inf:
            raise ValueError(f"Camera.orbit: distance is {distance}; expected a positive number of meters")
        device = next((each.device for each in (target, yaw, pitch) if isinstance(each, Tensor)), None)
        dtype = target.dtype if isinstance(target, Tensor) else torch.float32
        center, a, b = (torch.as_tensor(x, dtype=torch.float64, device=device) for x in (target, yaw, pitch))
        a, b = torch.broadcast_tensors(a.deg2rad(), b.deg2rad())
        back = torch.stack([a.sin() * b.cos(), b.sin(), a.cos() * b.cos()], dim=-1)
        right = torch.stack([a.cos(), torch.zeros_like(a), -a.sin()], dim=-1)
        return cls._posed("Camera.orbit", center + distance * back, right, -back, size, fov, focal, dtype)

    @classmethod
    def _posed(
        cls,
        op: str,
        eye: Tensor,
        right: Tensor,
        forward: Tensor,
        size: tuple[int, int],
        fov: float | int | None,
        focal: float | int | None,
        dtype: torch.dtype,
    ) -> "Camera":
        """The camera at `eye` whose axes are the unit vectors `right` and `forward`, all in double precision."""
        height, width = _image_size(size)
        if (fov is None) == (focal is None):
            raise ValueError(f"{op}: fov is {fov} and focal is {focal}; pass one of the two")
        if fov is not None and not 0 < fov < 180:
            raise ValueError(f"{op}: fov is {fov}; expected degrees in (0, 180)")
        length = 0.5 * height / math.tan(math.radians(fov) / 2) if fov is not None else focal
        rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-2)
        pose = torch.zeros(*rotation.shape[:-2], 4, 4, dtype=eye.dtype, device=eye.device)
        pose[..., :3, :3] = rotation
        pose[..., :3, 3] = -(rotation @ eye[..., None])[..., 0]
        pose[..., 3, 3] = 1
        lens = torch.tensor(
            [[length, 0, width / 2], [0, length, height / 2], [0, 0, 1]], dtype=eye.dtype, device=eye.device
        )
        return cls(pose.to(dtype), lens.to(dtype), (height, width))

    def orbited(self, center: Float[Tensor, "3"], yaw: float | int) -> "Camera":
        """The camera carried around the vertical axis (y) through `center` (3,) by `yaw` degrees, positive toward +x.

        >>> import torch, headfields as hf
        >>> front = hf.Camera.orbit((0, 0, 0), 1.2, size=(64, 64), fov=20)
        >>> front.orbited(torch.zeros(3), 90).center.round(decimals=3).add(0).tolist()
        [1.2000000476837158, 0.0, 0.0]
        """
        cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        # Turning the world by the opposite angle before the camera sees it is the same as carrying the camera.
        turn = torch.eye(4).to(self.world_to_camera)
        turn[:3, :3] = torch.tensor([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]).to(turn)
        with full_precision(turn):
            turn[:3, 3] = center - turn[:3, :3] @ center
            return self.replace(world_to_camera=self.world_to_camera @ turn)

    def __len__(self) -> int:
        return self.world_to_camera.shape[0]

    @property
    def center(self) -> Float[Tensor, "*batch 3"]:
        """Camera center in world space."""
        rotation, translation = self.world_to_camera[..., :3, :3], self.world_to_camera[..., :3, 3]
        with full_precision(rotation):
            return -(rotation.transpose(-1, -2) @ translation[..., None])[..., 0]

    def project(
        self, points: Float[Tensor, "*batch n 3"]
    ) -> tuple[Float[Tensor, "*batch n 2"], Float[Tensor, "*batch n"]]:
        """World points to pixels (x right, y down) and depth along the optical axis, in meters.

        >>> import torch
        >>> camera = Camera(torch.eye(4), torch.tensor([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]), (48, 64))
        >>> camera.project(torch.tensor([[0.1, 0.0, 2.0]]))
        (tensor([[37., 24.]]), tensor([2.]))
        """
        pose, lens = self.world_to_camera, self.intrinsics.to(self.world_to_camera)
        with full_precision(pose):
            local = points @ pose[..., :3, :3].transpose(-1, -2) + pose[..., None, :3, 3]
            if self.distortion is not None:
                plane = distort(local, self.distortion.to(pose)[..., None, :])
                return plane @ lens[..., :2, :2].transpose(-1, -2) + lens[..., None, :2, 2], local[..., 2]
            image = local @ lens.transpose(-1, -2)
            return image[..., :2] / image[..., 2:], local[..., 2]

    def scaled(self, factor: float) -> "Camera":
        """The camera of the same image, resized by `factor`; distortion does not depend on the size."""
        height, width = round(self.size[0] * factor), round(self.size[1] * factor)
        scale = torch.tensor([width / self.size[1], height / self.size[0], 1.0]).to(self.intrinsics)
        return self.replace(intrinsics=self.intrinsics * scale[:, None], size=(height, width))

    def lens_rows(self, count: int) -> Float[Tensor, "b c"] | None:
        """The coefficients of the lens for `count` cameras, one row each; None without distortion."""
        if self.distortion is None:
            return None
        return self.distortion.reshape(-1, self.distortion.shape[-1]).expand(count, -1)

    def require_pinhole(self, op: str) -> "Camera":
        """This camera, for an operation that knows no distortion.

        Args:
            op: name of the operation, for the message.

        Raises:
            DistortedCameraError: the camera has distortion, whatever its coefficients.
        """
        if self.distortion is not None:
            raise DistortedCameraError(
                f"{op}: camera has lens distortion, through which it cannot draw or measure; undistort the images "
                "(headfields.ops.undistort.undistort_image) and use camera.replace(distortion=None)"
            )
        return self

    def rays(self, pixels: Int[Tensor, "n 2"] | None = None, frame: Int[Tensor, " n"] | None = None) -> "Rays":
        """Rays through pixel centers.

        >>> import torch
        >>> camera = Camera(torch.eye(4), torch.tensor([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]), (48, 64))
        >>> len(camera.rays()), camera.rays(torch.tensor([[24, 32]])).directions.round(decimals=3)
        (3072, tensor([[0.0050, 0.0050, 1.0000]]))

        Args:
            pixels: (N, 2) integer (row, column); all of the image in row-major order if None (one camera only).
            frame: (N,) each ray's camera of the batch and row of the state; 0 if None.

        Returns:
            Rays with unit directions in world space, in the dtype of `world_to_camera`, under autocast too. Where the
            lens has distortion, it is inverted; differentiable to second order, in the coefficients too.

        Raises:
            ValueError: pixels is None with several cameras; on the CPU also: the distortion has no inverse at a pixel.
        """
        device = self.world_to_camera.device
        pose = self.world_to_camera.reshape(-1, 4, 4)
        intrinsics = self.intrinsics.reshape(-1, 3, 3).expand(pose.shape[0], 3, 3).to(pose)
        if pixels is None:
            if pose.shape[0] != 1:
                raise ValueError(f"Camera.rays: pixels is None with {pose.shape[0]} cameras; index one, camera[0]")
            height, width = self.size
            grid = torch.meshgrid(
                torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
            )
            pixels = torch.stack(grid, dim=-1).reshape(-1, 2)
        one = frame is None
        if frame is None:
            frame = torch.zeros(pixels.shape[0], dtype=torch.long, device=device)
        center = pixels.flip(-1).to(pose.dtype) + 0.5
        with full_precision(pose):
            # Sums of columns: a product of a small matrix with each pixel takes twenty times as long.
            column = _columns(inverse_intrinsics(intrinsics), frame)
            local = center[:, :1] * column[0] + center[:, 1:] * column[1] + column[2]
            if self.distortion is not None:
                local = self._undistorted(local[:, :2], frame)
            column = _columns(pose[:, :3, :3].transpose(-1, -2), frame)
            camera_to_world = pose[:, :3, :3].transpose(-1, -2)
            directions = local[:, :1] * column[0] + local[:, 1:2] * column[1] + local[:, 2:] * column[2]
            centers = -(camera_to_world @ pose[:, :3, 3:])[..., 0]
            directions = torch.nn.functional.normalize(directions, dim=-1)
        rotations = pose[:, :3, :3]
        if one:  # copies, ten times faster than a selection
            count = len(directions)
            return Rays(
                centers[:1].expand(count, 3).contiguous(), directions, frame,
                rotations[:1].expand(count, 3, 3).contiguous(),
            )  # fmt: skip
        return Rays(_selected(centers, frame), directions, frame, _selected(rotations, frame))

    def _undistorted(self, plane: Float[Tensor, "n 2"], frame: Int[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        assert self.distortion is not None
        count = self.distortion.shape[-1]
        lenses = self.distortion.reshape(-1, count).to(plane)
        lens = lenses.expand(max(len(lenses), 1), count)
        directions, valid = undistort(plane, lens[0] if len(lens) == 1 else lens[frame])
        if is_readable(valid) and not bool(valid.all()):
            raise ValueError(
                f"Camera.rays: distortion {lenses[:2].tolist()} has no inverse at {int((~valid).sum())} of "
                f"{len(valid)} pixels; expected OpenCV's order, k1, k2, p1, p2, k3 (radial-tangential) or k1, k2, k3, "
                "k4 (fisheye), and intrinsics in pixels of these images"
            )
        return directions


def _columns(matrices: Float[Tensor, "c 3 3"], frame: Int[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
    """The columns of each ray's matrix, (N, 3) each, or (3,) where there is one matrix for all."""
    first, second, third = (matrices[..., column] for column in range(3))
    if len(matrices) == 1:
        return first[0], second[0], third[0]
    return _selected(first, frame), _selected(second, frame), _selected(third, frame)


def _selected(rows: Float[Tensor, "c *shape"], frame: Int[Tensor, " n"]) -> Float[Tensor, "n *shape"]:
    """`rows[frame]`, several times as fast: of rows that lie one behind the other, without an index's generality."""
    return rows.contiguous().index_select(0, frame)


class DistortedCameraError(ValueError):
    """An operation that draws or measures without lens distortion was given a camera that has some."""


@dataclass(frozen=True)
class Rays(Record):
    """N rays.

    Attributes:
        origins: (N, 3) in world space, meters.
        directions: (N, 3) unit directions in world space. Distances, steps and densities are per unit of them: with
            others, images change in silence.
        frame: (N,) the row of the state that each ray sees.
        camera_rotation: (N, 3, 3) world to camera, OpenCV axes, for light that is fixed to the camera; `Camera.rays`
            fills it.
    """

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    frame: Int[Tensor, " n"]
    camera_rotation: Float[Tensor, "n 3 3"] | None = None

    def __len__(self) -> int:
        return self.origins.shape[0]
