// Real spherical harmonics as polynomials; the loops are in kernels/harmonics.cpp.
#pragma once
#include <cstdint>

#include "cpu.h"

namespace headfields {
// Recurrence of the normalized z polynomials Q_lm, at l * degree + m: Q_mm = start, Q_lm = a (z Q_{l-1,m} + b Q_{l-2,m}).
struct Harmonics {
    int degree;
    double start[8], a[64], b[64];
};
}  // namespace headfields

// directions (n, 3) -> out (n, degree^2); rows begin..end.
HF_DECLARE(void, harmonics_f32, (const headfields::Harmonics &h, const float *directions, float *out, int64_t begin, int64_t end))
HF_DECLARE(void, harmonics_f64, (const headfields::Harmonics &h, const double *directions, double *out, int64_t begin, int64_t end))
// out (n, 3): gradient by the directions of the sum over grad (n, degree^2) times the harmonics.
HF_DECLARE(void, harmonics_gradient_f32,
           (const headfields::Harmonics &h, const float *grad, const float *directions, float *out, int64_t begin, int64_t end))
HF_DECLARE(void, harmonics_gradient_f64,
           (const headfields::Harmonics &h, const double *grad, const double *directions, double *out, int64_t begin, int64_t end))
