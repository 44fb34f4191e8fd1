// Volume-rendering quadrature on packed samples. Every function works on the rays [begin, end), whose samples are
// offsets[ray] .. offsets[ray + 1].
#include <stdint.h>
#include <string.h>

#include <math.h>

#include "portable.h"

namespace HF_ISA {

// kept = exp(-x) and alpha = 1 - exp(-x), the latter without cancellation at small x; branch-free, so that the loop
// over samples vectorizes. x = 2^n-scaling plus a remainder |r| <= ln(2) / 2, whose expm1 is a Taylor polynomial
// (degree 7: relative error below 2e-8). NaN passes.
static inline void absorb(float x, float &kept, float &alpha) {
    const float z = -x;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
    const float shifted = z * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r * r + r;
    uint32_t bits;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127u) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    const float minus = p * scale + (scale - 1.0f);  // expm1(z)
    const float whole = p * scale + scale;
    const bool opaque = z < -87.0f, explodes = z > 88.0f;
    kept = opaque ? 0.0f : explodes ? HUGE_VALF : whole;
    alpha = opaque ? 1.0f : explodes ? -HUGE_VALF : -minus;
}

static inline void absorb(double x, double &kept, double &alpha) {
    kept = exp(-x);
    alpha = -expm1(-x);
}

// Fills kept and alpha for n samples, from optical depths or from alphas.
template <class T>
static void prepare(int64_t n, const T *values, bool from_alpha, T *kept, T *alpha) {
    if (from_alpha) {
        for (int64_t i = 0; i < n; ++i) {
            alpha[i] = values[i];
            kept[i] = T(1) - values[i];
        }
    } else {
        for (int64_t i = 0; i < n; ++i) absorb(values[i], kept[i], alpha[i]);
    }
}

// scratch: 2 per sample of the range.
template <class T>
static void weights_of(int64_t begin, int64_t end, const int64_t *offsets, const T *values, bool from_alpha, T *out,
                       T *scratch) {
    const int64_t base = offsets[begin], n = offsets[end] - base;
    T *kept = scratch, *alpha = scratch + n;
    prepare(n, values + base, from_alpha, kept, alpha);
    for (int64_t ray = begin; ray < end; ++ray) {
        T transmittance = 1;
        for (int64_t i = offsets[ray]; i < offsets[ray + 1]; ++i) {
            out[i] = transmittance * alpha[i - base];
            transmittance *= kept[i - base];
        }
    }
}

// With R_i = sum_{k>i} g_k alpha_k prod_{i<j<k} kept_j, the sum behind sample i as seen from it, the derivative of
// sum g w to alpha_i is T_i (g_i - R_i); the chain to the optical depth multiplies by kept_i. No division.
template <class T>
static void weights_backward_of(int64_t begin, int64_t end, const int64_t *offsets, const T *grad, const T *values,
                                bool from_alpha, T *out, T *scratch) {
    const int64_t base = offsets[begin], n = offsets[end] - base;
    T *kept = scratch, *alpha = scratch + n;
    prepare(n, values + base, from_alpha, kept, alpha);
    for (int64_t ray = begin; ray < end; ++ray) {
        T transmittance = 1, behind = 0;
        for (int64_t i = offsets[ray]; i < offsets[ray + 1]; ++i) {
            out[i] = transmittance * (from_alpha ? T(1) : kept[i - base]);
            transmittance *= kept[i - base];
        }
        for (int64_t i = offsets[ray + 1] - 1; i >= offsets[ray]; --i) {
            out[i] *= grad[i] - behind;
            behind = grad[i] * alpha[i - base] + kept[i - base] * behind;
        }
    }
}

// The derivatives of the two above along a direction h of the values: out_weights = dw[h] and, as the Hessian of
// sum g w is symmetric, out_values = d(backward)[h]. scratch: 3 per sample.
template <class T>
static void weights_double_of(int64_t begin, int64_t end, const int64_t *offsets, const T *direction, const T *grad,
                              const T *values, bool from_alpha, T *out_weights, T *out_values, T *scratch) {
    const int64_t base = offsets[begin], n = offsets[end] - base;
    T *kept = scratch, *alpha = scratch + n, *reach = scratch + 2 * n;
    prepare(n, values + base, from_alpha, kept, alpha);
    for (int64_t ray = begin; ray < end; ++ray) {
        T transmittance = 1, d_transmittance = 0;
        for (int64_t i = offsets[ray]; i < offsets[ray + 1]; ++i) {
            const T keep = kept[i - base], a = alpha[i - base];
            const T d_alpha = from_alpha ? direction[i] : keep * direction[i];
            out_weights[i] = d_transmittance * a + transmittance * d_alpha;
            reach[i - base] = transmittance;
            out_values[i] = d_transmittance;
            d_transmittance = d_transmittance * keep - transmittance * d_alpha;
            transmittance *= keep;
        }
        T behind = 0, d_behind = 0;
        for (int64_t i = offsets[ray + 1] - 1; i >= offsets[ray]; --i) {
            const T keep = kept[i - base], slope = from_alpha ? T(1) : keep;
            const T d_alpha = slope * direction[i], d_slope = from_alpha ? T(0) : -keep * direction[i];
            const T seen = grad[i] - behind;
            out_values[i] = d_slope * reach[i - base] * seen + slope * (out_values[i] * seen - reach[i - base] * d_behind);
            d_behind = d_alpha * seen + keep * d_behind;
            behind = grad[i] * alpha[i - base] + keep * behind;
        }
    }
}

template <class T>
static void exclusive_sum_of(int64_t begin, int64_t end, const int64_t *offsets, const T *values, bool reverse, T *out) {
    for (int64_t ray = begin; ray < end; ++ray) {
        T sum = 0;
        if (reverse) {
            for (int64_t i = offsets[ray + 1] - 1; i >= offsets[ray]; --i) {
                out[i] = sum;
                sum += values[i];
            }
        } else {
            for (int64_t i = offsets[ray]; i < offsets[ray + 1]; ++i) {
                out[i] = sum;
                sum += values[i];
            }
        }
    }
}

// WIDTH channels held in registers; 0 for any number, added in memory.
template <class T, int WIDTH>
static void weighted_sum_width(int64_t begin, int64_t end, const int64_t *offsets, const T *weights, const T *values,
                               int64_t channels, bool total, T *out) {
    const int64_t width = WIDTH ? WIDTH : channels, columns = width + (total ? 1 : 0);
    for (int64_t ray = begin; ray < end; ++ray) {
        T held[WIDTH ? WIDTH : 1] = {}, sum = 0;
        T *row = out + ray * columns, *to = WIDTH ? held : row;
        for (int64_t c = 0; c < width; ++c) to[c] = 0;
        for (int64_t i = offsets[ray]; i < offsets[ray + 1]; ++i) {
            const T weight = weights[i];
            sum += weight;
            for (int64_t c = 0; c < width; ++c) to[c] += weight * values[i * width + c];
        }
        if (WIDTH)
            for (int64_t c = 0; c < width; ++c) row[c] = held[c];
        if (total) row[width] = sum;
    }
}

template <class T>
static void weighted_sum_of(int64_t begin, int64_t end, const int64_t *offsets, const T *weights, const T *values,
                            int64_t channels, bool total, T *out) {
    switch (channels) {
        case 1: return weighted_sum_width<T, 1>(begin, end, offsets, weights, values, 1, total, out);
        case 3: return weighted_sum_width<T, 3>(begin, end, offsets, weights, values, 3, total, out);
        case 4: return weighted_sum_width<T, 4>(begin, end, offsets, weights, values, 4, total, out);
        default: return weighted_sum_width<T, 0>(begin, end, offsets, weights, values, channels, total, out);
    }
}

template <class T, int WIDTH>
static void weighted_sum_backward_width(int64_t begin, int64_t end, const int64_t *offsets, const T *grad,
                                        const T *weights, const T *values, int64_t channels, bool total,
                                        T *HF_RESTRICT out_weights, T *HF_RESTRICT out_values) {
    const int64_t width = WIDTH ? WIDTH : channels, columns = width + (total ? 1 : 0);
    for (int64_t ray = begin; ray < end; ++ray) {
        const T *row = grad + ray * columns;
        const T constant = total ? row[width] : T(0);
        T held[WIDTH ? WIDTH : 1];
        if (WIDTH)
            for (int64_t c = 0; c < width; ++c) held[c] = row[c];
        const T *from = WIDTH ? held : row;
        for (int64_t i = offsets[ray]; i < offsets[ray + 1]; ++i) {
            T sum = constant;
            for (int64_t c = 0; c < width; ++c) sum += from[c] * values[i * width + c];
            for (int64_t c = 0; c < width; ++c) out_values[i * width + c] = from[c] * weights[i];
            out_weights[i] = sum;
        }
    }
}

template <class T>
static void weighted_sum_backward_of(int64_t begin, int64_t end, const int64_t *offsets, const T *grad,
                                     const T *weights, const T *values, int64_t channels, bool total, T *ow, T *ov) {
    switch (channels) {
        case 1: return weighted_sum_backward_width<T, 1>(begin, end, offsets, grad, weights, values, 1, total, ow, ov);
        case 3: return weighted_sum_backward_width<T, 3>(begin, end, offsets, grad, weights, values, 3, total, ow, ov);
        case 4: return weighted_sum_backward_width<T, 4>(begin, end, offsets, grad, weights, values, 4, total, ow, ov);
        default:
            return weighted_sum_backward_width<T, 0>(begin, end, offsets, grad, weights, values, channels, total, ow, ov);
    }
}

#define HF_PACKED(T)                                                                                                   \
    void ray_weights(int64_t begin, int64_t end, const int64_t *offsets, const T *values, bool from_alpha, T *out,     \
                     T *scratch) {                                                                                     \
        weights_of<T>(begin, end, offsets, values, from_alpha, out, scratch);                                          \
    }                                                                                                                  \
    void ray_weights_backward(int64_t begin, int64_t end, const int64_t *offsets, const T *grad, const T *values,      \
                              bool from_alpha, T *out, T *scratch) {                                                   \
        weights_backward_of<T>(begin, end, offsets, grad, values, from_alpha, out, scratch);                           \
    }                                                                                                                  \
    void ray_weights_double(int64_t begin, int64_t end, const int64_t *offsets, const T *direction, const T *grad,     \
                            const T *values, bool from_alpha, T *out_weights, T *out_values, T *scratch) {             \
        weights_double_of<T>(begin, end, offsets, direction, grad, values, from_alpha, out_weights, out_values,        \
                             scratch);                                                                                 \
    }                                                                                                                  \
    void exclusive_sum(int64_t begin, int64_t end, const int64_t *offsets, const T *values, bool reverse, T *out) {    \
        exclusive_sum_of<T>(begin, end, offsets, values, reverse, out);                                                \
    }                                                                                                                  \
    void weighted_sum(int64_t begin, int64_t end, const int64_t *offsets, const T *weights, const T *values,           \
                      int64_t channels, bool total, T *out) {                                                          \
        weighted_sum_of<T>(begin, end, offsets, weights, values, channels, total, out);                                \
    }                                                                                                                  \
    void weighted_sum_backward(int64_t begin, int64_t end, const int64_t *offsets, const T *grad, const T *weights,    \
                               const T *values, int64_t channels, bool total, T *out_weights, T *out_values) {         \
        weighted_sum_backward_of<T>(begin, end, offsets, grad, weights, values, channels, total, out_weights,          \
                                    out_values);                                                                       \
    }
HF_PACKED(float)
HF_PACKED(double)

}  // namespace HF_ISA
