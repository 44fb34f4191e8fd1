"""The blended map in Warp, one thread per point; `headfields.ops.reference.blended_map` defines it."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})

mat34 = wp.types.matrix(shape=(3, 4), dtype=wp.float32)


@wp.kernel
@no_type_check
def blended_map(
    points: wp.array(dtype=wp.float32, ndim=2),
    directions: wp.array(dtype=wp.float32, ndim=2),
    face: wp.array(dtype=wp.int64),
    mesh_index: wp.array(dtype=wp.int64),
    gradients: wp.array(dtype=wp.float32, ndim=4),
    centroids: wp.array(dtype=wp.float32, ndim=3),
    ring: wp.array(dtype=wp.int64, ndim=2),
    sharpness: wp.float32,
    moved: wp.array(dtype=wp.float32, ndim=2),
    turned: wp.array(dtype=wp.float32, ndim=2),
):
    """`moved` and `turned`: points and unit directions under the weighted mean of the gradients of each ring."""
    i = wp.tid()
    x = wp.vec3(points[i, 0], points[i, 1], points[i, 2])
    d = wp.vec3(directions[i, 0], directions[i, 1], directions[i, 2])
    own = wp.int32(face[i])
    mesh = wp.int32(mesh_index[i])
    mixed = mat34()
    total = wp.float32(0.0)
    nearest = wp.float32(0.0)
    for k in range(ring.shape[1]):
        other = wp.int32(ring[own, k])
        if other >= 0:
            weight = wp.float32(1.0)
            if ring.shape[1] > 1:
                center = wp.vec3(centroids[mesh, other, 0], centroids[mesh, other, 1], centroids[mesh, other, 2])
                distance = wp.length(x - center)
                if k == 0:
                    nearest = distance
                weight = wp.exp(sharpness * (nearest - distance))
            for r in range(3):
                for c in range(4):
                    mixed[r, c] = mixed[r, c] + weight * gradients[mesh, other, r, c]
            total = total + weight
    scale = 1.0 / total
    turn = wp.vec3()
    for r in range(3):
        row = wp.vec3(mixed[r, 0], mixed[r, 1], mixed[r, 2])
        moved[i, r] = scale * (wp.dot(row, x) + mixed[r, 3])
        turn[r] = scale * wp.dot(row, d)
    length = wp.max(wp.length(turn), 1.0e-12)
    for r in range(3):
        turned[i, r] = turn[r] / length
