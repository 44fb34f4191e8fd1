// First hit of a ray, either side of a face.
#include "bvh_project.h"
#include "bvh_ray.h"

namespace HF_ISA {
using namespace headfields;

// Whether a ray meets a triangle is decided in double precision, in the plane across the ray (Woop et al., Watertight
// ray/triangle intersection, 2013): each corner is sheared along the ray, which then is the origin of the plane. Faces
// that share a corner compute the same numbers for it, and the sign of an edge is a comparison of two products, so it
// is right or 0 and the opposite for the face on the other side: no ray slips through an edge or a vertex, and the
// answer for a face depends on nothing but the ray and the face. Single precision only rules faces out.
struct Shear {
    int x, y, z;             // axes; the ray moves farthest along z
    float slope_x, slope_y;  // single precision: across for each step along z
    double dx, dy, dz;
};

HF_INLINE Shear make_shear(const float *d) {
    const float x = __builtin_fabsf(d[0]), y = __builtin_fabsf(d[1]), z = __builtin_fabsf(d[2]);
    Shear shear;
    shear.z = x > y ? (x > z ? 0 : 2) : (y > z ? 1 : 2);
    shear.x = shear.z == 2 ? 0 : shear.z + 1, shear.y = shear.x == 2 ? 0 : shear.x + 1;
    shear.dx = d[shear.x], shear.dy = d[shear.y], shear.dz = d[shear.z];
    shear.slope_x = d[shear.x] / d[shear.z], shear.slope_y = d[shear.y] / d[shear.z];
    return shear;
}

// Bit k is set unless triangle k is certainly missed, or met outside [0, farthest], a distance along the axis z.
HF_INLINE uint32_t may_hit(const float *rows, const float *origin, const Shear &shear, float farthest) {
    const f8 ox = f8_set(origin[shear.x]), oy = f8_set(origin[shear.y]), oz = f8_set(origin[shear.z]);
    const f8 slope_x = f8_set(shear.slope_x), slope_y = f8_set(shear.slope_y);
    const float *to_x = rows + 8 * shear.x, *to_y = rows + 8 * shear.y, *to_z = rows + 8 * shear.z;
    const f8 az = f8_load(to_z + 8 * row_a) - oz, bz = f8_load(to_z + 8 * row_b) - oz, cz = f8_load(to_z + 8 * row_c) - oz;
    const f8 ax = f8_load(to_x + 8 * row_a) - ox - slope_x * az, ay = f8_load(to_y + 8 * row_a) - oy - slope_y * az;
    const f8 bx = f8_load(to_x + 8 * row_b) - ox - slope_x * bz, by = f8_load(to_y + 8 * row_b) - oy - slope_y * bz;
    const f8 cx = f8_load(to_x + 8 * row_c) - ox - slope_x * cz, cy = f8_load(to_y + 8 * row_c) - oy - slope_y * cz;
    const f8 w = bx * cy - by * cx, u = cx * ay - cy * ax, v = ax * by - ay * bx;
    const f8 low = f8_min(az, f8_min(bz, cz)), high = f8_max(az, f8_max(bz, cz));
    const f8 deep = f8_max(high, -low);
    const f8 wide_x = f8_max(f8_max(ax, f8_max(bx, cx)), -f8_min(ax, f8_min(bx, cx)));
    const f8 wide_y = f8_max(f8_max(ay, f8_max(by, cy)), -f8_min(ay, f8_min(by, cy)));
    const f8 wide = f8_max(wide_x, wide_y);
    // A corner is wrong by less than `off` across the ray (four roundings), and so an edge's product by less than `error`.
    const f8 off = f8_set(2.5e-7f) * (wide + deep), error = f8_set(5.f) * off * (wide + off) + f8_set(1e-30f);
    const i8 within = (f8_min(w, f8_min(u, v)) >= -error) | (f8_max(w, f8_max(u, v)) <= error);
    const f8 near = shear.dz > 0 ? low : -high, far = shear.dz > 0 ? high : -low, slack = f8_set(1e-5f) * deep;
    return mask_bits(within & (far >= -slack) & (near <= f8_set(farthest) + slack));
}

// Products of which the difference is `a - b`, with its sign or 0 however the compiler contracts it.
HF_INLINE double difference(double a, double b) { return a == b ? 0. : a - b; }

// The distance to one triangle, a lane of `rows`, and the weights of its corners and their sum; NaN where it is missed.
HF_INLINE float exact_hit(const float *rows, const float *origin, const Shear &shear, double weights[4]) {
    const float *to_x = rows + 8 * shear.x, *to_y = rows + 8 * shear.y, *to_z = rows + 8 * shear.z;
    const auto corners = [](const float *from, double o) __attribute__((always_inline)) {
        return d4{from[8 * row_a], from[8 * row_b], from[8 * row_c], 0.} - d4_set(o);
    };
    const d4 along = corners(to_z, origin[shear.z]);
    const d4 x = d4_set(shear.dz) * corners(to_x, origin[shear.x]) - d4_set(shear.dx) * along;
    const d4 y = d4_set(shear.dz) * corners(to_y, origin[shear.y]) - d4_set(shear.dy) * along;
    const double w = difference(x[1] * y[2], y[1] * x[2]), u = difference(x[2] * y[0], y[2] * x[0]);
    const double v = difference(x[0] * y[1], y[0] * x[1]), sum = w + u + v;
    const bool one_sided = (w >= 0 && u >= 0 && v >= 0) || (w <= 0 && u <= 0 && v <= 0);
    const bool area = rows[8 * row_gu] != 0 || rows[8 * (row_gu + 1)] != 0 || rows[8 * (row_gu + 2)] != 0;
    if (!one_sided || !area || sum == 0) return __builtin_nanf("");
    weights[0] = w, weights[1] = u, weights[2] = v, weights[3] = sum;
    return (float)((w * along[0] + u * along[1] + v * along[2]) / (sum * shear.dz));
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
        int32_t best_face = INT32_MAX;  // of faces at one distance, which is rounded, the lowest index wins
        float best = rays.max_distance, bound = best;
        double best_weights[4] = {0, 0, 0, 1};
        if (make_ray(rays.origins + 3 * i, rays.directions + 3 * i, ray)) {
            const float *bounds = tree.bounds + b * tree.nodes * bvh_node_floats;
            const float *triangles = tree.triangles + b * tree.leaves * bvh_leaf_floats;
            const Shear shear = make_shear(ray.direction);
            const float speed = __builtin_fabsf((float)shear.dz);
            const auto visit_leaf = [&](int64_t leaf) __attribute__((always_inline)) {
                const float *rows = triangles + leaf * bvh_leaf_floats;
                for (uint32_t hits = may_hit(rows, ray.origin, shear, best * speed); hits; hits &= hits - 1) {
                    const int k = __builtin_ctz(hits);
                    double weights[4];
                    const float t = exact_hit(rows + k, ray.origin, shear, weights);
                    const int32_t face = tree.order[8 * leaf + k];
                    if (!(t >= 0 && t < __builtin_inff() && (t < best || (t == best && face < best_face)))) continue;
                    best = t, best_face = face, best_slot = 8 * leaf + k;
                    bound = best * 1.000001f;  // where a box begins is rounded too
                    for (int j = 0; j < 4; ++j) best_weights[j] = weights[j];
                }
            };
            const int64_t seen = b == mesh_before ? leaf_before : -1;
            if (seen >= 0) visit_leaf(seen);
            int top = 0;
            for (int32_t node = 0; node >= 0;) {
                f8 enter, leave;
                box_interval(bounds + (int64_t)node * bvh_node_floats, ray, 0.f, enter, leave);
                uint32_t hits = mask_bits((enter <= leave) & (enter <= f8_set(bound)));
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
                    if (entry.enter > bound) continue;
                    if (entry.child >= 0) {
                        node = entry.child;
                        break;
                    }
                    if (~entry.child != seen) visit_leaf(~entry.child);
                }
            }
            if (best_slot >= 0) leaf_before = best_slot / 8, mesh_before = b;
        }
        rays.face[i] = best_slot < 0 ? -1 : best_face;
        if (rays.barycentric) {
            for (int k = 0; k < 3; ++k) rays.barycentric[3 * i + k] = (float)(best_weights[k] / best_weights[3]);
            rays.distance[i] = best_slot < 0 ? __builtin_inff() : best;
        }
    }
}

}  // namespace HF_ISA
