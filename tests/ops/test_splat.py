"""The Gaussian rasterizer: its definition against an image computed pixel by pixel, and its edges."""

import math

import numpy as np
import torch

import headfields as hf

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
        screen = np.linalg.inv(jacobian @ covariance @ jacobian.T + 0.3 * np.eye(2))
        drawn.append((z, k, np.array([fx * x / z + cx, fy * y / z + cy]), screen, opacity, color))
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
    image = hf.ops.splat(**s)
    for k in range(2):
        color, opacity, depth = picture(s, k)
        assert opacity.max() > 0.9
        for have, want in ((image.color[k], color), (image.opacity[k], opacity), (image.depth[k], depth)):
            np.testing.assert_allclose(have.numpy(), want, rtol=0, atol=1e-12)


def test_a_ball_in_the_middle():
    """Its extent on screen is focal · scale / depth; its normal looks at the camera."""
    camera = hf.Camera.look_at((0, 0, 1), (0, 0, 0), size=(65, 65), focal=300)
    image = hf.ops.splat(torch.zeros(1, 3), torch.tensor([[2.0, 0, 0, 0]]), torch.tensor([[0.02, 0.02, 0.01]]),
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
