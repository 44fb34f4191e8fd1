// Marching cubes over a grid of values; the loops are in kernels/marching_cubes.cpp, the table comes from Python.
#pragma once
#include <cstdint>

#include "cpu.h"

// A grid of points; row r = i * height + j holds the `width` points (i, j, ...). Which of them are inside is kept as
// bits, 64 points a word and `words` words a row, so that one instruction looks at 64 edges.
struct MarchingGrid {
    int64_t depth, height, width, words;
    uint64_t *bits;           // (depth, height, words): bit k of word w is point 64 * w + k of the row; 0 beyond it
    const uint8_t *count;     // (256,) triangles of each case
    const uint8_t *triangle;  // (256, most, 3) their edges
    int64_t most;
};

// Where the vertices of edges lie; points of row r are at (r / height, r % height, ...) cells.
template <typename T> struct MarchingVertices {
    const T *values;      // a point each
    T level;
    const int64_t *edge;  // 3 * point + axis, ascending
    int64_t *ends;        // (, 2) points
    T *fraction, *vertices;
};

HF_DECLARE(void, marching_vertices,
           (const MarchingGrid &grid, const MarchingVertices<float> &of, int64_t first, int64_t last))
HF_DECLARE(void, marching_vertices,
           (const MarchingGrid &grid, const MarchingVertices<double> &of, int64_t first, int64_t last))
HF_DECLARE(void, marching_bits,
           (const MarchingGrid &grid, const float *values, float level, int64_t first, int64_t last))
HF_DECLARE(void, marching_bits,
           (const MarchingGrid &grid, const double *values, double level, int64_t first, int64_t last))
HF_DECLARE(void, marching_count,
           (const MarchingGrid &grid, int64_t first, int64_t last, int64_t *edges, int64_t *triangles))
HF_DECLARE(void, marching_emit,
           (const MarchingGrid &grid, int64_t first, int64_t last, const int64_t *first_edge,
            const int64_t *first_triangle, int64_t *edge, int64_t *faces))
