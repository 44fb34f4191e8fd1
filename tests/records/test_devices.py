"""Devices by name: those without kernels are refused, and ROCm's are no NVIDIA GPUs."""

import pytest
import torch

import headfields as hf
from headfields.ops import dispatch
from headfields.records.device_copy import device_named


@pytest.mark.parametrize("name", ["mps", "xpu", "vulkan"])
def test_devices_without_kernels_are_refused(name: str) -> None:
    camera = hf.Camera(torch.eye(4), torch.eye(3), (4, 4))
    with pytest.raises(ValueError, match=f"Camera.to: device is '{name}'; kernels run on 'cpu' and on NVIDIA's"):
        camera.to(name)


def test_rocm_is_told_from_an_old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_named("evaluate", "auto") == torch.device("cpu")
    assert "built for ROCm 6.4.1" in str(dispatch.cuda_trouble()) and "device='cpu'" in str(dispatch.cuda_trouble())
