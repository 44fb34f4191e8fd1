// Softplus, log(1 + exp(beta x)) / beta, and its first two derivatives, element by element.
#pragma once
#include <cstdint>

#include "cpu.h"

// out = softplus(x); out = grad * sigmoid(beta x); out = grad * beta sigmoid(beta x) sigmoid(-beta x). Of begin..end.
HF_DECLARE(void, softplus_value, (const float *x, float beta, float *out, int64_t begin, int64_t end))
HF_DECLARE(void, softplus_slope, (const float *grad, const float *x, float beta, float *out, int64_t begin, int64_t end))
HF_DECLARE(void, softplus_curve, (const float *grad, const float *x, float beta, float *out, int64_t begin, int64_t end))
