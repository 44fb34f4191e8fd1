"""Bytes of launches: of operations whose arithmetic is plain, and of a whole step of INSTA."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headfields.models.insta import INSTA_RELEASED
from headfields.ops import HashGridLayout
from tests.pretend_cuda import guard, traffic

ROOT = Path(__file__).parents[2]
aten = torch.ops.aten


def bytes_of(operation, *args, **kwargs) -> int:
    return traffic.of_operation(operation, args, kwargs, operation(*args, **kwargs))


def test_each_number_counts_once() -> None:
    x, row = torch.rand(100, 8), torch.rand(8)
    index, many = torch.arange(5), torch.arange(500) % 100
    assert bytes_of(aten.mul.Tensor, x, x.clone()) == 3 * 3200
    assert bytes_of(aten.mul.Tensor, x, x) == 2 * 3200, "one and the same is read once"
    assert bytes_of(aten.add.Tensor, x, row.expand(100, 8)) == 2 * 3200 + 32, "what is expanded is there once"
    assert bytes_of(aten.add_.Tensor, x, row) == 2 * 3200 + 32
    assert bytes_of(aten.zero_.default, x) == bytes_of(aten.zeros_like.default, x) - 3200 == 3200
    assert bytes_of(aten.copy_.default, x, x.clone()) == 2 * 3200
    assert bytes_of(aten._to_copy.default, x, dtype=torch.float16) == 3200 + 1600
    assert bytes_of(aten.index_select.default, x, 0, index) == 2 * 160 + 40
    assert bytes_of(aten.index_select.default, x, 0, many) == 3200 + 16000 + 4000, "no more than there is"
    assert bytes_of(aten.index_add_.default, x, 0, index, torch.rand(5, 8)) == 3 * 160 + 40
    assert bytes_of(aten._foreach_mul_.Scalar, [x, row], 2.0) == 2 * 3232
    assert bytes_of(aten.where.ScalarOther, x > 0, x, 0.0) == 2 * 3200 + 800


def test_adam_reads_four_and_writes_three() -> None:
    tensors = [torch.rand(100) for _ in range(4)]
    groups = [[each] for each in tensors]
    found = bytes_of(
        aten._fused_adam_.default, *groups, [], [torch.zeros(())], lr=1e-3, beta1=0.9, beta2=0.99, weight_decay=0.0,
        eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip
    assert found == 7 * 400 + 4


@pytest.mark.slow
def test_the_command_extends_a_small_step_to_full_sizes(tmp_path) -> None:
    if guard.compiler() is None:
        pytest.skip("needs a C++ compiler")
    out = tmp_path / "counted.json"
    command = [sys.executable, "-m", "benchmarks.gpu.counted", "insta", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert not done.returncode, done.stderr[-3000:]
    found = json.loads(out.read_text())["insta"]
    layout = HashGridLayout(16, INSTA_RELEASED["features"], INSTA_RELEASED["log2_table_size"], 16, 2048)
    table, rows, points = layout.entries * layout.features, layout.width, 1.25 * 2**18
    largest = {}
    for each in found:
        largest[each["name"]] = max(largest.get(each["name"], 0), each["bytes"])
    assert largest["lerp_"] == pytest.approx(12 * table, rel=1e-3)
    assert largest["_fused_adam_"] == pytest.approx(28 * table, rel=0.2), "and of the networks, which are small"
    (gather,) = {each["bytes"] for each in found if "gather" in each["name"]}
    assert gather == pytest.approx(2 * table + 4 * rows * points, rel=0.05), "half precision is read"
    assert "| insta |" in done.stdout
