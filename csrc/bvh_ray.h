// Shared by the two ray queries: the ray, prepared for box tests. Only for kernels/*.cpp.
#pragma once
#include "bvh.h"
#include "simd.h"

namespace HF_ISA {

struct Ray {
    float origin[3], direction[3], inverse[3];
    float near_origin[3], far_origin[3];  // the origin, as the first and the second plane of a box see it
    int near_row[3], far_row[3];          // which plane of a box the ray meets first, as an offset in a node
};

// False where the ray has no result: not finite, or too far away.
HF_INLINE bool make_ray(const float *origin, const float *direction, Ray &ray) {
    bool usable = true;
    for (int axis = 0; axis < 3; ++axis) {
        const float o = origin[axis], d = direction[axis];
        usable = usable && absolute(o) < headfields::bvh_far && absolute(d) < headfields::bvh_far;
        ray.origin[axis] = o, ray.direction[axis] = d;
        // Finite also along an axis the ray does not move on, so that no product is NaN; there the planes are moved
        // outward, so that a ray within one of them, which would meet it at 0 * 1e30, is between the two.
        const bool still = !(absolute(d) > 1e-30f);
        ray.inverse[axis] = still ? 1e30f : 1.f / d;
        const float outward = still ? 1e-6f * absolute(o) + 1e-10f : 0.f;
        ray.near_origin[axis] = o + outward, ray.far_origin[axis] = o - outward;
        const bool up = ray.inverse[axis] > 0;
        ray.near_row[axis] = 8 * (up ? axis : 3 + axis), ray.far_row[axis] = 8 * (up ? 3 + axis : axis);
    }
    return usable;
}

// Where the ray enters and leaves eight boxes grown by `margin`; enter > leave where it misses. The small factor makes
// up for the rounding of the products (Ize, Robust BVH ray traversal, 2013).
HF_INLINE void box_interval(const float *box, const Ray &ray, float margin, f8 &enter, f8 &leave) {
    f8 lo[3], hi[3];
    for (int axis = 0; axis < 3; ++axis) {
        const float outward = ray.inverse[axis] > 0 ? margin : -margin;
        const f8 inverse = f8_set(ray.inverse[axis]);
        lo[axis] = (f8_load(box + ray.near_row[axis]) - f8_set(outward) - f8_set(ray.near_origin[axis])) * inverse;
        hi[axis] = (f8_load(box + ray.far_row[axis]) + f8_set(outward) - f8_set(ray.far_origin[axis])) * inverse;
    }
    enter = f8_max(f8_max(lo[0], lo[1]), f8_max(lo[2], f8_set(0.f)));
    leave = f8_min(f8_min(hi[0], hi[1]), hi[2]) * f8_set(1.0000004f);
}

}  // namespace HF_ISA
