// Nearest triangle. Queries come in a spatially coherent order and are processed in groups of neighbors: one descent
// for a group collects the few leaves that can hold a result for any of its queries, and each query then tests these
// alone. A single query descends depth first, nearer children first. Either way the result of the query before is the
// first bound.
//
// Outside a convex edge a whole wedge of space is equally near to both triangles, and rounding would choose. Of faces
// that are as near as the nearest but for rounding the lowest index wins, so that a result does not depend on the order
// of the queries and a wedge has one owner. What counts is settled at the end, when the least distance is known.
#include "bvh.h"
#include "bvh_descend.h"
#include "bvh_project.h"
#include "simd.h"

namespace HF_ISA {
using namespace headfields;

// Squared distances to eight triangles. A triangle is the least of its interior (where the foot of the perpendicular
// falls inside) and its three edges; each candidate is a point of the triangle, so slivers cost accuracy nowhere, and a
// triangle without area is its edges.
HF_INLINE f8 leaf_distance2(const float *rows, v3 p) {
    const f8 zero = f8_set(0.f), one = f8_set(1.f);
    const v3 a = v3_load(rows + 8 * row_a), b = v3_load(rows + 8 * row_b), c = v3_load(rows + 8 * row_c);
    const v3 ab = b - a, ac = c - a, bc = c - b, ap = p - a, bp = p - b;
    f8 u = dot(v3_load(rows + 8 * row_gu), ap), v = dot(v3_load(rows + 8 * row_gv), ap);
    const i8 inside = (u >= zero) & (v >= zero) & (u + v <= one);
    u = f8_select(inside, u, zero);
    v = f8_select(inside, v, zero);
    const v3 r = ap - u * ab - v * ac;
    const v3 r_ab = ap - f8_min(f8_max(dot(ab, ap) * f8_load(rows + 8 * row_inv_ab), zero), one) * ab;
    const v3 r_ac = ap - f8_min(f8_max(dot(ac, ap) * f8_load(rows + 8 * row_inv_ac), zero), one) * ac;
    const v3 r_bc = bp - f8_min(f8_max(dot(bc, bp) * f8_load(rows + 8 * row_inv_bc), zero), one) * bc;
    return f8_min(f8_min(dot(r, r), dot(r_ab, r_ab)), f8_min(dot(r_ac, r_ac), dot(r_bc, r_bc)));
}

namespace {

// The best results of one query so far.
struct Answer {
    static constexpr int most = 32;
    struct Near {
        float distance2;
        int32_t face;
        int64_t slot;
    };
    float best, bound, equal;  // equal: best, and the distances that count as equal to it; bound: generously so
    int count;
    Near near[most];

    HF_INLINE_MEMBER void start(float limit2) { best = bound = equal = limit2, count = 0; }
    HF_INLINE_MEMBER void visit(const BvhTree &tree, const float *triangles, int64_t leaf, v3 p, float slack) {
        const f8 d2 = leaf_distance2(triangles + leaf * bvh_leaf_floats, p);
        if (mask_bits(d2 < f8_set(bound)) == 0) return;
        const float least = f8_lowest(d2);
        if (least < best) {
            const float distance = __builtin_sqrtf(least), tie = distance * bvh_tie + slack;
            best = least, equal = (distance + tie) * (distance + tie) + 1e-30f;
            bound = (distance + 2 * tie) * (distance + 2 * tie) + 1e-30f;
        }
        alignas(32) float distance2[8];
        f8_store(distance2, d2);
        for (uint32_t equal = mask_bits(d2 < f8_set(bound)); equal; equal &= equal - 1) {
            const int k = __builtin_ctz(equal);
            if (count == most) make_room();
            near[count++] = {distance2[k], tree.order[8 * leaf + k], 8 * leaf + k};
        }
    }
    // Leaves out what is too far by now, and if nothing is, the highest index.
    __attribute__((noinline)) void make_room() {
        int kept = 0, highest = 0;
        for (int j = 0; j < count; ++j)
            if (near[j].distance2 < bound) near[kept++] = near[j];
        for (int j = 1; j < kept; ++j) highest = near[j].face > near[highest].face ? j : highest;
        if (kept == most) near[highest] = near[--kept];
        count = kept;
    }
    // The lowest index of the equally near faces, as an index of a leaf's lane; -1 where there is none.
    HF_INLINE_MEMBER int64_t slot() const {
        int chosen = -1;
        for (int j = 0; j < count; ++j)
            if (near[j].distance2 < equal && (chosen < 0 || near[j].face < near[chosen].face)) chosen = j;
        return chosen < 0 ? -1 : near[chosen].slot;
    }
};

// Depth first through the whole tree; `seen` is a leaf that was visited before, or -1.
void descend(const BvhTree &tree, const float *bounds, const float *triangles, v3 p, int64_t seen, float slack,
             Answer &answer) {
    Entry stack[bvh_stack];
    int top = 0;
    for (int32_t node = 0; node >= 0;) {
        push(tree, node, box_distance2(bounds + (int64_t)node * bvh_node_floats, 8, p, p), answer.bound, stack, top);
        node = -1;
        while (top > 0) {
            const Entry entry = stack[--top];
            if (!(entry.distance2 < answer.bound)) continue;
            if (entry.child >= 0) {
                node = entry.child;
                break;
            }
            if (~entry.child != seen) answer.visit(tree, triangles, ~entry.child, p, slack);
        }
    }
}

constexpr int group_most = 24, candidates_most = 256;  // measured: fewer are slower, more no faster

// Leaves that may hold a result for a query of a group, with their boxes as rows like a node's.
struct Candidates {
    alignas(32) float box[6][candidates_most];
    int32_t leaf[candidates_most];
    int count;

    // All leaves within `radius2` of the box lo..hi, nearer ones rather first. False where there are too many.
    bool collect(const BvhTree &tree, const float *bounds, v3 lo, v3 hi, float radius2) {
        Entry stack[bvh_stack];
        int top = 0, most = candidates_most;
        count = 0;
        for (int32_t node = 0; node >= 0;) {
            const float *children = bounds + (int64_t)node * bvh_node_floats;
            const f8 d2 = box_distance2(children, 8, lo, hi);
            for (uint32_t hits = mask_bits(d2 < f8_set(radius2)); hits; hits &= hits - 1) {
                const int k = __builtin_ctz(hits);
                const int32_t child = tree.children[8 * (int64_t)node + k];
                if (child == bvh_empty) continue;
                if (child >= 0) {
                    stack[top++] = {0.f, child};
                } else {
                    if (count == most) return false;
                    for (int row = 0; row < 6; ++row) box[row][count] = children[8 * row + k];
                    leaf[count++] = ~child;
                }
            }
            node = top > 0 ? stack[--top].child : -1;
        }
        for (int k = count; k % 8; ++k)  // the last eight are padded with boxes far from every query
            for (int row = 0; row < 6; ++row) box[row][k] = row < 3 ? __builtin_inff() : -__builtin_inff();
        return true;
    }
};

// The state of one call.
struct Work {
    const BvhTree &tree;
    const BvhClosest &query;
    float limit2;
    int64_t leaf_before;
    int32_t mesh_before;
    int32_t measured;  // the mesh that `slack` is of
    float slack;       // the part of a tie that does not grow with the distance: rounding of the coordinates
    Candidates candidates;

    // A point and where its results go, both anywhere.
    HF_INLINE_MEMBER void prefetch(int64_t i) const {
        __builtin_prefetch(query.points + 3 * i);
        __builtin_prefetch(query.face + i, 1);
        if (!query.barycentric) return;
        __builtin_prefetch(query.barycentric + 3 * i, 1);
        __builtin_prefetch(query.nearest + 3 * i, 1);
        __builtin_prefetch(query.distance + i, 1);
    }
    HF_INLINE_MEMBER void measure(int32_t b) {
        if (b == measured) return;
        const float *root = tree.bounds + b * tree.nodes * bvh_node_floats;
        float extent = 0;
        for (int row = 0; row < bvh_node_floats; ++row) {  // an empty child is from infinity to -infinity
            const float far = row < bvh_node_floats / 2 ? -root[row] : root[row];
            extent = far > extent ? far : extent;
        }
        measured = b, slack = bvh_slack * extent;
    }

    // Results of items[0..count), all of one mesh and usable, into slots; false where there are too many candidates.
    bool answer_group(const uint32_t *items, int count, int64_t *slots) {
        const int32_t b = query.mesh ? query.mesh[items[0]] : 0;
        const float *bounds = tree.bounds + b * tree.nodes * bvh_node_floats;
        const float *triangles = tree.triangles + b * tree.leaves * bvh_leaf_floats;
        float lo[3], hi[3], center[3], half2 = 0;
        for (int axis = 0; axis < 3; ++axis) {
            lo[axis] = hi[axis] = query.points[3 * (int64_t)items[0] + axis];
            for (int j = 1; j < count; ++j) {
                const float x = query.points[3 * (int64_t)items[j] + axis];
                lo[axis] = x < lo[axis] ? x : lo[axis], hi[axis] = x > hi[axis] ? x : hi[axis];
            }
            center[axis] = 0.5f * lo[axis] + 0.5f * hi[axis];
            const float below = center[axis] - lo[axis], above = hi[axis] - center[axis],
                        half = below > above ? below : above;
            half2 += half * half;
        }
        // No query is farther from the mesh than the center is and then from the center.
        const float half = __builtin_sqrtf(half2) * 1.0001f;
        const v3 middle = v3_set(center);
        Answer answer;
        const float reach = query.max_distance * 1.0001f + half;
        measure(b);
        answer.start(reach * reach);
        int64_t seen = b == mesh_before ? leaf_before : -1;
        if (seen >= 0) answer.visit(tree, triangles, seen, middle, slack);
        descend(tree, bounds, triangles, middle, seen, slack, answer);
        if (answer.count == 0) {
            for (int j = 0; j < count; ++j) slots[j] = -1;
            return true;
        }
        leaf_before = seen = answer.slot() / 8, mesh_before = b;
        const float radius = (__builtin_sqrtf(answer.best) + half) * 1.0001f + 4.f * slack;
        const float radius2 = radius * radius + 1e-30f;
        if (!candidates.collect(tree, bounds, v3_set(lo), v3_set(hi), radius2 < limit2 ? radius2 : limit2))
            return false;
        for (int j = 0; j < count; ++j) {
            const v3 p = v3_set(query.points + 3 * (int64_t)items[j]);
            answer.start(limit2);
            answer.visit(tree, triangles, seen, p, slack);
            const int64_t first = seen;
            for (int base = 0; base < candidates.count; base += 8) {
                const f8 d2 = box_distance2(candidates.box[0] + base, candidates_most, p, p);
                uint32_t hits = mask_bits(d2 < f8_set(answer.bound));
                if (!hits) continue;
                alignas(32) float distance2[8];
                f8_store(distance2, d2);
                for (; hits; hits &= hits - 1) {
                    const int k = __builtin_ctz(hits);
                    const int32_t leaf = candidates.leaf[base + k];
                    if (distance2[k] < answer.bound && leaf != first) answer.visit(tree, triangles, leaf, p, slack);
                }
            }
            slots[j] = answer.slot();
            if (slots[j] >= 0) leaf_before = seen = slots[j] / 8;
        }
        return true;
    }

    int64_t answer_alone(uint32_t item) {
        const int32_t b = query.mesh ? query.mesh[item] : 0;
        const float *triangles = tree.triangles + b * tree.leaves * bvh_leaf_floats;
        const v3 p = v3_set(query.points + 3 * (int64_t)item);
        const int64_t seen = b == mesh_before ? leaf_before : -1;
        Answer answer;
        measure(b);
        answer.start(limit2);
        if (seen >= 0) answer.visit(tree, triangles, seen, p, slack);
        descend(tree, tree.bounds + b * tree.nodes * bvh_node_floats, triangles, p, seen, slack, answer);
        const int64_t slot = answer.slot();
        if (slot >= 0) leaf_before = slot / 8, mesh_before = b;
        return slot;
    }

    // Faces of up to four finished queries and, where requested, the nearest points on them.
    void write(const uint32_t *items, int count, const int64_t *slots) const {
        const bool measure = query.barycentric || query.max_distance < __builtin_inff();
        if (!measure) {
            for (int j = 0; j < count; ++j) query.face[items[j]] = slots[j] < 0 ? -1 : tree.order[slots[j]];
            return;
        }
        alignas(32) double point[3][4] = {}, corner[9][4] = {};
        for (int j = 0; j < count; ++j) {
            if (slots[j] < 0) continue;
            const int64_t i = items[j];
            const int64_t leaf = (query.mesh ? query.mesh[i] : 0) * tree.leaves + slots[j] / 8;
            const float *rows = tree.triangles + leaf * bvh_leaf_floats + slots[j] % 8;
            for (int axis = 0; axis < 3; ++axis) point[axis][j] = query.points[3 * i + axis];
            for (int row = row_a; row < row_c + 3; ++row) corner[row][j] = rows[8 * row];
        }
        const Foot foot = project(point, corner);
        for (int j = 0; j < count; ++j) {
            const int64_t i = items[j];
            const float distance = (float)foot.distance2[j];
            const bool found = slots[j] >= 0 && distance <= query.max_distance;
            query.face[i] = found ? tree.order[slots[j]] : -1;
            if (!query.barycentric) continue;
            const double weights[3] = {foot.w[j], foot.u[j], foot.v[j]};
            query.distance[i] = found ? distance : __builtin_inff();
            for (int k = 0; k < 3; ++k) {
                query.barycentric[3 * i + k] = found ? (float)weights[k] : 0.f;
                double x = 0;
                for (int v = 0; v < 3; ++v) x += weights[v] * corner[3 * v + k][j];
                query.nearest[3 * i + k] = found ? (float)x : query.points[3 * i + k];
            }
        }
    }
};

}  // namespace

void bvh_closest(const BvhTree &tree, const BvhClosest &query, const uint32_t *items, int64_t count) {
    // Exact check of the distance at the end.
    Work work{tree, query, query.max_distance * query.max_distance * 1.00001f + 1e-30f, -1, -1, -1, 0, {}};
    int64_t slots[group_most];
    int64_t alone = 0, pause = group_most;  // queries still to run alone after a group that did not pay
    for (int64_t q = 0; q < count;) {
        const int32_t b = query.mesh ? query.mesh[items[q]] : 0;
        int n = 0;
        while (n < group_most && q + n < count && usable(query.points + 3 * (int64_t)items[q + n]) &&
               (query.mesh == nullptr || query.mesh[items[q + n]] == b))
            ++n;
        for (int64_t next = q + n; next < q + 2 * n && next < count; ++next) work.prefetch(items[next]);
        if (n == 0) {
            n = 1, slots[0] = -1;
        } else if (alone <= 0 && n >= 4 && work.answer_group(items + q, n, slots)) {
            pause = group_most;
        } else {
            if (alone <= 0 && n >= 4) alone = pause, pause = pause < 4096 ? 2 * pause : pause;
            alone -= n;
            for (int j = 0; j < n; ++j) slots[j] = work.answer_alone(items[q + j]);
        }
        for (int j = 0; j < n; j += 4) work.write(items + q + j, n - j < 4 ? n - j : 4, slots + j);
        q += n;
    }
}

}  // namespace HF_ISA
