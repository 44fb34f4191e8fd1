// Marching rays through an occupancy grid on a fixed step lattice, and looking up points in one.
#include <stdint.h>

#include <math.h>

namespace HF_ISA {

// A box divided into cells, x slowest.
template <class T>
struct Grid {
    const uint8_t *occupied;
    int64_t size[3];
    T low[3], cells_per_meter[3];

    // The index of the cell that holds the point, or -1 outside (NaN is outside).
    int64_t cell(const T *point, int64_t *at) const {
        for (int axis = 0; axis < 3; ++axis) {
            const T place = (point[axis] - low[axis]) * cells_per_meter[axis];
            if (!(place >= 0 && place < T(size[axis]))) return -1;
            at[axis] = int64_t(place);
        }
        return (at[0] * size[1] + at[1]) * size[2] + at[2];
    }
};

template <class T>
static Grid<T> make_grid(const uint8_t *occupied, const int64_t *size, const T *aabb) {
    Grid<T> grid;
    grid.occupied = occupied;
    for (int axis = 0; axis < 3; ++axis) {
        grid.size[axis] = size[axis];
        grid.low[axis] = aabb[axis];
        grid.cells_per_meter[axis] = T(size[axis]) / (aabb[3 + axis] - aabb[axis]);
    }
    return grid;
}

// The step lattice of one ray: edge(0) = near, edge(1) = near + part h(near), edge(k + 1) = edge(k) + h(edge(k)) with
// h(t) = max(step, cone t). In closed form, so that an edge does not depend on the path of the march.
template <class T>
struct Lattice {
    T near, first, step, cone, linear, turn, growth, per_step;

    Lattice(T near_, T step_, T cone_, T part) : near(near_), step(step_), cone(cone_), growth(0), per_step(T(1) / step_) {
        first = near + part * (near * cone > step ? near * cone : step);
        linear = T(HUGE_VAL);
        turn = T(HUGE_VAL);
        if (cone > 0) {
            linear = T(ceil(double((step / cone - first) / step)));
            if (linear < 0) linear = 0;
            turn = first + linear * step;
            growth = T(log1p(double(cone)));
        }
    }
    T edge(int64_t k) const {
        if (k == 0) return near;
        const T index = T(k - 1);
        return index <= linear ? first + index * step : turn * T(exp(double((index - linear) * growth)));
    }
    // The interval that holds t, up to rounding.
    int64_t interval(T t) const {
        if (!(t >= first)) return 0;
        const double place = t < turn ? double((t - first) * per_step) : double(linear) + log(double(t / turn)) / double(growth);
        return place < 1e12 ? 1 + int64_t(place) : int64_t(1e12);  // a sum over many rays must not overflow
    }
    // How many intervals begin before far. Past 2^24 the distances are not exact, nor need the count be.
    int64_t count(T far) const {
        int64_t k = interval(far) + 1;
        if (k > (int64_t(1) << 24)) return k;
        while (k > 0 && !(edge(k - 1) < far)) --k;
        while (edge(k) < far && edge(k + 1) > edge(k)) ++k;
        return k;
    }
};

template <class T>
static void march_of(int64_t begin, int64_t end, const T *origins, const T *directions, const T *near, const T *far,
                     const T *jitter, const uint8_t *occupied, const int64_t *size, const T *aabb, T step, T cone,
                     int64_t *counts, const int64_t *offsets, int64_t *out_ray, T *out_start, T *out_stop) {
    const bool fill = out_ray != nullptr;
    Grid<T> grid = {};
    if (occupied != nullptr) grid = make_grid(occupied, size, aabb);
    for (int64_t ray = begin; ray < end; ++ray) {
        int64_t found = 0;
        const T t0 = near[ray], t1 = far[ray];
        if (t0 < t1 && t0 - t0 == 0 && t1 - t1 == 0) {
            const Lattice<T> lattice(t0, step, cone, jitter != nullptr ? T(1) - jitter[ray] : T(1));
            int64_t k = 0, last = 0;
            const T *origin = nullptr, *direction = nullptr;
            // Along each axis: the distance of the first wall, how much further each next one is, and whether the wall
            // ahead is the upper one of a cell. Parallel walls are never reached.
            T wall[3] = {T(HUGE_VAL), T(HUGE_VAL), T(HUGE_VAL)}, per_cell[3] = {};
            int64_t ahead[3] = {};
            if (occupied == nullptr) {
                if (!fill) {
                    counts[ray] = lattice.count(t1);
                    continue;
                }
                for (int64_t to = offsets[ray]; to < offsets[ray + 1]; ++to, ++k, ++found) {
                    const T start = lattice.edge(k), stop = lattice.edge(k + 1);
                    out_ray[to] = ray;
                    out_start[to] = start < t1 ? start : t1;
                    out_stop[to] = stop < t1 ? stop : t1;
                }
            } else {
                origin = origins + 3 * ray;
                direction = directions + 3 * ray;
                T enter = t0, leave = t1;  // the part of the ray inside the box
                bool misses = false;
                for (int axis = 0; axis < 3; ++axis) {
                    const T sum = origin[axis] + direction[axis];
                    misses |= !(sum - sum == 0);  // not finite
                    if (direction[axis] < T(1e-30) && direction[axis] > T(-1e-30)) {  // the wall is infinitely far
                        const T place = (origin[axis] - grid.low[axis]) * grid.cells_per_meter[axis];
                        misses |= !(place >= 0 && place < T(grid.size[axis]));
                        continue;
                    }
                    const T a = (aabb[axis] - origin[axis]) / direction[axis];
                    const T b = (aabb[3 + axis] - origin[axis]) / direction[axis];
                    wall[axis] = a;
                    per_cell[axis] = (b - a) / T(size[axis]);
                    ahead[axis] = direction[axis] > 0;
                    const T low = a < b ? a : b, high = a < b ? b : a;
                    if (low > enter) enter = low;
                    if (high < leave) leave = high;
                }
                if (!misses && enter <= leave) {
                    const int64_t from = lattice.interval(enter) - 1;  // one more for rounding, as at the end
                    k = from > 0 ? from : 0;
                    last = lattice.interval(leave) + 2;
                    if (last > (int64_t(1) << 30)) {  // the step is lost to rounding: more than any budget, in hours
                        if (!fill) found = last;
                        last = k;
                    }
                }
            }
            while (k < last) {
                const T start = lattice.edge(k);
                if (!(start < t1)) break;
                const T next = lattice.edge(k + 1), stop = next < t1 ? next : t1, middle = T(0.5) * (start + stop);
                const T point[3] = {origin[0] + middle * direction[0], origin[1] + middle * direction[1],
                                    origin[2] + middle * direction[2]};
                int64_t at[3];
                const int64_t cell = grid.cell(point, at);
                if (cell < 0) {
                    ++k;
                    continue;
                }
                if (!grid.occupied[cell]) {
                    // Where the ray leaves this cell; the interval around that distance is next.
                    const T x = wall[0] + T(at[0] + ahead[0]) * per_cell[0], y = wall[1] + T(at[1] + ahead[1]) * per_cell[1],
                            z = wall[2] + T(at[2] + ahead[2]) * per_cell[2];
                    const T exit = x < y ? (x < z ? x : z) : (y < z ? y : z);
                    const int64_t jump = exit < t1 ? lattice.interval(exit) : last;
                    k = jump > k ? jump : k + 1;
                    continue;
                }
                if (start < stop) {
                    if (fill) {
                        const int64_t to = offsets[ray] + found;
                        if (to >= offsets[ray + 1]) break;  // cells were added since they were counted
                        out_ray[to] = ray;
                        out_start[to] = start;
                        out_stop[to] = stop;
                    }
                    ++found;
                }
                ++k;
            }
        }
        if (!fill) {
            counts[ray] = found;
            continue;
        }
        for (int64_t to = offsets[ray] + found; to < offsets[ray + 1]; ++to) {
            out_ray[to] = ray;  // cells were taken away since: intervals without length
            out_start[to] = out_stop[to] = t1;
        }
    }
}

template <class T>
static void lookup_of(int64_t begin, int64_t end, const T *points, const uint8_t *occupied, const int64_t *size,
                      const T *aabb, uint8_t *out) {
    const Grid<T> grid = make_grid(occupied, size, aabb);
    for (int64_t i = begin; i < end; ++i) {
        int64_t at[3];
        const int64_t cell = grid.cell(points + 3 * i, at);
        out[i] = cell >= 0 && grid.occupied[cell] != 0;
    }
}

#define HF_OCCUPANCY(T)                                                                                                \
    void march(int64_t begin, int64_t end, const T *origins, const T *directions, const T *near, const T *far,         \
               const T *jitter, const uint8_t *occupied, const int64_t *size, const T *aabb, T step, T cone,           \
               int64_t *counts, const int64_t *offsets, int64_t *out_ray, T *out_start, T *out_stop) {                 \
        march_of<T>(begin, end, origins, directions, near, far, jitter, occupied, size, aabb, step, cone, counts,      \
                    offsets, out_ray, out_start, out_stop);                                                            \
    }                                                                                                                  \
    void lookup(int64_t begin, int64_t end, const T *points, const uint8_t *occupied, const int64_t *size,             \
                const T *aabb, uint8_t *out) {                                                                         \
        lookup_of<T>(begin, end, points, occupied, size, aabb, out);                                                   \
    }
HF_OCCUPANCY(float)
HF_OCCUPANCY(double)

}  // namespace HF_ISA
