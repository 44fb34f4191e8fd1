// The kernels on packed samples, for float and double; the loops are in kernels/packed.cpp and packed_sampling.cpp.
#pragma once
#include <cstdint>

#include "cpu.h"

#define HF_DECLARE_PACKED(T)                                                                                           \
    HF_DECLARE(void, ray_weights, (int64_t, int64_t, const int64_t *, const T *, bool, T *, T *))                      \
    HF_DECLARE(void, ray_weights_backward,                                                                             \
               (int64_t, int64_t, const int64_t *, const T *, const T *, bool, T *, T *))                              \
    HF_DECLARE(void, ray_weights_double,                                                                               \
               (int64_t, int64_t, const int64_t *, const T *, const T *, const T *, bool, T *, T *, T *))              \
    HF_DECLARE(void, exclusive_sum, (int64_t, int64_t, const int64_t *, const T *, bool, T *))                         \
    HF_DECLARE(void, weighted_sum,                                                                                     \
               (int64_t, int64_t, const int64_t *, const T *, const T *, int64_t, bool, T *))                          \
    HF_DECLARE(void, weighted_sum_backward,                                                                            \
               (int64_t, int64_t, const int64_t *, const T *, const T *, const T *, int64_t, bool, T *, T *))          \
    HF_DECLARE(void, inverse_cdf,                                                                                      \
               (int64_t, int64_t, const int64_t *, const T *, const T *, const T *, const T *, int64_t, T *))          \
    HF_DECLARE(void, merge,                                                                                            \
               (int64_t, int64_t, const int64_t *, const T *, const T *, const int64_t *, const T *, const T *,        \
                int64_t *, const int64_t *, int64_t *, T *, T *))
HF_DECLARE_PACKED(float)
HF_DECLARE_PACKED(double)
#undef HF_DECLARE_PACKED
