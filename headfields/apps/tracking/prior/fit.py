"""One frame's fit of a prior: codes, pose, camera, light and color affine; saved as safetensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.apps.tracking.file_formats import TRACKED_FRAME
from headfields.apps.tracking.frame_fit import FrameFit
from headfields.apps.tracking.prior.pose import head_camera
from headfields.files.reading import reading
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.records import Camera
from headfields.records.device_copy import send

__all__ = ["PriorFit"]

_TENSORS = ("rotation", "translation", "to_capture", "light", "matrix", "offset")


@dataclass(frozen=True)
class PriorFit(FrameFit):
    """The fit of one frame by `PriorTracker`.

    Attributes:
        frame: index in the capture.
        codes: `"geometry"`, `"appearance"`, `"expression_code"`: (W,) each, as the prior's networks take them.
        free: (K,) each: the same codes along the prior's principal directions, in the units they are fitted in.
        rotation, translation: (3,) of x → R x + t from the frame's world (the one `camera` sees) to the space of the
            prior; axis-angle in radians, meters.
        camera: camera of the frame, at the fitted image size.
        to_capture: (4, 4) from the frame's world to the capture's own.
        light: (9, 3) coefficients of `headfields.renderers.SHLighting`.
        matrix, offset: (3, 3), (3,) of `headfields.renderers.ColorAffine`.
        errors: fit errors of the frame: `"color"`, `"mask"`, `"landmarks"`, `"psnr"` (dB), `"iou"`, `"landmarks_px"`
            (pixels of the reduced image), `"steps"`, and others.
    """

    codes: Mapping[str, Float[Tensor, " w"]]
    free: Mapping[str, Float[Tensor, " w"]]
    rotation: Float[Tensor, "3"]
    translation: Float[Tensor, "3"]
    camera: Camera
    to_capture: Float[Tensor, "4 4"]
    light: Float[Tensor, "9 3"]
    matrix: Float[Tensor, "3 3"]
    offset: Float[Tensor, "3"]

    @property
    def head_camera(self) -> Camera:
        """The camera in the space of the prior."""
        return head_camera(self.camera, self.rotation, self.translation)

    def in_capture(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Points (N, 3) of the space of the prior, in the world of the capture, meters."""
        to_world = torch.linalg.inv(self.camera.world_to_camera) @ self.head_camera.world_to_camera
        transform = self.to_capture @ to_world
        return points @ transform[:3, :3].T + transform[:3, 3]

    def save(self, path: Path) -> None:
        tensors = {f"codes.{name}": value for name, value in self.codes.items()}
        tensors |= {f"free.{name}": value for name, value in self.free.items()}
        tensors |= {name: getattr(self, name) for name in _TENSORS}
        tensors |= {"world_to_camera": self.camera.world_to_camera, "intrinsics": self.camera.intrinsics}
        header = {"frame": self.frame, "size": list(self.camera.size), "errors": dict(self.errors)}
        path.parent.mkdir(parents=True, exist_ok=True)
        owned = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        write_safetensors(path, owned, {TRACKED_FRAME: header})

    @classmethod
    def load(cls, path: Path) -> "PriorFit":
        with reading(path, "a fit of a prior"):
            return cls._of(*read_safetensors(path, TRACKED_FRAME))

    @classmethod
    def _of(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> "PriorFit":
        def group(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}

        size = (int(header["size"][0]), int(header["size"][1]))
        return cls(
            frame=int(header["frame"]), codes=group("codes."), free=group("free."),
            camera=Camera(tensors["world_to_camera"], tensors["intrinsics"], size), errors=header["errors"],
            **{name: tensors[name] for name in _TENSORS},
        )  # fmt: skip

    def to(self, device: torch.device) -> "PriorFit":
        """The fit with its tensors on a device: between devices in one copy, for which a GPU is waited once."""
        tensors = [*self.codes.values(), *self.free.values(), self.camera.world_to_camera, self.camera.intrinsics]
        tensors += [getattr(self, name) for name in _TENSORS]
        if {(tensor.device, tensor.dtype) for tensor in tensors} != {(self.rotation.device, self.rotation.dtype)}:
            return self._mapped(lambda tensor: tensor.to(device))
        if self.rotation.device == device:
            return self
        flat = send(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]), device)
        moved = iter(flat.split([tensor.numel() for tensor in tensors]))
        return self._mapped(lambda tensor: next(moved).view(tensor.shape))

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "PriorFit":
        """A copy with a function applied to each tensor, in the order of `to`."""
        changes: dict[str, Any] = {
            name: {code: function(value) for code, value in getattr(self, name).items()} for name in ("codes", "free")
        }
        camera = self.camera
        changes["camera"] = camera.replace(
            world_to_camera=function(camera.world_to_camera), intrinsics=function(camera.intrinsics)
        )
        changes |= {name: function(getattr(self, name)) for name in _TENSORS}
        return replace(self, **changes)
