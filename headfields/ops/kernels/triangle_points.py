"""Points on triangles from barycentric coordinates, in one launch: what a search found, in the meshes it searched."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False, "fuse_fp": False})  # the same numbers on every device


@wp.kernel
@no_type_check
def points_on(
    face: wp.array(dtype=wp.int64),
    barycentric: wp.array(dtype=wp.vec3),
    mesh_index: wp.array(dtype=wp.int32),
    indexed: int,
    otherwise: wp.array(dtype=wp.vec3),
    vertices: wp.array(dtype=wp.vec3, ndim=2),
    faces: wp.array(dtype=wp.int32, ndim=2),
    out: wp.array(dtype=wp.vec3),
):
    """One thread a point; `otherwise` where face is -1."""
    i = wp.tid()
    row = wp.int32(face[i])
    if row < 0:
        out[i] = otherwise[i]
        return
    mesh = wp.int32(0)
    if indexed != 0:
        mesh = mesh_index[i]
    share = barycentric[i]
    first = share[0] * vertices[mesh, faces[row, 0]]
    second = share[1] * vertices[mesh, faces[row, 1]]
    third = share[2] * vertices[mesh, faces[row, 2]]
    out[i] = first + second + third
