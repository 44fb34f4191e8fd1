// The steps of a descent through the eight-wide tree, nearer children first. Only for kernels/*.cpp.
#pragma once
#include "bvh.h"
#include "simd.h"

namespace HF_ISA {
using namespace headfields;

// Squared distances from the box lo..hi (a point where they are the same) to eight boxes, a row of bounds `stride` apart.
HF_INLINE f8 box_distance2(const float *box, int stride, v3 lo, v3 hi) {
    const f8 zero = f8_set(0.f);
    const f8 x = f8_max(f8_max(f8_load(box) - hi.x, lo.x - f8_load(box + 3 * stride)), zero);
    const f8 y = f8_max(f8_max(f8_load(box + stride) - hi.y, lo.y - f8_load(box + 4 * stride)), zero);
    const f8 z = f8_max(f8_max(f8_load(box + 2 * stride) - hi.z, lo.z - f8_load(box + 5 * stride)), zero);
    return x * x + y * y + z * z;
}

struct Entry {
    float distance2;
    int32_t child;
};

// Pushes the children of one node that are nearer than `bound`, the farthest lowest on the stack.
HF_INLINE void push(const BvhTree &tree, int32_t node, f8 d2, float bound, Entry *stack, int &top) {
    uint32_t hits = mask_bits(d2 < f8_set(bound));
    if (!hits) return;
    alignas(32) float distance2[8];
    f8_store(distance2, d2);
    const int base = top;
    do {
        const int k = lowest_bit(hits);
        hits &= hits - 1;
        const Entry entry = {distance2[k], tree.children[8 * (int64_t)node + k]};
        if (entry.child == bvh_empty) continue;  // its bounds may be anything, and nothing is there
        int at = top++;
        for (; at > base && stack[at - 1].distance2 < entry.distance2; --at) stack[at] = stack[at - 1];
        stack[at] = entry;
    } while (hits);
}

HF_INLINE bool usable(const float *p) {
    return absolute(p[0]) < bvh_far && absolute(p[1]) < bvh_far && absolute(p[2]) < bvh_far;
}

}  // namespace HF_ISA
