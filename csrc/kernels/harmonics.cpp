// Real spherical harmonics, Y_lm = Q_lm(z) * Re or Im (x + iy)^m, for blocks of directions side by side.
#include "harmonics.h"

namespace HF_ISA {
namespace {

using headfields::Harmonics;
constexpr int kBlock = 64;

// Re and Im of (x + iy)^m for m < degree.
template <class Real>
struct Azimuth {
    Real cosine[8][kBlock], sine[8][kBlock];

    void fill(int degree, int count, const Real *x, const Real *y) {
        for (int i = 0; i < count; ++i) cosine[0][i] = Real(1), sine[0][i] = Real(0);
        for (int m = 1; m < degree; ++m)
            for (int i = 0; i < count; ++i) {
                cosine[m][i] = x[i] * cosine[m - 1][i] - y[i] * sine[m - 1][i];
                sine[m][i] = x[i] * sine[m - 1][i] + y[i] * cosine[m - 1][i];
            }
    }
};

template <class Real>
int load(const Real *directions, int64_t start, int64_t end, Real *x, Real *y, Real *z) {
    const int count = static_cast<int>(end - start < kBlock ? end - start : kBlock);
    for (int i = 0; i < count; ++i) {
        x[i] = directions[(start + i) * 3];
        y[i] = directions[(start + i) * 3 + 1];
        z[i] = directions[(start + i) * 3 + 2];
    }
    return count;
}

template <class Real>
void evaluate(const Harmonics &h, const Real *directions, Real *out, int64_t begin, int64_t end) {
    const int degree = h.degree, width = degree * degree;
    Azimuth<Real> azimuth;
    Real x[kBlock], y[kBlock], z[kBlock], column[64][kBlock];
    for (int64_t start = begin; start < end; start += kBlock) {
        const int count = load(directions, start, end, x, y, z);
        azimuth.fill(degree, count, x, y);
        for (int m = 0; m < degree; ++m) {
            Real now[kBlock], before[kBlock];
            for (int i = 0; i < count; ++i) now[i] = Real(h.start[m]), before[i] = Real(0);
            for (int l = m; l < degree; ++l) {
                if (l > m) {
                    const Real a = Real(h.a[l * degree + m]), b = Real(h.b[l * degree + m]);
                    for (int i = 0; i < count; ++i) {
                        const Real next = a * (z[i] * now[i] + b * before[i]);
                        before[i] = now[i];
                        now[i] = next;
                    }
                }
                const int center = l * (l + 1);
                for (int i = 0; i < count; ++i) column[center + m][i] = now[i] * azimuth.cosine[m][i];
                if (m > 0)
                    for (int i = 0; i < count; ++i) column[center - m][i] = now[i] * azimuth.sine[m][i];
            }
        }
        for (int i = 0; i < count; ++i)
            for (int k = 0; k < width; ++k) out[(start + i) * width + k] = column[k][i];
    }
}

template <class Real>
void gradient(const Harmonics &h, const Real *grad, const Real *directions, Real *out, int64_t begin, int64_t end) {
    const int degree = h.degree, width = degree * degree;
    Azimuth<Real> azimuth;
    Real x[kBlock], y[kBlock], z[kBlock], column[64][kBlock], dx[kBlock], dy[kBlock], dz[kBlock];
    for (int64_t start = begin; start < end; start += kBlock) {
        const int count = load(directions, start, end, x, y, z);
        azimuth.fill(degree, count, x, y);
        for (int i = 0; i < count; ++i) {
            dx[i] = dy[i] = dz[i] = Real(0);
            for (int k = 0; k < width; ++k) column[k][i] = grad[(start + i) * width + k];
        }
        for (int m = 0; m < degree; ++m) {
            // Q and dQ/dz, and the sums over l of their products with the gradients of the two parts.
            Real now[kBlock], before[kBlock], slope[kBlock], slope_before[kBlock];
            Real even[kBlock], odd[kBlock];
            for (int i = 0; i < count; ++i) {
                now[i] = Real(h.start[m]);
                before[i] = slope[i] = slope_before[i] = even[i] = odd[i] = Real(0);
            }
            for (int l = m; l < degree; ++l) {
                if (l > m) {
                    const Real a = Real(h.a[l * degree + m]), b = Real(h.b[l * degree + m]);
                    for (int i = 0; i < count; ++i) {
                        const Real next = a * (z[i] * now[i] + b * before[i]);
                        const Real next_slope = a * (now[i] + z[i] * slope[i] + b * slope_before[i]);
                        before[i] = now[i];
                        now[i] = next;
                        slope_before[i] = slope[i];
                        slope[i] = next_slope;
                    }
                }
                const Real *ge = column[l * (l + 1) + m], *go = column[l * (l + 1) - m];
                for (int i = 0; i < count; ++i) {
                    even[i] += now[i] * ge[i];
                    dz[i] += slope[i] * ge[i] * azimuth.cosine[m][i];
                }
                if (m > 0)
                    for (int i = 0; i < count; ++i) {
                        odd[i] += now[i] * go[i];
                        dz[i] += slope[i] * go[i] * azimuth.sine[m][i];
                    }
            }
            if (m > 0) {
                const Real power = Real(m);
                for (int i = 0; i < count; ++i) {
                    const Real c = power * azimuth.cosine[m - 1][i], s = power * azimuth.sine[m - 1][i];
                    dx[i] += even[i] * c + odd[i] * s;
                    dy[i] += odd[i] * c - even[i] * s;
                }
            }
        }
        for (int i = 0; i < count; ++i) {
            out[(start + i) * 3] = dx[i];
            out[(start + i) * 3 + 1] = dy[i];
            out[(start + i) * 3 + 2] = dz[i];
        }
    }
}

}  // namespace

void harmonics_f32(const Harmonics &h, const float *directions, float *out, int64_t begin, int64_t end) {
    evaluate(h, directions, out, begin, end);
}
void harmonics_f64(const Harmonics &h, const double *directions, double *out, int64_t begin, int64_t end) {
    evaluate(h, directions, out, begin, end);
}
void harmonics_gradient_f32(const Harmonics &h, const float *grad, const float *directions, float *out, int64_t begin,
                            int64_t end) {
    gradient(h, grad, directions, out, begin, end);
}
void harmonics_gradient_f64(const Harmonics &h, const double *grad, const double *directions, double *out, int64_t begin,
                            int64_t end) {
    gradient(h, grad, directions, out, begin, end);
}

}  // namespace HF_ISA
