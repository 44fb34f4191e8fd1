// The k nearest vertices of each query: depth first through the tree, nearer children first. Queries come in a
// spatially coherent order, and the vertices found for the one before bound those of the next.
//
// Vertices are ranked by their squared distance, computed in double precision and rounded to float, and where that is
// equal by their index: one order, whatever the order of the queries, the instruction set or the backend.
#include "nearest_vertices.h"

#include "bvh_descend.h"
#include "simd.h"

namespace HF_ISA {
using namespace headfields;

void vertex_refit_leaves(const BvhTree &tree, float *bounds, float *positions, int64_t b, int64_t begin, int64_t end) {
    const float *vertices = tree.vertices + 3 * b * tree.vertex_count;
    for (int64_t leaf = begin; leaf < end; ++leaf) {
        float *rows = positions + (b * tree.leaves + leaf) * vertex_leaf_floats;
        float box[6] = {__builtin_inff(), __builtin_inff(), __builtin_inff(), -__builtin_inff(), -__builtin_inff(), -__builtin_inff()};
        for (int k = 0; k < 8; ++k) {
            const int32_t vertex = tree.order[8 * leaf + k];
            const float *position = vertices + 3 * (int64_t)(vertex < 0 ? 0 : vertex);
            const bool placed = vertex >= 0 && usable(position);
            for (int axis = 0; axis < 3; ++axis) {
                const float x = placed ? position[axis] : bvh_nowhere;
                rows[8 * axis + k] = x;
                if (!placed) continue;
                box[axis] = x < box[axis] ? x : box[axis];
                box[3 + axis] = x > box[3 + axis] ? x : box[3 + axis];
            }
        }
        const int32_t slot = tree.slot[leaf];
        float *node = bounds + (b * tree.nodes + slot / 8) * bvh_node_floats + slot % 8;
        for (int row = 0; row < 6; ++row) node[8 * row] = box[row];
    }
}

namespace {

constexpr uint64_t nobody = UINT64_C(0x7f800000ffffffff);  // ranks behind every vertex
constexpr float slack = 1.f + 1e-6f;  // more than float arithmetic errs in a squared distance

HF_INLINE double distance2_of(const float *p, const float *v) {
    const double x = (double)p[0] - v[0], y = (double)p[1] - v[1], z = (double)p[2] - v[2];
    return x * x + y * y + z * z;
}

// A squared distance and an index as one number that orders as the pair does.
HF_INLINE uint64_t rank_of(double distance2, int32_t vertex) {
    const float rounded = (float)distance2;
    uint32_t bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    return (uint64_t)bits << 32 | (uint32_t)vertex;
}

HF_INLINE float bound_of(uint64_t rank) {
    const uint32_t bits = (uint32_t)(rank >> 32);
    float distance2;
    std::memcpy(&distance2, &bits, sizeof distance2);
    return distance2 * slack + 1e-30f;
}

// The k best so far, in order.
struct Found {
    uint64_t rank[vertex_most];
    int k;
    float bound;         // nothing at this squared distance or beyond is wanted
    float max_distance;  // exactly; infinite where there is no limit

    void start(int64_t count, float limit, float limit2) {
        k = (int)count, bound = limit2, max_distance = limit;
        for (int j = 0; j < k; ++j) rank[j] = nobody;
    }
    HF_INLINE_MEMBER void offer(double distance2, int32_t vertex) {
        const uint64_t key = rank_of(distance2, vertex);
        if (!(key < rank[k - 1])) return;
        if (max_distance < __builtin_inff() && !((float)__builtin_sqrt(distance2) <= max_distance)) return;
        int at = k - 1;
        for (; at > 0 && rank[at - 1] > key; --at) rank[at] = rank[at - 1];
        rank[at] = key;
        if (rank[k - 1] != nobody) {
            const float worst = bound_of(rank[k - 1]);
            bound = worst < bound ? worst : bound;
        }
    }
};

void descend(const BvhTree &tree, const float *bounds, const float *positions, const float *point, Found &found) {
    const v3 p = v3_set(point);
    Entry stack[bvh_stack];
    int top = 0;
    for (int32_t node = 0; node >= 0;) {
        push(tree, node, box_distance2(bounds + (int64_t)node * bvh_node_floats, 8, p, p), found.bound, stack, top);
        node = -1;
        while (top > 0) {
            const Entry entry = stack[--top];
            if (!(entry.distance2 < found.bound)) continue;
            if (entry.child >= 0) {
                node = entry.child;
                break;
            }
            const int64_t leaf = ~entry.child;
            const float *rows = positions + leaf * vertex_leaf_floats;
            const v3 r = p - v3_load(rows);
            const f8 distance2 = dot(r, r);
            for (uint32_t near = mask_bits(distance2 < f8_set(found.bound)); near; near &= near - 1) {
                const int lane = __builtin_ctz(near);
                const float v[3] = {rows[lane], rows[8 + lane], rows[16 + lane]};
                found.offer(distance2_of(point, v), tree.order[8 * leaf + lane]);
            }
        }
    }
}

}  // namespace

void nearest_vertices(const BvhTree &tree, const NearestVertices &query, const uint32_t *items, int64_t count) {
    const float limit2 = query.max_distance * query.max_distance * 1.00001f + 1e-30f;  // exact check when a vertex is offered
    Found found;
    found.start(query.k, query.max_distance, limit2);
    int32_t mesh_before = -1;
    for (int64_t q = 0; q < count; ++q) {
        const int64_t i = items[q];
        const int32_t b = query.mesh ? query.mesh[i] : 0;
        const float *point = query.points + 3 * i, *vertices = tree.vertices + 3 * b * tree.vertex_count;
        const bool here = usable(point);
        float bound = limit2;
        if (here && b == mesh_before && found.rank[query.k - 1] != nobody) {
            float worst = 0;  // of the vertices found before: no farther is any of the k nearest
            for (int j = 0; j < query.k; ++j) {
                const float distance2 = (float)distance2_of(point, vertices + 3 * (int64_t)(uint32_t)found.rank[j]);
                worst = distance2 > worst ? distance2 : worst;
            }
            worst = worst * slack + 1e-30f;
            bound = worst < bound ? worst : bound;
        }
        found.start(query.k, query.max_distance, bound);
        if (here) {
            descend(tree, tree.bounds + b * tree.nodes * bvh_node_floats, tree.triangles + b * tree.leaves * vertex_leaf_floats, point, found);
            mesh_before = b;
        }
        for (int j = 0; j < query.k; ++j) {
            const bool any = found.rank[j] != nobody;
            const int64_t vertex = any ? (int64_t)(uint32_t)found.rank[j] : -1;
            query.index[i * query.k + j] = vertex;
            if (query.distance)
                query.distance[i * query.k + j] = any ? (float)__builtin_sqrt(distance2_of(point, vertices + 3 * vertex)) : __builtin_inff();
        }
    }
}

}  // namespace HF_ISA
