"""Pictures sharpen at rest, a newer request is never kept waiting, and an error ends nothing."""

import threading
import time

import numpy as np
import pytest
import torch

from headfields.apps.viewer.looks import Picture
from headfields.apps.viewer.progressive import ProgressiveRenderer, band, factors
from headfields.records import Camera

CAMERA = Camera(torch.eye(4), torch.tensor([[50.0, 0, 32], [0, 50, 32], [0, 0, 1]]), (64, 64))


def gray(camera: Camera, level: int) -> Picture:
    return Picture(np.full((*camera.size, 3), level, np.uint8), np.zeros(camera.size, np.float32))


def test_sizes_double_until_full() -> None:
    assert factors(100 * 100, 1e9) == [1.0]
    assert factors(1000 * 1000, 1.0)[0] == 1 / 8
    sizes = factors(512 * 512, 1e5)
    assert sizes == sorted(sizes) and sizes[-1] == 1.0


def test_bands_are_rows_of_the_image() -> None:
    whole = CAMERA.rays().directions.reshape(64, 64, 3)
    part = band(CAMERA, 10, 14)
    assert part.size == (4, 64)
    assert torch.allclose(part.rays().directions.reshape(4, 64, 3), whole[10:14], atol=1e-6)


def test_a_picture_is_coarse_first_and_full_at_rest() -> None:
    shown: list[tuple[Picture, bool]] = []

    def draw(content: int, camera: Camera) -> Picture:
        time.sleep(camera.size[0] * camera.size[1] * 2e-5)  # 50,000 pixels a second: 64 x 64 in 82 ms
        rows = camera.rays().directions.reshape(*camera.size, 3)[..., 1]
        return Picture((255 * (rows > 0))[..., None].repeat(1, 1, 3).byte().numpy(), rows.numpy())

    renderer = ProgressiveRenderer(draw, lambda key, picture, final: shown.append((picture, final)))
    renderer.speed = 3e3
    renderer.request("tab", 7, CAMERA)
    assert renderer.idle(10)
    renderer.close()
    sizes = [picture.rgb.shape[0] for picture, _ in shown]
    assert sizes == sorted(sizes) and sizes[0] < 64 and sizes[-1] == 64
    assert [final for _, final in shown] == [False] * (len(shown) - 1) + [True]
    assert (shown[-1][0].rgb[:32] == 0).all() and (shown[-1][0].rgb[32:] == 255).all()  # the bands are in order


def test_a_newer_request_ends_a_fine_picture() -> None:
    shown: list[tuple[int, bool]] = []
    fine = threading.Event()

    def draw(content: int, camera: Camera) -> Picture:
        if camera.size[1] == 64:
            fine.set()
        time.sleep(camera.size[0] * camera.size[1] * 1e-4)
        return gray(camera, content)

    renderer = ProgressiveRenderer(draw, lambda key, p, final: shown.append((int(p.rgb[0, 0, 0]), final)))
    renderer.speed = 1e4  # 64 x 64 pixels take 0.4 s, a band 0.12 s
    renderer.request("tab", 1, CAMERA)
    assert fine.wait(5)
    start = time.monotonic()
    renderer.request("tab", 2, CAMERA)
    while (2, False) not in shown and (2, True) not in shown and time.monotonic() - start < 5:
        time.sleep(0.005)
    assert (1, True) not in shown and shown[-1][0] == 2
    assert renderer.idle(5) and shown[-1] == (2, True)
    renderer.close()


def test_every_tab_gets_its_coarse_picture_before_one_gets_detail() -> None:
    order: list[tuple[str, bool]] = []
    renderer = ProgressiveRenderer(lambda c, camera: gray(camera, c), lambda key, p, final: order.append((key, final)))
    renderer.speed = 1e3
    for key in ("a", "b", "c"):
        renderer.request(key, 1, CAMERA)
    assert renderer.idle(5)
    renderer.close()
    assert {key for key, final in order[:3]} == {"a", "b", "c"} and {key for key, final in order if final} == {
        "a",
        "b",
        "c",
    }


def test_an_error_is_reported_and_the_next_request_drawn() -> None:
    errors: list[Exception] = []
    shown: list[int] = []

    def draw(content: int, camera: Camera) -> Picture:
        if content == 1:
            raise ValueError("no such state")
        return gray(camera, content)

    renderer = ProgressiveRenderer(draw, lambda key, p, final: shown.append(int(p.rgb[0, 0, 0])), errors.append)
    renderer.request("tab", 1, CAMERA)
    assert renderer.idle(5)
    renderer.request("tab", 2, CAMERA)
    assert renderer.idle(5)
    renderer.close()
    assert [str(error) for error in errors] == ["no such state"] and set(shown) == {2}


def test_a_tab_that_leaves_is_forgotten() -> None:
    shown: list[str] = []
    renderer = ProgressiveRenderer(lambda c, camera: gray(camera, 0), lambda key, p, final: shown.append(key))
    renderer.forget("never came")
    renderer.close()
    renderer.request("tab", 1, CAMERA)  # after the end: nothing happens
    time.sleep(0.05)
    assert not shown


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_small_images(size: tuple[int, int]) -> None:
    shown: list[tuple[int, ...]] = []
    renderer = ProgressiveRenderer(lambda c, camera: gray(camera, 0), lambda key, p, f: shown.append(p.rgb.shape[:2]))
    renderer.speed = 1.0
    renderer.request("tab", 1, CAMERA.scaled(1.0).replace(size=size))
    assert renderer.idle(5) and shown[-1] == size
    renderer.close()
