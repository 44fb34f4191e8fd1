"""Steps of a fused Adam that the device takes or leaves."""

import torch

from headfields.runs.asynchronous import step_if


def test_an_adam_that_the_device_stops():
    """Moments, counts and parameters are those of PyTorch's own step, and of none where it is not taken."""
    g = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=g) for shape in ((3, 2), (4,), (2, 2), (5,))]
    makers = [[x.clone().requires_grad_() for x in start] for _ in range(2)]
    optimizers = []
    for own in makers:
        groups = [{"params": own[:2], "lr": torch.tensor(0.1)}, {"params": own[2:], "lr": torch.tensor(0.02)}]
        optimizers.append(torch.optim.Adam(groups, betas=(0.8, 0.9), weight_decay=0.01, fused=True))
    for step, taken in enumerate((True, True, False, True, False, False, True)):
        grads = [torch.randn(x.shape, generator=g) for x in start]
        grads = [None if step % 2 and place == 3 else grad for place, grad in enumerate(grads)]
        for own in makers:
            for parameter, grad in zip(own, grads, strict=True):
                parameter.grad = None if grad is None else grad.clone()
        step_if(optimizers[0], torch.tensor(taken))
        if taken:
            optimizers[1].step()
        for mine, theirs in zip(*makers, strict=True):
            assert torch.equal(mine, theirs), step
            states = (optimizer.state[x] for optimizer, x in zip(optimizers, (mine, theirs), strict=True))
            one, other = states
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), step
    assert float(optimizers[0].state[makers[0][0]]["step"]) == 4


def test_hooks_of_an_optimizer_are_called():
    parameter = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], fused=True)
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    for _ in range(3):
        parameter.grad = torch.ones(2)
        step_if(optimizer, torch.tensor(True))
    assert len(called) == 3
