// Marching cubes over rows of points: the edges that are cut, and the numbers and corners of the triangles.
#include <stdint.h>
#include <string.h>

#include "marching_cubes.h"

namespace HF_ISA {

static inline int bits(int mark) { return (mark & 1) + (mark >> 1 & 1) + (mark >> 2 & 1); }

// Marks of the points of rows [first, last), and how many edges start in each row.
void marching_marks(const MarchingGrid &grid, int64_t first, int64_t last, int64_t *edges) {
    const int64_t width = grid.width, plane = grid.height * width;
    for (int64_t row = first; row < last; ++row) {
        const uint8_t *in = grid.inside + row * width;
        uint8_t *mark = grid.marks + row * width;
        // At the far border there is no neighbor: the point itself stands in, and no edge is cut.
        const uint8_t *x = row / grid.height + 1 < grid.depth ? in + plane : in;
        const uint8_t *y = row % grid.height + 1 < grid.height ? in + width : in;
        int64_t total = 0;
        for (int64_t k = 0; k + 1 < width; ++k) {
            const uint8_t a = in[k] != 0, i = a ^ (x[k] != 0), j = a ^ (y[k] != 0), l = a ^ (in[k + 1] != 0);
            mark[k] = static_cast<uint8_t>(i | j << 1 | l << 2 | a << 3);
            total += i + j + l;
        }
        const int64_t k = width - 1;
        const uint8_t a = in[k] != 0, i = a ^ (x[k] != 0), j = a ^ (y[k] != 0);
        mark[k] = static_cast<uint8_t>(i | j << 1 | a << 3);
        edges[row] = total + i + j;
    }
}

// The four rows of points around row `row` of cells, or false if it has no cells or the surface does not cut them.
static inline bool cell_rows(const MarchingGrid &grid, int64_t row, const int64_t *edges, int64_t rows[4]) {
    if (row / grid.height + 1 >= grid.depth || row % grid.height + 1 >= grid.height) return false;
    rows[0] = row, rows[1] = row + 1, rows[2] = row + grid.height, rows[3] = row + grid.height + 1;
    return edges == nullptr || edges[rows[0]] || edges[rows[1]] || edges[rows[2]] || edges[rows[3]];
}

static inline int half_case(const uint8_t *const mark[4], int64_t k) {
    return (mark[0][k] >> 3) | (mark[1][k] >> 3) << 2 | (mark[2][k] >> 3) << 4 | (mark[3][k] >> 3) << 6;
}

// Whether the surface cuts none of the eight cells from k: no edge is cut at the points k to k + 7 of the four rows.
static inline bool eight_uncut(const uint8_t *const mark[4], int64_t k) {
    uint64_t all = 0;
    for (int r = 0; r < 4; ++r) {
        uint64_t word;
        memcpy(&word, mark[r] + k, 8);
        all |= word;
    }
    return !(all & 0x0707070707070707u);
}

// How many triangles the cells of rows [first, last) have, in each row.
void marching_count(const MarchingGrid &grid, int64_t first, int64_t last, const int64_t *edges, int64_t *triangles) {
    for (int64_t row = first; row < last; ++row) {
        int64_t rows[4], total = 0;
        if (cell_rows(grid, row, edges, rows)) {
            const uint8_t *mark[4];
            for (int r = 0; r < 4; ++r) mark[r] = grid.marks + rows[r] * grid.width;
            int low = half_case(mark, 0);
            for (int64_t k = 0; k + 1 < grid.width; ++k) {
                while (k + 8 < grid.width && eight_uncut(mark, k)) k += 8, low = half_case(mark, k);
                if (k + 1 >= grid.width) break;
                const int high = half_case(mark, k + 1);
                total += grid.count[low | high << 1];
                low = high;
            }
        }
        triangles[row] = total;
    }
}

// Edges that start in rows [first, last) and triangles of their cells. Edges are numbered by their point and then axis,
// so while a row of cells is swept, one running number for each of its four rows of points names them all.
void marching_emit(const MarchingGrid &grid, int64_t first, int64_t last, const int64_t *first_edge,
                   const int64_t *first_triangle, int64_t *edge, int64_t *faces) {
    for (int64_t row = first; row < last; ++row) {
        const uint8_t *own = grid.marks + row * grid.width;
        int64_t *to = edge + first_edge[row];
        const bool none = row + 1 < grid.depth * grid.height && first_edge[row + 1] == first_edge[row];
        for (int64_t k = 0; !none && k < grid.width; ++k) {
            if (!(own[k] & 7)) continue;
            for (int axis = 0; axis < 3; ++axis) {
                if (own[k] >> axis & 1) *to++ = 3 * (row * grid.width + k) + axis;
            }
        }
        int64_t rows[4];
        if (!cell_rows(grid, row, nullptr, rows)) continue;
        if (row + 1 < grid.depth * grid.height && first_triangle[row + 1] == first_triangle[row]) continue;
        const uint8_t *mark[4];
        int64_t number[4];
        for (int r = 0; r < 4; ++r) {
            mark[r] = grid.marks + rows[r] * grid.width;
            number[r] = first_edge[rows[r]];
        }
        int64_t *face = faces + 3 * first_triangle[row];
        int low = half_case(mark, 0);
        for (int64_t k = 0; k + 1 < grid.width; ++k) {
            while (k + 8 < grid.width && eight_uncut(mark, k)) k += 8, low = half_case(mark, k);
            if (k + 1 >= grid.width) break;
            const int high = half_case(mark, k + 1), which = low | high << 1;
            low = high;
            const int count = grid.count[which];
            if (count) {
                // The cell's 12 edges in the order of the table: axis, then starting corner (row, then k).
                int64_t name[12];
                const int here[4] = {mark[0][k], mark[1][k], mark[2][k], mark[3][k]};
                const int next[4] = {mark[0][k + 1], mark[1][k + 1], mark[2][k + 1], mark[3][k + 1]};
                int64_t after[4];
                for (int r = 0; r < 4; ++r) after[r] = number[r] + bits(here[r]);
                for (int r = 0; r < 2; ++r) name[2 * r] = number[r], name[2 * r + 1] = after[r];
                for (int r = 0; r < 2; ++r) {
                    name[4 + 2 * r] = number[2 * r] + (here[2 * r] & 1);
                    name[5 + 2 * r] = after[2 * r] + (next[2 * r] & 1);
                }
                for (int r = 0; r < 4; ++r) name[8 + r] = number[r] + (here[r] & 1) + (here[r] >> 1 & 1);
                const uint8_t *triangle = grid.triangle + which * grid.most * 3;
                for (int t = 0; t < 3 * count; ++t) *face++ = name[triangle[t]];
            }
            for (int r = 0; r < 4; ++r) number[r] += bits(mark[r][k]);
        }
    }
}

template <typename T> static inline bool is_finite(T x) { return x - x == T(0); }

// Vertices [first, last): one between the two ends of each edge, half-way where an end is not finite.
template <typename T>
static inline void vertices_of(const MarchingGrid &grid, const MarchingVertices<T> &of, int64_t first, int64_t last) {
    const int64_t stride[3] = {grid.height * grid.width, grid.width, 1};
    for (int64_t v = first; v < last; ++v) {
        const int64_t point = of.edge[v] / 3, axis = of.edge[v] % 3, end = point + stride[axis];
        const int64_t row = point / grid.width;
        const T low = of.values[point], high = of.values[end];
        const T at = is_finite(low) && is_finite(high) ? (of.level - low) / (high - low) : T(0.5);
        of.ends[2 * v] = point, of.ends[2 * v + 1] = end;
        of.fraction[v] = at;
        T *vertex = of.vertices + 3 * v;
        vertex[0] = static_cast<T>(row / grid.height);
        vertex[1] = static_cast<T>(row % grid.height);
        vertex[2] = static_cast<T>(point - row * grid.width);
        vertex[axis] += at;
    }
}

void marching_vertices(const MarchingGrid &grid, const MarchingVertices<float> &of, int64_t first, int64_t last) {
    vertices_of(grid, of, first, last);
}

void marching_vertices(const MarchingGrid &grid, const MarchingVertices<double> &of, int64_t first, int64_t last) {
    vertices_of(grid, of, first, last);
}

}  // namespace HF_ISA
