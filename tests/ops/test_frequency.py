import math

import pytest
import torch

from headfields.ops.frequency import frequency_encoding, frequency_window
from tests.tables import table


def test_values_by_hand():
    have = frequency_encoding(torch.tensor([0.25, 0.5], dtype=torch.float64), 2)
    root = math.sqrt(0.5)
    expected = [0.25, 0.5, root, 1.0, root, 0.0, 1.0, 0.0, 0.0, -1.0]
    torch.testing.assert_close(have, torch.tensor(expected, dtype=torch.float64))


@table("batch", [(), (2,), (1, 2), (0,)])
@table("include_input", [True, False])
def test_batch_shapes_keep_a_gradient(batch, include_input):
    x = torch.rand(*batch, 3, requires_grad=True)
    out = frequency_encoding(x, 4, include_input)
    assert out.shape == (*batch, 24 + 3 * include_input)
    out.sum().backward()
    assert x.grad.shape == x.shape


def test_window_opens_from_coarse_to_fine():
    assert torch.equal(frequency_window(3, 0.0), torch.zeros(3))
    torch.testing.assert_close(frequency_window(3, 1.0), torch.ones(3))
    torch.testing.assert_close(frequency_window(4, 0.375), torch.tensor([1.0, 0.5, 0.0, 0.0]))
    x = torch.rand(5, 3)
    windowed = frequency_encoding(x, 4, weights=frequency_window(4, 0.5))
    torch.testing.assert_close(windowed[:, :15], frequency_encoding(x, 2))
    assert torch.equal(windowed[:, 15:], torch.zeros(5, 12))


def test_gradcheck():
    x = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: frequency_encoding(x, 3, weights=w), (x, weights))
    assert torch.autograd.gradgradcheck(lambda x, w: frequency_encoding(x, 3, weights=w), (x, weights), fast_mode=True)


def test_compiles_in_one_graph(unchecked):
    x = torch.rand(5, 3)
    compiled = torch.compile(lambda x: frequency_encoding(x, 4), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), frequency_encoding(x, 4))


def test_no_bands_leave_the_input_alone():
    x = torch.rand(5, 3)
    out = frequency_encoding(x, 0)
    assert torch.equal(out, x) and out.data_ptr() != x.data_ptr()


def test_errors_name_argument_and_remedy(unchecked):
    with pytest.raises(ValueError, match="bands is -1"):
        frequency_encoding(torch.rand(3), -1)
    with pytest.raises(ValueError, match="bands is 0; expected 1 or more"):
        frequency_encoding(torch.rand(3), 0, include_input=False)
    with pytest.raises(ValueError, match="weights has shape"):
        frequency_encoding(torch.rand(3), 4, weights=torch.ones(3))
    with pytest.raises(TypeError, match=r"x has dtype torch\.int64"):
        frequency_encoding(torch.arange(3), 4)
