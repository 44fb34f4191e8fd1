// Softplus by exp(-|beta x|): loops without branches or calls, which compilers turn into vector instructions.
#include "softplus.h"

#include <cstring>

#include "portable.h"

namespace HF_ISA {
namespace {

// Below exp(-64) a number vanishes beside 1, and its products would be denormal, which processors handle slowly.
constexpr float kNothing = 64.f;

// exp(-t) for t >= 0; 0 from kNothing on, NaN for NaN. By 2^n times a polynomial (Cephes' expf), n by rounding.
HF_INLINE_MEMBER float decay(float t) {
    const float kept = t < kNothing ? t : kNothing;  // also where t is NaN
    const float shifted = -kept * 1.44269504f + 12582912.f, n = shifted - 12582912.f;
    const float r = (-kept - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, 4);
    bits = (bits + 127u) << 23;  // 12582912 is 3 * 2^22: the low bits of the sum are n
    float power;
    std::memcpy(&power, &bits, 4);
    const float value = p * power;
    return t < kNothing ? value : t != t ? t : 0.f;
}

// log(1 + u) for 0 <= u <= 1: 2 artanh(u / (2 + u)), whose series ends soon, as its argument is at most a third.
HF_INLINE_MEMBER float log1p_unit(float u) {
    const float s = u / (2.f + u), q = s * s;
    float p = 1.f / 15.f;
    p = p * q + 1.f / 13.f;
    p = p * q + 1.f / 11.f;
    p = p * q + 1.f / 9.f;
    p = p * q + 1.f / 7.f;
    p = p * q + 1.f / 5.f;
    p = p * q + 1.f / 3.f;
    return 2.f * s * (p * q + 1.f);
}

HF_INLINE_MEMBER float magnitude(float z) { return z < 0.f ? -z : z; }

}  // namespace

void softplus_value(const float *x, float beta, float *out, int64_t begin, int64_t end) {
    const float inverse = 1.f / beta;
    for (int64_t i = begin; i < end; ++i) {
        const float u = decay(magnitude(beta * x[i]));
        out[i] = (x[i] > 0.f ? x[i] : 0.f) + inverse * log1p_unit(u);
    }
}

void softplus_slope(const float *grad, const float *x, float beta, float *out, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        const float z = beta * x[i], u = decay(magnitude(z));
        out[i] = grad[i] * ((z < 0.f ? u : 1.f) / (1.f + u));
    }
}

void softplus_curve(const float *grad, const float *x, float beta, float *out, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        const float u = decay(magnitude(beta * x[i])), w = 1.f / (1.f + u);
        out[i] = grad[i] * (beta * u * w * w);
    }
}

}  // namespace HF_ISA
