"""Spherical harmonics in plain PyTorch: the definition of `headfields.ops.spherical_harmonics`."""

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor


@functools.lru_cache(maxsize=16)
def recurrence(degree: int) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """The normalized polynomials Q_lm of z, m ≤ l < degree: `start[m]`, and `a`, `b` at l · degree + m.

    Q_mm = start, Q_lm = a (z Q_{l-1,m} + b Q_{l-2,m}): the standard stable recurrence of the associated Legendre
    functions divided by (1 − z²)^{m/2}, with the normalization, the √2 of the real basis and the sign (−1)^m inside.
    """
    start = []
    for m in range(degree):
        odd_product = math.prod(range(1, 2 * m, 2))
        value = (-1) ** m * math.sqrt((2 * m + 1) / (4 * math.pi * math.factorial(2 * m))) * odd_product
        start.append(value * (math.sqrt(2) if m else 1.0))
    a, b = [0.0] * degree**2, [0.0] * degree**2
    for l in range(1, degree):
        for m in range(l):
            a[l * degree + m] = math.sqrt((4 * l * l - 1) / (l * l - m * m))
            b[l * degree + m] = -math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)) if l - 1 > m else 0.0
    return tuple(start), tuple(a), tuple(b)


def spherical_harmonics(directions: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch values"]:
    """`headfields.ops.spherical_harmonics`, differentiable any number of times."""
    start, a, b = recurrence(degree)
    x, y, z = directions.unbind(-1)
    columns: list[Tensor] = [z] * degree**2
    cosine, sine = torch.ones_like(z), torch.zeros_like(z)
    for m in range(degree):
        if m > 0:
            cosine, sine = x * cosine - y * sine, x * sine + y * cosine
        now, before = start[m] * torch.ones_like(z), torch.zeros_like(z)
        for l in range(m, degree):
            if l > m:
                now, before = a[l * degree + m] * (z * now + b[l * degree + m] * before), now
            columns[l * (l + 1) + m] = now * cosine
            if m > 0:
                columns[l * (l + 1) - m] = now * sine
    return torch.stack(columns, -1)


def second_gradient(
    grad: Float[Tensor, "n values"], directions: Float[Tensor, "n 3"], gg: Float[Tensor, "n 3"], degree: int
) -> tuple[Float[Tensor, "n values"], Float[Tensor, "n 3"]]:
    """Gradients by `grad` and `directions` of gg · ∇(grad · Y), written out: what a double backward needs.

    With P = x + iy, the two harmonics of ±m are the real and imaginary part of Q(z) P^m; ∂P^m/∂x = m P^{m−1} and
    ∂P^m/∂y = i m P^{m−1}.
    """
    start, a, b = recurrence(degree)
    x, y, z = directions.unbind(-1)
    u, v, w = gg.unbind(-1)
    zero, one = torch.zeros_like(z), torch.ones_like(z)
    powers = [(zero, zero), (zero, zero), (one, zero)]  # P^{m-2}, P^{m-1}, P^m as (real, imaginary)
    to_grad = [zero] * degree**2
    dx, dy, dz = zero, zero, zero

    for m in range(degree):
        if m > 0:
            c, s = powers[2]
            powers = [powers[1], powers[2], (x * c - y * s, x * s + y * c)]
        (c2, s2), (c1, s1), (c0, s0) = powers
        c1, s1, c2, s2 = m * c1, m * s1, m * (m - 1) * c2, m * (m - 1) * s2
        # Q, Q', Q'' now and for the band before
        now: tuple[Tensor, ...] = (start[m] * one, zero, zero)
        before: tuple[Tensor, ...] = (zero, zero, zero)
        for l in range(m, degree):
            if l > m:
                k, t = a[l * degree + m], b[l * degree + m]
                upper = tuple(
                    k * (z * now[order] + (order * now[order - 1] if order else 0) + t * before[order])
                    for order in range(3)
                )
                now, before = upper, now
            q, q1, q2 = now
            even, odd = l * (l + 1) + m, l * (l + 1) - m
            to_grad[even] = q * (u * c1 - v * s1) + q1 * w * c0
            g = grad[:, even]
            dx = dx + g * (q * (u * c2 - v * s2) + q1 * w * c1)
            dy = dy - g * (q * (u * s2 + v * c2) + q1 * w * s1)
            dz = dz + g * (q1 * (u * c1 - v * s1) + q2 * w * c0)
            if m > 0:
                to_grad[odd] = q * (u * s1 + v * c1) + q1 * w * s0
                g = grad[:, odd]
                dx = dx + g * (q * (u * s2 + v * c2) + q1 * w * s1)
                dy = dy + g * (q * (u * c2 - v * s2) + q1 * w * c1)
                dz = dz + g * (q1 * (u * s1 + v * c1) + q2 * w * s0)
    return torch.stack(to_grad, -1), torch.stack((dx, dy, dz), -1)
