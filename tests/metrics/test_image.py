import math

import pytest
import torch

from headfields.metrics import image as metrics
from headfields.metrics.structural_similarity import ssim_map


def images(size: tuple[int, int] = (20, 30), noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(*size, 3, generator=generator)
    return (truth + noise * torch.randn(*size, 3, generator=generator)).clamp(0, 1), truth


def test_psnr_by_hand():
    truth = torch.full((4, 5, 3), 0.5)
    assert metrics.psnr(truth + 0.1, truth) == pytest.approx(20.0, abs=1e-3)
    assert metrics.psnr(truth, truth) == math.inf


def test_masked_psnr_looks_inside_only():
    image, truth = images()
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[5:9, 7:20] = True
    error = (image - truth)[5:9, 7:20].square().mean().item()
    assert metrics.psnr(image, truth, mask) == pytest.approx(-10 * math.log10(error), abs=1e-3)


def test_ssim_agrees_with_scikit_image():
    skimage = pytest.importorskip("skimage.metrics")
    image, truth = images((40, 50))
    wanted = skimage.structural_similarity(
        image.numpy(), truth.numpy(), channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert metrics.ssim(image, truth) == pytest.approx(wanted, abs=2e-3)


def test_masked_ssim():
    image, truth = images((40, 50))
    everywhere = torch.ones(40, 50, dtype=torch.bool)
    assert metrics.ssim(image, truth, everywhere) == pytest.approx(metrics.ssim(image, truth), abs=1e-6)
    half = everywhere.clone()
    half[:, 25:] = False
    spoiled = image.clone()
    spoiled[:, 32:] = 0.0  # beyond the reach of the windows inside the mask
    assert metrics.ssim(spoiled, truth, half) == pytest.approx(metrics.ssim(image, truth, half), abs=1e-6)
    assert metrics.ssim(spoiled, truth) < metrics.ssim(image, truth) - 0.1


def test_nothing_in_the_mask_is_none():
    image, truth = images()
    empty = torch.zeros(20, 30, dtype=torch.bool)
    assert metrics.psnr(image, truth, empty) is None
    assert metrics.ssim(image, truth, empty) is None


@pytest.mark.parametrize("function", [metrics.psnr, metrics.ssim])
def test_bad_shapes(function, unchecked):
    image, truth = images()
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\)"):
        function(image, truth[:5])
    with pytest.raises(ValueError, match="mask has shape"):
        function(image, truth, torch.ones(3, 3, dtype=torch.bool))


def test_ssim_of_an_image_smaller_than_its_window():
    image, truth = images((8, 30))
    with pytest.raises(ValueError, match="11 pixels"):
        metrics.ssim(image, truth)


def test_lpips_is_absent_without_its_package(monkeypatch):
    monkeypatch.setattr(metrics, "lpips_installed", lambda: False)
    metrics.load_lpips.cache_clear()
    assert metrics.load_lpips(torch.device("cpu")) is None


def test_lpips_that_cannot_load_warns_and_is_absent(monkeypatch):
    class Broken:
        @staticmethod
        def LPIPS(**_):
            raise OSError("no network")

    monkeypatch.setattr(metrics, "lpips_installed", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "lpips", Broken)
    metrics.load_lpips.cache_clear()
    with pytest.warns(UserWarning, match="no network"):
        assert metrics.load_lpips(torch.device("cpu")) is None
    metrics.load_lpips.cache_clear()


def test_lpips_gets_images_in_its_range(monkeypatch):
    class Package:
        class LPIPS(torch.nn.Module):
            def __init__(self, **_):
                super().__init__()

            def forward(self, image, truth):
                assert image.shape == (1, 3, 20, 30) and image.min() >= -1 and image.min() < 0
                return (image - truth).abs().mean()

    monkeypatch.setattr(metrics, "lpips_installed", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "lpips", Package)
    metrics.load_lpips.cache_clear()
    image, truth = images()
    distance = metrics.load_lpips(torch.device("cpu"))
    assert distance(image, truth) == pytest.approx(2 * (image - truth).abs().mean().item(), rel=1e-4)
    metrics.load_lpips.cache_clear()


def test_ssim_agrees_with_torchmetrics():
    from torchmetrics.functional.image import structural_similarity_index_measure

    image, truth = images((31, 44))
    pair = [x.movedim(-1, 0)[None] for x in (image, truth)]
    value, full = structural_similarity_index_measure(*pair, data_range=1.0, return_full_image=True)
    mask = torch.rand(31, 44, generator=torch.Generator().manual_seed(0)) < 0.2
    assert metrics.ssim(image, truth) == pytest.approx(float(value), abs=1e-6)
    assert metrics.ssim(image, truth, mask) == pytest.approx(float(full[0].mean(0)[mask].mean()), abs=1e-6)


def test_ssim_maps_of_other_shapes_and_borders(unchecked):
    images = torch.rand(2, 3, 9, 5)
    assert ssim_map(images, images, border="zeros").shape == images.shape
    assert ssim_map(images[:0], images[:0], border="zeros").shape == (0, 3, 9, 5)
    for arguments, message in (
        ((images, images[:1]), "expected \\(P, C, H, W\\)"),
        ((images, images), "more than 5 pixels"),
        ((images, images, "wrap"), "border is 'wrap'"),
    ):
        with pytest.raises(ValueError, match=message):
            ssim_map(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssim_map(images, 1 - images, "zeros"), ssim_map(images, 1 - images, "zeros").float())
    assert ssim_map(images.double(), images.double(), "zeros").dtype == torch.float64
