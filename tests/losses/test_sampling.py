"""Distortion and interlevel loss against their double sums; a loss that a network's step lowers; bad input."""

import pytest
import torch
from torch import Tensor

from headfields.losses.sampling import Distortion, Interlevel
from headfields.ops.distortion import distortion
from headfields.ops.interlevel import interlevel
from headfields.parts import Rendering
from headfields.records import PixelBatch, Rays, Samples
from headfields.renderers.padded import PaddedSamples

RAYS = 6


def intervals(seed: int, count: int, dtype: torch.dtype = torch.float64) -> Samples:
    """Samples with gaps of rays some of which have none."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(RAYS, count + 1, generator=generator, dtype=dtype).sort(1).values
    kept = torch.rand(RAYS, count, generator=generator) < 0.7
    kept[2] = False
    ray = torch.arange(RAYS)[:, None].expand(-1, count)[kept]
    return Samples(ray, edges[:, :-1][kept], edges[:, 1:][kept])


def random_weights(samples: Samples, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(len(samples))
    return scale * torch.rand(len(samples), generator=generator, dtype=samples.start.dtype)


FINE, COARSE = intervals(0, 9), intervals(1, 4)
WEIGHTS, PROPOSED = random_weights(FINE), random_weights(COARSE, 0.3)


def padded(samples: Samples, further: int) -> PaddedSamples:
    """The samples in a buffer with further rows, which repeat the first one."""
    offsets = torch.searchsorted(samples.ray, torch.arange(RAYS + 1))
    row = torch.cat([torch.arange(len(samples)), torch.zeros(further, dtype=torch.long)])
    end = torch.cat([samples.end, samples.start[:1].expand(further)])
    return PaddedSamples.of(Samples(samples.ray[row], samples.start[row], end), offsets)


def test_distortion_is_the_papers_double_sum() -> None:
    for ray, value in enumerate(distortion(WEIGHTS, FINE, RAYS)):
        own = FINE.ray == ray
        w, m, length = WEIGHTS[own], FINE.middle[own], (FINE.end - FINE.start)[own]
        expected = (w[:, None] * w * (m[:, None] - m).abs()).sum() + (w.square() * length).sum() / 3
        torch.testing.assert_close(value, expected)


def test_interlevel_is_the_papers_sum_over_overlaps() -> None:
    for ray, value in enumerate(interlevel(WEIGHTS, FINE, PROPOSED, COARSE, RAYS)):
        mine, theirs = FINE.ray == ray, COARSE.ray == ray
        overlaps = (COARSE.start[theirs] < FINE.end[mine, None]) & (COARSE.end[theirs] > FINE.start[mine, None])
        excess = (WEIGHTS[mine] - (overlaps * PROPOSED[theirs]).sum(1)).clamp_min(0)
        torch.testing.assert_close(value, (excess.square() / WEIGHTS[mine]).sum(), rtol=1e-5, atol=1e-12)


def test_derivatives() -> None:
    weights, proposed = WEIGHTS.clone().requires_grad_(), PROPOSED.clone().requires_grad_()
    for function, argument in (
        (lambda w: distortion(w, FINE, RAYS), weights),
        (lambda w: interlevel(WEIGHTS, FINE, w, COARSE, RAYS), proposed),
    ):
        assert torch.autograd.gradcheck(function, argument) and torch.autograd.gradgradcheck(
            function, argument, fast_mode=True
        )
    fine = WEIGHTS.clone().requires_grad_()
    interlevel(fine, FINE, proposed, COARSE, RAYS).sum().backward()
    assert fine.grad is None and proposed.grad is not None  # the fine weights are the target


def rendering(samples: Samples, weights: Tensor, coarse: Rendering | None = None) -> Rendering:
    flat = torch.zeros(RAYS)
    return Rendering(torch.zeros(RAYS, 3), flat, flat, samples=samples, weights=weights, coarse=coarse)


def batch() -> PixelBatch:
    black = torch.zeros(RAYS, 3)
    return PixelBatch(Rays(black, black, torch.zeros(RAYS, dtype=torch.long)), black, black[:, 0], black)


@pytest.mark.parametrize("further", [0, 7])
def test_losses_are_means_over_rays_and_padding_counts_for_nothing(further: int) -> None:
    fine, coarse = padded(FINE, further), padded(COARSE, further)
    more = torch.zeros(further, dtype=torch.float64)
    image = rendering(fine, torch.cat([WEIGHTS, more]), coarse=rendering(coarse, torch.cat([PROPOSED, more])))
    torch.testing.assert_close(Distortion()(image, batch(), 0), distortion(WEIGHTS, FINE, RAYS).sum() / RAYS)
    expected = interlevel(WEIGHTS, FINE, PROPOSED, COARSE, RAYS).sum() / RAYS
    torch.testing.assert_close(Interlevel()(image, batch(), 0), expected)


def test_no_samples_keep_the_graph() -> None:
    none = FINE[:0]
    weights = torch.zeros(0, requires_grad=True)
    (distortion(weights, none, 3).sum() + interlevel(weights, none, weights, none, 3).sum()).backward()
    assert weights.grad is not None
    torch.testing.assert_close(
        interlevel(WEIGHTS, FINE, weights.double(), none, RAYS).sum(), WEIGHTS.sum(), rtol=1e-5, atol=0
    )


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"distortion: weights has shape \(2,\)"):
        distortion(WEIGHTS[:2], FINE, RAYS)
    with pytest.raises(ValueError, match=r"interlevel: coarse_weights has shape \(2,\)"):
        interlevel(WEIGHTS, FINE, PROPOSED[:2], COARSE, RAYS)
    with pytest.raises(ValueError, match="no coarse pass"):
        Interlevel()(rendering(FINE, WEIGHTS), batch(), 0)
    with pytest.raises(ValueError, match="no weighted samples"):
        Distortion()(Rendering(torch.zeros(RAYS, 3), torch.zeros(RAYS), torch.zeros(RAYS)), batch(), 0)
