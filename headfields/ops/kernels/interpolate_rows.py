"""Weighted sums of rows in Warp; `headfields.ops.reference.interpolate_rows` defines them."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.kernel
@no_type_check
def gather(
    table: wp.array(dtype=wp.float32, ndim=2),
    index: wp.array(dtype=wp.int64, ndim=2),
    weights: wp.array(dtype=wp.float32, ndim=2),
    out: wp.array(dtype=wp.float32, ndim=2),
):
    """One thread an entry of `out`; neighboring threads read neighboring columns."""
    n, c = wp.tid()
    total = wp.float32(0.0)
    for k in range(index.shape[1]):
        row = wp.int32(index[n, k])
        if row >= 0:
            total = total + weights[n, k] * table[row, c]
    out[n, c] = total


@wp.kernel
@no_type_check
def scatter(
    values: wp.array(dtype=wp.float32, ndim=2),
    index: wp.array(dtype=wp.int64, ndim=2),
    weights: wp.array(dtype=wp.float32, ndim=2),
    out: wp.array(dtype=wp.float32, ndim=2),
):
    """One thread an entry of `values`, added atomically to `out`, which starts at zero."""
    n, c = wp.tid()
    value = values[n, c]
    for k in range(index.shape[1]):
        row = wp.int32(index[n, k])
        if row >= 0:
            wp.atomic_add(out, row, c, weights[n, k] * value)


@wp.kernel
@no_type_check
def dot(
    table: wp.array(dtype=wp.float32, ndim=2),
    index: wp.array(dtype=wp.int64, ndim=2),
    values: wp.array(dtype=wp.float32, ndim=2),
    out: wp.array(dtype=wp.float32, ndim=2),
):
    """One thread an entry of `out`."""
    n, k = wp.tid()
    row = wp.int32(index[n, k])
    total = wp.float32(0.0)
    if row >= 0:
        for c in range(table.shape[1]):
            total = total + table[row, c] * values[n, c]
    out[n, k] = total
