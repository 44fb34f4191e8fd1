"""The prior of latent codes: values by hand, gradients, errors."""

import pytest
import torch

from headfields.avatar.avatar import Avatar
from headfields.decoders import NeRFDecoder
from headfields.deformers import Static
from headfields.encoders import FrameCode, Frequency
from headfields.losses import CodePrior
from headfields.losses.base import Loss
from headfields.networks import LatentTable
from headfields.parts import Rendering
from headfields.records import HeadState, PixelBatch
from headfields.renderers import UniformSampler, VolumeRenderer
from tests.avatar.test_composition import BOX, CAMERA


def rendered(count: int = 144, train: bool = True) -> tuple[Avatar, Rendering, PixelBatch]:
    table = LatentTable(5, 3, std=1.0)
    avatar = Avatar(
        Static(BOX), Frequency(2), NeRFDecoder(8), VolumeRenderer(UniformSampler(2)), FrameCode("light", 3),
        codes={"light": table},
    ).train(train)  # fmt: skip
    state = HeadState(torch.zeros(2, 0, 3), frame_id=torch.tensor([3, 1]))
    rays = CAMERA.rays().replace(frame=torch.arange(144) % 2)[:count]
    rendering = avatar(rays, state, torch.ones(count, 3))
    return avatar, rendering, PixelBatch(rays, torch.rand(count, 3), torch.ones(count), torch.ones(count, 3))


@pytest.mark.parametrize("count", [144, 0])
def test_by_hand(count: int) -> None:
    avatar, rendering, batch = rendered(count)
    loss, rows = CodePrior("light"), avatar.codes["light"].table
    assert isinstance(loss, Loss) and loss.name == "light_prior" and loss.weight == 1e-4
    value = loss(rendering, batch, 0)
    torch.testing.assert_close(value, (rows[3].square().sum() + rows[1].square().sum()) / 2)
    value.backward()
    expected = torch.zeros(5, 3)
    expected[[1, 3]] = rows.detach()[[1, 3]]
    torch.testing.assert_close(rows.grad, expected)


def test_errors(unchecked: None) -> None:
    _, rendering, batch = rendered()
    with pytest.raises(ValueError, match=r"shade_prior loss needs 'shade' of the HeadState, which has .*'light'\]"):
        CodePrior("shade")(rendering, batch, 0)
    with pytest.raises(ValueError, match="CodePrior: weight is 0"):
        CodePrior("light", weight=0)
    _, rendering, batch = rendered(train=False)
    with pytest.raises(ValueError, match=r"light_prior loss: the rendering has no field.*avatar\.train\(\)"):
        CodePrior("light")(rendering, batch, 0)
