"""Scores of a rendering by region of the head: the one definition that evaluation, studies and benchmarks share.

A region is a set of pixels of the frame's truth. PSNR is that of the region's own squared errors; SSIM and FLIP are
maps, whose mean over the region's pixels is taken. A frame counts for a region if it has `MIN_PIXELS` of its pixels,
and the score of several frames is the mean of theirs, not that of their pixels pooled: frames are what a comparison is
paired and drawn by, a mean of decibels is what papers report, and one frame that fails does not outweigh all others.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from headfields.data.labels import labels_of
from headfields.metrics.image import psnr
from headfields.metrics.structural_similarity import WINDOW, ssim_map
from headfields.ops.triangle_bvh import TriangleBVH

IMAGE, HEAD = "", "head"
"""The whole image, whose scores have no region in their names, and the matte without clothes."""

REGIONS: Mapping[str, tuple[int, ...]] = {
    "face": labels_of("face", "mouth", "eyes"),
    "mouth": labels_of("mouth"),
    "mouth_interior": labels_of("mouth_interior"),
    "eyes": labels_of("eyes"),
    "brows": labels_of("brows"),
    "nose": labels_of("nose"),
    "skin": labels_of("skin"),
    "ears": labels_of("ears"),
    "neck": labels_of("neck"),
    "cloth": labels_of("cloth"),
    "hair": labels_of("hair"),
}
"""Labels of each region of a capture with labels. Beside them are "lids", which have no label, and what needs none:
the image and "head"."""

MIN_PIXELS = 32
"""Fewest pixels of a region that a frame has a score of. With errors as of independent normal noise, the PSNR of n
pixels of three channels deviates by 4.34 √(2 / 3n) dB from that of many: 0.6 dB at 32, 2.0 dB at 3."""

MAPPED = (IMAGE, HEAD, "face", "hair")
"""Regions with SSIM and FLIP: those of mouth and eyes would be about their surroundings, which the windows reach."""


class RegionMasks:
    """Masks of the pixels of a capture's frames by region.

    Args:
        capture: its labels make the regions of `REGIONS`, and its template's region `"eyes"` the lids. What it lacks is
            left out.
    """

    def __init__(self, capture: Any) -> None:
        self.capture = capture
        template: Any = getattr(capture, "template", None)
        self._around_eyes = None if template is None else template.regions.get("eyes")
        self._tree = None if self._around_eyes is None else TriangleBVH(template.faces, template.canonical_vertices)

    def __call__(self, frame: int, alpha: Float[Tensor, "h w"], names: bool = True) -> dict[str, Bool[Tensor, "h w"]]:
        """Masks (H, W) by name, on the device of the matte.

        Args:
            frame: index of the frame.
            alpha: (H, W) its matte.
            names: False for the image and the head alone.
        """
        label = self._label(frame)
        head = alpha > 0.5
        if label is not None:
            label = label.to(alpha.device)
            head = head & ~_labeled(label, REGIONS["cloth"])
        masks = {IMAGE: torch.ones_like(head), HEAD: head}
        if not names or label is None:
            return masks
        masks |= {name: _labeled(label, labels) for name, labels in REGIONS.items()}
        if self._tree is not None and self._around_eyes is not None:
            rays = self.capture.camera([frame]).rays()
            hit = self._tree.posed(self.capture.state([frame]).vertices).raycast(
                rays.origins, rays.directions, rays.frame
            )
            ring = self._around_eyes[hit.face.clamp_min(0).long()] & (hit.face >= 0)
            masks["lids"] = ring.reshape(head.shape).to(head.device) & ~masks["eyes"]
        return masks

    def _label(self, frame: int) -> UInt8[Tensor, "h w"] | None:
        """The labels of a frame; None of a capture that has none, or knows no labels."""
        label = getattr(self.capture, "label", None)
        return None if label is None else label(frame)

    def blinks(self, share: float = 0.6) -> list[int]:
        """The frames in which fewer pixels are an eye's than `share` of the median over the capture; none without
        labels."""
        by_frame = [self._label(frame) for frame in range(len(self.capture))]
        labels = [label for label in by_frame if label is not None]
        if len(labels) < len(by_frame):
            return []
        count = torch.tensor([float(_labeled(label, REGIONS["eyes"]).sum()) for label in labels])
        return (count < share * count.median()).nonzero()[:, 0].tolist()


def region_scores(
    image: Float[Tensor, "h w 3"],
    truth: Float[Tensor, "h w 3"],
    masks: Mapping[str, Bool[Tensor, "h w"]],
    perceptual: Callable[[Tensor, Tensor], float] | None = None,
    flip: Callable[[Tensor, Tensor], Float[Tensor, "h w"]] | None = None,
) -> dict[str, float | None]:
    """Scores of one frame: `psnr`, `ssim`, `lpips` and `flip` of the image, and `psnr_head`, `ssim_head` and so on.

    Args:
        image, truth: (H, W, 3) sRGB in [0, 1].
        masks: of `RegionMasks`.
        perceptual: LPIPS as a function of image and truth, of the image alone, because its features reach far; None
            leaves it out.
        flip: FLIP's map as a function of image and truth; None leaves it out.

    Returns:
        Scores by name; None where the region has fewer than `MIN_PIXELS` pixels, unless it is the image.

    >>> import torch
    >>> from headfields.training.region_scores import region_scores
    >>> half = torch.arange(32)[:, None].expand(32, 32) < 16
    >>> truth = torch.zeros(32, 32, 3)
    >>> scores = region_scores(truth + 0.1 * half[..., None], truth, {"face": half, "mouth": half & False})
    >>> round(scores["psnr_face"], 3), scores["psnr_mouth"]
    (20.0, None)
    """
    if min(image.shape[:2]) < WINDOW:
        raise ValueError(f"region_scores: image has shape {tuple(image.shape)}; expected sides of {WINDOW} or more")
    rendered, true = (x.movedim(-1, 0)[None].float() for x in (image, truth))
    maps = {"ssim": ssim_map(rendered, true)[0].mean(0)}
    if flip is not None:
        maps["flip"] = flip(image, truth)
    scores: dict[str, float | None] = {}
    for name, mask in masks.items():
        tail, few = f"_{name}" if name else "", bool(name) and int(mask.sum()) < MIN_PIXELS
        scores[f"psnr{tail}"] = None if few else psnr(image, truth, mask)
        if name in MAPPED:
            scores |= {f"{kind}{tail}": None if few else float(values[mask].mean()) for kind, values in maps.items()}
    if perceptual is not None:
        scores["lpips"] = perceptual(image, truth)
    return scores


def _labeled(label: UInt8[Tensor, "h w"], labels: tuple[int, ...]) -> Bool[Tensor, "h w"]:
    return torch.isin(label, torch.tensor(labels, dtype=label.dtype, device=label.device))
