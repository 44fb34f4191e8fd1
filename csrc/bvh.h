// An eight-wide bounding volume hierarchy over triangles: shared by the builder, the refit and the queries.
//
// Topology, built once: node n has eight children; children[8 n + k] is the index of a node (always larger than n),
// ~leaf for a leaf, or bvh_empty. Leaf l holds the eight faces order[8 l + k], -1 where there are fewer;
// slot[l] = 8 n + k says whose child it is.
// Geometry, one block a mesh, written by refit: bounds holds lo x, y, z, hi x, y, z of a node's eight children, and
// triangles the rows named below of a leaf's eight triangles. A row is eight floats, one a lane.
#pragma once
#include <cstdint>

#include "cpu.h"

namespace headfields {

// Difference of two distances that rounding can make: relative to the distance, and to the mesh's largest coordinate.
constexpr float bvh_tie = 1e-6f, bvh_slack = 2.4e-7f;
constexpr int32_t bvh_empty = INT32_MIN;
constexpr int bvh_node_floats = 6 * 8;
// Corners a, b, c; the vectors whose dot product with p - a are the barycentric coordinates of b and c (0 where the
// face has no area); the inverse squared lengths of the edges (0 where there is none).
enum BvhRow {
    row_a = 0, row_b = 3, row_c = 6, row_gu = 9, row_gv = 12, row_inv_ab = 15, row_inv_ac = 16, row_inv_bc = 17,
    bvh_rows = 18
};
constexpr int bvh_leaf_floats = bvh_rows * 8;
constexpr int bvh_levels = 9;               // at most; a depth-first visit keeps seven siblings a level
constexpr int bvh_stack = 8 * bvh_levels;
constexpr float bvh_far = 1e18f;  // larger (or not finite) coordinates have no result: squares must not overflow
constexpr float bvh_nowhere = 1e30f;         // where an empty lane's triangle lies: its squared distance is infinite

struct BvhTree {
    const int32_t *children, *order, *slot;
    const int32_t *faces;     // (F, 3)
    const float *vertices;    // (B, V, 3)
    const float *bounds;      // (B, nodes, bvh_node_floats)
    const float *triangles;   // (B, leaves, bvh_leaf_floats)
    int64_t meshes, vertex_count, nodes, leaves;
};

// More bytes than a core's cache keeps, whatever the mesh.
static inline bool is_large(const BvhTree &tree) {
    return tree.meshes * (tree.nodes * bvh_node_floats + tree.leaves * bvh_leaf_floats) > (INT64_C(1) << 20);
}

struct BvhClosest {
    const float *points;       // (n, 3)
    const int32_t *mesh;       // (n,) or null: mesh 0
    int64_t *face;             // (n,)
    float *barycentric;        // (n, 3) or null, and then also:
    float *distance;           // (n,)
    float *nearest;            // (n, 3), the query itself where there is no face
    float max_distance;
};

struct BvhRays {
    const float *origins, *directions;  // (n, 3); interval wants unit directions
    const int32_t *mesh;                // (n,) or null: mesh 0
    int64_t *face;                      // raycast: (n,)
    float *barycentric;                 // raycast: (n, 3) or null
    float *distance;                    // raycast: (n,) or null
    float max_distance;                 // raycast
    float margin;                       // interval
    float *near_, *far_;                // interval: (n,)
};

}  // namespace headfields

// Leaves [begin, end) of mesh b: triangles and the leaf's bounds in its parent. Then bvh_refit_nodes, all of mesh b.
HF_DECLARE(void, bvh_refit_leaves,
           (const headfields::BvhTree &tree, float *bounds, float *triangles, int64_t b, int64_t begin, int64_t end))
HF_DECLARE(void, bvh_refit_nodes, (const headfields::BvhTree &tree, float *bounds, int64_t b))
// Queries items[0..count), indices into the arrays of `query`, best visited in a spatially coherent order. Writes into
// query.face where the nearest face is, an index of `order`, or -1; then bvh_closest_points of all queries finishes.
HF_DECLARE(void, bvh_closest,
           (const headfields::BvhTree &tree, const headfields::BvhClosest &query, const uint32_t *items, int64_t count))
// Results of queries [begin, end). False where `faces` name a vertex that is not there.
HF_DECLARE(bool, bvh_closest_points,
           (const headfields::BvhTree &tree, const headfields::BvhClosest &query, int64_t begin, int64_t end))
HF_DECLARE(void, bvh_raycast,
           (const headfields::BvhTree &tree, const headfields::BvhRays &rays, const uint32_t *items, int64_t count))
HF_DECLARE(void, bvh_interval,
           (const headfields::BvhTree &tree, const headfields::BvhRays &rays, const uint32_t *items, int64_t count))
