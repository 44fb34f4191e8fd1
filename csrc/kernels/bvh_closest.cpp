// Nearest triangle: depth first, nearer children first, the answer of the query before as the first bound.
#include "bvh.h"
#include "simd.h"

namespace HF_ISA {
using namespace headfields;

// Squared distances to eight triangles. A triangle is the least of its interior (where the foot of the perpendicular
// falls inside) and its three edges; each candidate is a point of the triangle, so slivers cost accuracy nowhere, and a
// triangle without area is its edges.
HF_INLINE f8 leaf_distance2(const float *rows, v3 p) {
    const f8 zero = f8_set(0.f), one = f8_set(1.f);
    const v3 a = v3_load(rows + 8 * row_a), b = v3_load(rows + 8 * row_b), c = v3_load(rows + 8 * row_c);
    const v3 ab = b - a, ac = c - a, bc = c - b, ap = p - a, bp = p - b;
    f8 u = dot(v3_load(rows + 8 * row_gu), ap), v = dot(v3_load(rows + 8 * row_gv), ap);
    const i8 inside = (u >= zero) & (v >= zero) & (u + v <= one);
    u = f8_select(inside, u, zero);
    v = f8_select(inside, v, zero);
    const v3 r = ap - u * ab - v * ac;
    const v3 r_ab = ap - f8_min(f8_max(dot(ab, ap) * f8_load(rows + 8 * row_inv_ab), zero), one) * ab;
    const v3 r_ac = ap - f8_min(f8_max(dot(ac, ap) * f8_load(rows + 8 * row_inv_ac), zero), one) * ac;
    const v3 r_bc = bp - f8_min(f8_max(dot(bc, bp) * f8_load(rows + 8 * row_inv_bc), zero), one) * bc;
    return f8_min(f8_min(dot(r, r), dot(r_ab, r_ab)), f8_min(dot(r_ac, r_ac), dot(r_bc, r_bc)));
}

// Barycentric coordinates of the point of one triangle nearest to p, by the same candidates in double precision.
static double closest_on_triangle(const float *pf, const float *af, const float *bf, const float *cf, float *barycentric) {
    double ab[3], ac[3], bc[3], ap[3], bp[3], ab2 = 0, ac2 = 0, bc2 = 0, tab = 0, tac = 0, tbc = 0;
    for (int i = 0; i < 3; ++i) {
        ab[i] = (double)bf[i] - af[i], ac[i] = (double)cf[i] - af[i], bc[i] = (double)cf[i] - bf[i];
        ap[i] = (double)pf[i] - af[i], bp[i] = (double)pf[i] - bf[i];
        ab2 += ab[i] * ab[i], ac2 += ac[i] * ac[i], bc2 += bc[i] * bc[i];
        tab += ab[i] * ap[i], tac += ac[i] * ap[i], tbc += bc[i] * bp[i];
    }
    const double n[3] = {ab[1] * ac[2] - ab[2] * ac[1], ab[2] * ac[0] - ab[0] * ac[2], ab[0] * ac[1] - ab[1] * ac[0]};
    const double n2 = n[0] * n[0] + n[1] * n[1] + n[2] * n[2];
    double best = __builtin_inf(), w = 1, u = 0, v = 0;  // w is kept: its exact zero says that the point is on edge bc
    const auto offer = [&](double cw, double cu, double cv) {
        double d2 = 0;
        for (int i = 0; i < 3; ++i) {
            const double r = ap[i] - cu * ab[i] - cv * ac[i];
            d2 += r * r;
        }
        if (d2 < best) best = d2, w = cw, u = cu, v = cv;
    };
    const auto along = [](double t, double length2) {
        t = length2 > 1e-60 ? t / length2 : 0;
        return t < 0 ? 0. : t > 1 ? 1. : t;
    };
    tab = along(tab, ab2), tac = along(tac, ac2), tbc = along(tbc, bc2);
    offer(1 - tab, tab, 0);
    offer(1 - tac, 0, tac);
    offer(0, 1 - tbc, tbc);
    if (n2 > 1e-24 * ab2 * ac2 && n2 > 1e-100) {
        double iu = 0, iv = 0;
        for (int i = 0; i < 3; ++i) {
            const int j = (i + 1) % 3, k = (i + 2) % 3;
            iu += (ac[j] * n[k] - ac[k] * n[j]) * ap[i];
            iv += (n[j] * ab[k] - n[k] * ab[j]) * ap[i];
        }
        iu /= n2, iv /= n2;
        if (iu > 0 && iv > 0 && iu + iv < 1) offer(1 - iu - iv, iu, iv);
    }
    barycentric[0] = (float)w, barycentric[1] = (float)u, barycentric[2] = (float)v;
    return __builtin_sqrt(best);
}

namespace {
struct Entry {
    float distance2;
    int32_t child;
};
}  // namespace

void bvh_closest(const BvhTree &tree, const BvhClosest &query, const uint32_t *items, int64_t count) {
    const float limit2 = query.max_distance * query.max_distance * 1.00001f + 1e-30f;  // exact check at the end
    Entry stack[bvh_stack];
    int64_t leaf_before = -1;
    int32_t mesh_before = -1;
    for (int64_t q = 0; q < count; ++q) {
        const int64_t i = items[q];
        const float *point = query.points + 3 * i;
        const int32_t b = query.mesh ? query.mesh[i] : 0;
        int64_t best_slot = -1;
        if (__builtin_fabsf(point[0]) < bvh_far && __builtin_fabsf(point[1]) < bvh_far && __builtin_fabsf(point[2]) < bvh_far) {
            const float *bounds = tree.bounds + b * tree.nodes * bvh_node_floats;
            const float *triangles = tree.triangles + b * tree.leaves * bvh_leaf_floats;
            const v3 p = v3_set(point);
            float best = limit2;
            const auto visit_leaf = [&](int64_t leaf) __attribute__((always_inline)) {
                const f8 d2 = leaf_distance2(triangles + leaf * bvh_leaf_floats, p);
                if (mask_bits(d2 < f8_set(best)) == 0) return;
                best = f8_lowest(d2);
                best_slot = 8 * leaf + __builtin_ctz(mask_bits(d2 == f8_set(best)));
            };
            const int64_t seen = b == mesh_before ? leaf_before : -1;
            if (seen >= 0) visit_leaf(seen);
            int top = 0;
            int32_t node = 0;
            for (;;) {
                const float *box = bounds + (int64_t)node * bvh_node_floats;
                const f8 zero = f8_set(0.f);
                const f8 x = f8_max(f8_max(f8_load(box) - p.x, p.x - f8_load(box + 24)), zero);
                const f8 y = f8_max(f8_max(f8_load(box + 8) - p.y, p.y - f8_load(box + 32)), zero);
                const f8 z = f8_max(f8_max(f8_load(box + 16) - p.z, p.z - f8_load(box + 40)), zero);
                const f8 d2 = x * x + y * y + z * z;
                uint32_t hits = mask_bits(d2 < f8_set(best));
                if (hits) {
                    alignas(32) float distance2[8];
                    f8_store(distance2, d2);
                    const int base = top;
                    do {  // insertion: farthest lowest on the stack
                        const int k = __builtin_ctz(hits);
                        hits &= hits - 1;
                        const Entry entry = {distance2[k], tree.children[8 * (int64_t)node + k]};
                        int at = top++;
                        for (; at > base && stack[at - 1].distance2 < entry.distance2; --at) stack[at] = stack[at - 1];
                        stack[at] = entry;
                    } while (hits);
                }
                node = -1;
                while (top > 0) {
                    const Entry entry = stack[--top];
                    if (!(entry.distance2 < best)) continue;
                    if (entry.child >= 0) {
                        node = entry.child;
                        break;
                    }
                    const int64_t leaf = ~entry.child;
                    if (leaf != seen) visit_leaf(leaf);
                }
                if (node < 0) break;
            }
            if (best_slot >= 0) leaf_before = best_slot / 8, mesh_before = b;
        }
        int64_t face = best_slot < 0 ? -1 : tree.order[best_slot];
        float barycentric[3] = {0, 0, 0}, distance = __builtin_inff();
        if (face >= 0 && (query.barycentric || query.max_distance < __builtin_inff())) {
            const float *vertices = tree.vertices + 3 * b * tree.vertex_count;
            const int32_t *corner = tree.faces + 3 * face;
            distance = (float)closest_on_triangle(point, vertices + 3 * (int64_t)corner[0], vertices + 3 * (int64_t)corner[1],
                                                  vertices + 3 * (int64_t)corner[2], barycentric);
            if (distance > query.max_distance) {
                face = -1, distance = __builtin_inff();
                barycentric[0] = barycentric[1] = barycentric[2] = 0;
            }
        }
        query.face[i] = face;
        if (query.barycentric) {
            for (int k = 0; k < 3; ++k) query.barycentric[3 * i + k] = barycentric[k];
            query.distance[i] = distance;
        }
    }
}

}  // namespace HF_ISA
