"""Marching through an occupancy grid in Warp, one thread per ray; `headfields.ops.reference.occupancy` defines it."""

from typing import no_type_check  # type checkers do not know Warp's types

from headfields.ops.dispatch import warp

wp = warp()
wp.set_module_options({"enable_backward": False})


@wp.struct
@no_type_check
class Lattice:
    """The step lattice of one ray in closed form: linear up to `turn`, geometric from there."""

    near: wp.float32
    first: wp.float32
    step: wp.float32
    cone: wp.float32
    linear: wp.float32
    turn: wp.float32


@wp.func
@no_type_check
def make_lattice(near: wp.float32, step: wp.float32, cone: wp.float32, jitter: wp.float32):
    """The edges of a ray's steps: of constant length, and beyond `turn` growing with the distance by `cone`."""
    lattice = Lattice()
    lattice.near = near
    lattice.step = step
    lattice.cone = cone
    lattice.first = near + (1.0 - jitter) * wp.max(near * cone, step)
    lattice.linear = wp.float32(1.0e30)
    lattice.turn = wp.float32(1.0e30)
    if cone > 0.0:
        lattice.linear = wp.max(wp.ceil((step / cone - lattice.first) / step), 0.0)
        lattice.turn = lattice.first + lattice.linear * step
    return lattice


@wp.func
@no_type_check
def edge(lattice: Lattice, k: wp.int32):
    """Where step `k` begins; 0 is the near end of the ray."""
    result = lattice.near
    if k > 0:
        index = wp.float32(k - 1)
        if index <= lattice.linear:
            result = lattice.first + index * lattice.step
        else:
            result = lattice.turn * wp.exp((index - lattice.linear) * wp.log(1.0 + lattice.cone))
    return result


@wp.func
@no_type_check
def interval(lattice: Lattice, t: wp.float32):
    """The step that holds distance `t`."""
    result = wp.int32(0)
    if t >= lattice.first:
        place = (t - lattice.first) / lattice.step
        if t >= lattice.turn:
            place = lattice.linear + wp.log(t / lattice.turn) / wp.log(1.0 + lattice.cone)
        result = 1 + wp.int32(wp.min(place, 1.0e9))
    return result


@wp.func
@no_type_check
def place_in(point: wp.vec3, low: wp.vec3, cells_per_meter: wp.vec3):
    """A point in units of cells, from the corner of the grid."""
    return wp.cw_mul(point - low, cells_per_meter)


@wp.func
@no_type_check
def holds(place: wp.vec3, size: wp.vec3):
    """Whether a position in units of cells lies in a grid of that size."""
    inside = place[0] >= 0.0 and place[1] >= 0.0 and place[2] >= 0.0
    return inside and place[0] < size[0] and place[1] < size[1] and place[2] < size[2]


@wp.func
@no_type_check
def finite(vector: wp.vec3):
    """Whether all three components are finite."""
    total = wp.abs(vector[0]) + wp.abs(vector[1]) + wp.abs(vector[2])
    return total < 1.0e38


@wp.kernel
@no_type_check
def march(
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    near: wp.array(dtype=wp.float32),
    far: wp.array(dtype=wp.float32),
    jitter: wp.array(dtype=wp.float32),
    occupied: wp.array3d(dtype=wp.uint8),
    box: wp.array(dtype=wp.vec3),
    step: wp.float32,
    cone: wp.float32,
    keep_outside: wp.bool,
    fill: wp.bool,
    counts: wp.array(dtype=wp.int64),
    out_ray: wp.array(dtype=wp.int64),
    out_start: wp.array(dtype=wp.float32),
    out_end: wp.array(dtype=wp.float32),
):
    """One thread per ray: its steps in occupied cells, counted in a first pass and written in a second (`fill`)."""
    # `counts` is written by the first pass and holds each ray's offset in the second, which writes what has room.
    ray = wp.tid()
    count = wp.int32(0)
    t0 = near[ray]
    t1 = far[ray]
    base = wp.int32(0)
    if fill:
        base = wp.int32(counts[ray])
    grid = occupied.shape[0] > 0  # without one, every interval is kept
    origin = wp.vec3(0.0, 0.0, 0.0)
    direction = wp.vec3(0.0, 0.0, 0.0)
    low = wp.vec3(0.0, 0.0, 0.0)
    high = wp.vec3(1.0, 1.0, 1.0)
    size = wp.vec3(1.0, 1.0, 1.0)
    if grid:
        origin = origins[ray]
        direction = directions[ray]
        low = box[0]
        high = box[1]
        size = wp.vec3(wp.float32(occupied.shape[0]), wp.float32(occupied.shape[1]), wp.float32(occupied.shape[2]))
    cells_per_meter = wp.cw_div(size, high - low)
    if t0 < t1 and wp.abs(t0) < 1.0e38 and wp.abs(t1) < 1.0e38 and finite(origin) and finite(direction):
        lattice = make_lattice(t0, step, cone, jitter[ray])
        enter = t0
        leave = t1
        if grid and not keep_outside:
            for axis in range(3):
                if wp.abs(direction[axis]) < 1.0e-30:  # the wall is infinitely far
                    along = (origin[axis] - low[axis]) * cells_per_meter[axis]
                    if not (along >= 0.0 and along < size[axis]):
                        leave = enter - 1.0
                else:
                    a = (low[axis] - origin[axis]) / direction[axis]
                    b = (high[axis] - origin[axis]) / direction[axis]
                    enter = wp.max(enter, wp.min(a, b))
                    leave = wp.min(leave, wp.max(a, b))
        if enter <= leave:
            k = wp.max(interval(lattice, enter) - 1, 0)
            last = interval(lattice, leave) + 2
            while k < last:
                start = edge(lattice, k)
                if start >= t1:
                    break
                stop = wp.min(edge(lattice, k + 1), t1)
                following = k + 1
                keep = start < stop
                if grid:
                    place = place_in(origin + 0.5 * (start + stop) * direction, low, cells_per_meter)
                    inside = holds(place, size)
                    keep = keep and (inside or keep_outside)
                    if inside:
                        x = wp.int32(place[0])
                        y = wp.int32(place[1])
                        z = wp.int32(place[2])
                        if occupied[x, y, z] == wp.uint8(0):
                            keep = False
                            # Where the ray leaves this cell; the interval around that distance is next.
                            corner = wp.vec3(wp.float32(x), wp.float32(y), wp.float32(z))
                            leaves = wp.float32(1.0e30)
                            for axis in range(3):
                                if wp.abs(direction[axis]) >= 1.0e-30:
                                    wall = corner[axis]
                                    if direction[axis] > 0.0:
                                        wall = wall + 1.0
                                    t = (low[axis] + wall / cells_per_meter[axis] - origin[axis]) / direction[axis]
                                    leaves = wp.min(leaves, t)
                            following = last
                            if leaves < t1:
                                following = wp.max(interval(lattice, leaves), k + 1)
                if keep:
                    if fill and base + count < out_ray.shape[0]:
                        out_ray[base + count] = wp.int64(ray)
                        out_start[base + count] = start
                        out_end[base + count] = stop
                    count = count + 1
                k = following
    if not fill:
        counts[ray] = wp.int64(count)


@wp.kernel
@no_type_check
def lookup(
    points: wp.array(dtype=wp.vec3),
    occupied: wp.array3d(dtype=wp.uint8),
    box: wp.array(dtype=wp.vec3),
    out: wp.array(dtype=wp.uint8),
):
    """One thread per point: whether its cell is occupied; 0 outside the grid."""
    i = wp.tid()
    size = wp.vec3(wp.float32(occupied.shape[0]), wp.float32(occupied.shape[1]), wp.float32(occupied.shape[2]))
    place = place_in(points[i], box[0], wp.cw_div(size, box[1] - box[0]))
    out[i] = wp.uint8(0)
    if holds(place, size):
        out[i] = occupied[wp.int32(place[0]), wp.int32(place[1]), wp.int32(place[2])]
