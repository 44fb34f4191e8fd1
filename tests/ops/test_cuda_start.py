"""What happens on CUDA before a kernel runs, with Warp's answers made up: no device is needed."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

import headfields as hf
from headfields.ops import dispatch, warp_launch


@pytest.fixture
def old_driver(monkeypatch):
    """Warp 1.18 or later beside a driver that is too old: torch has CUDA, and Warp starts without."""
    wp = SimpleNamespace(
        is_cuda_available=lambda: False,
        get_cuda_driver_version=lambda: (12, 4),
        get_cuda_toolkit_version=lambda: (13, 0),
        config=SimpleNamespace(version="1.19.0"),
    )
    monkeypatch.setattr(dispatch, "warp", lambda: wp)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "some GPU")
    dispatch.require_cuda.cache_clear()
    yield
    dispatch.require_cuda.cache_clear()


def test_a_driver_too_old_for_warp_is_named_with_the_remedy(old_driver):
    row = next(row for row in hf.backends() if row.device == "cuda")
    assert not row.available and not row.in_use
    for part in ("driver for CUDA 12.4", "built for CUDA 13.0", "R580", "warp-lang>=1.12.1,<1.18"):
        assert part in row.reason
    with pytest.raises(RuntimeError, match=r"headfields on CUDA.*update the driver"):
        dispatch.require_cuda()


def test_a_launch_on_cuda_says_what_is_missing(old_driver):
    class OnCuda(torch.Tensor):
        device = torch.device("cuda", 0)

    with pytest.raises(RuntimeError, match="pip install 'warp-lang"):
        warp_launch.launch("mlp.mlp", 1, torch.zeros(1).as_subclass(OnCuda))


def test_warp_with_cuda_is_in_order(old_driver, monkeypatch):
    monkeypatch.setattr(dispatch.warp(), "is_cuda_available", lambda: True)
    dispatch.require_cuda()
    assert next(row for row in hf.backends() if row.device == "cuda").in_use


def test_a_stream_is_wrapped_once_whatever_thread_launches(monkeypatch):
    made = []

    def wrap(stream):
        made.append(stream.cuda_stream)
        time.sleep(0.02)
        return object()

    monkeypatch.setattr(warp_launch, "warp", lambda: SimpleNamespace(stream_from_torch=wrap))
    monkeypatch.setattr(warp_launch, "_streams", {})
    streams = [SimpleNamespace(device=torch.device("cuda", d), cuda_stream=h) for d, h in ((0, 7), (0, 8), (1, 7))]
    views: list = []
    threads = [
        threading.Thread(target=lambda: views.extend(warp_launch.cuda_stream(stream) for stream in streams))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [7, 7, 8] and len(views) == 18 and len(set(map(id, views))) == 3
