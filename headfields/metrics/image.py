"""Image metrics: PSNR and SSIM, whole or within a mask, and LPIPS and FLIP where they are installed.

Images are (H, W, 3) sRGB in [0, 1]. Each function returns a Python float, without a gradient.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headfields.metrics.structural_similarity import WINDOW, ssim_map
from headfields.ops._checks import check_floating
from headfields.ops.srgb import BRIGHTEST


@torch.no_grad()
def psnr(
    image: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None = None
) -> float | None:
    """Peak signal-to-noise ratio in dB, for a peak of 1, over all pixels or those in the mask.

    Args:
        image: (H, W, 3), sRGB in [0, 1].
        truth: (H, W, 3), sRGB in [0, 1].
        mask: (H, W) the pixels to compare; all if None.

    Returns:
        dB; infinity for equal images; None for an empty mask.

    Raises:
        TypeError: an image is of bytes.
        ValueError: the shapes differ, or the truth has values outside [0, 1].

    >>> import torch, headfields as hf
    >>> round(hf.metrics.psnr(torch.full((4, 4, 3), 0.6), torch.full((4, 4, 3), 0.5)), 3)
    20.0
    """
    _check_images("psnr", image, truth, mask)
    if mask is not None:
        image, truth = image[mask], truth[mask]
    if not image.numel():
        return None
    return decibels(float((image - truth).square().mean()))


def decibels(mean_squared_error: float, most: float = math.inf) -> float:
    """PSNR in dB of a mean squared error, for a peak of 1: −10 log₁₀, and no more than `most`.

    Every PSNR of the library is computed here. NaN stays NaN.

    >>> from headfields.metrics.image import decibels
    >>> decibels(0.01), decibels(0.0), decibels(0.0, most=120.0)
    (20.0, inf, 120.0)
    """
    return min(-10 * math.log10(mean_squared_error), most) if mean_squared_error != 0 else most


@torch.no_grad()
def ssim(
    image: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None = None
) -> float | None:
    """Structural similarity (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5), averaged over channels.

    With a mask, the mean of the SSIM map over its pixels, whose windows reach beyond it.

    Args:
        image: (H, W, 3), sRGB in [0, 1].
        truth: (H, W, 3), sRGB in [0, 1].
        mask: (H, W) the pixels to compare; all if None.

    Returns:
        A value in [-1, 1]; None for an empty mask.

    Raises:
        ValueError: the shapes differ, or the image is smaller than the window.
    """
    _check_images("ssim", image, truth, mask)
    if min(image.shape[:2]) < WINDOW:
        raise ValueError(
            f"ssim: image has shape {tuple(image.shape)}; its sides must be at least the window's {WINDOW} pixels"
        )
    if mask is not None and not bool(mask.any()):
        return None
    image, truth = (x.movedim(-1, 0)[None].float() for x in (image, truth))
    values = ssim_map(image, truth)
    return float(values.mean() if mask is None else values[0].mean(0)[mask].mean())


def lpips_installed() -> bool:
    """Whether the `lpips` package is installed."""
    return importlib.util.find_spec("lpips") is not None


@functools.lru_cache(maxsize=4)
def lpips_network(net: str, device: torch.device) -> Callable[..., Tensor]:
    """LPIPS (Zhang et al. 2018) as a frozen network of two batches of images (P, 3, H, W) in [-1, 1] to distances.

    Args:
        net: `"vgg"`, `"alex"` or `"squeeze"`.
        device: device of the network.

    Raises:
        ModuleNotFoundError: the `lpips` package is not installed.
        Exception: torchvision's weights of the network cannot be downloaded.
    """
    if not lpips_installed():
        raise ModuleNotFoundError("LPIPS needs the package lpips; pip install headfields[lpips]")
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=net, verbose=False).to(device).eval().requires_grad_(False)


@functools.lru_cache(maxsize=2)
def load_lpips(device: torch.device) -> Callable[[Tensor, Tensor], float] | None:
    """LPIPS (Zhang et al. 2018, AlexNet) as a function of two images, or None where it is not available.

    It needs the `lpips` package and the weights of torchvision's AlexNet, which are downloaded at first use. A warning
    reports a failure.

    Args:
        device: device of the network.

    Returns:
        A function from an image and the truth, (H, W, 3) sRGB in [0, 1] each, to their distance; or None.
    """
    if not lpips_installed():
        return None
    try:
        network = lpips_network("alex", device)
    except Exception as error:  # without a network, disk space or torchvision, evaluation continues without LPIPS
        warnings.warn(f"LPIPS is left out: {type(error).__name__}: {error}", stacklevel=2)
        return None

    @torch.no_grad()
    def distance(image: Tensor, truth: Tensor) -> float:
        _check_images("lpips", image, truth, None)
        pair = [x.movedim(-1, 0)[None].float() * 2 - 1 for x in (image, truth)]
        return float(network(*pair))

    return distance


PIXELS_PER_DEGREE = 67.0
"""Of FLIP: the default of its authors, a 4K screen 0.7 m wide seen from 0.7 m."""


@functools.lru_cache(maxsize=1)
def load_flip() -> Callable[[Tensor, Tensor], Float[Tensor, "h w"]] | None:
    """FLIP for low dynamic range (Andersson et al. 2020) by its authors' package, or None without it.

    The images are taken to be on a screen of `PIXELS_PER_DEGREE`. Larger values are larger errors.

    Returns:
        A function from an image and the truth, (H, W, 3) sRGB in [0, 1] each, to the error (H, W) in [0, 1] of each
        pixel; or None where `flip_evaluator` is not installed (`pip install headfields[flip]`).
    """
    if importlib.util.find_spec("flip_evaluator") is None:
        return None
    import flip_evaluator

    def errors(image: Tensor, truth: Tensor) -> Tensor:
        _check_images("flip", image, truth, None)
        arrays = [np.ascontiguousarray(x.detach().cpu().float().numpy()) for x in (truth, image)]
        given = {"inputsRGB": True, "applyMagma": False, "computeMeanError": False}
        found, _, _ = flip_evaluator.evaluate(*arrays, "LDR", **given, parameters={"ppd": PIXELS_PER_DEGREE})
        return torch.from_numpy(np.asarray(found)[..., 0]).to(image.device)

    return errors


def instruments() -> dict[str, str]:
    """By "flip" and "lpips" where they are installed: package and version, network, viewing distance."""
    known = {
        "flip": ("flip-evaluator", f"low dynamic range, {PIXELS_PER_DEGREE:g} pixels per degree"),
        "lpips": ("lpips", "version 0.1 on AlexNet, torchvision's weights"),
    }
    found = {}
    for measure, (package, how) in known.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[measure] = f"{package} {importlib.metadata.version(package)}, {how}"
    return found


def _check_images(op: str, image: Tensor, truth: Tensor, mask: Tensor | None) -> None:
    for name, pixels in (("image", image), ("truth", truth)):
        check_floating(op, name, pixels)
    if image.ndim != 3 or image.shape[-1] != 3 or image.shape != truth.shape:
        raise ValueError(
            f"{op}: image has shape {tuple(image.shape)} and truth {tuple(truth.shape)}; expected (H, W, 3) for both"
        )
    for name, pixels, most in (("image", image, BRIGHTEST), ("truth", truth, 1.001)):
        highest = float(pixels.max()) if pixels.numel() else 0.0
        if highest > most:
            raise ValueError(f"{op}: {name} has values up to {highest:g}; expected sRGB in [0, 1]: divide bytes by 255")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
        kind = f"has dtype {mask.dtype}" if isinstance(mask, Tensor) else f"is a {type(mask).__name__}"
        raise TypeError(f"{op}: mask {kind}; expected a bool tensor (mask > 0.5)")
    if mask is not None and mask.shape != image.shape[:2]:
        raise ValueError(f"{op}: mask has shape {tuple(mask.shape)}; expected {tuple(image.shape[:2])}")
