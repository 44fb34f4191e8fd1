// Weighted sums of rows of a table; the loops are in kernels/rows.cpp.
#pragma once
#include <cstdint>

#include "cpu.h"

HF_DECLARE(void, rows_gather,
           (int64_t first, int64_t last, int64_t picks, int64_t width, const float *table, const int64_t *index,
            const float *weights, float *out))
HF_DECLARE(void, rows_scatter,
           (int64_t share, int64_t shares, int64_t count, int64_t picks, int64_t width, const float *values,
            const int64_t *index, const float *weights, float *out))
HF_DECLARE(void, rows_dot,
           (int64_t first, int64_t last, int64_t picks, int64_t width, const float *table, const int64_t *index,
            const float *values, float *out))
