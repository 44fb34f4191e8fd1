"""Rows sorted by group, and the layers of an ensemble, against a loop over the groups."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headfields.ops.grouped import group_rows
from headfields.ops.grouped_linear import grouped_linear, grouped_outer, linear_by_copies
from tests.tables import table


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def group_linear(x, weights, bias, group):
    rows = group_rows(group, len(weights))
    return rows.scatter(rows.linear(rows.gather(x), weights, bias))


def looped(x, weights, bias, group):
    rows = [row @ weights[g] + (0 if bias is None else bias[g]) for row, g in zip(x, group.tolist(), strict=True)]
    return torch.stack(rows) if rows else x.new_zeros(0, weights.shape[2])


@table("count", [0, 1, 37, 900])
@table("with_bias", [True, False])
def test_each_row_has_the_layer_of_its_group(device, count, with_bias):
    group = torch.randint(5, (count,), generator=torch.Generator().manual_seed(count), dtype=torch.int32)
    x, weights, bias = drawn(count, 4), drawn(6, 4, 3, seed=1), drawn(6, 3, seed=2) if with_bias else None
    result = group_linear(*(None if t is None else t.to(device) for t in (x, weights, bias)), group.to(device))
    torch.testing.assert_close(result.cpu(), looped(x, weights, bias, group))


@given(group=st.lists(st.integers(0, 6), max_size=60), block=st.sampled_from([None, 1, 3, 16]), fixed=st.booleans())
def test_every_row_has_one_place_in_a_block_of_its_group(group, block, fixed):
    group = torch.tensor(group, dtype=torch.long)
    rows = group_rows(group, 7, block, fixed)
    if fixed and len(group):
        assert len(rows.group) == (len(group) + 7 * (rows.rows - 1)) // rows.rows, "whatever the groups"
    assert len(rows.source) == len(rows.group) * rows.rows and (block is None or rows.rows == block)
    assert rows.place.unique().numel() == len(group)
    assert torch.equal(rows.source[rows.place], torch.arange(len(group)))
    assert torch.equal(rows.group[rows.place // rows.rows], group)
    assert len(rows.group) <= len(group) // rows.rows + 7  # at most one block of a group is in part empty
    weights, own = torch.randn(7, 2, 3), torch.randn(len(group), 2)
    torch.testing.assert_close(rows.scatter(rows.linear(rows.gather(own), weights)), looped(own, weights, None, group))
    x = torch.randn(len(group), 2)
    assert torch.equal(rows.scatter(rows.gather(x)), x)


def test_derivatives():
    group = torch.tensor([2, 0, 2, 1, 2])
    inputs = [t.requires_grad_() for t in (drawn(5, 3), drawn(4, 3, 2, seed=1), drawn(4, 2, seed=2))]

    def function(x, weights, bias):
        return group_linear(x, weights, bias, group).tanh()

    assert torch.autograd.gradcheck(function, inputs) and torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
    nothing = group_linear(inputs[0][:0], inputs[1], inputs[2], group[:0])
    nothing.sum().backward()
    assert nothing.shape == (0, 2) and not bool(inputs[1].grad.any())


def test_errors(unchecked):
    x, weights, group = torch.zeros(3, 2), torch.zeros(4, 2, 5), torch.zeros(3, dtype=torch.long)
    with pytest.raises(IndexError, match="group_rows: group holds 4; expected 0 to 3"):
        group_linear(x, weights, None, group + 4)
    with pytest.raises(TypeError, match=r"group has dtype torch\.float32"):
        group_rows(group.float(), 4)
    with pytest.raises(ValueError, match="groups is 0"):
        group_rows(group, 0)


def in_blocks(count=37, groups=5):
    """Rows in their blocks, and weights and bias of their groups, in float64; the last group has no rows."""
    group = torch.randint(groups - 1, (count,), generator=torch.Generator().manual_seed(count))
    rows = group_rows(group, groups, 16, fixed=True)
    tensors = rows.gather(drawn(count, 3)), drawn(groups, 3, 2, seed=1), drawn(groups, 2, seed=2)
    return rows.group, [t.detach().requires_grad_() for t in tensors]


@pytest.mark.parametrize("count", [0, 3, 37])
def test_registered_layers_are_each_others_derivatives(count):
    group, (x, weights, bias) = in_blocks(count)
    expected = linear_by_copies(x, weights, bias, group)
    torch.testing.assert_close(grouped_linear(x, weights, bias, group), expected)
    y = drawn(*expected.shape, seed=3).requires_grad_()
    none = bias.detach()[:0].requires_grad_()
    for function, inputs in (
        (lambda *each: grouped_linear(*each, group), (x, weights, bias)),
        (lambda *each: grouped_linear(*each, group), (x, weights, none)),
        (lambda *each: grouped_outer(*each, group, 5), (x, y)),
    ):
        options = {"fast_mode": True}
        assert torch.autograd.gradcheck(function, inputs, **options)
        assert torch.autograd.gradgradcheck(function, inputs, **options)
    torch.func.jvp(lambda x: grouped_linear(x, weights, bias, group), (x,), (torch.ones_like(x),))


def test_registered_layers_are_well_formed(unchecked):
    group, (x, weights, bias) = in_blocks()
    torch.library.opcheck(grouped_linear, (x, weights, bias, group))
    torch.library.opcheck(grouped_outer, (x, x.detach()[..., :2], group, 5))
    with pytest.raises(ValueError, match="grouped_linear"):
        grouped_linear(x, weights[:, :2], bias, group)


def in_triton(what, folder):
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.triton_grouped", what],
        capture_output=True, text=True, timeout=500, env=os.environ | {"TRITON_CACHE_DIR": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@needs_triton
def test_triton_has_the_values_and_derivatives_of_a_loop(tmp_path):
    errors = in_triton("interpret", tmp_path)
    assert len(errors) == 4 and all(max(of_layer) < 2e-5 for of_layer in errors.values()), errors


@needs_triton
@pytest.mark.slow
def test_kernels_compile_to_tensor_cores(tmp_path):
    taken = in_triton("compile", tmp_path)
    assert len(taken) == 12
    for name, of_kernel in taken.items():
        assert of_kernel["products"] > 0 and not of_kernel["stack"], name
        assert of_kernel["shared"] <= 99 * 1024, name  # what a block may have on every GPU from sm_80 on
