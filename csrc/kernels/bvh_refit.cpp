// Bounds and triangle rows from vertices. A triangle with a vertex that is not finite is left out.
#include "bvh.h"
#include "simd.h"

namespace HF_ISA {
using namespace headfields;

HF_INLINE void store(float *rows, v3 v) {
    f8_store(rows, v.x);
    f8_store(rows + 8, v.y);
    f8_store(rows + 16, v.z);
}

HF_INLINE f8 inverse_or_zero(f8 x, f8 floor) {
    return f8_select(x > floor, f8_set(1.f) / f8_select(x > floor, x, f8_set(1.f)), f8_set(0.f));
}

void bvh_refit_leaves(const BvhTree &tree, float *bounds, float *triangles, int64_t b, int64_t begin, int64_t end) {
    const float *vertices = tree.vertices + 3 * b * tree.vertex_count;
    for (int64_t leaf = begin; leaf < end; ++leaf) {
        alignas(32) float corner[9][8];
        float box[6] = {infinity, infinity, infinity, -infinity, -infinity, -infinity};
        for (int k = 0; k < 8; ++k) {
            const int32_t face = tree.order[8 * leaf + k];
            bool placed = face >= 0;
            if (placed)
                for (int v = 0; v < 3; ++v) {
                    const float *position = vertices + 3 * (int64_t)tree.faces[3 * (int64_t)face + v];
                    for (int axis = 0; axis < 3; ++axis) {
                        corner[3 * v + axis][k] = position[axis];
                        placed = placed && absolute(position[axis]) < bvh_far;
                    }
                }
            for (int v = 0; v < 3; ++v)
                for (int axis = 0; axis < 3; ++axis) {
                    float &x = corner[3 * v + axis][k];
                    if (!placed) {
                        x = bvh_nowhere;
                    } else {
                        box[axis] = x < box[axis] ? x : box[axis];
                        box[3 + axis] = x > box[3 + axis] ? x : box[3 + axis];
                    }
                }
        }
        const v3 a = v3_load(corner[0]), b_ = v3_load(corner[3]), c = v3_load(corner[6]);
        const v3 ab = b_ - a, ac = c - a, bc = c - b_;
        const v3 n = cross(ab, ac);
        const f8 ab2 = dot(ab, ab), ac2 = dot(ac, ac), bc2 = dot(bc, bc), n2 = dot(n, n);
        // Where the sine of the angle at a is below 1e-6 the triangle is a segment in float32: no interior, edges only.
        const f8 inv_n2 = f8_select(n2 > f8_set(1e-12f) * ab2 * ac2, inverse_or_zero(n2, f8_set(1e-36f)), f8_set(0.f));
        float *rows = triangles + (b * tree.leaves + leaf) * bvh_leaf_floats;
        store(rows + 8 * row_a, a);
        store(rows + 8 * row_b, b_);
        store(rows + 8 * row_c, c);
        store(rows + 8 * row_gu, inv_n2 * cross(ac, n));
        store(rows + 8 * row_gv, inv_n2 * cross(n, ab));
        f8_store(rows + 8 * row_inv_ab, inverse_or_zero(ab2, f8_set(1e-30f)));
        f8_store(rows + 8 * row_inv_ac, inverse_or_zero(ac2, f8_set(1e-30f)));
        f8_store(rows + 8 * row_inv_bc, inverse_or_zero(bc2, f8_set(1e-30f)));
        const int32_t slot = tree.slot[leaf];
        float *node = bounds + (b * tree.nodes + slot / 8) * bvh_node_floats + slot % 8;
        for (int row = 0; row < 6; ++row) node[8 * row] = box[row];
    }
}

void bvh_refit_nodes(const BvhTree &tree, float *bounds, int64_t b) {
    bounds += b * tree.nodes * bvh_node_floats;
    for (int64_t n = tree.nodes - 1; n >= 0; --n) {  // children have larger indices than their parents
        for (int k = 0; k < 8; ++k) {
            const int32_t child = tree.children[8 * n + k];
            if (child < 0 && child != bvh_empty) continue;  // a leaf, done already
            for (int row = 0; row < 6; ++row) {
                float x = row < 3 ? infinity : -infinity;
                if (child != bvh_empty) {
                    const float *below = bounds + (int64_t)child * bvh_node_floats + 8 * row;
                    for (int j = 0; j < 8; ++j) x = row < 3 ? (below[j] < x ? below[j] : x) : (below[j] > x ? below[j] : x);
                }
                bounds[n * bvh_node_floats + 8 * row + k] = x;
            }
        }
    }
}

}  // namespace HF_ISA
