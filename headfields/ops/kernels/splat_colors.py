"""Colors of Gaussians by spherical harmonics in Warp; `headfields.ops.reference.rasterize_gaussians.harmonic_colors`
defines them."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})

Points = wp.array2d(dtype=wp.vec3)
Rows = wp.array3d(dtype=wp.vec3)
basis_type = wp.types.vector(length=16, dtype=wp.float32)
K0 = wp.constant(wp.float32(0.28209479177387814))
K1 = wp.constant(wp.float32(0.48860251190291992))
K2 = wp.constant(wp.float32(1.0925484305920792))
K3 = wp.constant(wp.float32(0.31539156525252005))
K4 = wp.constant(wp.float32(0.54627421529603959))
K5 = wp.constant(wp.float32(0.59004358992664352))
K6 = wp.constant(wp.float32(2.8906114426405538))
K7 = wp.constant(wp.float32(0.45704579946446572))
K8 = wp.constant(wp.float32(0.37317633259011540))
K9 = wp.constant(wp.float32(1.4453057213202769))


@wp.func
@no_type_check
def direction(away: wp.vec3):
    """The unit vector, and 1 / length; 0 where there is no direction."""
    length = wp.length(away)
    inverse = wp.float32(0.0)
    toward = wp.vec3(0.57735027, 0.57735027, 0.57735027)
    if wp.isfinite(away[0]) and wp.isfinite(away[1]) and wp.isfinite(away[2]) and length > 0.0:
        inverse = 1.0 / length
        toward = away * inverse
    return wp.vec4(toward[0], toward[1], toward[2], inverse)


@wp.func
@no_type_check
def basis(values: int, d: wp.vec4):
    x = d[0]
    y = d[1]
    z = d[2]
    b = basis_type()
    b[0] = K0
    if values > 1:
        b[1] = -K1 * y
        b[2] = K1 * z
        b[3] = -K1 * x
    if values > 4:
        b[4] = K2 * x * y
        b[5] = -K2 * y * z
        b[6] = K3 * (3.0 * z * z - 1.0)
        b[7] = -K2 * x * z
        b[8] = K4 * (x * x - y * y)
    if values > 9:
        b[9] = -K5 * y * (3.0 * x * x - y * y)
        b[10] = K6 * x * y * z
        b[11] = -K7 * y * (5.0 * z * z - 1.0)
        b[12] = K8 * z * (5.0 * z * z - 3.0)
        b[13] = -K7 * x * (5.0 * z * z - 1.0)
        b[14] = K9 * z * (x * x - y * y)
        b[15] = -K5 * x * (x * x - 3.0 * y * y)
    return b


@wp.func
@no_type_check
def basis_backward(values: int, d: wp.vec4, g: basis_type):
    """The gradient of the direction for that of the basis."""
    x = d[0]
    y = d[1]
    z = d[2]
    ox = wp.float32(0.0)
    oy = wp.float32(0.0)
    oz = wp.float32(0.0)
    if values > 1:
        ox = -K1 * g[3]
        oy = -K1 * g[1]
        oz = K1 * g[2]
    if values > 4:
        ox = ox + K2 * (y * g[4] - z * g[7]) + 2.0 * K4 * x * g[8]
        oy = oy + K2 * (x * g[4] - z * g[5]) - 2.0 * K4 * y * g[8]
        oz = oz - K2 * (y * g[5] + x * g[7]) + 6.0 * K3 * z * g[6]
    if values > 9:
        up = 5.0 * z * z - 1.0
        across = x * x - y * y
        ox = ox - 6.0 * K5 * x * y * g[9] + K6 * y * z * g[10] - K7 * up * g[13] + 2.0 * K9 * x * z * g[14]
        ox = ox - 3.0 * K5 * across * g[15]
        oy = oy - 3.0 * K5 * across * g[9] + K6 * x * z * g[10] - K7 * up * g[11] - 2.0 * K9 * y * z * g[14]
        oy = oy + 6.0 * K5 * x * y * g[15]
        oz = oz + K6 * x * y * g[10] - 10.0 * K7 * z * (y * g[11] + x * g[13]) + K8 * (15.0 * z * z - 3.0) * g[12]
        oz = oz + K9 * across * g[14]
    return wp.vec3(ox, oy, oz)


@wp.func
@no_type_check
def total(coefficients: Rows, row: int, n: int, b: basis_type):
    """The sum of the harmonics and a half, before it is cut at 0."""
    color = wp.vec3(0.5, 0.5, 0.5)
    for j in range(coefficients.shape[2]):
        color = color + b[j] * coefficients[row, n, j]
    return color


@wp.kernel
@no_type_check
def colors(means: Points, coefficients: Rows, centers: wp.array(dtype=wp.vec3), out: Points):
    """One thread a camera and Gaussian."""
    c, n = wp.tid()
    row = wp.min(c, coefficients.shape[0] - 1)
    d = direction(means[wp.min(c, means.shape[0] - 1), n] - centers[c])
    color = total(coefficients, row, n, basis(coefficients.shape[2], d))
    for k in range(3):
        if color[k] < 0.0:  # NaN stays
            color[k] = 0.0
    out[c, n] = color


@wp.kernel
@no_type_check
def colors_backward(
    grad: Points,
    means: Points,
    coefficients: Rows,
    centers: wp.array(dtype=wp.vec3),
    to_means: Points,
    to_coefficients: Rows,
    to_centers: Points,
):
    """One thread a Gaussian, which goes through the cameras, so that sums have one order. `to_centers` is empty or
    (c, n)."""
    n = wp.tid()
    values = coefficients.shape[2]
    for c in range(centers.shape[0]):
        row = wp.min(c, coefficients.shape[0] - 1)
        own = wp.min(c, means.shape[0] - 1)
        if c < to_means.shape[0]:
            to_means[c, n] = wp.vec3()
        if c < to_coefficients.shape[0]:
            for j in range(values):
                to_coefficients[c, n, j] = wp.vec3()
        if c < to_centers.shape[0]:
            to_centers[c, n] = wp.vec3()
        d = direction(means[own, n] - centers[c])
        b = basis(values, d)
        color = total(coefficients, row, n, b)
        g = grad[c, n]
        for k in range(3):
            if not color[k] >= 0.0:
                g[k] = 0.0
        to_basis = basis_type()
        for j in range(values):
            to_basis[j] = wp.dot(g, coefficients[row, n, j])
            to_coefficients[row, n, j] = to_coefficients[row, n, j] + b[j] * g
        if d[3] > 0.0:
            toward = wp.vec3(d[0], d[1], d[2])
            pulled = basis_backward(values, d, to_basis)
            pulled = (pulled - wp.dot(toward, pulled) * toward) * d[3]
            to_means[own, n] = to_means[own, n] + pulled
            if c < to_centers.shape[0]:
                to_centers[c, n] = -pulled
