"""Metrics of images (PSNR, SSIM, LPIPS) and of surfaces (chamfer distance, normal consistency, F-score)."""

from typing import TYPE_CHECKING

from headfields.metrics.image import psnr, ssim
from headfields.metrics.surface import compare_surfaces
from headfields.old_names import deprecated_names

__all__ = [
    "compare_surfaces",
    "psnr",
    "ssim",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated_names(__name__)
