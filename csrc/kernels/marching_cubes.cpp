// Marching cubes over rows of points: the edges that are cut, and the numbers and corners of the triangles.
#include <stdint.h>
#include <string.h>

#include "marching_cubes.h"
#include "simd.h"

namespace HF_ISA {

typedef double d8 HF_VECTOR(64);

static inline uint64_t eight_below(const float *values, float level) {
    return mask_bits((i8)(f8_load(values) < f8_set(level)));
}

static inline uint64_t eight_below(const double *values, double level) {
    d8 eight;
    memcpy(&eight, values, sizeof eight);
    return mask_bits(HF_CONVERT(eight < level, i8));
}

// Bits of the points of rows [first, last): those below the level, which NaN is not.
template <typename T>
static inline void bits_of(const MarchingGrid &grid, const T *values, T level, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
        const T *from = values + row * grid.width;
        uint64_t *to = grid.bits + row * grid.words;
        for (int64_t start = 0; start < grid.width; start += 64) {
            const int64_t size = grid.width - start < 64 ? grid.width - start : 64;
            uint64_t word = 0;
            int64_t k = 0;
            for (; k + 8 <= size; k += 8) word |= eight_below(from + start + k, level) << k;
            for (; k < size; ++k) word |= static_cast<uint64_t>(from[start + k] < level) << k;
            *to++ = word;
        }
    }
}

void marching_bits(const MarchingGrid &grid, const float *values, float level, int64_t first, int64_t last) {
    bits_of(grid, values, level, first, last);
}

void marching_bits(const MarchingGrid &grid, const double *values, double level, int64_t first, int64_t last) {
    bits_of(grid, values, level, first, last);
}

// A row of points: its bits, and whether rows follow it along the first axis and the second.
struct Row {
    const uint64_t *bits;
    bool x, y;
};

static inline Row row_of(const MarchingGrid &grid, int64_t i, int64_t j) {
    return {grid.bits + (i * grid.height + j) * grid.words, i + 1 < grid.depth, j + 1 < grid.height};
}

// Word `w` of a row, moved on by one point.
static inline uint64_t following(const MarchingGrid &grid, const uint64_t *bits, int64_t w) {
    return bits[w] >> 1 | (w + 1 < grid.words ? bits[w + 1] << 63 : 0);
}

// The points of word `w` that have one after them in their row.
static inline uint64_t followed(const MarchingGrid &grid, int64_t w) {
    const int64_t count = grid.width - 1 - 64 * w;
    return count >= 64 ? ~uint64_t(0) : (uint64_t(1) << count) - 1;
}

// Which edges that start at the points of a word are cut, by axis. At the far border no edge starts.
struct Cut {
    uint64_t x, y, z;
};

static inline Cut cut_of(const MarchingGrid &grid, const Row &row, int64_t w) {
    const uint64_t *own = row.bits + w;
    return {row.x ? *own ^ own[grid.height * grid.words] : 0, row.y ? *own ^ own[grid.words] : 0,
            (*own ^ following(grid, row.bits, w)) & followed(grid, w)};
}

// The cells that start at the points of a word of the first of four rows: the bits of their corners, and which of them
// the surface cuts.
struct Cells {
    uint64_t low[4], high[4], cut;
};

static inline Cells cells_of(const MarchingGrid &grid, const Row row[4], int64_t w) {
    Cells cells;
    uint64_t any = 0, all = ~uint64_t(0);
    for (int r = 0; r < 4; ++r) {
        cells.low[r] = row[r].bits[w], cells.high[r] = following(grid, row[r].bits, w);
        any |= cells.low[r] | cells.high[r], all &= cells.low[r] & cells.high[r];
    }
    cells.cut = any & ~all & followed(grid, w);
    return cells;
}

static inline int case_of(const Cells &cells, int k) {
    uint64_t which = 0;
    for (int r = 0; r < 4; ++r) which |= (cells.low[r] >> k & 1) << 2 * r | (cells.high[r] >> k & 1) << (2 * r + 1);
    return static_cast<int>(which);
}

static inline void rows_around(const MarchingGrid &grid, int64_t i, int64_t j, Row row[4]) {
    for (int r = 0; r < 4; ++r) row[r] = row_of(grid, i + (r >> 1), j + (r & 1));
}

// How many edges start in each of rows [first, last), and how many triangles their cells have.
void marching_count(const MarchingGrid &grid, int64_t first, int64_t last, int64_t *edges, int64_t *triangles) {
    for (int64_t r = first; r < last; ++r) {
        const int64_t i = r / grid.height, j = r % grid.height;
        const Row own = row_of(grid, i, j);
        int64_t edge = 0, triangle = 0;
        for (int64_t w = 0; w < grid.words; ++w) {
            const Cut cut = cut_of(grid, own, w);
            if (cut.x | cut.y | cut.z) edge += count_bits64(cut.x) + count_bits64(cut.y) + count_bits64(cut.z);
        }
        if (own.x && own.y) {
            Row row[4];
            rows_around(grid, i, j, row);
            for (int64_t w = 0; w < grid.words; ++w) {
                const Cells cells = cells_of(grid, row, w);
                for (uint64_t left = cells.cut; left; left &= left - 1) {
                    triangle += grid.count[case_of(cells, lowest_bit64(left))];
                }
            }
        }
        edges[r] = edge, triangles[r] = triangle;
    }
}

// The edges that start in a row.
static inline void emit_edges(const MarchingGrid &grid, const Row &row, int64_t point, int64_t *edge) {
    for (int64_t w = 0; w < grid.words; ++w) {
        const Cut cut = cut_of(grid, row, w);
        for (uint64_t left = cut.x | cut.y | cut.z; left; left &= left - 1) {
            const int k = lowest_bit64(left);
            const int64_t name = 3 * (point + 64 * w + k);
            if (cut.x >> k & 1) *edge++ = name;
            if (cut.y >> k & 1) *edge++ = name + 1;
            if (cut.z >> k & 1) *edge++ = name + 2;
        }
    }
}

// The cut edges of a word of a row, and how many there are before each of its points.
struct Ranked {
    Cut cut;
    uint64_t odd, two;  // of the three edges at a point: whether one or three are cut, whether two or three are
    int64_t before;     // the word

    Ranked(const Cut &of, int64_t start)
        : cut(of), odd(of.x ^ of.y ^ of.z), two((of.x & of.y) | ((of.x ^ of.y) & of.z)), before(start) {}
    int64_t at(uint64_t below) const { return before + count_bits64(odd & below) + 2 * count_bits64(two & below); }
    int64_t after() const { return at(~uint64_t(0)); }
};

// The triangles of a row of cells. Edges are numbered by their point and then axis, so the number of the first one of a
// row of points and how many of them come before a point name all edges there.
static inline void emit_faces(const MarchingGrid &grid, const Row row[4], const int64_t first[4], int64_t *face) {
    int64_t before[4] = {first[0], first[1], first[2], first[3]};
    for (int64_t w = 0; w < grid.words; ++w) {
        const Ranked of[4] = {{cut_of(grid, row[0], w), before[0]}, {cut_of(grid, row[1], w), before[1]},
                              {cut_of(grid, row[2], w), before[2]}, {cut_of(grid, row[3], w), before[3]}};
        const Cells cells = cells_of(grid, row, w);
        uint64_t next_x[2];  // of the rows whose second-axis edges start at the cell's far points
        for (int r = 0; r < 2; ++r) {
            const bool more = w + 1 < grid.words;
            next_x[r] = of[2 * r].cut.x >> 1 | (more ? cut_of(grid, row[2 * r], w + 1).x << 63 : 0);
        }
        for (uint64_t left = cells.cut; left; left &= left - 1) {
            const int k = lowest_bit64(left);
            const uint64_t below = (uint64_t(1) << k) - 1;
            int64_t here[4], x[4], y[4], after[4];
            for (int r = 0; r < 4; ++r) {
                here[r] = of[r].at(below);
                x[r] = of[r].cut.x >> k & 1, y[r] = of[r].cut.y >> k & 1;
                after[r] = here[r] + x[r] + y[r] + (of[r].cut.z >> k & 1);
            }
            // The cell's 12 edges in the order of the table: axis, then starting corner (row, then k).
            int64_t name[12];
            for (int r = 0; r < 2; ++r) {
                name[2 * r] = here[r], name[2 * r + 1] = after[r];
                name[4 + 2 * r] = here[2 * r] + x[2 * r];
                name[5 + 2 * r] = after[2 * r] + (next_x[r] >> k & 1);
            }
            for (int r = 0; r < 4; ++r) name[8 + r] = here[r] + x[r] + y[r];
            const int which = case_of(cells, k), count = grid.count[which];
            const uint8_t *triangle = grid.triangle + which * grid.most * 3;
            for (int t = 0; t < 3 * count; ++t) *face++ = name[triangle[t]];
        }
        for (int r = 0; r < 4; ++r) before[r] = of[r].after();
    }
}

// Edges that start in rows [first, last), and triangles of their cells.
void marching_emit(const MarchingGrid &grid, int64_t first, int64_t last, const int64_t *first_edge,
                   const int64_t *first_triangle, int64_t *edge, int64_t *faces) {
    for (int64_t r = first; r < last; ++r) {
        const int64_t i = r / grid.height, j = r % grid.height;
        const Row own = row_of(grid, i, j);
        if (first_edge[r + 1] > first_edge[r]) emit_edges(grid, own, r * grid.width, edge + first_edge[r]);
        if (first_triangle[r + 1] > first_triangle[r]) {
            Row row[4];
            rows_around(grid, i, j, row);
            const int64_t starts[4] = {first_edge[r], first_edge[r + 1], first_edge[r + grid.height],
                                       first_edge[r + grid.height + 1]};
            emit_faces(grid, row, starts, faces + 3 * first_triangle[r]);
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
