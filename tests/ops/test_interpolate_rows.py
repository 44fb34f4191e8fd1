"""Weighted sums of rows: values and derivatives of every order against the definition, over backends."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops import interpolate_rows
from headfields.ops.interpolate_rows import _dot, _gather, _scatter, scatter_rows
from headfields.ops.reference import interpolate_rows as reference
from tests.tables import table


def example(n: int, k: int, rows: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, width, generator=generator, dtype=dtype)
    index = torch.randint(-1, max(rows, 0), (n, k), generator=generator) if rows else torch.full((n, k), -1)
    weights = torch.randn(n, k, generator=generator, dtype=dtype)
    values = torch.randn(n, width, generator=generator, dtype=dtype)
    return table, index, weights, values


@table(
    ("n", "k", "rows", "width"),
    [(0, 3, 5, 4), (1, 1, 1, 1), (7, 3, 5, 17), (300, 4, 11, 64), (5, 0, 3, 2), (4, 2, 0, 3)],
)
def test_values_and_first_derivatives(device: torch.device, n: int, k: int, rows: int, width: int) -> None:
    table, index, weights, values = (x.to(device) for x in example(n, k, rows, width))
    gather = (interpolate_rows, reference.interpolate_rows, (table, weights), values, ())
    scatter = (scatter_rows, reference.scatter_rows, (values, weights), table, (rows,))
    for ours, definition, inputs, grad, more in (gather, scatter):
        a, b = (x.clone().requires_grad_() for x in inputs)
        out, expected = ours(a, index, b, *more), definition(a, index, b, *more)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
        result, target = (torch.autograd.grad(x, (a, b), grad) for x in (out, expected))
        torch.testing.assert_close(result, target, atol=1e-5, rtol=1e-5)


def test_second_derivatives_of_the_kernels(device: torch.device) -> None:
    """In float32, where kernels run: the gradient of a squared gradient against that of the definition."""
    table, index, weights, values = (x.to(device) for x in example(40, 3, 9, 20))

    def second(function) -> tuple[torch.Tensor, ...]:  # type: ignore[no-untyped-def]
        a, b, g = (x.clone().requires_grad_() for x in (table, weights, values))
        first = torch.autograd.grad(function(a, index, b), (a, b), g, create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), (a, b, g))

    for result, target in zip(second(interpolate_rows), second(reference.interpolate_rows), strict=True):
        torch.testing.assert_close(result, target, atol=1e-3, rtol=1e-4)


def test_derivatives_against_finite_differences() -> None:
    table, index, weights, values = example(6, 3, 4, 5, dtype=torch.float64)
    for x in (table, weights, values):
        x.requires_grad_()
    gather, scatter = (lambda t, w: interpolate_rows(t, index, w)), (lambda v, w: scatter_rows(v, index, w, 4))
    for function, inputs in ((gather, (table, weights)), (scatter, (values, weights))):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda t, v: _dot(t, index, v), (table, values), fast_mode=True)


def test_registered_operations(device: torch.device, unchecked: None) -> None:
    table, index, weights, values = (x.to(device) for x in example(9, 3, 4, 5))
    for x in (table, weights, values):
        x.requires_grad_()
    for operation, arguments in (
        (_gather, (table, index, weights)), (_scatter, (values, index, weights, 4)), (_dot, (table, index, values)),
    ):  # fmt: skip
        torch.library.opcheck(operation, arguments)


def test_compiles_whole(unchecked: None) -> None:
    table, index, weights, _ = example(9, 3, 4, 5)
    compiled = torch.compile(lambda t, w: interpolate_rows(t, index, w), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(table, weights), interpolate_rows(table, index, weights))


@given(
    n=st.integers(0, 40), k=st.integers(0, 6), rows=st.integers(0, 9), width=st.integers(0, 70),
    seed=st.integers(0, 99), threads=st.integers(1, 5),
)  # fmt: skip
def test_any_size_on_any_number_of_threads(n: int, k: int, rows: int, width: int, seed: int, threads: int) -> None:
    table, index, weights, values = example(n, k, rows, width, seed)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        gathered, scattered = interpolate_rows(table, index, weights), scatter_rows(values, index, weights, rows)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(gathered, reference.interpolate_rows(table, index, weights), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scattered, reference.scatter_rows(values, index, weights, rows), atol=1e-5, rtol=1e-5)
    again = scatter_rows(values, index, weights, rows)
    assert torch.equal(scattered, again), "the sum depends on the number of threads"


def test_nan_and_infinity_stay_where_they_are() -> None:
    table, index, weights, _ = example(6, 2, 4, 3)
    index = index.abs()
    table[1, 2] = torch.nan
    out = interpolate_rows(table, index, weights)
    assert torch.equal(out.isnan()[:, 2], (index == 1).any(dim=1)) and not bool(out[:, :2].isnan().any())
    table[1, 2] = torch.inf
    without = interpolate_rows(table, torch.where(index == 1, -1, index), weights)
    assert bool(without.isfinite().all())


def test_half_precision_is_computed_in_single() -> None:
    table, index, weights, _ = example(6, 2, 4, 3)
    out = interpolate_rows(table.bfloat16(), index, weights)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, interpolate_rows(table.bfloat16().float(), index, weights))


def test_errors(unchecked: None) -> None:
    table, index, weights, values = example(6, 2, 4, 3)
    with pytest.raises(TypeError, match=r"interpolate_rows: index has dtype torch.float32"):
        interpolate_rows(table, weights, weights)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights has shape \\(5, 2\\) and index \\(6, 2\\)"):
        interpolate_rows(table, index, weights[:5])
    with pytest.raises(ValueError, match="scatter_rows: values has shape \\(5, 3\\)"):
        scatter_rows(values[:5], index, weights, 4)
    with pytest.raises(ValueError, match="rows is -1"):
        scatter_rows(values, index, weights, -1)
    from headfields.ops import dispatch

    if dispatch.native is not None:
        with pytest.raises(IndexError, match="names a row that is not there"):
            interpolate_rows(table, index + 4, weights)


def test_an_index_out_of_range_is_an_error_in_double_precision() -> None:
    index, weights = torch.tensor([[0, 4]]), torch.ones(1, 2).double()
    with pytest.raises(IndexError, match="interpolate_rows: index holds 4"):
        interpolate_rows(torch.rand(4, 3).double(), index, weights)
    with pytest.raises(IndexError, match="scatter_rows: index holds 4"):
        scatter_rows(torch.rand(1, 3).double(), index, weights, 4)
