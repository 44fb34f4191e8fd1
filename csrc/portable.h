// What GCC and Clang add to C++, in one place: vectors as values, single instructions, and hints. On Windows that is
// clang-cl, of Visual Studio's C++ tools; its cl.exe has no such vectors. Everything is static and inlined, as kernels
// are compiled once per instruction set.
#pragma once
#include <stdint.h>

#if !defined(__GNUC__) && !defined(__clang__)
#error "The kernels of headfields need GCC 12, Clang 14 or clang-cl (-T ClangCL with Visual Studio's generator)."
#endif

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors wider than a register never cross a call that is not inlined
#if !defined(__clang__)
#define HF_UNROLL _Pragma("GCC unroll 8")
#else
#define HF_UNROLL _Pragma("clang loop unroll(full)")
#endif

#define HF_ALWAYS_INLINE __attribute__((always_inline))
#define HF_INLINE static inline HF_ALWAYS_INLINE
#define HF_INLINE_MEMBER inline HF_ALWAYS_INLINE
#define HF_NO_INLINE __attribute__((noinline))
#define HF_RESTRICT __restrict
#define HF_VECTOR(BYTES) __attribute__((vector_size(BYTES)))  // typedef float f8 HF_VECTOR(32);
#define HF_MAY_ALIAS __attribute__((may_alias))
#define HF_SHUFFLE __builtin_shufflevector
#define HF_CONVERT __builtin_convertvector
#define HF_UNLIKELY(X) __builtin_expect(X, 0)
#define HF_PREFETCH(ADDRESS) __builtin_prefetch(ADDRESS, 0, 3)
#define HF_PREFETCH_TO_WRITE(ADDRESS) __builtin_prefetch(ADDRESS, 1, 3)

constexpr float infinity = __builtin_inff();
constexpr float not_a_number = __builtin_nanf("");
HF_INLINE float absolute(float x) { return __builtin_fabsf(x); }
HF_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
HF_INLINE double square_root(double x) { return __builtin_sqrt(x); }
HF_INLINE int lowest_bit(uint32_t bits) { return __builtin_ctz(bits); }        // of bits that are not all zero
HF_INLINE int highest_bit(uint32_t bits) { return 31 - __builtin_clz(bits); }  // likewise
HF_INLINE int count_bits(uint32_t bits) { return __builtin_popcount(bits); }
HF_INLINE int lowest_bit64(uint64_t bits) { return __builtin_ctzll(bits); }    // of bits that are not all zero
HF_INLINE int count_bits64(uint64_t bits) { return __builtin_popcountll(bits); }
