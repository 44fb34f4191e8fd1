"""Frames of a lens with distortion, undistorted as they are decoded: the cameras of captures are pinhole cameras."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headfields.data.errors import CaptureError
from headfields.ops.undistort import undistort_image, undistort_pixels
from headfields.records import Camera
from headfields.records.lens import distort, undistort

__all__ = ["Undistortion"]

Decoded = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]
_STEPS = 33  # points along each side of the image at which a lens is tried
_LEAST = 1e-3  # pixels


class Undistortion:
    """Undistorts images, labels, depth and landmarks; intrinsics and size stay.

    Colors are interpolated with their mattes (what the lens did not see has the matte 0), labels and depth are those of
    the nearest pixel, and landmarks are moved. Coefficients that are all 0 change nothing.

    Args:
        intrinsics: (F, 3, 3) pixels.
        coefficients: (F, 5) or (F, 4), as `Camera.distortion` has them.
        size: (height, width).
        names: of the frames, for messages.

    Raises:
        CaptureError: a lens folds its image, or moves parts of it by more than the image's side.
    """

    def __init__(
        self,
        intrinsics: Float[np.ndarray, "f 3 3"],
        coefficients: Float[np.ndarray, "f c"],
        size: tuple[int, int],
        names: list[str],
    ) -> None:
        self.intrinsics, self.coefficients, self.size = intrinsics, coefficients, size
        self.largest = 0.0
        lenses: dict[bytes, int] = {}
        for frame, (lens, numbers) in enumerate(zip(intrinsics, coefficients, strict=True)):
            lenses.setdefault(lens.tobytes() + numbers.tobytes(), frame)
        for frame in lenses.values():
            if self._bends(frame):
                self.largest = max(self.largest, self._reach(frame, names[frame]))

    def line(self) -> str:
        """A line for the report."""
        kind = "radial-tangential" if self.coefficients.shape[1] == 5 else "fisheye"
        return (
            f"lens distortion ({kind}): images, mattes, labels, depth and landmarks are undistorted as they are read, "
            f"by up to {self.largest:.1f} pixels"
        )

    def image(self, frame: int, decoded: Decoded) -> Decoded:
        """RGBA (H, W, 4) and optional label and depth (H, W) of a frame, undistorted."""
        if not self._bends(frame):
            return decoded
        rgba, label, depth = decoded
        camera = self._camera(frame)
        values = torch.from_numpy(rgba.astype(np.float32))
        alpha = values[..., 3:]
        moved = undistort_image(torch.cat([values[..., :3] * alpha, values], dim=-1), camera)
        weight = moved[..., 6:]
        color = torch.where(weight > 0, moved[..., :3] / weight.clamp_min(1e-3), moved[..., 3:6])
        straight = torch.cat([color, weight], dim=-1).round().clamp(0, 255).to(torch.uint8).numpy()
        return straight, self._nearest(label, camera), self._nearest(depth, camera)

    def landmarks(self, frame: int, points: Float[np.ndarray, "l 2"] | None) -> Float[np.ndarray, "l 2"] | None:
        """Landmarks in pixels, undistorted; NaN where the lens has no inverse."""
        if points is None or not self._bends(frame):
            return points
        return undistort_pixels(torch.from_numpy(points).double(), self._camera(frame)).float().numpy()

    def _bends(self, frame: int) -> bool:
        return bool(self.coefficients[frame].any())

    def _camera(self, frame: int) -> Camera:
        lens, numbers = (torch.from_numpy(np.array(x[frame])) for x in (self.intrinsics, self.coefficients))
        return Camera(torch.eye(4, dtype=lens.dtype), lens, self.size, numbers)

    @staticmethod
    def _nearest(values: np.ndarray | None, camera: Camera) -> np.ndarray | None:
        if values is None:
            return None
        numbers = torch.from_numpy(values.astype(np.float32))[..., None]
        return undistort_image(numbers, camera, "nearest")[..., 0].numpy().astype(values.dtype)

    def _reach(self, frame: int, name: str) -> float:
        """By how many pixels the lens moves the image at most."""
        camera = self._camera(frame)
        height, width = self.size
        ends = (torch.linspace(0, side, _STEPS, dtype=torch.float64) for side in (width, height))
        pixels = torch.stack(torch.meshgrid(*ends, indexing="xy"), dim=-1).reshape(-1, 2)
        plane = (pixels - camera.intrinsics[:2, 2]) / camera.intrinsics.diagonal()[:2]
        assert camera.distortion is not None
        bent = distort(torch.nn.functional.pad(plane, (0, 1), value=1.0), camera.distortion)
        back, valid = undistort(bent, camera.distortion)
        focal: Tensor = camera.intrinsics.diagonal()[:2]
        off = ((back[:, :2] / back[:, 2:] - plane) * focal).abs().amax(dim=1)
        moved = ((bent - plane) * focal).norm(dim=1).amax()
        if not bool((valid & (off < _LEAST)).all()) or not float(moved) < max(self.size):
            raise CaptureError(
                f"{name}: lens distortion {self.coefficients[frame].tolist()} folds the image, or moves it by more "
                "than its side; expected OpenCV's coefficients (k1, k2, p1, p2, k3; of its fisheye k1, k2, k3, k4) for "
                "the focal lengths and the principal point given"
            )
        return float(moved)
