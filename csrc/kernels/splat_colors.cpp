// Colors of Gaussians by spherical harmonics of the direction from the camera, eight at a time, and the gradients of that.
#include <math.h>

#include "simd.h"
#include "splat.h"

namespace HF_ISA {
namespace {

using headfields::SplatHarmonics;

struct Directions {
    f8 x, y, z, inverse;  // unit vectors; 1 / length, 0 where there is no direction
};

HF_INLINE Directions directions(const SplatHarmonics &in, int64_t camera, int64_t at, int64_t count) {
    const float *means = in.means + camera * in.means_step + 3 * at, *center = in.centers + 3 * camera;
    float away[3][8];
    for (int64_t k = 0; k < 8; ++k)
        for (int c = 0; c < 3; ++c) away[c][k] = means[3 * (k < count ? k : count - 1) + c] - center[c];
    const f8 zero = f8_set(0), third = f8_set(0.57735027f);
    Directions o = {f8_load(away[0]), f8_load(away[1]), f8_load(away[2]), zero};
    const f8 nothing = zero * o.x + zero * o.y + zero * o.z;  // NaN where a number is not finite
    const f8 length = f8_sqrt(o.x * o.x + o.y * o.y + o.z * o.z);
    const i8 usable = (nothing == zero) & (length > zero);
    o.inverse = f8_select(usable, f8_set(1) / length, zero);
    o.x = f8_select(usable, o.x * o.inverse, third);
    o.y = f8_select(usable, o.y * o.inverse, third);
    o.z = f8_select(usable, o.z * o.inverse, third);
    return o;
}

// The real harmonics of degree 0 to 3, as those of headfields/ops/reference/spherical_harmonics.py on the unit sphere.
constexpr float k0 = 0.28209479177387814f, k1 = 0.48860251190291992f, k2 = 1.0925484305920792f, k3 = 0.31539156525252005f,
                k4 = 0.54627421529603959f, k5 = 0.59004358992664352f, k6 = 2.8906114426405538f, k7 = 0.45704579946446572f,
                k8 = 0.37317633259011540f, k9 = 1.4453057213202769f;

template <int K> HF_INLINE void basis(const Directions &d, float (*out)[8]) {
    const f8 x = d.x, y = d.y, z = d.z;
    f8 b[16];
    b[0] = f8_set(k0);
    if (K > 1) b[1] = -k1 * y, b[2] = k1 * z, b[3] = -k1 * x;
    if (K > 4) {
        b[4] = k2 * x * y, b[5] = -k2 * y * z, b[6] = k3 * (3.0f * z * z - 1.0f), b[7] = -k2 * x * z;
        b[8] = k4 * (x * x - y * y);
    }
    if (K > 9) {
        b[9] = -k5 * y * (3.0f * x * x - y * y), b[10] = k6 * x * y * z, b[11] = -k7 * y * (5.0f * z * z - 1.0f);
        b[12] = k8 * z * (5.0f * z * z - 3.0f), b[13] = -k7 * x * (5.0f * z * z - 1.0f);
        b[14] = k9 * z * (x * x - y * y), b[15] = -k5 * x * (x * x - 3.0f * y * y);
    }
    for (int j = 0; j < K; ++j) f8_store(out[j], b[j]);
}

// The gradient of the direction for that of the basis.
template <int K> HF_INLINE v3 basis_backward(const Directions &d, const float (*grad)[8]) {
    const f8 x = d.x, y = d.y, z = d.z;
    f8 g[16];
    for (int j = 0; j < K; ++j) g[j] = f8_load(grad[j]);
    v3 o = {f8_set(0), f8_set(0), f8_set(0)};
    if (K > 1) o = {-k1 * g[3], -k1 * g[1], k1 * g[2]};
    if (K > 4) {
        o.x = o.x + k2 * (y * g[4] - z * g[7]) + 2.0f * k4 * x * g[8];
        o.y = o.y + k2 * (x * g[4] - z * g[5]) - 2.0f * k4 * y * g[8];
        o.z = o.z - k2 * (y * g[5] + x * g[7]) + 6.0f * k3 * z * g[6];
    }
    if (K > 9) {
        const f8 up = 5.0f * z * z - 1.0f;
        o.x = o.x - 6.0f * k5 * x * y * g[9] + k6 * y * z * g[10] - k7 * up * g[13] + 2.0f * k9 * x * z * g[14] -
              3.0f * k5 * (x * x - y * y) * g[15];
        o.y = o.y - 3.0f * k5 * (x * x - y * y) * g[9] + k6 * x * z * g[10] - k7 * up * g[11] - 2.0f * k9 * y * z * g[14] +
              6.0f * k5 * x * y * g[15];
        o.z = o.z + k6 * x * y * g[10] - 10.0f * k7 * z * (y * g[11] + x * g[13]) + k8 * (15.0f * z * z - 3.0f) * g[12] +
              k9 * (x * x - y * y) * g[14];
    }
    return o;
}

// The sum of the harmonics and a half, before it is cut at 0.
template <int K> HF_INLINE void sums(const float *coefficients, const float (*b)[8], int64_t lane, float *out) {
    float v[3] = {0, 0, 0};
    for (int j = 0; j < K; ++j)
        for (int c = 0; c < 3; ++c) v[c] += b[j][lane] * coefficients[3 * j + c];
    for (int c = 0; c < 3; ++c) out[c] = v[c] + 0.5f;
}

template <int K> void forward(const SplatHarmonics &in, int64_t camera, int64_t first, int64_t last, float *colors) {
    float b[K][8];
    for (int64_t at = first; at < last; at += 8) {
        const int64_t count = last - at < 8 ? last - at : 8;
        basis<K>(directions(in, camera, at, count), b);
        const float *from = in.coefficients + camera * in.coefficients_step + 3 * K * at;
        for (int64_t k = 0; k < count; ++k) {
            float v[3];
            sums<K>(from + 3 * K * k, b, k, v);
            for (int c = 0; c < 3; ++c) colors[3 * (at + k) + c] = v[c] < 0 ? 0.0f : v[c];  // NaN stays
        }
    }
}

template <int K>
void backward(const SplatHarmonics &in, int64_t cameras, const float *grad, int64_t first, int64_t last, float *means,
              float *coefficients, double *centers) {
    float b[K][8], to_basis[K][8];
    for (int64_t camera = 0; camera < cameras; ++camera) {
        const bool fresh_means = camera == 0 || in.means_step, fresh = camera == 0 || in.coefficients_step;
        double to_center[3] = {0, 0, 0};
        for (int64_t at = first; at < last; at += 8) {
            const int64_t count = last - at < 8 ? last - at : 8;
            const Directions d = directions(in, camera, at, count);
            basis<K>(d, b);
            const float *from = in.coefficients + camera * in.coefficients_step + 3 * K * at;
            float *to = coefficients + camera * in.coefficients_step + 3 * K * at;
            std::memset(to_basis, 0, sizeof to_basis);
            for (int64_t k = 0; k < count; ++k) {
                float v[3], g[3];
                sums<K>(from + 3 * K * k, b, k, v);
                for (int c = 0; c < 3; ++c) g[c] = v[c] >= 0 ? grad[3 * (camera * in.n + at + k) + c] : 0.0f;
                for (int j = 0; j < K; ++j)
                    for (int c = 0; c < 3; ++c) {
                        const int64_t place = 3 * (K * k + j) + c;
                        to_basis[j][k] += g[c] * from[place];
                        to[place] = (fresh ? 0.0f : to[place]) + b[j][k] * g[c];
                    }
            }
            // A unit vector's gradient, across it and by the length; no direction, no gradient.
            const v3 g = basis_backward<K>(d, to_basis);
            const f8 along = d.x * g.x + d.y * g.y + d.z * g.z, zero = f8_set(0);
            const i8 usable = d.inverse > zero;
            float out[3][8];
            f8_store(out[0], f8_select(usable, (g.x - along * d.x) * d.inverse, zero));
            f8_store(out[1], f8_select(usable, (g.y - along * d.y) * d.inverse, zero));
            f8_store(out[2], f8_select(usable, (g.z - along * d.z) * d.inverse, zero));
            float *to_mean = means + camera * in.means_step + 3 * at;
            for (int64_t k = 0; k < count; ++k)
                for (int c = 0; c < 3; ++c) {
                    to_mean[3 * k + c] = (fresh_means ? 0.0f : to_mean[3 * k + c]) + out[c][k];
                    to_center[c] -= double(out[c][k]);
                }
        }
        for (int c = 0; c < 3; ++c) centers[3 * camera + c] = to_center[c];
    }
}

}  // namespace

void splat_colors(const SplatHarmonics &in, int64_t camera, int64_t first, int64_t last, float *colors) {
    if (in.values == 1) forward<1>(in, camera, first, last, colors);
    if (in.values == 4) forward<4>(in, camera, first, last, colors);
    if (in.values == 9) forward<9>(in, camera, first, last, colors);
    if (in.values == 16) forward<16>(in, camera, first, last, colors);
}

void splat_colors_backward(const SplatHarmonics &in, int64_t cameras, const float *grad, int64_t first, int64_t last,
                           float *means, float *coefficients, double *centers) {
    if (in.values == 1) backward<1>(in, cameras, grad, first, last, means, coefficients, centers);
    if (in.values == 4) backward<4>(in, cameras, grad, first, last, means, coefficients, centers);
    if (in.values == 9) backward<9>(in, cameras, grad, first, last, means, coefficients, centers);
    if (in.values == 16) backward<16>(in, cameras, grad, first, last, means, coefficients, centers);
}

}  // namespace HF_ISA
