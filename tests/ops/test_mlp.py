"""Small networks: every backend against the definition, derivatives, what goes to PyTorch instead, and bad input.

Values are small whole numbers where gradients are compared: their sums are exact in float32, so that no ReLU near
zero can go one way here and the other way there.
"""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops import mlp
from headfields.ops.dispatch import native
from headfields.ops.mlp import _mlp, _mlp_backward, mlp_kernel
from headfields.ops.reference.mlp import mlp as definition
from tests.backends import BACKENDS, running_on
from tests.tables import table

INSTA = [(89, 64, 64, 16), (32, 64, 64, 64, 3)]
needs_native = pytest.mark.skipif(native is None, reason="the compiled module is not installed")


def network(count, widths, bias=False, shared=0, whole=True, seed=0, dtype=torch.float32):
    """Arguments of `mlp`; the last `shared` columns are a condition of three rows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        if whole:
            return torch.randint(-2, 3, shape, generator=generator).to(dtype)
        return torch.randn(shape, generator=generator, dtype=dtype) / shape[-1] ** 0.5

    weights = [draw(after, before) for before, after in itertools.pairwise(widths)]
    biases = [draw(width) for width in widths[1:]] if bias else None
    x = draw(count, widths[0] - shared)
    if not shared:
        return [x, weights, biases, None, None]
    return [x, weights, biases, draw(3, shared), torch.randint(3, (count,), generator=generator)]


def moved(arguments, convert):
    """The arguments with `convert` applied to each tensor of floats."""
    x, weights, biases, condition, index = arguments
    return [
        convert(x),
        [convert(weight) for weight in weights],
        None if biases is None else [convert(bias) for bias in biases],
        None if condition is None else convert(condition),
        index,
    ]


def leaves(arguments):
    x, weights, biases, condition, _ = arguments
    return [x, *weights, *(biases or []), *([] if condition is None else [condition])]


def with_gradients(function, arguments, device="cpu"):
    """The value, and the gradients of everything by one cotangent; on the CPU, in float64."""
    given = moved(arguments, lambda t: t.to(device).requires_grad_())
    if given[4] is not None:
        given[4] = given[4].to(device)
    value = function(*given)
    cotangent = torch.arange(value.numel(), device=device).reshape(value.shape) % 5 - 2
    gradients = torch.autograd.grad(value, leaves(given), cotangent.to(value.dtype))
    return [t.detach().cpu().double() for t in (value, *gradients)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("bias", "shared"), [(False, 0), (True, 0), (False, 5), (True, 5)])
@pytest.mark.parametrize("widths", [*INSTA, (17, 128, 100, 1), (150, 33), (6, 1, 1)])
def test_kernels_agree_with_the_definition(backend, widths, bias, shared):
    for count in (0, 1, 49, 700):
        arguments = network(count, widths, bias, shared)
        target = with_gradients(definition, moved(arguments, torch.Tensor.double))
        with running_on(backend) as device:
            result = with_gradients(mlp_kernel, arguments, device)
        for have, want in zip(result, target, strict=True):
            torch.testing.assert_close(have, want, atol=1e-6, rtol=1e-5)


@given(
    count=st.integers(0, 120),
    widths=st.lists(st.integers(1, 128), min_size=2, max_size=5),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_size(count, widths, bias, seed):
    shared = seed % widths[0]
    arguments = network(count, widths, bias, shared, whole=False, seed=seed)
    target = definition(*moved(arguments, torch.Tensor.double))
    torch.testing.assert_close(mlp(*arguments).double(), target, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2), (0, 3)])
def test_batches(batch):
    x, weights, biases, condition, _ = network(1, (9, 8, 3), True, 4)
    x = x[0].expand(*batch, 5)
    index = torch.ones(batch, dtype=torch.long)
    result = mlp(x, weights, biases, condition, index)
    assert result.shape == (*batch, 3)
    torch.testing.assert_close(result, definition(x, weights, biases, condition, index))
    assert mlp(x.clone().requires_grad_(), weights, biases, condition, index).requires_grad


def test_rows_apart_in_memory():
    _, weights, *rest = network(50, (9, 8, 3))
    wide = torch.randn(50, 20)
    torch.testing.assert_close(mlp(wide[:, 3:12], weights, *rest), definition(wide[:, 3:12], weights, *rest))
    across = torch.randn(9, 50).T
    torch.testing.assert_close(mlp(across, weights, *rest), definition(across, weights, *rest))


@pytest.mark.parametrize("count", [1, 3])
def test_derivatives_of_the_operation_to_second_order(count):
    x, weights, biases, condition, index = network(count, (4, 3, 3, 2), True, 2, whole=False, dtype=torch.float64)
    tensors = [t.requires_grad_() for t in leaves([x, weights, biases, condition, index])]

    def run(x, *rest):
        return mlp_kernel(x, rest[:3], rest[3:6], rest[6], index)

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True)


def test_second_derivatives_through_the_kernels():
    def penalty(function, arguments):
        given = moved(arguments, torch.Tensor.requires_grad_)
        gradients = torch.autograd.grad(function(*given).sum(), leaves(given), create_graph=True)
        total = sum((gradient * gradient).sum() for gradient in gradients)
        return [
            g.double() for g in torch.autograd.grad(total, leaves(given), allow_unused=True, materialize_grads=True)
        ]

    arguments = network(40, (9, 12, 10, 3), True, 4)
    target = penalty(definition, moved(arguments, torch.Tensor.double))
    for have, want in zip(penalty(mlp_kernel, arguments), target, strict=True):
        torch.testing.assert_close(have, want, atol=1e-6, rtol=1e-5)


def test_one_tensor_as_several_arguments():
    """A weight that two layers share gets the sum of both gradients, in the first derivative and in the second."""
    x, (weight,), *_ = network(6, (3, 3), whole=False, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: mlp_kernel(x, [w, w, w]), [weight.requires_grad_()])
    assert torch.autograd.gradgradcheck(lambda w: mlp_kernel(x, [w, w, w]), [weight], fast_mode=True)


@needs_native
def test_gradients_do_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    result = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            result.append(with_gradients(mlp_kernel, network(4001, (20, 32, 3), True, 5, whole=False)))
    finally:
        torch.set_num_threads(before)
    for other in result[1:]:
        assert all(torch.equal(have, want) for have, want in zip(other, result[0], strict=True))


def test_gradients_that_nobody_asks_for():
    arguments = network(30, (9, 8, 3), True, 4)
    for chosen in range(len(leaves(arguments))):
        given = moved(arguments, torch.Tensor.clone)
        tensor = leaves(given)[chosen].requires_grad_()
        want = with_gradients(definition, arguments)[1 + chosen]
        value = mlp_kernel(*given)
        cotangent = torch.arange(value.numel()).reshape(value.shape) % 5 - 2.0
        (have,) = torch.autograd.grad(value, tensor, cotangent)
        torch.testing.assert_close(have.double(), want)


def test_opcheck():
    _, weights, biases, _, _ = network(0, (5, 4, 3), True)
    rows = [bias[None].requires_grad_() for bias in biases]
    for index in (None, torch.zeros(7, dtype=torch.long)):
        x = torch.randn(7, 5, requires_grad=True)
        torch.library.opcheck(_mlp, (x, weights, rows, index))
        torch.library.opcheck(_mlp_backward, (torch.randn(7, 3), x, weights, rows, index, [True] * 5))
        torch.library.opcheck(_mlp_backward, (torch.randn(7, 3), x, weights, rows, index, [False, True] * 2 + [False]))


@pytest.mark.parametrize("grad", [False, True])
def test_compiles_without_a_break(unchecked, grad):
    torch._dynamo.reset()
    arguments = network(30, (9, 8, 3), True, 4)
    arguments = moved(arguments, lambda t: t.requires_grad_(grad))
    compiled = torch.compile(lambda *a: mlp(*a), fullgraph=True, backend="aot_eager")
    have, want = compiled(*arguments), mlp(*arguments)
    torch.testing.assert_close(have, want)
    if grad:
        cotangent = torch.randn_like(want)
        pairs = (torch.autograd.grad(value, leaves(arguments), cotangent) for value in (have, want))
        for one, other in zip(*pairs, strict=True):
            torch.testing.assert_close(one, other)


def test_autocast_takes_pytorch():
    arguments = network(10, (9, 8, 3), whole=False)
    with torch.autocast("cpu", torch.bfloat16):
        result = mlp(*arguments)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), mlp(*arguments), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    "widths", [(3, 129, 2), (3, 200), (0, 4, 2), tuple([4] * 18)], ids=["wide", "wide out", "no columns", "deep"]
)
def test_what_the_kernels_do_not_hold(widths):
    arguments = network(10, widths, bias=True, whole=False)
    torch.testing.assert_close(mlp(*arguments), definition(*arguments))


@pytest.mark.parametrize("rows", [0, 2000])
def test_a_condition_of_very_many_rows_or_none(rows):
    _, weights, biases, *_ = network(0, (9, 8, 3), True)
    index = torch.arange(rows)
    condition, x = torch.randn(rows, 4), torch.randn(rows, 5)
    torch.testing.assert_close(
        mlp(x, weights, biases, condition, index), definition(x, weights, biases, condition, index)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bad_row_spoils_itself_alone(backend):
    arguments = network(100, (9, 20, 20, 3), whole=False)
    clean = mlp_kernel(*arguments)
    arguments[0][3, 0] = torch.nan
    arguments[0][60, 2] = torch.inf
    with running_on(backend) as device:
        given = moved(arguments, lambda t: t.to(device))
        result = mlp_kernel(*given).cpu()
    rest = torch.ones(100, dtype=torch.bool)
    rest[[3, 60]] = False
    torch.testing.assert_close(result[rest], clean[rest], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(result, definition(*arguments), atol=1e-6, rtol=1e-5, equal_nan=True)
    assert bool(result[3].isnan().all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [1, 3, 3000])
@pytest.mark.parametrize("hidden", [9, 16])
def test_rows_that_the_first_layer_starts_from(backend, rows, hidden):
    """More of them than the kernel keeps sums for, too; the first bias is not looked at."""
    x, weights, biases, _, _ = network(200, (7, hidden, 5), bias=True)
    generator = torch.Generator().manual_seed(1)
    start = torch.randint(-2, 3, (rows, hidden), generator=generator).float()
    index = torch.randint(rows, (200,), generator=generator)
    hidden_values = (x @ weights[0].T + start[index]).relu()
    torch.testing.assert_close(
        definition(x, weights, biases, None, index, start), hidden_values @ weights[1].T + biases[1]
    )
    result = []
    with running_on(backend) as device:
        for function in (mlp, mlp_kernel, definition):
            given = [t.to(device).requires_grad_() for t in (x, *weights, biases[1], start)]
            value = function(given[0], given[1:3], [biases[0].to(device), given[3]], None, index.to(device), given[4])
            gradients = torch.autograd.grad(value.square().sum(), given)
            result.append([value.detach().cpu(), *(gradient.cpu() for gradient in gradients)])
    torch.testing.assert_close(result[0], result[2])
    torch.testing.assert_close(result[1], result[2])


@needs_native
def test_a_condition_of_many_rows_has_the_gradients_of_the_definition():
    x, weights, biases, _, _ = network(300, (9, 16, 3), bias=True, shared=4)
    condition, index = torch.randint(-2, 3, (2000, 4)).float(), torch.randint(2000, (300,))
    result = []
    for function in (mlp, definition):
        given = [t.clone().requires_grad_() for t in (x, condition, *weights)]
        value = function(given[0], given[2:], biases, given[1], index)
        result.append(torch.autograd.grad(value.square().sum(), given))
    torch.testing.assert_close(*result)


def test_start_has_second_derivatives():
    x, weights, biases, _, _ = network(4, (3, 5, 2), bias=True, whole=False, dtype=torch.float64)
    start, index = torch.randn(3, 5, dtype=torch.float64), torch.tensor([0, 2, 2, 1])
    given = [t.requires_grad_() for t in (x, *weights, start)]

    def run(x, first, second, start):
        return mlp_kernel(x, [first, second], biases, None, index, start)

    assert torch.autograd.gradcheck(run, given) and torch.autograd.gradgradcheck(run, given, fast_mode=True)


def test_bad_start_is_named(unchecked):
    x, weights, biases, condition, index = network(4, (9, 8, 3), True, 4)
    wide = [torch.zeros(8, 5), weights[1]]
    for start, beside, match in (
        (torch.zeros(3, 7), None, "start has shape"),
        (torch.zeros(3, 8), condition, "condition and start are mutually exclusive"),
    ):
        with pytest.raises(ValueError, match=match):
            mlp(x, wide, biases, beside, index, start)
    with pytest.raises(ValueError, match="start and index"):
        mlp(x, wide, biases, None, None, torch.zeros(3, 8))


@needs_native
@pytest.mark.parametrize("value", [-1, 3])
def test_an_index_out_of_range_is_refused(value):
    arguments = network(20, (9, 8, 3), True, 4)
    arguments[4][7] = value
    with pytest.raises(IndexError, match="mlp: index"):
        mlp(*arguments)


@table(
    ("place", "bad", "error", "match"),
    [
        (0, torch.zeros(4, 5, dtype=torch.long), TypeError, "x has dtype"),
        (0, torch.zeros(4, 6), ValueError, r"weights\[0\] has shape"),
        (1, [], ValueError, "weights is empty"),
        (1, [torch.zeros(8, 9), torch.zeros(3, 7)], ValueError, r"weights\[1\] has shape"),
        (1, [torch.zeros(8, 9), torch.zeros(3, 8, dtype=torch.int)], TypeError, r"weights\[1\] has dtype"),
        (2, [torch.zeros(8)], ValueError, "1 biases for 2 weights"),
        (2, [torch.zeros(8), torch.zeros(1, 3)], ValueError, r"biases\[1\] has shape"),
        (3, None, ValueError, "condition and index go together"),
        (3, torch.zeros(4), ValueError, "condition has shape"),
        (4, torch.zeros(4), TypeError, "index has dtype"),
        (4, torch.zeros(5, dtype=torch.long), ValueError, r"index has shape \(5,\); expected \(4,\)"),
    ],
)
def test_bad_arguments_are_named(unchecked, place, bad, error, match):
    arguments = network(4, (9, 8, 3), True, 4)
    arguments[place] = bad
    with pytest.raises(error, match=match):
        mlp(*arguments)
