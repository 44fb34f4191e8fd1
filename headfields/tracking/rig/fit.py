"""One frame's fit of a template: what it holds, and how it is kept."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headfields.files.safetensors import read_safetensors, write_safetensors
from headfields.records import Camera
from headfields.tracking.rig.body import BodyPose
from headfields.tracking.rig.light import LightSums

__all__ = ["TemplateFit"]

_KEY = "headfields.tracked_template"


@dataclass(frozen=True)
class TemplateFit:
    """What tracking has found for a frame.

    Attributes:
        frame: its index in the capture.
        pose: where the body is.
        light: the light's normal equations up to and with this frame.
        camera: the lens, at the image's own size; it stands at the origin.
        errors: numbers that say how well it fits: `"psnr"` (dB, where the template and the matte are), `"iou"`,
            `"landmarks_px"` (pixels of the image), `"energy"`.
    """

    frame: int
    pose: BodyPose
    light: LightSums
    camera: Camera
    errors: Mapping[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes it to a safetensors file, atomically."""
        tensors = {"world_to_camera": self.pose.world_to_camera, "turns": self.pose.turns,
                   "expression": self.pose.expression, "light.matrix": self.light.matrix,
                   "light.vector": self.light.vector, "light.count": self.light.count,
                   "intrinsics": self.camera.intrinsics}  # fmt: skip
        header = {"frame": self.frame, "size": list(self.camera.size), "errors": dict(self.errors)}
        path.parent.mkdir(parents=True, exist_ok=True)
        owned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        write_safetensors(path, owned, {_KEY: json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> "TemplateFit":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it is another's.
        """
        found, header = read_safetensors(path, _KEY)
        pose = BodyPose(found["world_to_camera"], found["turns"], found["expression"])
        light = LightSums(found["light.matrix"], found["light.vector"], found["light.count"])
        size = (int(header["size"][0]), int(header["size"][1]))
        camera = Camera(pose.world_to_camera.new_zeros(4, 4).fill_diagonal_(1.0), found["intrinsics"], size)
        return cls(int(header["frame"]), pose, light, camera, header["errors"])
