// As many floats in one value as the widest register holds: 16 with AVX-512, else the eight of simd.h. For loops that
// have blocks of pixels. Only for kernels/*.cpp, as simd.h.
#pragma once
#include "simd.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int lanes = 16;
typedef float fv HF_VECTOR(64);
typedef int32_t iv HF_VECTOR(64);
typedef __mmask16 mv;
// Some are the masked forms, with every lane: GCC 12 warns of the others' undefined operand.
HF_INLINE fv fv_set(float x) { return (fv)_mm512_set1_ps(x); }
HF_INLINE fv fv_fma(fv a, fv b, fv c) { return (fv)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
HF_INLINE fv fv_min(fv a, fv b) { return (fv)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b); }
HF_INLINE fv fv_abs(fv a) { return (fv)_mm512_abs_ps((__m512)a); }
HF_INLINE fv fv_select(mv m, fv a, fv b) { return (fv)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a); }
HF_INLINE mv greater(fv a, fv b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
HF_INLINE mv greater_equal(fv a, fv b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ); }
HF_INLINE mv greater_equal(iv a, iv b) { return _mm512_cmpge_epi32_mask((__m512i)a, (__m512i)b); }
HF_INLINE mv without(mv a, mv b) { return a & (mv)~b; }
HF_INLINE uint32_t bits(mv m) { return m; }
HF_INLINE fv fv_reciprocal(fv a) {  // of finite numbers that are not small
    const __m512 r = _mm512_maskz_rcp14_ps(0xffff, (__m512)a);
    return (fv)_mm512_mul_ps(r, _mm512_fnmadd_ps((__m512)a, r, _mm512_set1_ps(2)));
}
HF_INLINE f8 fv_fold(fv a) { return (f8)_mm512_maskz_extractf32x8_ps(0xff, (__m512)a, 0) + (f8)_mm512_maskz_extractf32x8_ps(0xff, (__m512)a, 1); }
#else
constexpr int lanes = 8;
typedef f8 fv;
typedef i8 iv;
typedef i8 mv;
HF_INLINE fv fv_set(float x) { return f8_set(x); }
HF_INLINE fv fv_fma(fv a, fv b, fv c) { return a * b + c; }
HF_INLINE fv fv_min(fv a, fv b) { return f8_min(a, b); }
HF_INLINE fv fv_abs(fv a) { return (fv)((iv)a & 0x7fffffff); }
HF_INLINE fv fv_select(mv m, fv a, fv b) { return m ? a : b; }
HF_INLINE mv greater(fv a, fv b) { return a > b; }
HF_INLINE mv greater_equal(fv a, fv b) { return a >= b; }
HF_INLINE mv greater_equal(iv a, iv b) { return a >= b; }
HF_INLINE mv without(mv a, mv b) { return a & ~b; }
HF_INLINE uint32_t bits(mv m) { return mask_bits(m); }
HF_INLINE fv fv_reciprocal(fv a) {
#if defined(__AVX2__)
    const __m256 r = _mm256_rcp_ps((__m256)a);
    return (fv)_mm256_mul_ps(r, _mm256_fnmadd_ps((__m256)a, r, _mm256_set1_ps(2)));
#else
    return 1.0f / a;
#endif
}
HF_INLINE f8 fv_fold(fv a) { return a; }
#endif

HF_INLINE fv fv_load(const float *p) {
    fv v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
HF_INLINE void fv_store(float *p, fv v) { std::memcpy(p, &v, sizeof v); }
HF_INLINE iv iv_load(const int32_t *p) {
    iv v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
HF_INLINE void iv_store(int32_t *p, iv v) { std::memcpy(p, &v, sizeof v); }

// 2 to the power of p, |p| < 126, to float32's rounding: a polynomial on [-1/2, 1/2], fitted to a relative error of 2e-9,
// and the whole part in the exponent. Other p give any number, without a trap.
HF_INLINE fv fv_exp2(fv p) {
    const fv magic = fv_set(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number, in the lowest bits
    const fv shifted = p + magic;
    const fv f = p - (shifted - magic);
    fv y = fv_set(1.53533911e-4f);
    y = fv_fma(y, f, fv_set(1.33988913e-3f));
    y = fv_fma(y, f, fv_set(9.61843785e-3f));
    y = fv_fma(y, f, fv_set(5.55033237e-2f));
    y = fv_fma(y, f, fv_set(2.40226477e-1f));
    y = fv_fma(y, f, fv_set(6.93147182e-1f));
    y = fv_fma(y, f, fv_set(1.0f));
    typedef uint32_t uv HF_VECTOR(sizeof(fv));
    return (fv)((uv)y + ((uv)shifted << 23));
}

// The sums of the lanes of eight values.
HF_INLINE f8 sums_of_eight(const fv *v) {
    f8 t[8];
    for (int k = 0; k < 8; ++k) t[k] = fv_fold(v[k]);
#if defined(__AVX2__)
    __m256 u[4], w[2];
    for (int k = 0; k < 4; ++k) u[k] = _mm256_hadd_ps((__m256)t[2 * k], (__m256)t[2 * k + 1]);
    for (int k = 0; k < 2; ++k) w[k] = _mm256_hadd_ps(u[2 * k], u[2 * k + 1]);
    return (f8)_mm256_permute2f128_ps(w[0], w[1], 0x20) + (f8)_mm256_permute2f128_ps(w[0], w[1], 0x31);
#else
    f8 out;
    for (int k = 0; k < 8; ++k) {
        float sum = 0;
        for (int j = 0; j < 8; ++j) sum += t[k][j];
        out[k] = sum;
    }
    return out;
#endif
}
