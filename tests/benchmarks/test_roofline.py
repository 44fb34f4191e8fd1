"""The floor of the hash grid's memory traffic, at a tiny size."""

import numpy as np
import pytest
import torch

from benchmarks import roofline
from headfields.ops import HashGridLayout
from tests.pretend_cuda import guard


@pytest.mark.skipif(guard.compiler() is None, reason="needs a C++ compiler")
def test_rows_are_read_and_added_to() -> None:
    loops = roofline.compiled()
    index = np.array([3, 0, 3, 1, 2, 3, 0, 0], dtype=np.int32)
    for width in (2, 8):
        table = np.random.default_rng(0).random((4, width), dtype=np.float32)
        gathered = loops.gather_rows(table.ctypes.data, index.ctypes.data, len(index), width)
        assert gathered == pytest.approx(float(table[index].sum()), rel=1e-5)
        expected = table + np.bincount(index, minlength=4)[:, None]
        assert loops.scatter_rows(table.ctypes.data, index.ctypes.data, len(index), width) == 0
        np.testing.assert_allclose(table, expected)
    layout = HashGridLayout(levels=2, log2_table_size=8, finest_resolution=32)
    rows = roofline.roofline(layout, torch.rand(64, 3), 1)
    # 8 corners and 2 features of 4 bytes at each of 2 levels; the gradient reads and writes each, and is cleared first.
    assert rows["forward"]["bytes"] == 64 * 2 * (8 + 1) * 8
    assert rows["gradient of the table"]["bytes"] == 64 * 2 * (16 + 1) * 8 + layout.entries * 8
    assert all(row["floor"] > 0 and row["seconds"] > 0 for row in rows.values())
