"""Lazy Adam: the rule of tiny-cuda-nn entry by entry, dense groups as PyTorch's, and steps that a device refuses."""

import math

import pytest
import torch

from headfields.ops import dispatch
from headfields.runs.lazy_adam import LazyAdam, lazy_adam
from tests.tables import table


def by_entry(
    value: float, gradients: list[float], rate: float, betas: tuple[float, float], eps: float
) -> tuple[float, int]:
    """The rule for one entry in plain numbers: its value after the steps, and how many it took."""
    first = second = 0.0
    steps = 0
    for gradient in gradients:
        if gradient == 0:
            continue
        steps += 1
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        corrected = rate * math.sqrt(1 - betas[1] ** steps) / (1 - betas[0] ** steps)
        value -= corrected * first / (math.sqrt(second) + eps)
    return value, steps


def stepped(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(parameter.grad, gradient), "the gradient stays"
    return parameter.detach()


@table("shape", [(5, 3), (7,), (70_000,), (0, 4)])
@table("fused", [False, True])
def test_each_entry_counts_its_own_steps(shape: tuple[int, ...], fused: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(shape, generator=generator, dtype=torch.double).requires_grad_()
    network = torch.randn(4, generator=generator, dtype=torch.double).requires_grad_()
    plain = network.detach().clone().requires_grad_()
    before, gradients = table.detach().clone(), torch.randn(6, *shape, generator=generator, dtype=torch.double)
    gradients *= torch.rand(gradients.shape, generator=generator) < 0.4
    groups = [{"params": [table], "lazy": True, "weight_decay": 0.1}, {"params": [network], "weight_decay": 0.1}]
    optimizer = LazyAdam(groups, lr=0.1, betas=(0.8, 0.95), eps=1e-9, fused=fused)
    other = torch.optim.Adam([plain], lr=0.1, betas=(0.8, 0.95), eps=1e-9, weight_decay=0.1, fused=fused)
    for gradient in gradients:
        network.grad = plain.grad = torch.full((4,), 0.5, dtype=torch.double)
        stepped(optimizer, table, gradient[None])
        other.step()
    assert torch.equal(network, plain), "a group that is not lazy takes PyTorch's steps"
    steps = optimizer.state[table]["step"].flatten()
    for entry in range(0, table.numel(), max(table.numel() // 50, 1)):
        own = gradients.flatten(1)[:, entry].tolist()
        value, count = by_entry(float(before.flatten()[entry]), own, 0.1, (0.8, 0.95), 1e-9)
        assert float(table.flatten()[entry].detach()) == pytest.approx(value, rel=1e-9)
        assert int(steps[entry]) == count


def test_where_all_entries_have_gradients_it_is_adam() -> None:
    lazy, dense = (torch.zeros(50, requires_grad=True) for _ in range(2))
    gradients = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    moved = stepped(lazy_adam([{"params": [lazy], "name": "tables", "lr": 0.01}]), lazy, gradients)
    same = stepped(torch.optim.Adam([dense], lr=0.01, betas=(0.9, 0.99), eps=1e-15), dense, gradients)
    torch.testing.assert_close(moved, same, rtol=1e-4, atol=1e-6)


def test_an_entry_that_is_seldom_met_moves_by_its_own_gradients_alone() -> None:
    """Met in one step in a hundred it moves a rate a time, where dense Adam goes on in between."""
    lazy, dense = (torch.zeros(2, requires_grad=True) for _ in range(2))
    gradients = torch.zeros(1000, 2)
    gradients[:, 0], gradients[::100, 1] = 1.0, 1.0
    seldom = stepped(lazy_adam([{"params": [lazy], "name": "tables", "lr": 0.01}]), lazy, gradients)
    often = stepped(torch.optim.Adam([dense], lr=0.01, betas=(0.9, 0.99), eps=1e-15), dense, gradients)
    assert float(seldom[1]) == pytest.approx(-0.1, rel=1e-3)  # ten gradients, a rate each
    assert float(often[1] / seldom[1]) > 5
    assert float(seldom[0]) == pytest.approx(float(often[0]), rel=1e-3)


def test_a_step_that_overflows_leaves_the_table_as_it_is() -> None:
    table = torch.ones(3, requires_grad=True)
    optimizer = lazy_adam([{"params": [table], "name": "tables", "lr": 0.1}])
    stepped(optimizer, table, torch.ones(1, 3))
    before = [table.detach().clone(), *(optimizer.state[table][name].clone() for name in ("step", "exp_avg"))]
    optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())  # type: ignore[attr-defined]
    stepped(optimizer, table, torch.tensor([[torch.inf, 1.0, 2.0]]))
    after = [table.detach(), *(optimizer.state[table][name] for name in ("step", "exp_avg"))]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.zeros(())  # type: ignore[attr-defined]
    stepped(optimizer, table, torch.full((1, 3), 8.0))
    torch.testing.assert_close(optimizer.state[table]["exp_avg"], torch.full((3,), 0.19))


def test_the_pass_of_a_gpu_is_the_same_rule() -> None:
    """Warp's kernel on its CPU device: values, moments and counts, of many steps and of a device's rate and refusal."""
    generator = torch.Generator().manual_seed(3)
    start, gradients = torch.randn(40, 8, generator=generator), torch.randn(60, 40, 8, generator=generator)
    gradients *= torch.rand(60, 40, 1, generator=generator) < torch.linspace(0, 1, 40)[:, None]
    reached = []
    for backend in ("warp", dispatch.cpu_backend()):
        table = start.clone().requires_grad_()
        optimizer = lazy_adam([{"params": [table], "name": "tables", "lr": torch.tensor(0.02)}])
        with dispatch.use_cpu_backend(backend):
            for number, gradient in enumerate(gradients):
                optimizer.grad_scale = torch.tensor(4.0)  # type: ignore[attr-defined]
                optimizer.found_inf = torch.tensor(float(number % 7 == 3))  # type: ignore[attr-defined]
                stepped(optimizer, table, 4 * gradient[None])
        state = optimizer.state[table]
        reached.append([table.detach(), state["exp_avg"], state["exp_avg_sq"], state["step"]])
    for warp, plain in zip(*reached, strict=True):
        torch.testing.assert_close(warp, plain, rtol=2e-5, atol=1e-6)
    assert torch.equal(reached[0][3], reached[1][3])
    assert torch.equal(reached[0][0][0], start[0]) and bool((reached[0][0][-1] != start[-1]).all())


def test_a_parameter_in_another_memory_format_is_stepped_too() -> None:
    image = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    plain = torch.zeros(2, 3, 4, 4, requires_grad=True)
    gradients = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2)).relu()
    moved = [stepped(LazyAdam([{"params": [p], "lazy": True}], lr=0.1), p, gradients) for p in (image, plain)]
    torch.testing.assert_close(*moved)
    assert bool((moved[0] != 0).any())


def test_what_lazy_steps_do_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="LazyAdam: amsgrad is True"):
        LazyAdam([torch.zeros(1, requires_grad=True)], amsgrad=True)
