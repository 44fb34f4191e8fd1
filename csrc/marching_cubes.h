// Marching cubes over a grid of inside flags; the loops are in kernels/marching_cubes.cpp, the table comes from Python.
#pragma once
#include <cstdint>

#include "cpu.h"

// A grid of points; row r = i * height + j holds the `width` points (i, j, ...).
struct MarchingGrid {
    int64_t depth, height, width;
    const uint8_t *inside;    // a point each: 0 outside
    const uint8_t *count;     // (256,) triangles of each case
    const uint8_t *triangle;  // (256, most, 3) their edges
    int64_t most;
    uint8_t *marks;  // a point each: bits 0 to 2, the edge along that axis is cut; bit 3, the point is inside
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
HF_DECLARE(void, marching_marks, (const MarchingGrid &grid, int64_t first, int64_t last, int64_t *edges))
HF_DECLARE(void, marching_count,
           (const MarchingGrid &grid, int64_t first, int64_t last, const int64_t *edges, int64_t *triangles))
HF_DECLARE(void, marching_emit,
           (const MarchingGrid &grid, int64_t first, int64_t last, const int64_t *first_edge,
            const int64_t *first_triangle, int64_t *edge, int64_t *faces))
