"""Eigenvalues and eigenvectors of symmetric 3 × 3 matrices in Warp, one thread a matrix: Jacobi's rotations."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})

SWEEPS = wp.constant(wp.int32(8))
"""Sweeps over the three entries off the diagonal; they converge quadratically, and five are enough in float64."""


@wp.func
@no_type_check
def rotated(a: wp.mat33d, v: wp.mat33d, p: wp.int32, q: wp.int32, r: wp.int32):
    """A and V after the rotation of axes p and q that makes a[p, q] zero; r is the third axis."""
    off = a[p, q]
    if off != wp.float64(0.0):
        slope = (a[q, q] - a[p, p]) / (wp.float64(2.0) * off)
        t = wp.float64(1.0) / (wp.abs(slope) + wp.sqrt(slope * slope + wp.float64(1.0)))
        if slope < wp.float64(0.0):
            t = -t
        c = wp.float64(1.0) / wp.sqrt(t * t + wp.float64(1.0))
        s = t * c
        a[p, p] = a[p, p] - t * off
        a[q, q] = a[q, q] + t * off
        a[p, q] = wp.float64(0.0)
        a[q, p] = wp.float64(0.0)
        rp = a[r, p]
        rq = a[r, q]
        a[r, p] = c * rp - s * rq
        a[p, r] = a[r, p]
        a[r, q] = s * rp + c * rq
        a[q, r] = a[r, q]
        for k in range(3):
            kp = v[k, p]
            kq = v[k, q]
            v[k, p] = c * kp - s * kq
            v[k, q] = s * kp + c * kq
    return a, v


@wp.func
@no_type_check
def ordered(a: wp.mat33d, v: wp.mat33d, p: wp.int32, q: wp.int32):
    """A and V with the diagonal entries p and q, and their columns, in ascending order."""
    if a[p, p] > a[q, q]:
        value = a[p, p]
        a[p, p] = a[q, q]
        a[q, q] = value
        for k in range(3):
            entry = v[k, p]
            v[k, p] = v[k, q]
            v[k, q] = entry
    return a, v


@wp.kernel
@no_type_check
def symmetric(
    matrices: wp.array(dtype=wp.float64, ndim=3),
    values: wp.array(dtype=wp.float64, ndim=2),
    vectors: wp.array(dtype=wp.float64, ndim=3),
):
    """Eigenvalues in ascending order, and unit eigenvectors as columns; of the lower triangle."""
    n = wp.tid()
    a = wp.mat33d()
    v = wp.identity(n=3, dtype=wp.float64)
    for i in range(3):
        for j in range(3):
            a[i, j] = matrices[n, wp.max(i, j), wp.min(i, j)]
    for _ in range(SWEEPS):
        a, v = rotated(a, v, 0, 1, 2)
        a, v = rotated(a, v, 0, 2, 1)
        a, v = rotated(a, v, 1, 2, 0)
    a, v = ordered(a, v, 0, 1)
    a, v = ordered(a, v, 1, 2)
    a, v = ordered(a, v, 0, 1)
    for i in range(3):
        values[n, i] = a[i, i]
        for j in range(3):
            vectors[n, i, j] = v[i, j]
