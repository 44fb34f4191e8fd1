"""One frame's fit: what it holds, and how it is kept."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.records import Camera
from headfields.tracking.prior.pose import head_camera

__all__ = ["FrameFit"]

_KEY = "headfields.tracked_frame"


@dataclass(frozen=True)
class FrameFit:
    """What tracking has found for a frame.

    Attributes:
        frame: its index in the capture.
        codes: `"geometry"`, `"appearance"`, `"expression_code"`: (W,) each, as the prior has them.
        free: (K,) each: the same along the prior's principal directions, in the units they are fitted in.
        rotation, translation: (3,) x → R x + t from the frame's world (as `camera` sees it) to the space of the prior;
            axis times angle in radians, meters.
        camera: of the frame, at the size that was fitted.
        to_capture: (4, 4) from the world that `camera` sees to the capture's own.
        light: (9, 3) coefficients of `headfields.renderers.SHLighting`.
        matrix, offset: (3, 3), (3,) of `headfields.renderers.ColorAffine`.
        errors: numbers that say how well it fits: `"color"`, `"mask"`, `"landmarks"` (pixels of the reduced image),
            `"steps"`, and others.
    """

    frame: int
    codes: Mapping[str, Float[Tensor, " w"]]
    free: Mapping[str, Float[Tensor, " w"]]
    rotation: Float[Tensor, "3"]
    translation: Float[Tensor, "3"]
    camera: Camera
    to_capture: Float[Tensor, "4 4"]
    light: Float[Tensor, "9 3"]
    matrix: Float[Tensor, "3 3"]
    offset: Float[Tensor, "3"]
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def head_camera(self) -> Camera:
        """The camera for what is in the space of the prior."""
        return head_camera(self.camera, self.rotation, self.translation)

    def in_capture(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Points (N, 3) of the space of the prior in the world of the capture, meters."""
        there = torch.linalg.inv(self.camera.world_to_camera) @ self.head_camera.world_to_camera
        there = self.to_capture @ there
        return points @ there[:3, :3].T + there[:3, 3]

    def save(self, path: Path) -> None:
        """Writes it to a safetensors file, atomically."""
        tensors = {f"codes.{name}": value for name, value in self.codes.items()}
        tensors |= {f"free.{name}": value for name, value in self.free.items()}
        for name in ("rotation", "translation", "to_capture", "light", "matrix", "offset"):
            tensors[name] = getattr(self, name)
        tensors |= {"world_to_camera": self.camera.world_to_camera, "intrinsics": self.camera.intrinsics}
        header = {"frame": self.frame, "size": list(self.camera.size), "errors": dict(self.errors)}
        path.parent.mkdir(parents=True, exist_ok=True)
        owned = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        write_safetensors(path, owned, {_KEY: json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> "FrameFit":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it is another's.
        """
        tensors, header = read_safetensors(path, _KEY)

        def group(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}

        names = ("rotation", "translation", "to_capture", "light", "matrix", "offset")
        size = (int(header["size"][0]), int(header["size"][1]))
        return cls(
            frame=int(header["frame"]), codes=group("codes."), free=group("free."),
            camera=Camera(tensors["world_to_camera"], tensors["intrinsics"], size), errors=header["errors"],
            **{name: tensors[name] for name in names},
        )  # fmt: skip

    def to(self, device: torch.device) -> "FrameFit":
        """The same with its tensors on a device."""
        names = ("rotation", "translation", "to_capture", "light", "matrix", "offset")
        return replace(
            self, codes={name: value.to(device) for name, value in self.codes.items()},
            free={name: value.to(device) for name, value in self.free.items()}, camera=self.camera.to(device),
            **{name: getattr(self, name).to(device) for name in names},
        )  # fmt: skip
