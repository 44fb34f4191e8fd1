"""`backend="gsplat"` against this library's kernels, on a CPU and where there is one on a GPU.

gsplat's kernels need CUDA. On a CPU its own definitions in PyTorch make the lists of tiles, and a stand-in written here
blends them by the rules of its kernels; so what is tried is how arguments, lists and gradients go to and fro.
"""

import importlib
import sys
import types

import pytest
import torch

import headfields as hf
from headfields.ops import _rasterize_gsplat
from headfields.renderers import SplatRenderer
from tests.ops.test_rasterize_gaussians import KINDS, scene

rasterizer = importlib.import_module("headfields.ops.rasterize_gaussians")  # the name in `ops` is the function's


def blend(centers, conics, features, opacities, width, height, tile, offsets, members):
    """Images of lists by gsplat's rules; the centers (C, N, 2), or (C, H, W, N, 2) for each pixel."""
    c, n = opacities.shape
    ends = [*offsets.flatten().tolist()[1:], len(members)]
    images = torch.zeros(c, height, width, features.shape[-1])
    alphas = torch.zeros(c, height, width, 1)
    for place, (begin, end) in enumerate(zip(offsets.flatten().tolist(), ends, strict=True)):
        image, row, column = torch.unravel_index(torch.tensor(place), offsets.shape)
        own = members[begin:end].long() - image * n
        ys = slice(int(row) * tile, min(int(row + 1) * tile, height))
        xs = slice(int(column) * tile, min(int(column + 1) * tile, width))
        y, x = torch.meshgrid(torch.arange(height)[ys] + 0.5, torch.arange(width)[xs] + 0.5, indexing="ij")
        spread = centers[image, own] if centers.ndim == 3 else centers[image, ys, xs][:, :, own]
        delta = spread - torch.stack([x, y], dim=-1)[:, :, None]
        a, b, d = conics[image, own].unbind(-1)
        sigma = 0.5 * (a * delta[..., 0] ** 2 + d * delta[..., 1] ** 2) + b * delta[..., 0] * delta[..., 1]
        alpha = (opacities[image, own] * (-sigma).exp()).clamp_max(0.999)
        alpha = torch.where((sigma >= 0) & (alpha >= 1 / 255), alpha, 0.0)
        going = ((1 - alpha).cumprod(-1) <= 1e-4).cumsum(-1) == 0
        alpha = torch.where(going, alpha, 0.0)
        after = (1 - alpha).cumprod(-1)
        weights = alpha * torch.cat([torch.ones_like(after[..., :1]), after], dim=-1)[..., :-1]
        pixels = image, *torch.meshgrid(torch.arange(height)[ys], torch.arange(width)[xs], indexing="ij")
        images = images.index_put(pixels, weights @ features[image, own])
        if len(own):
            alphas = alphas.index_put(pixels, 1 - after[..., -1:])
    return images, alphas


class Pixels(torch.autograd.Function):
    """The stand-in for gsplat's operation of that name; like it, it leaves magnitudes at the centers."""

    @staticmethod
    def forward(ctx, *inputs):
        ctx.save_for_backward(*inputs[:4])
        ctx.rest = inputs[4:]
        with torch.no_grad():
            return blend(*inputs[:-1])

    @staticmethod
    def backward(ctx, *grads):
        centers, conics, features, opacities = ctx.saved_tensors
        width, height, *lists, absgrad = ctx.rest
        with torch.enable_grad():
            each = centers[:, None, None].expand(-1, height, width, -1, -1).detach().requires_grad_()
            leaves = [each, *(x.detach().requires_grad_() for x in (conics, features, opacities))]
            images = blend(*leaves, width, height, *lists)
            found = torch.autograd.grad(images, leaves, grads)
        if absgrad:
            centers.absgrad = found[0].abs().sum((1, 2))
        return found[0].sum((1, 2)), *found[1:], *(None,) * 6


def rasterize_to_pixels(centers, conics, colors, opacities, width, height, tile, offsets, members, absgrad=False):
    assert all(x.is_contiguous() for x in (centers, conics, colors, opacities)) and offsets.ndim == 3
    return Pixels.apply(centers, conics, colors, opacities, width, height, tile, offsets, members, absgrad)


@pytest.fixture
def gsplat_on_cpu(monkeypatch):
    peer = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed")
    stand_in = types.SimpleNamespace(
        isect_tiles=peer._isect_tiles, isect_offset_encode=peer._isect_offset_encode,
        rasterize_to_pixels=rasterize_to_pixels,
    )  # fmt: skip
    monkeypatch.setattr(_rasterize_gsplat, "installed_gsplat", lambda: stand_in)
    monkeypatch.setattr(rasterizer, "check_gsplat", lambda *_: None)  # which refuses CPUs


def compare(device, harmonics, antialiased, absolute=True):
    """Images and all gradients of two cameras with either backend."""
    s = scene(n=30, size=(21, 34), dtype=torch.float32)
    s["opacities"] = 0.6 * s["opacities"]  # the backends end pixels, and clamp alpha, elsewhere
    s["means"][0, 2] = 3.0  # behind the cameras
    if harmonics:
        s["colors"] = 0.3 * torch.randn(2, 30, 4, 3, generator=torch.Generator().manual_seed(2))
    background, found = torch.rand(2, 21, 34, 3, generator=torch.Generator().manual_seed(3)).to(device), {}
    for backend in ("headfields", "gsplat"):
        leaves = {kind: s[kind].to(device).requires_grad_() for kind in KINDS}
        cameras = [getattr(s["camera"], name).to(device).requires_grad_() for name in ("world_to_camera", "intrinsics")]
        offset, magnitudes = (torch.zeros(2, 30, 2, device=device, requires_grad=True) for _ in range(2))
        image = hf.ops.rasterize_gaussians(
            *leaves.values(), hf.Camera(*cameras, s["camera"].size), background, harmonics=harmonics,
            antialiased=antialiased, near=0.2, low_pass=0.15, means2d_offset=offset,
            means2d_absgrad=magnitudes if absolute else None, backend=backend,
        )  # fmt: skip
        images = [image.color, image.opacity, image.depth, image.normal]
        loss = sum((part * torch.linspace(0.5, 1.5, part.shape[2], device=device).reshape(
            1, 1, -1, *[1] * (part.ndim - 3))).square().sum() for part in images)  # fmt: skip
        given = [*leaves.values(), *cameras, offset]
        gradients = torch.autograd.grad(loss, [*given, *([magnitudes] if absolute else [])])
        found[backend] = [*images, image.radii, *gradients]
    for mine, theirs in zip(*found.values(), strict=True):
        scale = float(mine.detach().abs().max())
        assert scale > 0
        torch.testing.assert_close(theirs, mine, rtol=2e-3, atol=2e-4 * scale)
    assert image.median_depth is None and image.counts is None and int(image.entries) > 20


@pytest.mark.parametrize(("harmonics", "antialiased"), [(False, False), (True, True)])
def test_images_and_gradients_are_those_of_the_other_backend(gsplat_on_cpu, harmonics, antialiased):
    compare("cpu", harmonics, antialiased, absolute=antialiased)


@pytest.mark.cuda
def test_on_a_gpu():
    pytest.importorskip("gsplat", reason="gsplat is not installed")
    compare("cuda", False, False)
    compare("cuda", True, True)


def test_few_and_none(gsplat_on_cpu):
    """No Gaussian, none in view, without gradients, and a loss that reads the colors alone."""
    s = scene(n=4, size=(9, 8), dtype=torch.float32)
    for n in (0, 4):
        few = {kind: s[kind][:n] for kind in KINDS}
        if n:
            few["means"] = few["means"] + torch.tensor([0.0, 0, 5])
        image = hf.ops.rasterize_gaussians(**few, camera=s["camera"], backend="gsplat")
        assert not image.color.any() and not image.opacity.any() and not image.radii.any()
    leaf = s["means"].clone().requires_grad_()
    image = hf.ops.rasterize_gaussians(leaf, *(s[kind] for kind in KINDS[1:]), s["camera"], backend="gsplat")
    (grad,) = torch.autograd.grad(image.color.sum(), leaf, create_graph=True)
    assert grad.any()
    with pytest.raises(RuntimeError, match="a second derivative"):
        grad.sum().backward()


def test_the_renderer_has_the_choice(gsplat_on_cpu, unchecked):
    s = scene(n=12, size=(16, 16), dtype=torch.float32, cameras=1)
    camera, background = s.pop("camera"), torch.ones(3)
    splats = hf.Splats(**{kind: s[kind][None] for kind in KINDS})
    own, other = (SplatRenderer(backend=backend).eval() for backend in ("headfields", "gsplat"))
    torch.testing.assert_close(
        own(splats, camera, background).rgb, other(splats, camera, background).rgb, rtol=0, atol=0.02
    )
    assert own.takes_buffers and not other.takes_buffers and "gsplat" in repr(other)
    with pytest.raises(ValueError, match="SplatRenderer: backend is 'tiles'; expected one of headfields, gsplat"):
        SplatRenderer(backend="tiles")


@pytest.mark.usefixtures("unchecked")
def test_what_gsplat_cannot_draw_is_named(monkeypatch):
    s = scene(n=4, dtype=torch.float32)
    with pytest.raises(ValueError, match="rasterize_gaussians: backend is 'tiles'"):
        hf.ops.rasterize_gaussians(**s, backend="tiles")
    monkeypatch.setattr(_rasterize_gsplat, "installed_gsplat", lambda: None)
    with pytest.raises(ValueError, match="means is on cpu, and backend='gsplat' draws on CUDA alone"):
        hf.ops.rasterize_gaussians(**s, backend="gsplat")
    on_cuda = types.SimpleNamespace(is_cuda=True, dtype=torch.float32)
    double = types.SimpleNamespace(is_cuda=True, dtype=torch.float64)
    check = _rasterize_gsplat.check_gsplat
    check({"means": on_cuda}, 3, 0)
    with pytest.raises(TypeError, match="scales is float64"):
        check({"means": on_cuda, "scales": double}, 3, 0)
    for channels in (0, 510):
        with pytest.raises(ValueError, match=f"colors has {channels} channels; backend='gsplat' draws 1 to 509"):
            check({"means": on_cuda}, channels, 0)
    with pytest.raises(ValueError, match="max_tile_entries is 64; with backend='gsplat' pass 0"):
        check({"means": on_cuda}, 3, 64)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(ModuleNotFoundError, match="backend='gsplat' needs the package gsplat"):
        hf.ops.rasterize_gaussians(**scene(n=4, dtype=torch.float32), backend="gsplat")
