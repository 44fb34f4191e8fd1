"""Every loss with a rendering or a batch that is not meant for it: its own error, with the loss's name, or a number."""

import dataclasses
import re

import pytest
import torch

import headfields as hf
from headfields.records import ImageBatch, PixelBatch
from tests.losses.test_losses import make

GIVEN = {
    "CodePrior": {"code": "identity"}, "SurfacePrior": {"faces": torch.tensor([[0, 1, 2]])},
    "FunctionLoss": {"function": lambda rendering, batch: rendering.rgb.mean()},
    "LPIPSLoss": {"network": lambda first, second: (first - second).square().mean((1, 2, 3))},
}  # fmt: skip
LOSSES = [
    getattr(hf.losses, name)(**GIVEN.get(name, {})) for name in hf.losses.__all__
    if name != "Loss" and isinstance(getattr(hf.losses, name), type)
]  # fmt: skip
COLORS = {"HuberColor", "L1DSSIM", "LPIPSLoss", "SSIMLoss", "SquaredColor"}


def images(size: int = 12) -> tuple[hf.Rendering, ImageBatch]:
    rendering, batch, _ = make(size * size)
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(size, size), fov=20)
    shape = (1, size, size)
    whole = ImageBatch(camera[None], batch.rgb.reshape(*shape, 3), batch.alpha.reshape(shape), torch.ones(1, 3))
    parts = (rendering.rgb.reshape(*shape, 3), rendering.opacity.reshape(shape), rendering.depth.reshape(shape))
    return hf.Rendering(*parts), whole


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_wrong_batches(loss, unchecked) -> None:
    kind, (rendering, batch, _) = type(loss).__name__, make(144)
    patches = batch.replace(patch_rays=torch.arange(144).reshape(1, 12, 12))
    whole, pictures = images()
    bytes_as_floats = [
        (rendering, patches.replace(rgb=255 * batch.rgb)), (rendering.replace(rgb=255 * rendering.rgb), patches),
        (rendering, patches.replace(background=255 * batch.background)),
        (whole, pictures.replace(rgb=255 * pictures.rgb)),
    ]  # fmt: skip
    pairs: list[tuple[hf.Rendering, PixelBatch | ImageBatch]] = [
        (rendering, batch), (rendering, patches), (whole, pictures),  # no samples, no field, no Gaussians
        (rendering, batch[:100]), (whole, patches), (rendering, pictures), *bytes_as_floats,
    ]  # fmt: skip
    told = 0
    for shown, seen in pairs:
        try:
            value = loss(shown, seen, 600)
        except (ValueError, TypeError) as error:
            assert re.match(rf"{loss.name} loss: ", str(error)), f"{kind}: {error}"
            told += "divide bytes by 255" in str(error)
        else:
            assert value.shape == () and bool(value.isfinite()), kind
            assert shown.opacity.shape == seen.alpha.shape or kind == "FunctionLoss", kind
    assert told == (len(bytes_as_floats) if kind in COLORS else 0)


def test_a_record_takes_no_bytes(unchecked: None) -> None:
    _, batch, _ = make(4)
    with pytest.raises(TypeError, match=r"PixelBatch: rgb has dtype torch.uint8; expected float32"):
        dataclasses.replace(batch, rgb=(255 * batch.rgb).byte())
