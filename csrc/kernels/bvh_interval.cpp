// First and last distance at which a ray is within a margin of the surface. The points within the margin of one
// triangle are the union of a prism, three cylinders and three balls, and convex: one interval a triangle.
#include "bvh_ray.h"

namespace HF_ISA {
using namespace headfields;

struct Span {
    f8 lo, hi;  // empty where lo > hi
};

HF_INLINE f8 everywhere() { return f8_set(infinity); }

// Keeps the part of the span where c0 + t c1 >= 0.
HF_INLINE void clip(Span &span, f8 c0, f8 c1) {
    const f8 zero = f8_set(0.f);
    const i8 still = c1 == zero;
    const f8 t = -c0 / f8_select(still, f8_set(1.f), c1);
    span.lo = f8_max(span.lo, f8_select(c1 > zero, t, -everywhere()));
    span.hi = f8_min(span.hi, f8_select(c1 < zero, t, everywhere()));
    span.hi = f8_select(still & (c0 < zero), -everywhere(), span.hi);
}

// Where |w + t d|^2 <= margin^2, with a = d.d; everywhere or nowhere if the ray stays at its distance.
HF_INLINE Span within(f8 a, f8 b, f8 c) {
    const f8 zero = f8_set(0.f);
    const i8 moves = a > f8_set(1e-10f);
    const f8 discriminant = b * b - a * c;
    const i8 meets = moves & (discriminant >= zero);
    const f8 root = f8_sqrt(f8_max(discriminant, zero)), inverse = f8_set(1.f) / f8_select(moves, a, f8_set(1.f));
    const f8 stays = f8_select(~moves & (c <= zero), everywhere(), -everywhere());
    return {f8_select(meets, (-b - root) * inverse, -stays), f8_select(meets, (root - b) * inverse, stays)};
}

HF_INLINE void join(Span &all, Span part) {
    const i8 filled = part.lo <= part.hi;
    all.lo = f8_min(all.lo, f8_select(filled, part.lo, everywhere()));
    all.hi = f8_max(all.hi, f8_select(filled, part.hi, -everywhere()));
}

// One edge: the cylinder around it and the ball around its start; w runs from the start to the ray.
HF_INLINE void join_edge(Span &all, v3 w, v3 edge, f8 inverse_length2, v3 d, f8 margin2) {
    const f8 s0 = dot(w, edge) * inverse_length2, s1 = dot(d, edge) * inverse_length2;
    const v3 wp = w - s0 * edge, dp = d - s1 * edge;
    Span cylinder = within(dot(dp, dp), dot(wp, dp), dot(wp, wp) - margin2);
    clip(cylinder, s0, s1);
    clip(cylinder, f8_set(1.f) - s0, -s1);
    join(all, cylinder);
    join(all, within(dot(d, d), dot(w, d), dot(w, w) - margin2));
}

HF_INLINE Span leaf_span(const float *rows, v3 origin, v3 d, float margin) {
    const f8 one = f8_set(1.f), zero = f8_set(0.f), m = f8_set(margin), m2 = m * m;
    const v3 a = v3_load(rows + 8 * row_a), b = v3_load(rows + 8 * row_b), c = v3_load(rows + 8 * row_c);
    // From the ray's point nearest to a: squares of lengths far greater than the margin would drown it.
    const f8 shift = dot(a - origin, d);
    const v3 w = origin + shift * d - a, ab = b - a, ac = c - a;
    Span all = {everywhere(), -everywhere()};
    join_edge(all, w, ab, f8_load(rows + 8 * row_inv_ab), d, m2);
    join_edge(all, w - ab, c - b, f8_load(rows + 8 * row_inv_bc), d, m2);
    join_edge(all, w - ac, a - c, f8_load(rows + 8 * row_inv_ac), d, m2);
    const v3 gu = v3_load(rows + 8 * row_gu), gv = v3_load(rows + 8 * row_gv), normal = cross(ab, ac);
    const i8 area = dot(gu, gu) > zero;
    const f8 length = f8_select(area, f8_sqrt(dot(normal, normal)), one);
    const f8 h0 = dot(normal, w) / length, h1 = dot(normal, d) / length;
    const f8 u0 = dot(gu, w), u1 = dot(gu, d), v0 = dot(gv, w), v1 = dot(gv, d);
    Span prism = {f8_select(area, -everywhere(), everywhere()), everywhere()};
    prism.hi = f8_select(area, prism.hi, -everywhere());
    clip(prism, m + h0, h1);
    clip(prism, m - h0, -h1);
    clip(prism, u0, u1);
    clip(prism, v0, v1);
    clip(prism, one - u0 - v0, -u1 - v1);
    join(all, prism);
    all.lo += shift, all.hi += shift;
    const i8 ahead = (all.lo <= all.hi) & (all.hi >= zero) & (f8_load(rows + 8 * row_a) < f8_set(bvh_far));
    return {f8_select(ahead, f8_max(all.lo, zero), everywhere()), f8_select(ahead, all.hi, -everywhere())};
}

// Clips the spans of eight boxes by the balls around them: a grown box has corners that no point within the margin
// reaches, and where the margin is wider than the boxes, those corners would cost most of the time.
HF_INLINE i8 narrow(const float *box, v3 origin, v3 d, float margin, f8 &enter, f8 &leave) {
    const v3 lo = v3_load(box), hi = v3_load(box + 24), half = f8_set(0.5f) * (hi - lo), center = lo + half;
    const f8 radius = f8_set(1.0001f) * (f8_sqrt(dot(half, half)) + f8_set(margin)), middle = dot(center - origin, d);
    const v3 w = origin + middle * d - center;
    const f8 squared = radius * radius - dot(w, w), reach = f8_sqrt(f8_max(squared, f8_set(0.f)));
    enter = f8_max(enter, middle - reach);
    leave = f8_min(leave, middle + reach);
    return squared >= f8_set(0.f);
}

namespace {
struct Entry {
    float key;
    int32_t child;
};
}  // namespace

void bvh_interval(const BvhTree &tree, const BvhRays &rays, const uint32_t *items, int64_t count) {
    Entry stack[bvh_stack];
    const float grown = rays.margin * 1.00001f;
    for (int64_t q = 0; q < count; ++q) {
        const int64_t i = items[q];
        const int32_t b = rays.mesh ? rays.mesh[i] : 0;
        float first = infinity, last = -infinity;
        Ray ray;
        if (make_ray(rays.origins + 3 * i, rays.directions + 3 * i, ray)) {
            const float *bounds = tree.bounds + b * tree.nodes * bvh_node_floats;
            const float *triangles = tree.triangles + b * tree.leaves * bvh_leaf_floats;
            const v3 origin = v3_set(ray.origin), direction = v3_set(ray.direction);
            // Front to back for the first distance, then back to front for the last; a key is larger the later its turn.
            for (int backward = 0; backward < 2; ++backward) {
                if (backward && first == infinity) break;
                int top = 0;
                for (int32_t node = 0; node >= 0;) {
                    f8 enter, leave;
                    const float *box = bounds + (int64_t)node * bvh_node_floats;
                    box_interval(box, ray, grown, enter, leave);
                    const i8 reached = narrow(box, origin, direction, rays.margin, enter, leave);
                    const f8 key = backward ? -leave : enter;
                    uint32_t hits = mask_bits(reached & (enter <= leave) & (key < f8_set(backward ? -last : first)));
                    if (hits) {
                        alignas(32) float keys[8];
                        f8_store(keys, key);
                        const int base = top;
                        do {
                            const int k = lowest_bit(hits);
                            hits &= hits - 1;
                            const Entry entry = {keys[k], tree.children[8 * (int64_t)node + k]};
                            if (entry.child == bvh_empty) continue;
                            int at = top++;
                            for (; at > base && stack[at - 1].key < entry.key; --at) stack[at] = stack[at - 1];
                            stack[at] = entry;
                        } while (hits);
                    }
                    node = -1;
                    while (top > 0) {
                        const Entry entry = stack[--top];
                        if (!(entry.key < (backward ? -last : first))) continue;
                        if (entry.child >= 0) {
                            node = entry.child;
                            break;
                        }
                        const Span span = leaf_span(triangles + (int64_t)(~entry.child) * bvh_leaf_floats, origin, direction, rays.margin);
                        const float lo = f8_lowest(span.lo), hi = -f8_lowest(-span.hi);
                        first = lo < first ? lo : first;
                        last = hi > last ? hi : last;
                    }
                }
            }
        }
        rays.near_[i] = first;
        rays.far_[i] = last;
    }
}

}  // namespace HF_ISA
