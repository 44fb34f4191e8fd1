"""Sample placement in Warp, one thread per ray; `headfields.ops.reference.sampling` defines it."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.func
@no_type_check
def mass_of(weights: wp.array(dtype=wp.float32), start: wp.array(dtype=wp.float32), end: wp.array(dtype=wp.float32),
            i: wp.int32, usable: wp.bool):  # fmt: skip
    """The mass of a sample: its weight if positive, or its length where the weights of the ray are unusable."""
    result = weights[i]
    if result < 0.0:
        result = wp.float32(0.0)
    if not usable:
        result = end[i] - start[i]
    return result


@wp.kernel
@no_type_check
def inverse_cdf(
    start: wp.array(dtype=wp.float32),
    end: wp.array(dtype=wp.float32),
    weights: wp.array(dtype=wp.float32),
    offsets: wp.array(dtype=wp.int64),
    quantiles: wp.array2d(dtype=wp.float32),
    edges: wp.array2d(dtype=wp.float32),
):
    """One thread per ray: where the running sum of the weights reaches each quantile."""
    ray = wp.tid()
    first = wp.int32(offsets[ray])
    last = wp.int32(offsets[ray + 1])
    total = wp.float32(0.0)
    for i in range(first, last):
        total = total + mass_of(weights, start, end, i, True)
    usable = total > 0.0 and total < 3.0e38
    if not usable:
        total = wp.float32(0.0)
        for i in range(first, last):
            total = total + mass_of(weights, start, end, i, False)
    # `at` holds the current quantile, `before` and `after` are the running sums at its two ends.
    at = first
    following = first
    before = wp.float32(0.0)
    after = wp.float32(0.0)
    for q in range(quantiles.shape[1]):
        target = quantiles[ray, q] * total
        while following < last and not after > target:
            mass = after + mass_of(weights, start, end, following, usable)
            if mass > after:
                at = following
                before = after
                after = mass
            following = following + 1
        place = wp.float32(0.0)
        if first < last:
            fraction = wp.float32(0.0)
            if after > before:
                fraction = wp.clamp((target - before) / (after - before), 0.0, 1.0)
            place = wp.min(start[at] + fraction * (end[at] - start[at]), end[at])
        edges[ray, q] = place


@wp.kernel
@no_type_check
def merge(
    offsets_a: wp.array(dtype=wp.int64),
    start_a: wp.array(dtype=wp.float32),
    end_a: wp.array(dtype=wp.float32),
    offsets_b: wp.array(dtype=wp.int64),
    start_b: wp.array(dtype=wp.float32),
    end_b: wp.array(dtype=wp.float32),
    fill: wp.bool,
    counts: wp.array(dtype=wp.int64),
    out_ray: wp.array(dtype=wp.int64),
    out_start: wp.array(dtype=wp.float32),
    out_end: wp.array(dtype=wp.float32),
):
    """One thread per ray: the intervals of the union, split at every edge; counted, then written."""
    # `counts` is written by the first pass and holds each ray's offset in the second.
    ray = wp.tid()
    a = wp.int32(offsets_a[ray])
    b = wp.int32(offsets_b[ray])
    last_a = wp.int32(offsets_a[ray + 1])
    last_b = wp.int32(offsets_b[ray + 1])
    in_a = wp.int32(0)
    in_b = wp.int32(0)
    count = wp.int32(0)
    previous = wp.float32(0.0)
    while a < last_a or b < last_b:
        edge_a = wp.float32(0.0)
        edge_b = wp.float32(0.0)
        if a < last_a:
            edge_a = start_a[a]
            if in_a == 1:
                edge_a = end_a[a]
        if b < last_b:
            edge_b = start_b[b]
            if in_b == 1:
                edge_b = end_b[b]
        take_a = a < last_a and (b >= last_b or edge_a <= edge_b)
        edge = edge_b
        if take_a:
            edge = edge_a
        if in_a + in_b > 0 and previous < edge:
            if fill:
                to = wp.int32(counts[ray]) + count
                out_ray[to] = wp.int64(ray)
                out_start[to] = previous
                out_end[to] = edge
            count = count + 1
        previous = edge
        if take_a:
            a = a + in_a
            in_a = 1 - in_a
        else:
            b = b + in_b
            in_b = 1 - in_b
    if not fill:
        counts[ray] = wp.int64(count)
