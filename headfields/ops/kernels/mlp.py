"""Small fully connected networks in Warp, one thread per row; `headfields.ops.reference.mlp` defines them."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})

MAX_WIDTH = 128
"""Maximum number of outputs of a layer; a row's activations are in local memory, whose size is fixed here."""


@wp.kernel
@no_type_check
def mlp(
    x: wp.array(dtype=wp.float32, ndim=2),
    weights: wp.array(dtype=wp.float32),
    biases: wp.array(dtype=wp.float32),
    widths: wp.array(dtype=wp.int32),
    rows: wp.array(dtype=wp.int32),
    index: wp.array(dtype=wp.int64),
    out: wp.array(dtype=wp.float32, ndim=2),
):
    """`widths`: the input's, then each layer's. `weights`: each (in, out), one after the other. `biases`: each
    (rows[layer], out) likewise, where `index` gives the row of the first layer; empty: its only one."""
    i = wp.tid()
    hidden = wp.zeros(shape=MAX_WIDTH, dtype=wp.float32)
    sums = wp.zeros(shape=MAX_WIDTH, dtype=wp.float32)
    layers = rows.shape[0]
    weight = wp.int32(0)
    bias = wp.int32(0)
    for layer in range(layers):
        before = widths[layer]
        width = widths[layer + 1]
        start = bias
        if layer == 0 and index.shape[0] > 0:
            start = bias + wp.int32(index[i]) * width
        for j in range(width):
            sums[j] = wp.float32(0.0)
            if rows[layer] > 0:
                sums[j] = biases[start + j]
        for k in range(before):
            value = wp.float32(0.0)
            if layer == 0:
                value = x[i, k]
            else:
                value = hidden[k]
                if value < 0.0:  # so that a NaN passes
                    value = wp.float32(0.0)
            for j in range(width):
                sums[j] = sums[j] + value * weights[weight + k * width + j]
        for j in range(width):
            hidden[j] = sums[j]
        weight = weight + before * width
        bias = bias + rows[layer] * width
    for j in range(widths[layers]):
        out[i, j] = hidden[j]
