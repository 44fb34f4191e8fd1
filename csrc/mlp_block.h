// The block product that networks are made of: R rows times C vectors of columns, held in registers. Only for
// kernels/*.cpp: each instruction set has its own copy, with its own vector and block.
#pragma once
#include <stdint.h>
#include <string.h>

#include "mlp.h"
#include "simd.h"

namespace HF_ISA {

#if defined(HF_ISA_avx512)
constexpr int64_t V = 16, C = 4;  // of 32 registers, R * C are sums, C weights and one an activation
#elif defined(HF_ISA_avx2)
constexpr int64_t V = 8, C = 2;  // of 16
#elif defined(__aarch64__)
constexpr int64_t V = 4, C = 4;  // of 32
#else
constexpr int64_t V = 4, C = 2;  // of 16
#endif
constexpr int64_t R = headfields::mlp_block;
constexpr int64_t panel = V * C;  // columns that one block makes

typedef float vf HF_VECTOR(4 * V);
typedef int32_t vi HF_VECTOR(4 * V);

HF_INLINE vf vf_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
HF_INLINE void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
HF_INLINE vf vf_set(float x) { return x - vf{}; }

// out[r, :] = start[r][:] + sum over k of a[r][k * step] b[k, :], then ReLU (which keeps a NaN) where asked for.
// `start` may be null: zero.
template <int N>
static void block(const float *const *a, int64_t step, int64_t depth, const float *b, int64_t b_stride,
                  const float *const *start, float *out, int64_t out_stride, bool relu) {
    vf sum[R][N];
HF_UNROLL
    for (int r = 0; r < R; ++r) {
HF_UNROLL
        for (int j = 0; j < N; ++j) sum[r][j] = start == nullptr ? vf{} : vf_load(start[r] + j * V);
    }
    const float *row[R];
HF_UNROLL
    for (int r = 0; r < R; ++r) row[r] = a[r];
    int64_t at = 0;
    for (int64_t k = 0; k < depth; ++k, at += step, b += b_stride) {
        vf w[N];
HF_UNROLL
        for (int j = 0; j < N; ++j) w[j] = vf_load(b + j * V);
HF_UNROLL
        for (int r = 0; r < R; ++r) {
            const vf x = vf_set(row[r][at]);
HF_UNROLL
            for (int j = 0; j < N; ++j) sum[r][j] += x * w[j];
        }
    }
HF_UNROLL
    for (int r = 0; r < R; ++r) {
HF_UNROLL
        for (int j = 0; j < N; ++j) {
            const vf v = sum[r][j];
            vf_store(out + r * out_stride + j * V, relu ? (v < 0 ? vf{} : v) : v);
        }
    }
}

// `block` for any whole number of vectors up to C.
static void block_of(int64_t columns, const float *const *a, int64_t step, int64_t depth, const float *b,
                     int64_t b_stride, const float *const *start, float *out, int64_t out_stride, bool relu) {
    switch (columns / V) {
        case 1: return block<1>(a, step, depth, b, b_stride, start, out, out_stride, relu);
        case 2: return block<2>(a, step, depth, b, b_stride, start, out, out_stride, relu);
#if defined(HF_ISA_avx512) || defined(__aarch64__)
        case 3: return block<3>(a, step, depth, b, b_stride, start, out, out_stride, relu);
        case 4: return block<4>(a, step, depth, b, b_stride, start, out, out_stride, relu);
#endif
    }
}

}  // namespace HF_ISA
