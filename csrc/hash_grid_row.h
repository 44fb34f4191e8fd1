// A row of the hash grid's table as one vector, for any storage type. Only for kernels/*.cpp: each instruction set
// has its own copy.
#pragma once
#include <cstring>

#include "hash_grid.h"
#include "portable.h"

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace HF_ISA {
namespace {

using headfields::Half;

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(Half h) {
#if defined(__F16C__)
    return _cvtsh_ss(h.bits);
#else
    const uint32_t sign = uint32_t(h.bits & 0x8000u) << 16, magnitude = h.bits & 0x7fffu;
    uint32_t bits = (magnitude << 13) + (uint32_t(127 - 15) << 23);
    if (magnitude >= 0x7c00u) bits = (magnitude << 13) | 0x7f800000u;  // infinity, NaN
    float value;
    if (magnitude < 0x0400u) {  // subnormal
        value = float(magnitude) * (1.0f / 16777216.0f);
        std::memcpy(&bits, &value, 4);
    }
    bits |= sign;
    std::memcpy(&value, &bits, 4);
    return value;
#endif
}

// F values side by side, added in one instruction where the registers are wide enough. Written out because compilers
// unroll the plain loop into scalar steps, as the table may alias anything.
template <class Real, int F>
struct Row {
    typedef Real type HF_VECTOR(F * sizeof(Real));
};
template <class Real>
struct Row<Real, 1> {
    typedef Real type;
};
// Two floats fill half a register; compilers move a vector of that size through the integer registers. They are loaded
// and stored as a double, the upper half of the register unused.
typedef double Pair HF_MAY_ALIAS;
typedef double d2 HF_VECTOR(16);
typedef double d4 HF_VECTOR(32);
template <>
struct Row<float, 2> {
    typedef float type HF_VECTOR(16);
};
template <class Real, int F>
HF_INLINE_MEMBER typename Row<Real, F>::type load_row(const Real *from) {
    if constexpr (F == 2 && sizeof(Real) == 4) {
        double pair;
        std::memcpy(&pair, from, sizeof pair);
        return (typename Row<Real, F>::type)d2{pair, 0.0};
    } else {
        typename Row<Real, F>::type row;
        std::memcpy(&row, from, sizeof row);
        return row;
    }
}
template <class Real, int F>
HF_INLINE_MEMBER typename Row<Real, F>::type load_row(const Half *from) {
#if defined(__F16C__)
    if constexpr (F == 8) return (typename Row<Real, F>::type)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
#endif
    Real values[F];
    for (int f = 0; f < F; ++f) values[f] = widen(from[f]);
    return load_row<Real, F>(values);
}
template <class Real, int F>
HF_INLINE_MEMBER void store_row(Real *to, typename Row<Real, F>::type row) {
    if constexpr (F == 2 && sizeof(Real) == 4) {
        const double pair = ((d2)row)[0];
        std::memcpy(to, &pair, sizeof pair);
    } else {
        std::memcpy(to, &row, sizeof row);
    }
}

// Writes one aligned cache line without reading it first, where there is an instruction for that; finish_lines() makes
// such lines visible to other threads.
HF_INLINE_MEMBER void write_line(void *to, const void *line) {
#if defined(__SSE2__)
    for (int k = 0; k < 4; ++k) {
        __m128i part;
        std::memcpy(&part, static_cast<const char *>(line) + 16 * k, sizeof part);
        _mm_stream_si128(static_cast<__m128i *>(to) + k, part);
    }
#else
    std::memcpy(to, line, 64);
#endif
}
inline void finish_lines() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace
}  // namespace HF_ISA
