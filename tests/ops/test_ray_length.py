"""Lengths of pixels' rays against the rays of cameras."""

import pytest
import torch

import headfields as hf
from headfields.ops.ray_length import ray_length


def test_lengths_are_those_of_rays(device, unchecked):
    camera = hf.Camera.look_at(torch.tensor([[0, 0, 1.0], [0.1, 0.2, 0.8]]), (0, 0, 0), size=(5, 7), fov=40)
    lens = camera.intrinsics.clone()
    lens[1, 0, 1], lens[1, 0, 2] = 3.0, 1.0  # skewed, and off the middle
    lengths = ray_length(lens.to(device), 5, 7).cpu()
    x, y = torch.arange(7) + 0.5, torch.arange(5) + 0.5
    pixels = torch.stack([x.expand(5, 7), y[:, None].expand(5, 7), torch.ones(5, 7)], dim=-1)
    rays = (torch.linalg.inv(lens)[:, None, None] @ pixels[..., None])[..., 0]
    torch.testing.assert_close(lengths, rays.norm(dim=-1), rtol=1e-5, atol=1e-6)
    assert ray_length(lens[:0].to(device), 5, 7).shape == (0, 5, 7)
    with pytest.raises(ValueError, match="ray_length: intrinsics"):
        ray_length(lens[:, :2].to(device), 5, 7)
