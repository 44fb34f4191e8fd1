"""Volume-rendering quadrature in Warp, one thread per ray; `headfields.ops.reference.compositing` defines it."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.func
@no_type_check
def kept_of(value: wp.float32, alpha: wp.bool):
    """The transmittance of a sample, from its alpha or its optical depth."""
    result = 1.0 - value
    if not alpha:
        result = wp.exp(-value)
    return result


@wp.func
@no_type_check
def alpha_of(value: wp.float32, alpha: wp.bool):
    """The opacity of a sample, likewise."""
    # 1 - exp(-x) without cancellation: a series below 0.1, whose next term is under 1e-8 of it.
    result = value
    if not alpha:
        result = 1.0 - wp.exp(-value)
        if wp.abs(value) < 0.1:
            term = 1.0 / 24.0 - value * (1.0 / 120.0 - value / 720.0)
            result = value * (1.0 - value * (0.5 - value * (1.0 / 6.0 - value * term)))
    return result


@wp.kernel
@no_type_check
def ray_weights(
    values: wp.array(dtype=wp.float32),
    offsets: wp.array(dtype=wp.int64),
    alpha: wp.bool,
    out: wp.array(dtype=wp.float32),
):
    """w = alpha · transmittance, front to back."""
    ray = wp.tid()
    transmittance = wp.float32(1.0)
    for i in range(wp.int32(offsets[ray]), wp.int32(offsets[ray + 1])):
        out[i] = transmittance * alpha_of(values[i], alpha)
        transmittance = transmittance * kept_of(values[i], alpha)


@wp.kernel
@no_type_check
def ray_weights_backward(
    grad: wp.array(dtype=wp.float32),
    values: wp.array(dtype=wp.float32),
    offsets: wp.array(dtype=wp.int64),
    alpha: wp.bool,
    out: wp.array(dtype=wp.float32),
):
    """The derivative by the values: front to back for the transmittance, then back to front for the sums behind."""
    ray = wp.tid()
    first = wp.int32(offsets[ray])
    last = wp.int32(offsets[ray + 1])
    transmittance = wp.float32(1.0)
    for i in range(first, last):
        kept = kept_of(values[i], alpha)
        slope = wp.float32(1.0)
        if not alpha:
            slope = kept
        out[i] = transmittance * slope
        transmittance = transmittance * kept
    behind = wp.float32(0.0)
    for k in range(last - first):
        i = last - 1 - k
        out[i] = out[i] * (grad[i] - behind)
        behind = grad[i] * alpha_of(values[i], alpha) + kept_of(values[i], alpha) * behind


@wp.kernel
@no_type_check
def ray_weights_double(
    direction: wp.array(dtype=wp.float32),
    grad: wp.array(dtype=wp.float32),
    values: wp.array(dtype=wp.float32),
    offsets: wp.array(dtype=wp.int64),
    alpha: wp.bool,
    reach: wp.array(dtype=wp.float32),
    out_weights: wp.array(dtype=wp.float32),
    out_values: wp.array(dtype=wp.float32),
):
    """The derivatives of <direction, ray_weights_backward(grad, values)> by grad and by the values."""
    ray = wp.tid()
    first = wp.int32(offsets[ray])
    last = wp.int32(offsets[ray + 1])
    transmittance = wp.float32(1.0)
    d_transmittance = wp.float32(0.0)
    for i in range(first, last):
        kept = kept_of(values[i], alpha)
        absorbed = alpha_of(values[i], alpha)
        d_alpha = direction[i]
        if not alpha:
            d_alpha = kept * direction[i]
        out_weights[i] = d_transmittance * absorbed + transmittance * d_alpha
        reach[i] = transmittance
        out_values[i] = d_transmittance
        d_transmittance = d_transmittance * kept - transmittance * d_alpha
        transmittance = transmittance * kept
    behind = wp.float32(0.0)
    d_behind = wp.float32(0.0)
    for k in range(last - first):
        i = last - 1 - k
        kept = kept_of(values[i], alpha)
        slope = wp.float32(1.0)
        d_slope = wp.float32(0.0)
        if not alpha:
            slope = kept
            d_slope = -kept * direction[i]
        seen = grad[i] - behind
        out_values[i] = d_slope * reach[i] * seen + slope * (out_values[i] * seen - reach[i] * d_behind)
        d_behind = slope * direction[i] * seen + kept * d_behind
        behind = grad[i] * alpha_of(values[i], alpha) + kept * behind


@wp.kernel
@no_type_check
def exclusive_sum(
    values: wp.array(dtype=wp.float32),
    offsets: wp.array(dtype=wp.int64),
    reverse: wp.bool,
    out: wp.array(dtype=wp.float32),
):
    """The sum of the values before each sample of a ray, or behind it."""
    ray = wp.tid()
    first = wp.int32(offsets[ray])
    last = wp.int32(offsets[ray + 1])
    running = wp.float32(0.0)
    for k in range(last - first):
        i = first + k
        if reverse:
            i = last - 1 - k
        out[i] = running
        running = running + values[i]


@wp.kernel
@no_type_check
def weighted_sum(
    weights: wp.array(dtype=wp.float32),
    values: wp.array2d(dtype=wp.float32),
    offsets: wp.array(dtype=wp.int64),
    out: wp.array2d(dtype=wp.float32),
):
    """One thread per ray and column; the last column, if it is one more than the values have, sums the weights."""
    ray, column = wp.tid()
    result = wp.float32(0.0)
    for i in range(wp.int32(offsets[ray]), wp.int32(offsets[ray + 1])):
        factor = wp.float32(1.0)
        if column < values.shape[1]:
            factor = values[i, column]
        result = result + weights[i] * factor
    out[ray, column] = result


@wp.kernel
@no_type_check
def weighted_sum_backward(
    grad: wp.array2d(dtype=wp.float32),
    weights: wp.array(dtype=wp.float32),
    values: wp.array2d(dtype=wp.float32),
    offsets: wp.array(dtype=wp.int64),
    out_weights: wp.array(dtype=wp.float32),
    out_values: wp.array2d(dtype=wp.float32),
):
    """The derivatives of `weighted_sum` by weights and values."""
    ray = wp.tid()
    channels = values.shape[1]
    for i in range(wp.int32(offsets[ray]), wp.int32(offsets[ray + 1])):
        result = wp.float32(0.0)
        if grad.shape[1] > channels:
            result = grad[ray, channels]
        for c in range(channels):
            result = result + grad[ray, c] * values[i, c]
            out_values[i, c] = grad[ray, c] * weights[i]
        out_weights[i] = result
