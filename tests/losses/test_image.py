"""Losses on images: L1 with D-SSIM, and what their batches need."""

from types import SimpleNamespace

import pytest
import torch

from headfields.losses import L1DSSIM, SSIMLoss
from headfields.metrics import ssim
from headfields.parts import Rendering
from headfields.records import PixelBatch, Rays


def make(images: torch.Tensor, truths: torch.Tensor, singles: int = 0):
    """A rendering and a batch whose last rays form the images (P, S, S, 3); `singles` rays of color 0 come first."""
    count = singles + images[..., 0].numel()
    colors = [torch.cat([x.new_zeros(singles, 3), x.reshape(-1, 3)]) for x in (images, truths)]
    like = colors[1]
    rays = Rays(torch.zeros_like(like), like.new_tensor([0.0, 0, 1]).expand(count, 3), torch.zeros(count).long())
    patches = torch.arange(singles, count).reshape(images.shape[:3])
    alpha = torch.ones_like(like[:, 0])
    batch = PixelBatch(rays, like, alpha, torch.zeros_like(like), patch_rays=patches)
    return Rendering(colors[0], alpha, alpha), batch


def random_images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(*shape, 3, generator=generator, dtype=torch.float64)
    image = (truth + 0.1 * torch.randn(*shape, 3, generator=generator, dtype=torch.float64)).clamp(0, 1)
    return image.to(dtype), truth.to(dtype)


def released(image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """SSIM with zeros beyond the border, window by window from its definition (Wang et al. 2004, equation 13)."""
    offset = torch.arange(-5, 6, dtype=torch.float64)
    row = torch.exp(-(offset**2) / (2 * 1.5**2))
    window = torch.outer(row, row)[..., None] / row.sum() ** 2
    x, y = (torch.nn.functional.pad(v.double(), (0, 0, 5, 5, 5, 5)) for v in (image, truth))
    values = []
    for top in range(image.shape[0]):
        for left in range(image.shape[1]):
            a, b = (v[top : top + 11, left : left + 11] for v in (x, y))
            mean_a, mean_b = (window * a).sum((0, 1)), (window * b).sum((0, 1))
            variance_a = (window * (a - mean_a).square()).sum((0, 1))
            variance_b = (window * (b - mean_b).square()).sum((0, 1))
            covariance = (window * (a - mean_a) * (b - mean_b)).sum((0, 1))
            top_, bottom = 2 * mean_a * mean_b + 1e-4, mean_a.square() + mean_b.square() + 1e-4
            values.append(top_ * (2 * covariance + 9e-4) / (bottom * (variance_a + variance_b + 9e-4)))
    return torch.stack(values).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_equation_7_of_3d_gaussian_splatting(dtype):
    images, truths = random_images(2, 10, 10, dtype=dtype)  # smaller than the window
    rendering, batch = make(images, truths)
    similarity = sum(released(*pair) for pair in zip(images, truths, strict=True)) / 2
    expected = 0.8 * (images - truths).abs().mean().double() + 0.2 * (1 - similarity)
    assert float(L1DSSIM()(rendering, batch, 0)) == pytest.approx(float(expected), rel=1e-5)
    only_l1, only_dssim = (float(L1DSSIM(dssim=share)(rendering, batch, 0)) for share in (0, 1))
    assert only_l1 == pytest.approx(float((images - truths).abs().mean()), rel=1e-6)
    assert only_dssim == pytest.approx(float(1 - similarity), rel=1e-5)


def test_the_loss_on_ssim_is_the_metric():
    images, truths = random_images(2, 14, 14)
    mean = (ssim(images[0], truths[0]) + ssim(images[1], truths[1])) / 2
    assert float(SSIMLoss()(*make(images, truths), 0)) == pytest.approx(1 - mean, abs=1e-6)


def test_whole_images_need_no_patches(unchecked):
    images, truths = random_images(2, 12, 12)
    alpha = torch.ones(2, 12, 12)
    rendering, batch = SimpleNamespace(rgb=images, opacity=alpha), SimpleNamespace(target=truths, alpha=alpha)
    for loss in (L1DSSIM(), SSIMLoss()):
        assert torch.equal(loss(rendering, batch, 0), loss(*make(images, truths), 0))


def test_equal_images_have_no_loss_and_no_gradient():
    truths = random_images(1, 12, 12)[1]
    image = truths.clone().requires_grad_()
    loss = L1DSSIM(dssim=1)(*make(image, truths), 0)
    (gradient,) = torch.autograd.grad(loss, image)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6) and float(gradient.abs().max()) < 1e-6


def test_background_behind_both_is_equal_in_both():
    rendering, batch = make(*random_images(1, 12, 12))
    alpha = torch.zeros_like(batch.alpha)
    alpha[60:80] = 1
    background = torch.tensor([0.2, 0.9, 0.4]).expand(144, 3)
    batch = batch.replace(alpha=alpha, background=background)
    shown = rendering.rgb * alpha[:, None] + background * (1 - alpha[:, None])
    loss = L1DSSIM(dssim=0)(rendering.replace(rgb=shown), batch, 0)
    assert float(loss) == pytest.approx(float((shown - batch.target)[60:80].abs().sum()) / 432, rel=1e-5)


def test_single_rays_count_in_l1_alone():
    images, truths = random_images(1, 12, 12)
    rendering, batch = make(images, truths, singles=56)  # equal in both
    error = (images - truths).abs().sum() / (200 * 3)
    assert float(L1DSSIM(dssim=0)(rendering, batch, 0)) == pytest.approx(float(error), rel=1e-5)
    without = L1DSSIM(dssim=1)(*make(images, truths), 0)
    assert torch.equal(L1DSSIM(dssim=1)(rendering, batch, 0), without)


def test_gradients_against_finite_differences():
    images, truths = random_images(1, 6, 6, dtype=torch.float64)
    images = (truths + 0.1 * torch.sign(images - truths + 1e-9)).requires_grad_()  # away from the corner of L1

    def value(x: torch.Tensor) -> torch.Tensor:
        return L1DSSIM()(*make(x, truths), 0)

    assert torch.autograd.gradcheck(value, (images,), fast_mode=True)


def test_no_image_and_no_rays():
    for loss in (L1DSSIM(), SSIMLoss()):
        image = torch.zeros(0, 16, 16, 3, requires_grad=True)
        rendering, batch = make(image, torch.zeros(0, 16, 16, 3))
        rendering = rendering.replace(opacity=rendering.opacity.clone().requires_grad_())
        value = loss(rendering, batch, 0)
        assert float(value.detach()) == 0 and value.requires_grad


def test_bad_arguments():
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="L1DSSIM: dssim is"):
            L1DSSIM(dssim=share)
    rendering, batch = make(*random_images(1, 12, 12))
    with pytest.raises(ValueError, match="color loss: the batch has no patches"):
        L1DSSIM()(rendering, batch.replace(patch_rays=None), 0)
    assert torch.isnan(L1DSSIM()(rendering.replace(rgb=rendering.rgb * float("nan")), batch, 0))
