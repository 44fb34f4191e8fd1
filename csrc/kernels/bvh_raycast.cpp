// First hit of a ray, either side of a face.
#include "bvh_ray.h"

namespace HF_ISA {
using namespace headfields;

// Volume spanned by the ray and the edge from p to q, both relative to the ray's origin. Swapping p and q changes the
// sign and nothing else, to the last bit: two faces that share an edge leave no crack between them.
HF_INLINE f8 edge_volume(v3 p, v3 q, v3 direction) { return dot(cross(p + q, q - p), direction); }

struct RayHits {
    f8 t, u, v, w;
};

// Distances to eight triangles, infinite where missed; barycentric weights of a, b, c as w, u, v up to their sum.
HF_INLINE RayHits leaf_hits(const float *rows, v3 origin, v3 direction) {
    const v3 a = v3_load(rows + 8 * row_a) - origin, b = v3_load(rows + 8 * row_b) - origin;
    const v3 c = v3_load(rows + 8 * row_c) - origin, gu = v3_load(rows + 8 * row_gu);
    const f8 zero = f8_set(0.f);
    RayHits hit;
    hit.w = edge_volume(b, c, direction);
    hit.u = edge_volume(c, a, direction);
    hit.v = edge_volume(a, b, direction);
    const f8 sum = hit.w + hit.u + hit.v;
    const i8 same = ((hit.w >= zero) & (hit.u >= zero) & (hit.v >= zero)) | ((hit.w <= zero) & (hit.u <= zero) & (hit.v <= zero));
    const v3 normal = cross(b - a, c - a);
    const f8 along = dot(normal, direction);
    const i8 faces_ray = same & (dot(gu, gu) > zero) & (along != zero) & (sum != zero);
    hit.t = f8_select(faces_ray, dot(normal, a) / f8_select(faces_ray, along, f8_set(1.f)), f8_set(-1.f));
    hit.t = f8_select(hit.t >= zero, hit.t, f8_set(__builtin_inff()));
    return hit;
}

namespace {
struct Entry {
    float enter;
    int32_t child;
};
}  // namespace

void bvh_raycast(const BvhTree &tree, const BvhRays &rays, const uint32_t *items, int64_t count) {
    Entry stack[bvh_stack];
    int64_t leaf_before = -1;
    int32_t mesh_before = -1;
    for (int64_t q = 0; q < count; ++q) {
        const int64_t i = items[q];
        const int32_t b = rays.mesh ? rays.mesh[i] : 0;
        Ray ray;
        int64_t best_slot = -1;
        float best = rays.max_distance, weights[3] = {0, 0, 0};
        bool any = false;  // before the first hit the bound is inclusive, after it exclusive
        if (make_ray(rays.origins + 3 * i, rays.directions + 3 * i, ray)) {
            const float *bounds = tree.bounds + b * tree.nodes * bvh_node_floats;
            const float *triangles = tree.triangles + b * tree.leaves * bvh_leaf_floats;
            const v3 origin = v3_set(ray.origin), direction = v3_set(ray.direction);
            const auto visit_leaf = [&](int64_t leaf) __attribute__((always_inline)) {
                const RayHits hit = leaf_hits(triangles + leaf * bvh_leaf_floats, origin, direction);
                const f8 bound = f8_set(best);
                const uint32_t hits = mask_bits((hit.t < f8_set(__builtin_inff())) & (any ? (hit.t < bound) : (hit.t <= bound)));
                if (hits == 0) return;
                best = f8_lowest(hit.t);
                const int k = __builtin_ctz(mask_bits(hit.t == f8_set(best)));
                any = true;
                best_slot = 8 * leaf + k;
                weights[0] = hit.w[k], weights[1] = hit.u[k], weights[2] = hit.v[k];
            };
            const int64_t seen = b == mesh_before ? leaf_before : -1;
            if (seen >= 0) visit_leaf(seen);
            int top = 0;
            for (int32_t node = 0; node >= 0;) {
                f8 enter, leave;
                box_interval(bounds + (int64_t)node * bvh_node_floats, ray, 0.f, enter, leave);
                uint32_t hits = mask_bits((enter <= leave) & (enter <= f8_set(best)));
                if (hits) {
                    alignas(32) float at_enter[8];
                    f8_store(at_enter, enter);
                    const int base = top;
                    do {  // insertion: farthest lowest on the stack
                        const int k = __builtin_ctz(hits);
                        hits &= hits - 1;
                        const Entry entry = {at_enter[k], tree.children[8 * (int64_t)node + k]};
                        if (entry.child == bvh_empty) continue;
                        int at = top++;
                        for (; at > base && stack[at - 1].enter < entry.enter; --at) stack[at] = stack[at - 1];
                        stack[at] = entry;
                    } while (hits);
                }
                node = -1;
                while (top > 0) {
                    const Entry entry = stack[--top];
                    if (entry.enter > best) continue;
                    if (entry.child >= 0) {
                        node = entry.child;
                        break;
                    }
                    if (~entry.child != seen) visit_leaf(~entry.child);
                }
            }
            if (best_slot >= 0) leaf_before = best_slot / 8, mesh_before = b;
        }
        rays.face[i] = best_slot < 0 ? -1 : tree.order[best_slot];
        if (rays.barycentric) {
            const float sum = weights[0] + weights[1] + weights[2];
            for (int k = 0; k < 3; ++k) rays.barycentric[3 * i + k] = best_slot < 0 ? 0.f : weights[k] / sum;
            rays.distance[i] = best_slot < 0 ? __builtin_inff() : best;
        }
    }
}

}  // namespace HF_ISA
