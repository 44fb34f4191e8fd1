"""Metrics of images (PSNR, SSIM, LPIPS) and of surfaces (chamfer distance, normal consistency, F-score)."""

from headfields.metrics.image import load_lpips, lpips_installed, psnr, ssim
from headfields.metrics.surface import GeometryMetrics, OneWay, compare_surfaces

__all__ = [
    "GeometryMetrics",
    "OneWay",
    "compare_surfaces",
    "load_lpips",
    "lpips_installed",
    "psnr",
    "ssim",
]
