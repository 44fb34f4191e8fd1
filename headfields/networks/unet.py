"""Residual U-Net over maps, and its decoder alone.

It has no normalization layers: a batch is one frame or a few, and the size of displacements in a map is information.
Each residual sum is divided by √2 instead, so that activations keep their scale with depth.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

_SLOPE = 0.2


def _initialize(module: nn.Module) -> None:
    """He's normal initialization; the fan-in of a transposed convolution counts the taps that reach one output."""
    gain = nn.init.calculate_gain("leaky_relu", _SLOPE)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            taps = math.prod(layer.kernel_size)
            if isinstance(layer, nn.ConvTranspose2d):
                taps //= math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_channels * taps))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, LeakyReLU after each, and the input (through a 1×1 where widths differ) added.

    Args:
        inputs, outputs: channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, maps: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        inner = nn.functional.leaky_relu(self.first(maps), _SLOPE)
        inner = nn.functional.leaky_relu(self.second(inner), _SLOPE)
        out: Tensor = (inner + self.shortcut(maps)) * math.sqrt(0.5)
        return out


class MapDecoder(nn.Module):
    """Transposed convolutions (4×4, stride 2), each followed by a residual block, to finer maps of fewer channels.

    Args:
        channels: channels at each level, coarse to fine; one more than there are transposed convolutions.
        width: channels of the result, the output of a last 3×3 convolution.
        skips: whether `forward` takes maps of the finer levels, which are concatenated.
    """

    def __init__(self, channels: Sequence[int], width: int, skips: bool = False) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        self.up = nn.ModuleList([nn.ConvTranspose2d(low, high, 4, stride=2, padding=1) for low, high in pairs])
        self.blocks = nn.ModuleList([ResidualBlock(high * (2 if skips else 1), high) for _, high in pairs])
        self.last = nn.Conv2d(channels[-1], width, 3, padding=1)
        _initialize(self)

    def forward(
        self, maps: Float[Tensor, "b i h w"], skips: Sequence[Float[Tensor, "b _ _ _"]] = ()
    ) -> Float[Tensor, "b o hh ww"]:
        """Maps (B, channels[0], H, W) to (B, width, 2ⁿ H, 2ⁿ W); `skips` from fine to coarse, without the coarsest."""
        remaining = list(skips)
        for up, block in zip(self.up, self.blocks, strict=True):
            maps = nn.functional.leaky_relu(up(maps), _SLOPE)
            maps = block(torch.cat([maps, remaining.pop()], dim=1) if remaining else maps)
        out: Tensor = self.last(maps)
        return out


class ResidualUNet(nn.Module):
    """A residual U-Net: a residual block per level, 3×3 convolutions of stride 2 down, and `MapDecoder` up.

    Args:
        inputs: channels of the input.
        width: channels of the output.
        channels: channels at each level, fine to coarse. The paper's: six levels.

    Source: MonoAvatar (Bai et al. 2023), supplement: six levels of 8 to 256 channels, residual blocks, transposed
    convolutions, LeakyReLU of slope 0.2 after every convolution (here, all but the last and those of shortcuts). Our
    own choice where it is silent: strided convolutions down, concatenated skips, no normalization.
    """

    def __init__(self, inputs: int, width: int, channels: Sequence[int] = (8, 16, 32, 64, 128, 256)) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, channels[0], 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels)])
        self.blocks = nn.ModuleList([ResidualBlock(c, c) for c in channels])
        _initialize(self)
        self.decoder = MapDecoder(tuple(reversed(channels)), width, skips=True)

    def forward(
        self, maps: Float[Tensor, "b i h w"], constant: Float[Tensor, "1 c h w"] | None = None
    ) -> Float[Tensor, "b o h w"]:
        """(B, inputs, H, W) to (B, width, H, W); H and W are multiples of 2^(levels − 1).

        Args:
            maps: the first channels of the input.
            constant: its remaining channels, if they are the same in all B maps: the first layer is linear, so their
                part of it is computed once.
        """
        first = self.first(maps) if constant is None else self._first_with(maps, constant)
        maps = self.blocks[0](nn.functional.leaky_relu(first, _SLOPE))
        skips = []
        for down, block in zip(self.down, self.blocks[1:], strict=True):
            skips.append(maps)
            maps = block(nn.functional.leaky_relu(down(maps), _SLOPE))
        out: Tensor = self.decoder(maps, skips)
        return out

    def _first_with(self, maps: Tensor, constant: Tensor) -> Tensor:
        own, shared = self.first.weight.split([maps.shape[1], constant.shape[1]], dim=1)
        of_maps = nn.functional.conv2d(maps, own.contiguous(memory_format=torch.channels_last), padding=1)
        shared = shared.contiguous(memory_format=torch.channels_last)
        return of_maps + nn.functional.conv2d(constant, shared, self.first.bias, padding=1)
