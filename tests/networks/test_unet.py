"""The residual U-Net: constant channels are convolved once, with the same result."""

import torch

from headfields.networks.unet import ResidualUNet


def test_constant_channels_are_convolved_once() -> None:
    torch.manual_seed(0)
    network = ResidualUNet(2 + 5, 3, (4, 6))
    maps, constant = torch.randn(3, 2, 8, 8), torch.randn(1, 5, 8, 8)
    batches: list[int] = []
    plain = torch.nn.functional.conv2d

    def counted(maps: torch.Tensor, weight: torch.Tensor, *rest, **options) -> torch.Tensor:
        if weight.shape[1] == 5:
            batches.append(len(maps))
        return plain(maps, weight, *rest, **options)

    torch.nn.functional.conv2d = counted
    try:
        out = network(maps, constant)
    finally:
        torch.nn.functional.conv2d = plain
    assert batches == [1]
    out.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    same = network(torch.cat([maps, constant.expand(3, -1, -1, -1)], dim=1))
    same.square().sum().backward()
    torch.testing.assert_close(out, same)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=1e-4)
