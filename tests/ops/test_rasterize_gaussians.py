"""The Gaussian rasterizer: its definition against an image computed pixel by pixel, the kernels against the definition,
gradients against differences, and the edges of its domain."""

import math

import numpy as np
import pytest
import torch

import headfields as hf
from headfields.metrics import psnr
from headfields.ops import dispatch
from headfields.ops.reference import rasterize_gaussians as reference
from tests.tables import table

KINDS = ("means", "quaternions", "scales", "opacities", "colors")


def scene(n=25, cameras=2, size=(13, 18), dtype=torch.float64, spread=0.09, scale=0.012, colors=3):
    """Gaussians before some cameras, as a dictionary of arguments."""
    g = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    eye = torch.tensor([[0.1 * k - 0.05, 0.05, 0.6] for k in range(cameras)], dtype=dtype)
    camera = hf.Camera.look_at(eye, (0, 0, 0), size=size, fov=24)
    return {
        "means": spread * normal(n, 3),
        "quaternions": normal(n, 4),
        "scales": scale * (0.6 * normal(n, 3)).exp(),
        "opacities": torch.rand(n, generator=g, dtype=torch.float64).to(dtype),
        "colors": torch.rand(n, colors, generator=g, dtype=torch.float64).to(dtype),
        "camera": camera,
    }


def picture(s, index):
    """Color, opacity and depth of one camera, in NumPy, a pixel and a Gaussian at a time."""
    camera = s["camera"]
    pose, lens = (x[index].double().numpy() for x in (camera.world_to_camera, camera.intrinsics))
    height, width = camera.size
    drawn = []
    for k in range(len(s["means"])):
        mean, q, scale, opacity, color = (s[kind][k].double().numpy() for kind in KINDS)
        x, y, z = pose[:3, :3] @ mean + pose[:3, 3]
        if z <= 0.01:
            continue
        w, a, b, c = q / np.linalg.norm(q)
        turn = np.array([
            [1 - 2 * (b * b + c * c), 2 * (a * b - w * c), 2 * (a * c + w * b)],
            [2 * (a * b + w * c), 1 - 2 * (a * a + c * c), 2 * (b * c - w * a)],
            [2 * (a * c - w * b), 2 * (b * c + w * a), 1 - 2 * (a * a + b * b)],
        ])  # fmt: skip
        covariance = pose[:3, :3] @ turn @ np.diag(scale**2) @ turn.T @ pose[:3, :3].T
        fx, fy, cx, cy = lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2]
        tx = z * np.clip(x / z, -1.3 * width / 2 / fx, 1.3 * width / 2 / fx)
        ty = z * np.clip(y / z, -1.3 * height / 2 / fy, 1.3 * height / 2 / fy)
        jacobian = np.array([[fx / z, 0, -fx * tx / z**2], [0, fy / z, -fy * ty / z**2]])
        conic = np.linalg.inv(jacobian @ covariance @ jacobian.T + 0.3 * np.eye(2))
        drawn.append((z, k, np.array([fx * x / z + cx, fy * y / z + cy]), conic, opacity, color))
    color = np.zeros((height, width, s["colors"].shape[1]))
    opacity, depth = np.zeros((height, width)), np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            light = 1.0
            for z, _, center, conic, o, c in sorted(drawn, key=lambda entry: entry[:2]):
                d = np.array([column + 0.5, row + 0.5]) - center
                alpha = min(0.99, o * math.exp(-0.5 * d @ conic @ d))
                if alpha >= 1 / 255:
                    color[row, column] += light * alpha * c
                    depth[row, column] += light * alpha * z
                    light *= 1 - alpha
            opacity[row, column] = 1 - light
    return color, opacity, depth


def test_the_image_is_that_of_the_formula():
    s = scene()
    image = hf.ops.rasterize_gaussians(**s)
    for k in range(2):
        color, opacity, depth = picture(s, k)
        assert opacity.max() > 0.9
        for have, want in ((image.color[k], color), (image.opacity[k], opacity), (image.depth[k], depth)):
            np.testing.assert_allclose(have.numpy(), want, rtol=0, atol=1e-12)


def test_a_ball_in_the_middle():
    """Its extent on screen is focal · scale / depth; its normal looks at the camera."""
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(65, 65), focal=300)
    image = hf.ops.rasterize_gaussians(torch.zeros(1, 3), torch.tensor([[2.0, 0, 0, 0]]),
                         torch.tensor([[0.02, 0.02, 0.01]]),
                         torch.tensor([0.8]), torch.zeros(1, 0), camera)  # fmt: skip
    sigma = math.sqrt(6.0**2 + 0.3)
    assert image.color.shape == (1, 65, 65, 0)
    torch.testing.assert_close(image.radii, torch.tensor([[3 * sigma]]))
    across = image.opacity[0, 32]
    steps = torch.arange(65) - 32.0
    want = 0.8 * torch.exp(-0.5 * steps.square() / sigma**2)
    torch.testing.assert_close(across, torch.where(want < 1 / 255, 0.0, want))
    assert int((across > 0).sum()) == 2 * math.floor(sigma * math.sqrt(2 * math.log(0.8 * 255))) + 1
    assert int(image.counts) == int((image.opacity > 0).sum())
    torch.testing.assert_close(image.normal[0, 32, 32], torch.tensor([0.0, 0, 0.8]))
    torch.testing.assert_close(image.depth[0, 32, 32], torch.tensor(0.8))
    torch.testing.assert_close(image.median_depth[0, 32, 32], torch.tensor(1.0))
    assert float(image.median_depth[0, 0, 0]) == 0


def images(s, **changes):
    image = hf.ops.rasterize_gaussians(**{**s, **changes})
    return {"color": image.color, "opacity": image.opacity, "depth": image.depth, "normal": image.normal}


def changed(s, index=None, **changes):
    """A scene with some arguments changed, and with its Gaussians in another order."""
    out = {**s, **changes}
    return out if index is None else {**out, **{kind: out[kind][index] for kind in KINDS}}


def gradients(s, dtype, device="cpu", geometry=True, **options):
    """Of all inputs, for random gradients of the images; and the images and the rest."""
    camera = s["camera"]
    c, n = len(camera), s["means"].shape[-2]
    tensors = {kind: s[kind] for kind in KINDS} | {"pose": camera.world_to_camera, "lens": camera.intrinsics}
    tensors |= {name: torch.zeros(c, n, 2) for name in ("means2d_offset", "means2d_absgrad")}
    leaves = {name: x.detach().to(device, dtype).requires_grad_() for name, x in tensors.items()}
    seen = hf.Camera(leaves["pose"], leaves["lens"], camera.size)
    rest = {name: x for name, x in leaves.items() if name not in ("pose", "lens")}
    image = hf.ops.rasterize_gaussians(**rest, camera=seen, **options)
    g = torch.Generator().manual_seed(2)
    outputs = [image.color, image.opacity, *([image.depth, image.normal] if geometry else [])]
    weights = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(device, dtype) for x in outputs]
    loss = sum((x * weight).sum() for x, weight in zip(outputs, weights, strict=True))
    found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return image.detach(), dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize(("harmonics", "antialiased"), [(False, True), (True, False)])
def test_gradients_are_those_of_differences(harmonics, antialiased):
    s = scene(n=12, size=(7, 9), spread=0.06, scale=0.02)
    camera, g = s["camera"], torch.Generator().manual_seed(5)
    colors = torch.randn(12, 4, 3, generator=g, dtype=torch.float64) if harmonics else s["colors"]

    def function(means, quaternions, scales, opacities, colors, pose, lens, background, means2d_offset):
        image = hf.ops.rasterize_gaussians(
            means, quaternions, scales, opacities, colors, hf.Camera(pose, lens, camera.size), background,
            harmonics=harmonics, antialiased=antialiased, means2d_offset=means2d_offset,
        )  # fmt: skip
        return image.color, image.opacity, image.depth, image.normal

    tensors = [*(s[kind] for kind in KINDS[:4]), colors, camera.world_to_camera, camera.intrinsics]
    tensors += [torch.rand(2, 7, 9, 3, generator=g, dtype=torch.float64), torch.zeros(2, 12, 2, dtype=torch.float64)]
    leaves = [x.clone().requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(function, leaves, eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_the_definition_has_second_derivatives():
    s = scene(n=5, cameras=1, size=(4, 4), spread=0.03, scale=0.03)
    camera, leaves = s["camera"], [s[kind][None].clone().requires_grad_() for kind in KINDS]

    def function(means, quaternions, scales, opacities, colors):
        lens = (camera.world_to_camera, camera.intrinsics, 4, 4, 0.01, 0.3, True)
        rows, _ = reference.project(means, quaternions, scales, opacities, *lens)
        return reference.rasterize(rows, colors, None, None, 4, 4)[0]

    assert torch.autograd.gradgradcheck(function, leaves, eps=1e-6, atol=1e-4, rtol=1e-3, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_second_derivative_is_an_error(dtype):
    s = scene(n=5, dtype=dtype)
    means = s["means"].requires_grad_()
    (first,) = torch.autograd.grad(hf.ops.rasterize_gaussians(**s).color.square().sum(), means, create_graph=True)
    with pytest.raises(
        NotImplementedError,
        match=r"rasterize_gaussians: a second derivative .* headfields.ops.reference.rasterize_gaussians",
    ):
        first.sum().backward()


SIZES = [
    (1, (1, 1), 3),
    (25, (13, 18), 3),
    (250, (16, 33), 3),
    (60, (40, 17), 0),
    (60, (20, 50), 1),
    (60, (20, 30), 21),
]


@pytest.mark.parametrize(("n", "size", "channels"), SIZES)
@pytest.mark.parametrize("antialiased", [False, True])
def test_kernels_against_the_definition(device, n, size, channels, antialiased):
    s = scene(n=n, size=size, colors=channels, spread=0.06 if n > 1 else 0.0, scale=0.02 if n > 1 else 0.1)
    image, found = gradients(s, torch.float32, device, antialiased=antialiased)
    want, truth = gradients(s, torch.float64, antialiased=antialiased)
    for name in ("color", "opacity", "depth", "normal", "median_depth", "radii"):
        scale = float(getattr(want, name).abs().max()) if channels or name != "color" else 1.0
        torch.testing.assert_close(
            getattr(image, name).cpu().double(), getattr(want, name), rtol=1e-5, atol=1e-5 * scale, msg=name
        )
    fewer = want.counts - image.counts.cpu()  # where a pixel ended
    assert fewer.sum() <= 1 if n < 100 else fewer.min() >= -1
    slack = 3e-5 if n < 100 else 2e-4  # the light behind an end counts as none, and one over 1 - alpha enlarges it
    for name, gradient in found.items():
        scale = float(truth[name].abs().max()) if truth[name].numel() else 1.0
        torch.testing.assert_close(gradient.cpu().double(), truth[name], rtol=1e-3, atol=slack * scale, msg=name)


def test_gaussians_of_each_camera(device):
    """(C, N, ...) is C calls of one camera; and what cameras share gets the sum of their gradients."""
    s = scene(n=40)
    own = {kind: torch.stack([s[kind], s[kind].flip(0)]).float().to(device) for kind in KINDS}
    camera = s["camera"].map(lambda x: x.float()).to(device)
    both = hf.ops.rasterize_gaussians(**own, camera=camera)
    for k in range(2):
        one = hf.ops.rasterize_gaussians(**{kind: x[k] for kind, x in own.items()}, camera=camera[k])
        torch.testing.assert_close(both.color[k], one.color[0], rtol=0, atol=0)
        assert torch.equal(both.radii[k], one.radii[0]) and torch.equal(both.counts[k], one.counts[0])
    shared = {kind: s[kind].float().to(device).requires_grad_() for kind in KINDS}
    spread = {kind: x.detach().expand(2, *x.shape).clone().requires_grad_() for kind, x in shared.items()}
    for leaves in (shared, spread):
        image = hf.ops.rasterize_gaussians(**leaves, camera=camera)
        (image.color.square().sum() + image.depth.sum() + image.normal[..., 1].sum()).backward()
    for kind in KINDS:
        torch.testing.assert_close(shared[kind].grad, spread[kind].grad.sum(0), rtol=1e-4, atol=1e-4, msg=kind)


def test_without_tiles_and_early_stop(device):
    """2,000 Gaussians, most of them behind others: every one at every pixel, in float64, is the same image."""
    s = scene(n=2000, cameras=1, size=(48, 56), scale=0.008)
    s["opacities"] = 0.5 + 0.5 * s["opacities"]
    camera = s["camera"]
    inputs = [s[kind][None] for kind in KINDS[:4]]
    rows, _ = reference.project(*inputs, camera.world_to_camera, camera.intrinsics, 48, 56, 0.01, 0.3, False)
    order = rows[0, :, 6].argsort(stable=True)
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(56) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], -1).reshape(-1, 2).double()
    zero = rows.new_zeros(())
    parts = [reference.blend(rows[0], s["colors"], None, None, order, some, zero)[0] for some in pixels.split(500)]
    want = torch.cat(parts)[:, :3].reshape(48, 56, 3)
    assert (torch.cat(parts)[:, -1] < 1e-5).double().mean() > 0.05  # where kernels stop
    same = hf.ops.rasterize_gaussians(**s).color[0]
    torch.testing.assert_close(same, want, rtol=0, atol=1e-12)
    float32 = {name: x.float().to(device) for name, x in s.items() if name != "camera"}
    image = hf.ops.rasterize_gaussians(**float32, camera=camera.map(lambda x: x.float()).to(device))
    assert float(psnr(image.color[0].cpu().double(), want)) > 100


def test_the_order_of_gaussians_does_not_matter(device):
    s = scene(n=200)
    s = {**{kind: s[kind].float().to(device) for kind in KINDS}, "camera": s["camera"].map(lambda x: x.float())}
    s["camera"] = s["camera"].to(device)
    index = torch.randperm(200)
    one, two = hf.ops.rasterize_gaussians(**s), hf.ops.rasterize_gaussians(**changed(s, index.to(device)))
    for name in ("color", "opacity", "depth", "normal"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert torch.equal(one.radii[:, index], two.radii) and torch.equal(one.counts[:, index], two.counts)


def test_ties_go_by_index(device):
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(5, 5), fov=20).to(device)
    ball = (
        torch.zeros(3, 3),
        torch.tensor([[1.0, 0, 0, 0]] * 3),
        torch.full((3, 3), 0.1),
        torch.tensor([0.9, 0.9, 0.9]),
    )
    image = hf.ops.rasterize_gaussians(*(x.to(device) for x in ball), torch.eye(3).to(device), camera)
    assert image.color[0, 2, 2].argsort(descending=True).tolist() == [0, 1, 2]


def only(mean=(0.0, 0, 0), turn=(1.0, 0, 0, 0), scale=(0.02, 0.02, 0.02), opacity=0.8):
    return [torch.tensor([x]) for x in (mean, turn, scale, opacity)]


NOT_DRAWN = {
    "behind the camera": only(mean=(0.0, 0, 2)),
    "in the camera": only(mean=(0.0, 0, 1)),
    "nearer than the plane": only(mean=(0.0, 0, 0.995)),
    "beside the image": only(mean=(0.9, 0, 0)),
    "too faint": only(opacity=0.0039),
    "without opacity": only(opacity=0.0),
    "without a place": only(mean=(0.0, torch.nan, 0)),
    "infinitely far": only(mean=(0.0, 0, -torch.inf)),
    "without a rotation": only(turn=(torch.nan, 0.0, 0, 0)),
    "of infinite extent": only(scale=(0.1, torch.inf, 0.1)),
    "of too large an extent": only(scale=(0.1, 1e30, 0.1)),
    "of NaN opacity": only(opacity=torch.nan),
}


@table("why", NOT_DRAWN)
@table("harmonics", [False, True])
def test_what_is_not_drawn(device, why, harmonics):
    """Nothing is seen of it, it has no gradient, and the Gaussian beside it is as it would be alone."""
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(21, 30), fov=20).to(device)
    carried = torch.rand(2, 4, 3) if harmonics else torch.rand(2, 3)
    leaves = [torch.cat([a, b]) for a, b in zip(NOT_DRAWN[why], only(mean=(0.01, 0, 0)), strict=True)]
    leaves = [x.to(device).requires_grad_() for x in (*leaves, carried)]
    image = hf.ops.rasterize_gaussians(*leaves, camera, harmonics=harmonics)
    alone = hf.ops.rasterize_gaussians(*(x[1:] for x in leaves), camera, harmonics=harmonics)
    for name in ("color", "opacity", "depth", "normal", "median_depth"):
        assert torch.equal(getattr(image, name), getattr(alone, name)), name
    assert float(image.radii[0, 0]) == 0 and int(image.counts[0, 0]) == 0
    (image.color.sum() + image.depth.sum()).backward()
    for leaf in leaves:
        assert leaf.grad.isfinite().all() and not leaf.grad[0].any()
    assert leaves[0].grad[1].any()


def test_no_extent_and_enormous_extent(device):
    """A point is the low-pass alone, and antialiased nothing; a wall of 1 km covers the image."""
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(21, 21), fov=20).to(device)
    point = [x.to(device).requires_grad_() for x in only(scale=(0.0, 0, 0))]
    color = torch.ones(1, 1, device=device)
    image = hf.ops.rasterize_gaussians(*point, color, camera)
    step = torch.arange(21.0, device=device) - 10
    want = 0.8 * torch.exp(-0.5 * step.square() / 0.3)
    torch.testing.assert_close(image.opacity[0, 10].detach(), torch.where(want < 1 / 255, 0.0, want))
    image.color.square().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in point)
    assert not hf.ops.rasterize_gaussians(*point, color, camera, antialiased=True).opacity.any()
    wall = [x.to(device).requires_grad_() for x in only(scale=(1e3, 1e3, 1e3))]
    image = hf.ops.rasterize_gaussians(*wall, color, camera)
    torch.testing.assert_close(image.opacity.detach(), torch.full((1, 21, 21), 0.8, device=device), rtol=1e-3, atol=0)
    image.color.square().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in wall)


@table("size", [(0, 0), (0, 7), (5, 4)])
@table("n", [0, 2])
def test_sizes_of_zero_keep_a_gradient(device, n, size):
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=size, fov=None, focal=30.0).to(device)
    shapes = ((n, 3), (n, 4), (n, 3), (n,), (n, 2))
    leaves = [torch.rand(shape, device=device).requires_grad_() for shape in shapes]
    image = hf.ops.rasterize_gaussians(*leaves, camera)
    assert image.color.shape == (1, *size, 2) and image.radii.shape == image.counts.shape == (1, n)
    image.color.sum().backward()
    assert all(leaf.grad is not None and leaf.grad.shape == leaf.shape for leaf in leaves)


def test_many_cameras_or_none(device):
    camera = hf.Camera.look_at(torch.zeros(0, 3) + 1, (0, 0, 0), size=(4, 5), fov=20).to(device)
    image = hf.ops.rasterize_gaussians(*(x.to(device) for x in only()), torch.ones(1, 3, device=device), camera)
    assert image.color.shape == (0, 4, 5, 3) and image.radii.shape == (0, 1)


def test_the_gradient_of_the_centers(device):
    """`means2d_offset` moves the centers as the principal point does; magnitudes add up over pixels, as a pixel at a
    time."""
    s = scene(n=30, cameras=1, size=(9, 11))
    camera = s["camera"].map(lambda x: x.float())
    leaves = [s[kind].float().to(device) for kind in KINDS]
    moved = camera.intrinsics.clone()
    moved[:, 0, 2] += 0.7
    shift = torch.tensor([0.7, 0.0], device=device).expand(1, 30, 2)
    middle = camera.project(s["means"].float()[None])[0][0]
    inside = ((middle > 1) & (middle < torch.tensor([10.0, 8.0]))).all(-1)  # the margin moves with the principal point
    few = [x[inside.to(device)] for x in leaves]
    want = hf.ops.rasterize_gaussians(*few, camera.replace(intrinsics=moved).to(device))
    image = hf.ops.rasterize_gaussians(*few, camera.to(device), means2d_offset=shift[:, inside.to(device)])
    torch.testing.assert_close(image.color, want.color, rtol=1e-4, atol=1e-5)

    def by_pixel(pixels):
        means2d_offset, absolute = (torch.zeros(1, 30, 2, device=device, requires_grad=True) for _ in range(2))
        color = hf.ops.rasterize_gaussians(
            *leaves, camera.to(device), means2d_offset=means2d_offset, means2d_absgrad=absolute
        ).color
        color[0].flatten(0, 1)[pixels].square().sum().backward()
        return means2d_offset.grad, absolute.grad

    signed, magnitudes = by_pixel(slice(None))
    each = [by_pixel(k) for k in range(99)]
    torch.testing.assert_close(sum(one for one, _ in each), signed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sum(one.abs() for one, _ in each), magnitudes, rtol=1e-4, atol=1e-5)
    assert (magnitudes > 1.5 * signed.abs()).any()


@pytest.mark.skipif(dispatch.native is None, reason="the compiled module is not installed")
def test_any_number_of_threads_gives_the_same():
    s = scene(n=3000, size=(70, 90), scale=0.006)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            image, found = gradients(s, torch.float32)
            results.append([image.color, image.median_depth, image.counts, *found.values()])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.skipif(dispatch.native is None, reason="the compiled module is not installed")
def test_lists_that_are_made_in_parts():
    """10,000 walls, each in all 256 tiles, are more than lists hold at once; those behind the first do not show."""
    g = torch.Generator().manual_seed(3)
    n = 10_000
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(256, 256), fov=20)
    means = torch.cat([torch.zeros(n, 2), -torch.arange(n)[:, None] * 1e-3], 1)
    walls = [means, torch.randn(n, 4, generator=g), torch.full((n, 3), 20.0), torch.full((n,), 0.9)]
    walls.append(torch.rand(n, 3, generator=g))
    every = []
    for count in (n, 20):
        leaves = [x[:count].clone().requires_grad_() for x in walls]
        color = hf.ops.rasterize_gaussians(*leaves, camera).color
        color[0, :, :, 0].mean().backward()
        every.append([color.detach(), *(x.grad[:20] for x in leaves)])
    for many, few in zip(*every, strict=True):
        torch.testing.assert_close(many, few, rtol=1e-4, atol=1e-6)


@table("values", [1, 4, 9, 16])
@table(("cameras", "own", "own_colors"), [(1, 1, 1), (3, 1, 3), (2, 2, 1)])
def test_colors_by_harmonics_against_the_definition(device, values, cameras, own, own_colors):
    """And the gradients of means, coefficients and cameras; with a Gaussian at the camera, and one that is nowhere."""
    g = torch.Generator().manual_seed(3)
    shapes = (own, 19, 3), (own_colors, 19, values, 3), (cameras, 3)
    means, coefficients, centers = (torch.randn(shape, generator=g) for shape in shapes)
    means[:, 0], means[:, 1] = math.nan, centers[:1]
    upper = torch.randn(cameras, 19, 3, generator=g)
    leaves = [x.to(device).requires_grad_() for x in (means, coefficients, centers)]
    plain = [x.double().requires_grad_() for x in (means, coefficients, centers)]
    colors = torch.ops.headfields.splat_colors(*leaves)
    expected = reference.harmonic_colors(*plain)
    torch.testing.assert_close(colors.cpu().double(), expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(colors, leaves, upper.to(device))
    truth = torch.autograd.grad(expected, plain, upper.double(), allow_unused=True, materialize_grads=True)
    for have, want in zip(found, truth, strict=True):
        torch.testing.assert_close(
            have.cpu().double(), want, rtol=1e-4, atol=1e-4 * float(want.abs().max().clamp_min(1))
        )


def test_harmonics(device):
    """The bands of the library's harmonics by direction, plus a half, not negative."""
    s = scene(n=1, cameras=1)
    camera = hf.Camera.look_at((0.3, 0.4, 1.2), (0, 0, 0), size=(5, 5), fov=10).to(device)
    toward = torch.nn.functional.normalize(torch.tensor([[-0.3, -0.4, -1.2]]), dim=-1)
    for k in (1, 4, 9, 16):
        coefficients = torch.randn(1, k, 3, generator=torch.Generator().manual_seed(k))
        image = hf.ops.rasterize_gaussians(*(x.to(device) for x in (*only(), coefficients)), camera, harmonics=True)
        values = hf.ops.spherical_harmonics(toward, math.isqrt(k)) @ coefficients[0] + 0.5
        color = (image.color / image.opacity[..., None])[0, 2, 2]
        torch.testing.assert_close(color.cpu(), values[0].clamp_min(0), rtol=1e-5, atol=1e-5)
    assert s["colors"].shape == (1, 3)


def test_the_background_is_behind(device):
    s = scene(n=20, cameras=2, size=(6, 8))
    s = changed(s, **{kind: s[kind].float().to(device) for kind in KINDS}, camera=s["camera"].map(lambda x: x.float()))
    s["camera"] = s["camera"].to(device)
    plain = hf.ops.rasterize_gaussians(**s)
    for background in (torch.tensor([0.2, 0.4, 0.6], device=device), torch.rand(2, 6, 8, 3, device=device)):
        image = hf.ops.rasterize_gaussians(**s, background=background)
        torch.testing.assert_close(image.color, plain.color + (1 - plain.opacity[..., None]) * background)


@pytest.mark.parametrize("operation", ["project", "rasterize"])
def test_registered_as_torch_wants_it(device, operation):
    s = scene(n=9, size=(18, 20))
    inputs = [s[kind][None].float().to(device).requires_grad_() for kind in KINDS]
    camera = s["camera"]
    lens = [x.float().to(device).requires_grad_() for x in (camera.world_to_camera, camera.intrinsics)]
    if operation == "project":
        torch.library.opcheck(torch.ops.headfields.splat_project, (*inputs[:4], *lens, 18, 20, 0.01, 0.3, True))
        return
    rows = torch.ops.headfields.splat_project(*inputs[:4], *lens, 18, 20, 0.01, 0.3, True)[0].detach().requires_grad_()
    shift = torch.zeros(2, 9, 2, device=device, requires_grad=True)
    torch.library.opcheck(torch.ops.headfields.splat_rasterize, (rows, inputs[4], shift, None, 18, 20))


def test_gsplat_projects_alike():
    """gsplat's definitions in PyTorch, where it is installed, inside the field of view and beside it."""
    peer = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed")
    s = scene(n=300, spread=0.2)
    camera, (height, width) = s["camera"], s["camera"].size
    covariances = peer._quat_scale_to_covar_preci(s["quaternions"], s["scales"], True, False)[0]
    matrices = camera.world_to_camera, camera.intrinsics
    _, centers, depths, conics, shares = peer._fully_fused_projection(
        s["means"], covariances, *matrices, width, height, calc_compensations=True
    )
    inputs = [s[kind][None] for kind in ("means", "quaternions", "scales")]
    rows, _ = reference.project(*inputs, torch.ones(1, 300).double(), *matrices, height, width, 0.01, 0.3, True)
    drawn = rows[..., 5] > 0
    assert drawn.sum() > 300
    for have, want in (
        (rows[..., :2], centers),
        (rows[..., 2:5], conics),
        (rows[..., 5], shares),
        (rows[..., 6], depths),
    ):
        torch.testing.assert_close(have[drawn], want[drawn], rtol=1e-6, atol=1e-9)
    coefficients, directions = torch.randn(300, 16, 3).double(), torch.randn(300, 3).double()
    unit = torch.nn.functional.normalize(directions, dim=-1)
    mine = (hf.ops.spherical_harmonics(unit, 4)[:, None] @ coefficients)[:, 0]
    torch.testing.assert_close(mine, peer._spherical_harmonics(3, directions, coefficients), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"means": torch.zeros(24, 3)},
            ValueError,
            r"rasterize_gaussians: quaternions has shape \(25, 4\); expected \(24, 4\), or",
        ),
        (
            {"scales": torch.zeros(2, 25, 2)},
            ValueError,
            r"rasterize_gaussians: scales has shape \(2, 25, 2\).* for 2 cameras",
        ),
        (
            {"opacities": torch.zeros(25, 1)},
            ValueError,
            r"opacities has shape \(25, 1\); expected \(25,\), or",
        ),
        ({"colors": torch.zeros(25, 5, 3), "harmonics": True}, ValueError, "K = 1, 4, 9 or 16"),
        ({"colors": torch.zeros(25, 4, 3)}, ValueError, r"rasterize_gaussians: colors has shape \(25, 4, 3\)"),
        ({"background": torch.zeros(4)}, ValueError, r"background has shape \(4,\); expected \(3,\), one color, or"),
        (
            {"means2d_offset": torch.zeros(25, 2)},
            ValueError,
            r"means2d_offset has shape \(25, 2\); expected \(2, 25, 2\)",
        ),
        ({"means": torch.zeros(25, 3).long()}, TypeError, "rasterize_gaussians: means has dtype torch.int64"),
        ({"camera": torch.eye(4)}, TypeError, "rasterize_gaussians: camera is a Tensor; pass a headfields.Camera"),
        ({"near": 0.0}, ValueError, "rasterize_gaussians: near is 0.0; expected a positive number of meters"),
        ({"low_pass": -0.1}, ValueError, "rasterize_gaussians: low_pass is -0.1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_named(change, error, message):
    with pytest.raises(error, match=message):
        hf.ops.rasterize_gaussians(**{**scene(dtype=torch.float32), **change})


def test_lists_of_a_fixed_size(monkeypatch):
    """Room for all entries changes nothing; less is reported, as the number that is needed."""
    arguments = scene(n=40, size=(40, 50), dtype=torch.float32)
    grads = []
    with dispatch.use_cpu_backend("warp"):
        for room in (0, 1 << 12):
            given = {kind: arguments[kind].clone().requires_grad_() for kind in KINDS}
            image = hf.ops.rasterize_gaussians(*given.values(), arguments["camera"], max_tile_entries=room)
            (image.color.square().sum() + image.depth.sum()).backward()
            grads.append((image, [tensor.grad for tensor in given.values()]))
        (exact, one), (roomy, other) = grads
        assert 40 < int(exact.entries) == int(roomy.entries) < 1 << 12
        for name in ("color", "opacity", "depth", "normal", "counts"):
            assert torch.equal(getattr(exact, name), getattr(roomy, name))
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
        less = hf.ops.rasterize_gaussians(
            *(arguments[kind] for kind in KINDS), arguments["camera"], max_tile_entries=30
        )
        assert int(less.entries) == int(exact.entries) and less.color.isfinite().all()
    with pytest.raises(ValueError, match="rasterize_gaussians: max_tile_entries is -1"):
        hf.ops.rasterize_gaussians(*(arguments[kind] for kind in KINDS), arguments["camera"], max_tile_entries=-1)


def test_a_loss_of_colors_alone(device):
    """Then no kernel sums gradients of depth and normals; what it sums is the same."""
    arguments = scene(n=40, cameras=2, size=(40, 50), dtype=torch.float32)
    grads = []
    for others in (0.0, None):
        given = {kind: arguments[kind].to(device).requires_grad_() for kind in KINDS}
        image = hf.ops.rasterize_gaussians(*given.values(), arguments["camera"].to(device))
        loss = image.color.square().sum()
        if others is not None:
            loss = loss + others * (image.depth.sum() + image.normal.sum())
        grads.append(torch.autograd.grad(loss, list(given.values())))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_images_without_counts(device):
    """Then no kernel adds by atomics; the images, and their gradients, are the same."""
    s = scene(n=40, cameras=2, size=(40, 50), dtype=torch.float32)
    found = []
    for count_pixels in (True, False):
        leaf = s["means"].to(device).requires_grad_()
        others = [s[kind].to(device) for kind in KINDS[1:]]
        image = hf.ops.rasterize_gaussians(leaf, *others, s["camera"].to(device), count_pixels=count_pixels)
        assert (image.counts is None) != count_pixels
        found.append([image.color, image.normal, *torch.autograd.grad(image.color.square().sum(), leaf)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_an_image_too_wide_to_count_its_tiles_is_refused():
    rows, colors = torch.ones(1, 3, 10), torch.ones(1, 3, 3)
    with dispatch.use_cpu_backend("warp"), pytest.raises(ValueError, match="at most 16777216 pixels a side"):
        torch.ops.headfields.splat_rasterize(rows, colors, None, None, 20, 2**31 - 1, 64)


@table(
    ("change", "says"),
    [
        ({"scales": -4.0}, r"scales has -4; .* take scales.exp\(\)"),
        ({"opacities": 5.0}, r"opacities reach from 5 to 5; expected \[0, 1\]"),
        ({"opacities": -1.0}, "opacities reach from -1"),
        ({"quaternions": 1e-20}, "beyond 1e-15 to 1e15; normalize them"),
        ({"quaternions": 1e20}, "beyond 1e-15 to 1e15; normalize them"),
        ({"low_pass": math.inf}, "low_pass is inf"),
    ],
)
def test_values_that_would_draw_something_else_are_refused(change: dict[str, float], says: str) -> None:
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(4, 4), fov=20)
    fill = {"quaternions": 1.0, "scales": 0.02, "opacities": 0.9, **change}
    low_pass = fill.pop("low_pass", 0.3)
    shapes = {"quaternions": (2, 4), "scales": (2, 3), "opacities": (2,)}
    tensors = {name: torch.full(shapes[name], value) for name, value in fill.items()}
    with pytest.raises(ValueError, match=says):
        hf.ops.rasterize_gaussians(
            torch.zeros(2, 3), colors=torch.ones(2, 3), camera=camera, low_pass=low_pass, **tensors
        )
