// Nearest points of single triangles, four queries side by side, in double precision. Only for kernels/*.cpp.
#pragma once
#include "bvh.h"
#include "simd.h"

namespace HF_ISA {

typedef double d4 HF_VECTOR(32);
typedef int64_t l4 HF_VECTOR(32);

HF_INLINE d4 d4_set(double x) { return d4{x, x, x, x}; }
HF_INLINE d4 d4_sqrt(d4 a) {
    d4 r;
    for (int k = 0; k < 4; ++k) r[k] = square_root(a[k]);
    return r;
}

struct w3 {
    d4 x, y, z;
};
HF_INLINE w3 operator-(w3 a, w3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
HF_INLINE w3 operator*(d4 s, w3 a) { return {s * a.x, s * a.y, s * a.z}; }
HF_INLINE d4 dot(w3 a, w3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
HF_INLINE w3 cross(w3 a, w3 b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }

// The best candidate so far, and an offer of another: a point with barycentric coordinates w, u, v.
struct Foot {
    d4 distance2, w, u, v;
};
HF_INLINE void offer(Foot &best, l4 allowed, w3 ap, w3 ab, w3 ac, d4 w, d4 u, d4 v) {
    const w3 r = ap - u * ab - v * ac;
    const d4 distance2 = dot(r, r);
    const l4 nearer = allowed & (distance2 < best.distance2);
    best.distance2 = nearer ? distance2 : best.distance2;
    best.w = nearer ? w : best.w, best.u = nearer ? u : best.u, best.v = nearer ? v : best.v;
}

// t / length2 in [0, 1]; 0 on an edge without length.
HF_INLINE d4 along(d4 t, d4 length2) {
    const d4 zero = d4_set(0), one = d4_set(1);
    const l4 edge = length2 > d4_set(1e-60);
    t = edge ? t / (edge ? length2 : one) : zero;
    t = t < zero ? zero : t;
    return t > one ? one : t;
}

// Triangle a, b, c and point p in each lane. The candidates are the three edges and, where the foot of the perpendicular
// falls inside, the interior. w is kept: its exact zero says that the point is on the edge bc.
HF_INLINE Foot project(w3 p, w3 a, w3 b, w3 c) {
    const w3 ab = b - a, ac = c - a, bc = c - b, ap = p - a, bp = p - b, n = cross(ab, ac);
    const d4 zero = d4_set(0), one = d4_set(1), ab2 = dot(ab, ab), ac2 = dot(ac, ac), n2 = dot(n, n);
    const l4 always = zero == zero;
    Foot best = {d4_set(infinity), one, zero, zero};
    const d4 t_ab = along(dot(ab, ap), ab2), t_ac = along(dot(ac, ap), ac2), t_bc = along(dot(bc, bp), dot(bc, bc));
    offer(best, always, ap, ab, ac, one - t_ab, t_ab, zero);
    offer(best, always, ap, ab, ac, one - t_ac, zero, t_ac);
    offer(best, always, ap, ab, ac, zero, one - t_bc, t_bc);
    const l4 area = (n2 > d4_set(1e-24) * ab2 * ac2) & (n2 > d4_set(1e-100));
    const d4 inverse = one / (area ? n2 : one);
    const d4 u = dot(cross(ac, n), ap) * inverse, v = dot(cross(n, ab), ap) * inverse;
    offer(best, area & (u > zero) & (v > zero) & (u + v < one), ap, ab, ac, one - u - v, u, v);
    best.distance2 = d4_sqrt(best.distance2);
    return best;
}

}  // namespace HF_ISA
