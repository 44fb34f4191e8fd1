"""Spherical harmonics in Warp, one thread a direction; the recurrence comes from the reference."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})

Vector = wp.array(dtype=wp.float32)
Matrix = wp.array2d(dtype=wp.float32)


@wp.kernel
@no_type_check
def evaluate(degree: int, start: Vector, a: Vector, b: Vector, directions: Matrix, out: Matrix):
    """One thread a direction: all harmonics up to the degree."""
    n = wp.tid()
    x, y, z = directions[n, 0], directions[n, 1], directions[n, 2]
    cosine = wp.float32(1.0)
    sine = wp.float32(0.0)
    for m in range(degree):
        if m > 0:
            turned = x * cosine - y * sine
            sine = x * sine + y * cosine
            cosine = turned
        now = start[m]
        before = wp.float32(0.0)
        for l in range(m, degree):
            if l > m:
                upper = a[l * degree + m] * (z * now + b[l * degree + m] * before)
                before = now
                now = upper
            out[n, l * (l + 1) + m] = now * cosine
            if m > 0:
                out[n, l * (l + 1) - m] = now * sine


@wp.kernel
@no_type_check
def gradient(degree: int, start: Vector, a: Vector, b: Vector, grad: Matrix, directions: Matrix, out: Matrix):
    """One thread a direction: the derivative of <grad, harmonics> by it."""
    n = wp.tid()
    x, y, z = directions[n, 0], directions[n, 1], directions[n, 2]
    # (x + iy)^m and, for its derivative, (x + iy)^(m-1)
    cosine = wp.float32(1.0)
    sine = wp.float32(0.0)
    cosine_before = wp.float32(0.0)
    sine_before = wp.float32(0.0)
    dx = wp.float32(0.0)
    dy = wp.float32(0.0)
    dz = wp.float32(0.0)
    for m in range(degree):
        if m > 0:
            cosine_before = cosine
            sine_before = sine
            cosine = x * cosine_before - y * sine_before
            sine = x * sine_before + y * cosine_before
        now = start[m]
        before = wp.float32(0.0)
        slope = wp.float32(0.0)
        slope_before = wp.float32(0.0)
        even = wp.float32(0.0)
        odd = wp.float32(0.0)
        for l in range(m, degree):
            if l > m:
                scale = a[l * degree + m]
                shift = b[l * degree + m]
                upper = scale * (z * now + shift * before)
                upper_slope = scale * (now + z * slope + shift * slope_before)
                before = now
                now = upper
                slope_before = slope
                slope = upper_slope
            part = grad[n, l * (l + 1) + m]
            even = even + now * part
            dz = dz + slope * part * cosine
            if m > 0:
                other = grad[n, l * (l + 1) - m]
                odd = odd + now * other
                dz = dz + slope * other * sine
        power = wp.float32(m)
        dx = dx + power * (even * cosine_before + odd * sine_before)
        dy = dy + power * (odd * cosine_before - even * sine_before)
    out[n, 0] = dx
    out[n, 1] = dy
    out[n, 2] = dz
