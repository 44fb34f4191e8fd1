"""Copies to a GPU: what pinned memory can hold, without one."""

import pytest
import torch
from torch import Tensor

import headfields as hf


def test_expanded_tensors_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch pins memory, an expanded tensor cannot be: its entries overlap. Cameras that share a lens have one."""

    def pin_memory(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)

    camera = hf.Camera(torch.eye(4).repeat(2, 1, 1), torch.eye(3), (4, 4))
    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "to", lambda tensor, *_, **__: tensor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert torch.equal(camera.to("cuda").intrinsics, camera.intrinsics)
