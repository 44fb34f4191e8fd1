"""Rows of INSTA's studies: regions of the template that change what a part does, and the weight of the mouth."""

from typing import Any

import torch

import headfields as hf
from headfields.losses import DepthPrior, HuberColor
from headfields.losses.base import Loss

START = 250
"""First step of the mouth's weight: a quarter of the studies' steps."""


def _with_region(capture: hf.data.Capture, region: str, all_faces: bool, **arguments: Any) -> hf.Avatar:
    template = capture.template
    mask = torch.full((len(template.faces),), all_faces)
    template = template.replace(regions={**template.regions, region: mask})
    width = min(64, capture.expression_width or 0)
    return hf.models.insta(template, expression_width=width, **{"scaling": "none", **arguments})


def area_everywhere(capture: hf.data.Capture, shell: float, behind: float | None) -> hf.Avatar:
    """Λ by area at all faces, where the released code has it at the eyes."""
    return _with_region(capture, "eyes", True, scaling="area", shell=shell, behind=behind)


def no_blending(capture: hf.data.Capture, shell: float, behind: float | None) -> hf.Avatar:
    """No neighbors blend, which are those of the face."""
    return _with_region(capture, "face", False, shell=shell, behind=behind)


def expression_everywhere(capture: hf.data.Capture, shell: float, behind: float | None) -> hf.Avatar:
    """The expression reaches all points, and not those near the mouth alone."""
    return _with_region(capture, "mouth", True, shell=shell, behind=behind)


def early_mouth(depth: float, depth_start: int) -> list[Loss]:
    """INSTA's losses, the mouth's weight from a quarter of the steps on."""
    return _losses(40.0, depth, depth_start)


def plain_mouth(depth: float, depth_start: int) -> list[Loss]:
    """INSTA's losses, the mouth weighing as much as all else."""
    return _losses(1.0, depth, depth_start)


def _losses(mouth: float, depth: float, depth_start: int) -> list[Loss]:
    color = HuberColor(region_weight=mouth, region_start=START)
    return [color, DepthPrior(start=depth_start, weight=depth)] if depth else [color]
