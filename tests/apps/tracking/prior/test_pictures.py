"""The picture of a fit, drawn from a mesh, beside volume rendering of the same field."""

import torch

from headfields.apps.tracking.prior.pictures import CELLS, surface_picture
from headfields.records import HeadState
from tests.apps.tracking.prior.ball import BallRecording


def test_shows_what_volume_rendering_shows(recording: BallRecording) -> None:
    head, camera, state = recording.head, recording.true_camera(1), recording.state(1)
    evaluated = 0
    decode = head.avatar.decoder.forward

    def counted(*arguments, **named):
        nonlocal evaluated
        evaluated += len(arguments[1])
        return decode(*arguments, **named)

    head.avatar.decoder.forward = counted
    try:
        image = surface_picture(head, camera, state)
        own, evaluated = evaluated, 0
        volume = head.picture(camera, state)
    finally:
        del head.avatar.decoder.forward
    assert evaluated > 2 * own  # 48 x 48 pixels; of 133 x 133, six times
    inside = -torch.nn.functional.max_pool2d(-volume.opacity[None, None], 3, 1, 1)[0, 0] > 0.99
    assert int(inside.sum()) > 300 and bool((image.opacity[inside] == 1).all())
    assert bool((image.opacity[volume.opacity < 0.01] == 0).all())
    torch.testing.assert_close(image.rgb[inside], volume.rgb[inside], atol=0.01, rtol=0)
    torch.testing.assert_close(image.depth[inside], volume.depth[inside], atol=1e-3, rtol=0)
    torch.testing.assert_close(image.normal[inside], volume.normal[inside], atol=0.02, rtol=0)
    assert bool((image.rgb[image.opacity == 0] == 1).all())
    assert 2 * 0.14 / CELLS < 0.005  # such cells alone would be millimeters off


def test_without_a_surface_it_is_white(recording: BallRecording) -> None:
    head = recording.head
    state = recording.state(0)
    none = HeadState(state.vertices, codes={**state.codes, "geometry": torch.tensor([[-10.5, 0.0]])})  # radius below 0
    image = surface_picture(head, recording.true_camera(0), none)
    assert bool((image.rgb == 1).all()) and not bool(image.opacity.any())
