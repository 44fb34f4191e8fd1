// The k nearest vertices. Queries come in a spatially coherent order and are processed in groups of neighbors: one
// descent for a group collects the vertices that can be among the results of any of its queries, and each query then
// tests these alone. A single query descends depth first, nearer children first. Either way the result of the query
// before is the first bound.
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
        float box[6] = {infinity, infinity, infinity, -infinity, -infinity, -infinity};
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

constexpr uint64_t nobody = UINT64_C(0x7f800000ffffffff);  // ranks after every vertex
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
    float bound;         // vertices at this squared distance or beyond are rejected
    float max_distance;  // exactly; infinite where there is no limit

    void start(int64_t count, float limit, float limit2) {
        k = (int)count, bound = limit2, max_distance = limit;
        for (int j = 0; j < k; ++j) rank[j] = nobody;
    }
    HF_INLINE_MEMBER void offer(double distance2, int32_t vertex) {
        const uint64_t key = rank_of(distance2, vertex);
        if (!(key < rank[k - 1]) || vertex < 0) return;  // an empty lane, if its position says otherwise
        if (max_distance < infinity && !((float)square_root(distance2) <= max_distance)) return;
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
                const int lane = lowest_bit(near);
                const float v[3] = {rows[lane], rows[8 + lane], rows[16 + lane]};
                found.offer(distance2_of(point, v), tree.order[8 * leaf + lane]);
            }
        }
    }
}

// No farther than this, squared, are the k nearest to a point when `before` holds those of another of the same mesh.
HF_INLINE float bound_from(const Found &before, const float *point, const float *vertices, float limit2) {
    if (before.rank[before.k - 1] == nobody) return limit2;
    float worst = 0;
    for (int j = 0; j < before.k; ++j) {
        const float distance2 = (float)distance2_of(point, vertices + 3 * (int64_t)(uint32_t)before.rank[j]);
        worst = distance2 > worst ? distance2 : worst;
    }
    worst = worst * slack + 1e-30f;
    return worst < limit2 ? worst : limit2;
}

constexpr int group_most = 16, candidates_most = 512;

// Vertices that may be among the results of the queries of a group, as rows.
struct Candidates {
    alignas(32) float position[3][candidates_most];
    int32_t vertex[candidates_most];
    int count;

    // All vertices within `radius2` of the box lo..hi. False where there are too many.
    bool collect(const BvhTree &tree, const float *bounds, const float *positions, v3 lo, v3 hi, float radius2) {
        int32_t stack[bvh_stack];
        int top = 0;
        count = 0;
        const f8 reach = f8_set(radius2);
        for (int32_t node = 0; node >= 0; node = top > 0 ? stack[--top] : -1) {
            const f8 away = box_distance2(bounds + (int64_t)node * bvh_node_floats, 8, lo, hi);
            for (uint32_t hits = mask_bits(away < reach); hits; hits &= hits - 1) {
                const int32_t child = tree.children[8 * (int64_t)node + lowest_bit(hits)];
                if (child == bvh_empty) continue;
                if (child >= 0) {
                    stack[top++] = child;
                    continue;
                }
                const int64_t leaf = ~child;
                const float *rows = positions + leaf * vertex_leaf_floats;
                const v3 v = v3_load(rows);
                const f8 zero = f8_set(0.f);
                const v3 r = {f8_max(f8_max(v.x - hi.x, lo.x - v.x), zero), f8_max(f8_max(v.y - hi.y, lo.y - v.y), zero),
                              f8_max(f8_max(v.z - hi.z, lo.z - v.z), zero)};
                uint32_t near = mask_bits(dot(r, r) < reach);
                if (count + count_bits(near) > candidates_most) return false;
                for (; near; near &= near - 1, ++count) {
                    const int lane = lowest_bit(near);
                    for (int axis = 0; axis < 3; ++axis) position[axis][count] = rows[8 * axis + lane];
                    vertex[count] = tree.order[8 * leaf + lane];
                }
            }
        }
        for (int c = count; c % 8; ++c)  // the last eight are padded with points far from every query
            for (int axis = 0; axis < 3; ++axis) position[axis][c] = bvh_nowhere;
        return true;
    }

    HF_INLINE_MEMBER void offer_all(const float *point, Found &found) const {
        const v3 p = v3_set(point);
        for (int base = 0; base < count; base += 8) {
            const v3 r = {p.x - f8_load(position[0] + base), p.y - f8_load(position[1] + base), p.z - f8_load(position[2] + base)};
            const f8 distance2 = dot(r, r);
            for (uint32_t near = mask_bits(distance2 < f8_set(found.bound)); near; near &= near - 1) {
                const int c = base + lowest_bit(near);
                const float v[3] = {position[0][c], position[1][c], position[2][c]};
                found.offer(distance2_of(point, v), vertex[c]);
            }
        }
    }
};

// The state of one call.
struct Work {
    const BvhTree &tree;
    const NearestVertices &query;
    float limit2;
    int32_t mesh_before;
    Found found;  // of the query before, in mesh_before
    Candidates candidates;

    const float *point_of(int64_t item) const { return query.points + 3 * item; }
    const float *bounds_of(int32_t b) const { return tree.bounds + b * tree.nodes * bvh_node_floats; }
    const float *positions_of(int32_t b) const { return tree.triangles + b * tree.leaves * vertex_leaf_floats; }
    const float *vertices_of(int32_t b) const { return tree.vertices + 3 * b * tree.vertex_count; }

    void write(int64_t item, const float *vertices) const {
        for (int64_t j = 0; j < query.k; ++j) {
            const bool any = found.rank[j] != nobody;
            const int64_t vertex = any ? (int64_t)(uint32_t)found.rank[j] : -1, at = item * query.k + j;
            query.index[at] = vertex;
            if (!query.distance) continue;
            query.distance[at] = any ? (float)square_root(distance2_of(point_of(item), vertices + 3 * vertex)) : infinity;
        }
    }

    void answer_alone(int64_t item) {
        const int32_t b = query.mesh ? query.mesh[item] : 0;
        const float bound = b == mesh_before ? bound_from(found, point_of(item), vertices_of(b), limit2) : limit2;
        found.start(query.k, query.max_distance, bound);
        descend(tree, bounds_of(b), positions_of(b), point_of(item), found);
        mesh_before = b;
        write(item, vertices_of(b));
    }

    // Results of items[0..count), all of one mesh and usable; false, without results, where there are too many candidates.
    bool answer_group(const uint32_t *items, int count) {
        const int32_t b = query.mesh ? query.mesh[items[0]] : 0;
        const float *bounds = bounds_of(b), *positions = positions_of(b), *vertices = vertices_of(b);
        float lo[3], hi[3], center[3], half2 = 0;
        for (int axis = 0; axis < 3; ++axis) {
            lo[axis] = hi[axis] = point_of(items[0])[axis];
            for (int j = 1; j < count; ++j) {
                const float x = point_of(items[j])[axis];
                lo[axis] = x < lo[axis] ? x : lo[axis], hi[axis] = x > hi[axis] ? x : hi[axis];
            }
            center[axis] = 0.5f * lo[axis] + 0.5f * hi[axis];
            const float below = center[axis] - lo[axis], above = hi[axis] - center[axis], half = below > above ? below : above;
            half2 += half * half;
        }
        // A query's k nearest are no farther from it than those of the center are, and then from the center.
        const float half = square_root(half2) * 1.0001f, reach = query.max_distance * 1.0001f + half;
        const float reach2 = reach * reach + 1e-30f;
        const float bound = b == mesh_before ? bound_from(found, center, vertices, reach2) : reach2;
        found.start(query.k, infinity, bound);
        descend(tree, bounds, positions, center, found);
        mesh_before = b;
        float radius2 = limit2;
        if (found.rank[query.k - 1] != nobody) {
            const float radius = (square_root(bound_of(found.rank[query.k - 1])) + half) * 1.0001f;
            radius2 = radius * radius + 1e-30f < limit2 ? radius * radius + 1e-30f : limit2;
        }
        if (!candidates.collect(tree, bounds, positions, v3_set(lo), v3_set(hi), radius2)) return false;
        for (int j = 0; j < count; ++j) {
            const float first = bound_from(found, point_of(items[j]), vertices, limit2);
            found.start(query.k, query.max_distance, first);
            candidates.offer_all(point_of(items[j]), found);
            write(items[j], vertices);
        }
        return true;
    }
};

}  // namespace

void nearest_vertices(const BvhTree &tree, const NearestVertices &query, const uint32_t *items, int64_t count) {
    // The limit is checked exactly when a vertex is offered.
    Work work{tree, query, query.max_distance * query.max_distance * 1.00001f + 1e-30f, -1, {}, {}};
    int64_t alone = 0, pause = group_most;  // queries still to run alone after a group that did not pay
    for (int64_t q = 0; q < count;) {
        const int32_t b = query.mesh ? query.mesh[items[q]] : 0;
        int n = 0;
        while (n < group_most && q + n < count && usable(work.point_of(items[q + n])) && (query.mesh == nullptr || query.mesh[items[q + n]] == b))
            ++n;
        if (n == 0) {
            n = 1, work.found.start(query.k, query.max_distance, 0.f), work.mesh_before = -1;
            work.write(items[q], nullptr);
        } else if (alone <= 0 && n >= 4 && work.answer_group(items + q, n)) {
            pause = group_most;
        } else {
            if (alone <= 0 && n >= 4) alone = pause, pause = pause < 4096 ? 2 * pause : pause;
            alone -= n;
            for (int j = 0; j < n; ++j) work.answer_alone(items[q + j]);
        }
        q += n;
    }
}

}  // namespace HF_ISA
