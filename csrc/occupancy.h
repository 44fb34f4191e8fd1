// The kernels on occupancy grids, for float and double; the loops are in kernels/occupancy.cpp.
#pragma once
#include <cstdint>

#include "cpu.h"

#define HF_DECLARE_OCCUPANCY(T)                                                                                        \
    HF_DECLARE(void, march,                                                                                            \
               (int64_t, int64_t, const T *, const T *, const T *, const T *, const T *, const uint8_t *,              \
                const int64_t *, const T *, T, T, int64_t *, const int64_t *, int64_t *, T *, T *))                    \
    HF_DECLARE(void, lookup, (int64_t, int64_t, const T *, const uint8_t *, const int64_t *, const T *, uint8_t *))
HF_DECLARE_OCCUPANCY(float)
HF_DECLARE_OCCUPANCY(double)
#undef HF_DECLARE_OCCUPANCY
