"""PSNR by region of the face, over all pixels of several frames.

`python -m benchmarks.regions RUN [--split test] [--every 1]` prints those of a trained run as JSON.

Regions are labels, and for eyelids, which have none, the faces of the template that a pixel sees.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import headfields as hf
from headfields.cli import open_run
from headfields.data.labels import Label, labels_of
from headfields.ops.triangle_bvh import TriangleBVH
from headfields.records import PixelBatch

LABELS = {
    "lips and mouth": labels_of("mouth"), "teeth and inside": labels_of("mouth_interior"), "eyes": labels_of("eyes"),
    "brows": labels_of("brows"), "nose": labels_of("nose"), "other skin": labels_of("skin"),
    "neck": labels_of("neck"), "hair": (int(Label.HAIR),), "background": labels_of("background"),
}  # fmt: skip
"""Labels by the names that tables print."""


class FaceRegions:
    """Masks of pixels by region.

    Args:
        capture: without labels, its pixels have the regions "image", "head" and "eyes and lids" alone.
    """

    def __init__(self, capture: hf.data.Capture) -> None:
        self.capture = capture
        template = capture.template
        self.around_eyes = template.regions.get("eyes")
        self.tree = TriangleBVH(template.faces, template.canonical_vertices)

    def masks(self, frame: int, pixels: PixelBatch) -> dict[str, Bool[Tensor, " n"]]:
        """Masks (N,) of pixels of a frame by name; "eyes and lids" are a ring of faces around the eyeballs with them,
        and "lids" those of its pixels that have no label of an eye."""
        masks = {"image": torch.ones(len(pixels), dtype=torch.bool), "head": pixels.alpha > 0.5}
        if pixels.label is not None:
            for name, labels in LABELS.items():
                masks[name] = torch.isin(pixels.label.int(), torch.tensor(labels, dtype=torch.int32))
        if self.around_eyes is not None:
            tree = self.tree.posed(self.capture.state([frame]).vertices)
            face = tree.raycast(pixels.rays.origins, pixels.rays.directions).face
            masks["eyes and lids"] = self.around_eyes[face.clamp_min(0)] & (face >= 0)
            if "eyes" in masks:
                masks["lids"] = masks["eyes and lids"] & ~masks["eyes"]
        return masks

    def blinks(self, frames: Iterable[int], share: float = 0.6) -> list[int]:
        """The frames in which fewer pixels are an eye's than `share` of the median over the capture."""
        eyes = torch.tensor(labels_of("eyes"), dtype=torch.int32)
        count: list[int] = []
        for frame in range(len(self.capture)):
            label = self.capture.label(frame)
            count.append(0 if label is None else int(torch.isin(label.int(), eyes).sum()))
        limit = share * float(torch.tensor(count, dtype=torch.float).median())
        return [frame for frame in frames if count[frame] < limit]


class RegionErrors:
    """Squared errors of color, summed by region.

    >>> import torch
    >>> from benchmarks.regions import RegionErrors
    >>> errors = RegionErrors()
    >>> errors.add({"half": torch.tensor([True, False])}, torch.tensor([[0.1, 0.1, 0.1], [1, 1, 1]]))
    >>> {name: round(value, 2) for name, value in errors.psnr().items()}
    {'half': 20.0}
    """

    def __init__(self) -> None:
        self.squared, self.count = defaultdict[str, float](float), defaultdict[str, int](int)

    def add(self, masks: dict[str, Bool[Tensor, " n"]], difference: Float[Tensor, "n 3"]) -> None:
        """Adds the differences in color of N pixels."""
        squared = difference.double().square().mean(dim=-1)
        for name, mask in masks.items():
            self.squared[name] += float(squared[mask].sum())
            self.count[name] += int(mask.sum())

    def psnr(self) -> dict[str, float]:
        """dB by region, of those that have pixels."""
        return {
            name: -10 * math.log10(max(self.squared[name] / count, 1e-12))
            for name, count in self.count.items()
            if count
        }


@torch.no_grad()
def psnr_by_region(
    capture: hf.data.Capture, frames: Iterable[int], colors: Callable[[int, PixelBatch], Float[Tensor, "n 3"]]
) -> dict[str, float]:
    """PSNR in dB of each region over all pixels of the frames, on white.

    Args:
        capture: the truth.
        frames: the frames.
        colors: function from a frame and its N pixels to their rendered colors (N, 3).
    """
    regions, errors = FaceRegions(capture), RegionErrors()
    for frame in frames:
        pixels = capture.pixels(frame, background=1.0)
        errors.add(regions.masks(frame, pixels), colors(frame, pixels).clamp(0, 1) - pixels.target)
    return errors.psnr()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--every", type=int, default=1, help="measure every n-th frame of the split")
    arguments = parser.parse_args()
    folder, config = open_run.open_run(arguments.run)
    avatar, capture = open_run.load_avatar(folder, config, 2048), open_run.capture_of(config, None, 2048)

    def colors(frame: int, pixels: PixelBatch) -> Float[Tensor, "n 3"]:
        return avatar.render(capture.camera([frame])[0], capture.state([frame]), 1.0).rgb.view(-1, 3)

    frames = capture.splits[arguments.split].tolist()[:: arguments.every]
    print(json.dumps({name: round(value, 2) for name, value in psnr_by_region(capture, frames, colors).items()}))


if __name__ == "__main__":
    main()
