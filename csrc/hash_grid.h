// The arguments of a hash-grid kernel. The loops are in kernels/hash_grid.cpp.
#pragma once
#include <cstdint>

#include "cpu.h"

namespace headfields {

struct Half {
    uint16_t bits;  // IEEE binary16; the loops widen it to float
};

enum class GridType { f32, f16, f64 };  // of the table; points, gradients and sums are float, float, double

struct HashGrid {
    GridType type;
    int levels, features, dimensions;
    bool smoothstep;
    uint32_t mask;              // table size - 1, for hashed levels
    const int64_t *resolution;  // levels
    const int64_t *offset;      // levels + 1, in entries; a level is hashed if it has mask + 1 < (resolution + 1)^d
    const bool *hashed;         // levels
    const void *points;         // (n, dimensions)
    const void *direction;      // (n, dimensions) or null: take the weights' derivative along it instead of the weights
    bool derivative;            // what is gathered is a gradient: at an undefined (NaN) point it is zero, not NaN
};

}  // namespace headfields

// All pointers are C-contiguous. `real` below is float, or double for an f64 table.
// out[n, level, f] = sum over corners of weight * table[corner, f], plus, where `plain` is given, the undifferentiated
// weight * plain[corner, f]. Writes rows begin..end. `lines`: null, or room for 64 bytes for each of these rows where
// `out` begins at a cache line and 64 bytes are the features of several levels, of which the number of levels is a
// multiple; then whole cache lines are written, past the cache.
HF_DECLARE(void, hash_grid_gather,
           (const headfields::HashGrid &grid, const void *table, const void *plain, void *out, void *lines, int64_t begin,
            int64_t end))
// sum[corner, f] += weight * grad[(n - begin) * stride + f] for one level and rows begin..end; `sum` and `grad` are real.
HF_DECLARE(void, hash_grid_scatter,
           (const headfields::HashGrid &grid, int level, const void *grad, int64_t stride, void *sum, int64_t begin,
            int64_t end))
// out[level, n, f] = grad[n, level, f] for rows begin..end of `count`.
HF_DECLARE(void, hash_grid_by_level,
           (const headfields::HashGrid &grid, const void *grad, void *out, int64_t count, int64_t begin, int64_t end))
// out[n, k] = d/dx_k of sum over levels, features and corners of grad * (weight * table + plain weight * plain).
HF_DECLARE(void, hash_grid_point_gradient,
           (const headfields::HashGrid &grid, const void *grad, const void *table, const void *plain, void *out,
            int64_t begin, int64_t end))
// out[n, level, corner] = row of the table.
HF_DECLARE(void, hash_grid_rows, (const headfields::HashGrid &grid, int64_t *out, int64_t begin, int64_t end))
