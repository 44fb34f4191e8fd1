"""The table of derivatives and transforms on the page of operations is what the operations do."""

import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad

import headfields as hf
from headfields.networks import MLP, Anchors
from tests.ops import derivative_table, hostile_calls

ROWS = {row.name: row for row in derivative_table.rows()}


def test_every_operation_has_a_row():
    assert derivative_table.public() <= {name.split(".")[0] for name in ROWS}
    assert set(derivative_table.stated()) == set(ROWS)


def cells(text: str) -> list[str]:
    return [cell.strip() for cell in text.strip().strip("|").split("|")[1:]]


COMPILED = derivative_table.COLUMNS.index("`compile`")


@pytest.mark.filterwarnings("ignore")
def test_the_page_says_what_holds(unchecked):
    for name, text in derivative_table.stated().items():
        stated = cells(text)
        stated[COMPILED] = ""
        assert cells(derivative_table.observed_line(ROWS[name], without="compile")) == stated, name


@pytest.mark.slow
def test_the_whole_page():
    """With the column on torch.compile, in a process of its own: it does not trace all that has its types checked."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.ops.derivative_table", "--print"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    assert dict.fromkeys(done.stdout.splitlines()) == dict.fromkeys(
        text.strip() for text in derivative_table.stated().values()
    )


ROUNDED = {("hash_grid_rounded", 2), ("hash_grid_rounded_backward", 3)}
"""Rounded numbers of a table, whose derivatives are the table's."""


def differentiable_calls():
    """Those of operations that give something; a step of an optimizer changes its arguments."""
    for name, arguments in hostile_calls.valid_calls().items():
        operation = getattr(torch.ops.headfields, name)
        if not operation.default._schema.is_mutable:
            yield name, operation, arguments


def test_registered_operations_keep_tangents_or_raise():
    """Directly, as no public function would call them: dual tensors in each place that may be differentiated."""
    for name, operation, arguments in differentiable_calls():
        for place, argument in enumerate(arguments):
            if not isinstance(argument, torch.Tensor) or not argument.is_floating_point() or (name, place) in ROUNDED:
                continue
            with forward_ad.dual_level():
                duals = list(arguments)
                duals[place] = forward_ad.make_dual(argument.clone(), torch.ones_like(argument))
                try:
                    results = operation(*duals)
                except NotImplementedError as error:
                    assert str(error).startswith(f"{name}: no derivative in forward mode") and "\n" not in str(error)
                    continue
                results = [results] if isinstance(results, torch.Tensor) else results
                floating = [result for result in results if result.is_floating_point()]
                tangents = [forward_ad.unpack_dual(result).tangent for result in floating]
                assert any(tangent is not None for tangent in tangents), f"{name} loses the tangent of argument {place}"


def test_registered_operations_under_vmap():
    for _, operation, arguments in differentiable_calls():
        place = next(k for k, argument in enumerate(arguments) if isinstance(argument, torch.Tensor))
        dims = tuple(0 if k == place else None for k in range(len(arguments)))
        stacked = [torch.stack([a, a]) if k == place else a for k, a in enumerate(arguments)]
        alone, both = operation(*arguments), torch.vmap(operation, dims)(*stacked)
        pairs = [(alone, both)] if isinstance(alone, torch.Tensor) else zip(alone, both, strict=True)
        for one, two in pairs:
            torch.testing.assert_close(two[1], one, equal_nan=True)


def test_a_jacobian_of_a_hash_grid():
    torch.manual_seed(0)
    layout = hf.ops.HashGridLayout(levels=4, features=2, log2_table_size=10, finest_resolution=32)
    table, points = torch.randn(layout.entries, layout.features), torch.rand(6, 3)

    def encode(x):
        return hf.ops.hash_grid(x, table, layout).sin().sum()

    points.requires_grad_()
    (truth,) = torch.autograd.grad(encode(points), points)
    for jacobian in (torch.func.jacfwd, torch.func.jacrev, torch.func.grad):
        torch.testing.assert_close(jacobian(encode)(points.detach()), truth, rtol=1e-4, atol=1e-4)
    each = torch.func.vmap(torch.func.grad(encode))(points.detach())
    torch.testing.assert_close(each, truth, rtol=1e-4, atol=1e-4)


class Distances(torch.nn.Module):
    """A deformation to hyper-coordinates, a hash grid and a network."""

    def __init__(self):
        super().__init__()
        anchors = Anchors(0.1 * torch.randn(5, 3), 2, global_width=4, local_width=3, hidden=6)
        sizes = {"expression_width": 5, "identity_width": 3, "hidden": 12, "layers": 3, "skip": 1, "beta": 20.0}
        self.deformer = hf.deformers.HyperDeformer(anchors, 1, **sizes)
        self.encoder = hf.encoders.HashGrid(2, 2, 8, 2, 8, interpolation="smoothstep", initial=1.0)
        self.encoder.build(self.deformer.bounds(), self.deformer.ambient_width)
        self.network = MLP(4, 8, 1)
        codes = {name: torch.randn(1, width).double() for name, width in self.deformer.code_widths.items()}
        self.state = hf.HeadState(torch.zeros(1, 0, 3).double(), codes=codes)

    def forward(self, points):
        frame = torch.zeros(len(points), dtype=torch.long)
        canonical = self.deformer(points, points, frame, self.deformer.prepare(self.state))
        return self.network(self.encoder(canonical, None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_modules_under_torch_func(dtype):
    torch.manual_seed(0)
    distances = Distances().to(dtype)
    distances.state = hf.HeadState(
        distances.state.vertices.to(dtype), codes={name: code.to(dtype) for name, code in distances.state.codes.items()}
    )
    points = 0.1 * torch.randn(3, 3, dtype=dtype)
    parameters = {name: value.detach() for name, value in distances.named_parameters()}
    close = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-9}

    def loss(parameters, points):
        return torch.func.functional_call(distances, parameters, (points,)).square().sum()

    by_points = torch.autograd.functional.hessian(lambda x: distances(x).square().sum(), points)
    torch.testing.assert_close(torch.func.hessian(loss, 1)(parameters, points), by_points, **close)
    truth = torch.autograd.grad(distances(points).square().sum(), list(distances.parameters()), allow_unused=True)
    gradient = torch.func.grad(loss)(parameters, points)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, points[:, None])
    along = {name: torch.randn_like(value) for name, value in parameters.items()}
    slope = torch.func.jvp(lambda p: loss(p, points), (parameters,), (along,))[1]
    total = torch.zeros((), dtype=dtype)
    for name, want in zip(parameters, truth, strict=True):
        want = torch.zeros_like(parameters[name]) if want is None else want
        torch.testing.assert_close(gradient[name], want, **close)
        torch.testing.assert_close(each[name].sum(0), want, **close)
        total += (want * along[name]).sum()
    torch.testing.assert_close(slope, total, **close)
