"""A lazy step of Adam in Warp: one pass over a table, of which rows without a gradient are read no further."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.func
@no_type_check
def one_minus_exp(x: wp.float32):
    """1 - exp(x) for x <= 0, to float32's precision near 0 too."""
    if x < -0.25:
        return 1.0 - wp.exp(x)
    term = 1.0 + x / 6.0 * (1.0 + x / 7.0)
    return -x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * term))))


@wp.kernel
@no_type_check
def step(
    value: wp.array(dtype=wp.float32),
    gradient: wp.array(dtype=wp.float32),
    steps: wp.array(dtype=wp.float32),
    first: wp.array(dtype=wp.float32),
    second: wp.array(dtype=wp.float32),
    rate: wp.array(dtype=wp.float32),
    scale: wp.array(dtype=wp.float32),
    found_inf: wp.array(dtype=wp.float32),
    one_minus_beta1: wp.float32,
    one_minus_beta2: wp.float32,
    log_beta1: wp.float32,
    log_beta2: wp.float32,
    eps: wp.float32,
):
    """One thread an entry; neighboring threads read neighboring entries."""
    i = wp.tid()
    change = gradient[i]
    if change == 0.0 or found_inf[0] != 0.0:
        return
    change = change / scale[0]
    count = steps[i] + 1.0
    moment = first[i] + one_minus_beta1 * (change - first[i])
    spread = second[i] + one_minus_beta2 * (change * change - second[i])
    corrected = rate[0] * wp.sqrt(one_minus_exp(count * log_beta2)) / one_minus_exp(count * log_beta1)
    steps[i] = count
    first[i] = moment
    second[i] = spread
    value[i] = value[i] - corrected * moment / (wp.sqrt(spread) + eps)
