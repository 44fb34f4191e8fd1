// Eight floats or ints in one value, through vectors of GCC and Clang (portable.h): one AVX register, two SSE or NEON
// registers on a baseline build. Only for kernels/*.cpp: everything is static and inlined, so each instruction set
// has its own copy.
#pragma once
#include <cstdint>
#include <cstring>

#include "portable.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

typedef float f8 HF_VECTOR(32);
typedef int32_t i8 HF_VECTOR(32);

HF_INLINE f8 f8_set(float x) { return f8{x, x, x, x, x, x, x, x}; }
HF_INLINE f8 f8_load(const float *p) {
    f8 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
HF_INLINE void f8_store(float *p, f8 v) { std::memcpy(p, &v, sizeof v); }
HF_INLINE f8 f8_select(i8 mask, f8 a, f8 b) { return mask ? a : b; }
// Like the instruction: the second operand where either is NaN.
HF_INLINE f8 f8_min(f8 a, f8 b) {
#if defined(__AVX2__)
    return (f8)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}
HF_INLINE f8 f8_max(f8 a, f8 b) {
#if defined(__AVX2__)
    return (f8)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}
HF_INLINE f8 f8_sqrt(f8 a) {
#if defined(__AVX2__)
    return (f8)_mm256_sqrt_ps((__m256)a);
#else
    f8 r;
    for (int k = 0; k < 8; ++k) r[k] = square_root(a[k]);
    return r;
#endif
}
// Bit k is set where lane k of a comparison holds.
HF_INLINE uint32_t mask_bits(i8 mask) {
#if defined(__AVX2__)
    return (uint32_t)_mm256_movemask_ps((__m256)mask);
#elif defined(__SSE2__)
    __m128 half[2];
    std::memcpy(half, &mask, sizeof mask);
    return (uint32_t)(_mm_movemask_ps(half[0]) | (_mm_movemask_ps(half[1]) << 4));
#elif defined(__ARM_NEON) && defined(__aarch64__)
    const i8 weights = {1, 2, 4, 8, 16, 32, 64, 128};
    const i8 kept = mask & weights;
    int32x4_t half[2];
    std::memcpy(half, &kept, sizeof kept);
    return (uint32_t)vaddvq_s32(vaddq_s32(half[0], half[1]));
#else
    uint32_t bits = 0;
    for (int k = 0; k < 8; ++k) bits |= (uint32_t)(mask[k] & 1) << k;
    return bits;
#endif
}
HF_INLINE float f8_lowest(f8 v) {
    float x[8];
    f8_store(x, v);
    for (int k = 0; k < 4; ++k) x[k] = x[k] < x[k + 4] ? x[k] : x[k + 4];
    x[0] = x[0] < x[2] ? x[0] : x[2];
    x[1] = x[1] < x[3] ? x[1] : x[3];
    return x[0] < x[1] ? x[0] : x[1];
}

struct v3 {
    f8 x, y, z;
};
HF_INLINE v3 v3_set(const float *p) { return {f8_set(p[0]), f8_set(p[1]), f8_set(p[2])}; }
HF_INLINE v3 v3_load(const float *p) { return {f8_load(p), f8_load(p + 8), f8_load(p + 16)}; }
HF_INLINE v3 operator+(v3 a, v3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
HF_INLINE v3 operator-(v3 a, v3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
HF_INLINE v3 operator*(f8 s, v3 a) { return {s * a.x, s * a.y, s * a.z}; }
HF_INLINE f8 dot(v3 a, v3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
HF_INLINE v3 cross(v3 a, v3 b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
