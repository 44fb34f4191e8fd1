"""One frame's fit of a rig: pose, light so far, lens; saved as safetensors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from headfields.apps.tracking.file_formats import TRACKED_TEMPLATE
from headfields.apps.tracking.frame_fit import FrameFit
from headfields.apps.tracking.rig.body import BodyPose
from headfields.apps.tracking.rig.light import LightSums
from headfields.files.reading import reading
from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.records import Camera

__all__ = ["RigFit"]


@dataclass(frozen=True)
class RigFit(FrameFit):
    """The fit of one frame by `RigTracker`.

    Attributes:
        frame: index in the capture.
        pose: pose of the body.
        light: normal equations of the light, summed up to and including this frame.
        camera: the lens, at the image's own size; it stands at the origin.
        errors: fit errors of the frame: `"psnr"` (dB, where both template and matte are), `"iou"`, `"landmarks_px"`
            (pixels of the image), `"energy"`.
    """

    pose: BodyPose
    light: LightSums
    camera: Camera

    def save(self, path: Path) -> None:
        tensors = {"world_to_camera": self.pose.world_to_camera, "turns": self.pose.turns,
                   "expression": self.pose.expression, "light.matrix": self.light.matrix,
                   "light.vector": self.light.vector, "light.count": self.light.count,
                   "intrinsics": self.camera.intrinsics}  # fmt: skip
        header = {"frame": self.frame, "size": list(self.camera.size), "errors": dict(self.errors)}
        path.parent.mkdir(parents=True, exist_ok=True)
        owned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        write_safetensors(path, owned, {TRACKED_TEMPLATE: header})

    @classmethod
    def load(cls, path: Path) -> "RigFit":
        with reading(path, "a fit of a rig"):
            return cls._of(*read_safetensors(path, TRACKED_TEMPLATE))

    @classmethod
    def _of(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> "RigFit":
        pose = BodyPose(tensors["world_to_camera"], tensors["turns"], tensors["expression"])
        light = LightSums(tensors["light.matrix"], tensors["light.vector"], tensors["light.count"])
        size = (int(header["size"][0]), int(header["size"][1]))
        camera = Camera(pose.world_to_camera.new_zeros(4, 4).fill_diagonal_(1.0), tensors["intrinsics"], size)
        return cls(int(header["frame"]), pose, light, camera, errors=header["errors"])
