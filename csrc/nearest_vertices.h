// The eight-wide tree of bvh.h over vertices instead of triangles, shared by the nearest-vertices binding and kernel.
// Topology and bounds are those of bvh.h, built for faces (i, i, i); a leaf holds the eight vertices
// order[8 l + k], and `triangles` of BvhTree their positions, vertex_leaf_floats a leaf: rows x, y, z.
#pragma once
#include "bvh.h"

namespace headfields {

constexpr int vertex_leaf_floats = 3 * 8;
constexpr int vertex_most = 16;  // neighbors of one query

struct NearestVertices {
    const float *points;   // (n, 3)
    const int32_t *mesh;   // (n,) or null: mesh 0
    int64_t *index;        // (n, k)
    float *distance;       // (n, k) or null
    int64_t k;
    float max_distance;
};

}  // namespace headfields

// Leaves [begin, end) of mesh b: positions and the leaf's bounds in its parent. Then bvh_refit_nodes, all of mesh b.
HF_DECLARE(void, vertex_refit_leaves, (const headfields::BvhTree &tree, float *bounds, float *positions, int64_t b, int64_t begin, int64_t end))
// Queries items[0..count), as bvh_closest takes them.
HF_DECLARE(void, nearest_vertices, (const headfields::BvhTree &tree, const headfields::NearestVertices &query, const uint32_t *items, int64_t count))
