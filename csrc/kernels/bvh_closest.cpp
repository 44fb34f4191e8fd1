// Nearest triangle. Queries come in a spatially coherent order and go in groups of neighbors on one way through the
// tree, nearer children first; a leaf is tested against the bounds of all of them and visited for those that it may
// serve. A query far from the others descends alone. Either way the result before is the first bound.
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

// More than what counts as equal to a squared distance: (d + s)^2 <= d^2 (1 + e) + s^2 (1 + 1 / e), s being two ties.
constexpr float generous_factor = 1.00003f;
HF_INLINE float generous_term(float slack) { return 2.5e5f * slack * slack + 1e-30f; }
HF_INLINE float generous(float distance2, float slack) { return distance2 * generous_factor + generous_term(slack); }

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

    HF_INLINE_MEMBER void start(float limit2, float slack) {
        best = equal = limit2, bound = generous(limit2, slack), count = 0;
    }
    HF_INLINE_MEMBER void visit(const BvhTree &tree, const float *triangles, int64_t leaf, v3 p, float slack) {
        const f8 d2 = leaf_distance2(triangles + leaf * bvh_leaf_floats, p);
        if (mask_bits(d2 < f8_set(bound)) == 0) return;
        const float least = f8_lowest(d2);
        if (least < best) {
            const float distance = square_root(least), tie = distance * bvh_tie + slack;
            best = least, equal = (distance + tie) * (distance + tie) + 1e-30f;
            bound = (distance + 2 * tie) * (distance + 2 * tie) + 1e-30f;
        }
        alignas(32) float distance2[8];
        f8_store(distance2, d2);
        for (uint32_t equal = mask_bits(d2 < f8_set(bound)); equal; equal &= equal - 1) {
            const int k = lowest_bit(equal);
            if (count == most) make_room();
            near[count++] = {distance2[k], tree.order[8 * leaf + k], 8 * leaf + k};
        }
    }
    // Leaves out what is too far by now, and if nothing is, the highest index.
    HF_NO_INLINE void make_room() {
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

// Measured: fewer and more queries are slower. A leaf that is visited for none costs a group almost what the descent of
// one query costs by itself, so the number of leaves has a limit, too.
constexpr int group_most = 24, group_leaves = 192;
constexpr int log_most = 8;  // leaves of one query; those that tie with more go alone

// Queries side by side. What a visit does to one is no branch, as it could not be predicted, and does not wait for the
// visit before it, which was of another.
struct Group {
    alignas(32) float point[3][group_most];
    alignas(32) float bound[group_most];  // generously so; -1 where there is no query
    alignas(32) float distance2[group_most][log_most + 1][8];  // of leaves that held something nearer than the bound
    float best[group_most];
    int32_t leaf[group_most][log_most + 1], logged[group_most];
    float term;  // of every generous bound

    HF_INLINE_MEMBER v3 points(int base) const {
        return {f8_load(point[0] + base), f8_load(point[1] + base), f8_load(point[2] + base)};
    }
    HF_INLINE_MEMBER void start(int count, float limit2, float slack) {
        term = generous_term(slack);
        const float most = limit2 * generous_factor + term;
        for (int j = 0; j < group_most; ++j) bound[j] = j < count ? most : -1.f, best[j] = limit2, logged[j] = 0;
    }
    // No query is farther from the mesh than from this point.
    HF_INLINE_MEMBER void limit(v3 to) {
        for (int base = 0; base < group_most; base += 8) {
            const v3 r = points(base) - to;
            f8_store(bound + base, f8_min(dot(r, r) * f8_set(generous_factor) + f8_set(term), f8_load(bound + base)));
        }
    }
    // The queries to which a box, a lane of a node, is nearer than their bounds.
    HF_INLINE_MEMBER uint32_t near(const float *box) const {
        const f8 zero = f8_set(0.f);
        uint32_t near = 0;
        for (int base = 0; base < group_most; base += 8) {
            const v3 p = points(base);
            const f8 x = f8_max(f8_max(f8_set(box[0]) - p.x, p.x - f8_set(box[24])), zero);
            const f8 y = f8_max(f8_max(f8_set(box[8]) - p.y, p.y - f8_set(box[32])), zero);
            const f8 z = f8_max(f8_max(f8_set(box[16]) - p.z, p.z - f8_set(box[40])), zero);
            near |= mask_bits(x * x + y * y + z * z < f8_load(bound + base)) << base;
        }
        return near;
    }
    // The largest bound.
    HF_INLINE_MEMBER float farthest() const {
        f8 most = f8_load(bound);
        for (int base = 8; base < group_most; base += 8) most = f8_max(most, f8_load(bound + base));
        return -f8_lowest(-most);
    }
    // Query j at a leaf and its rows.
    HF_INLINE_MEMBER void visit(int j, const float *rows, int32_t at) {
        const f8 d2 = leaf_distance2(rows, {f8_set(point[0][j]), f8_set(point[1][j]), f8_set(point[2][j])});
        const int count = logged[j], last = count < log_most ? count : log_most;
        f8_store(distance2[j][last], d2);
        leaf[j][last] = at;
        logged[j] = count + (mask_bits(d2 < f8_set(bound[j])) != 0);
        const float least = f8_lowest(f8_min(d2, f8_set(best[j])));
        const float most = least * generous_factor + term;
        best[j] = least, bound[j] = most < bound[j] ? most : bound[j];
    }
    // The lowest index of the equally near faces, as Answer::slot.
    HF_INLINE_MEMBER int64_t slot(const BvhTree &tree, int j, float limit2, float slack) const {
        const float nearest = best[j], distance = square_root(nearest), tie = distance * bvh_tie + slack;
        const float equal = nearest < limit2 ? (distance + tie) * (distance + tie) + 1e-30f : limit2;
        int64_t slot = -1;
        int32_t face = INT32_MAX;
        for (int k = 0; k < logged[j]; ++k)
            for (uint32_t near = mask_bits(f8_load(distance2[j][k]) < f8_set(equal)); near; near &= near - 1) {
                const int64_t at = 8 * (int64_t)leaf[j][k] + lowest_bit(near);
                if (tree.order[at] < face) face = tree.order[at], slot = at;
            }
        return slot;
    }
};

// The child of a node, as an index into the children, and its squared distances to the box of a group and its middle.
struct Place {
    float distance2, order;
    int32_t place;
};
HF_INLINE void push_group(int32_t node, f8 d2, f8 middle2, float bound, Place *stack, int &top) {
    uint32_t hits = mask_bits(d2 < f8_set(bound));
    if (!hits) return;
    alignas(32) float distance2[8], order[8];
    f8_store(distance2, d2);
    f8_store(order, middle2);
    const int base = top;
    do {
        const int k = lowest_bit(hits);
        hits &= hits - 1;
        const Place entry = {distance2[k], order[k], 8 * node + k};
        int at = top++;
        for (; at > base && stack[at - 1].order < entry.order; --at) stack[at] = stack[at - 1];
        stack[at] = entry;
    } while (hits);
}

// The state of one call.
struct Work {
    const BvhTree &tree;
    const BvhClosest &query;
    float limit2;
    int64_t slot_before;  // the last result, in mesh_before
    int32_t mesh_before;
    int32_t measured;  // the mesh that `slack` is of
    float slack;       // the part of a tie that does not grow with the distance: rounding of the coordinates
    Group group;

    // A point and where its result goes, both anywhere.
    HF_INLINE_MEMBER void prefetch(int64_t i) const {
        HF_PREFETCH(query.points + 3 * i);
        HF_PREFETCH_TO_WRITE(query.face + i);
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

    // Results of items[0..count), all of one mesh and usable, into slots. False where there are too many leaves.
    bool answer_group(const uint32_t *items, int count, int64_t *slots) {
        const int32_t b = query.mesh ? query.mesh[items[0]] : 0;
        const float *bounds = tree.bounds + b * tree.nodes * bvh_node_floats;
        const float *triangles = tree.triangles + b * tree.leaves * bvh_leaf_floats;
        measure(b);
        for (int axis = 0; axis < 3; ++axis)
            for (int j = 0; j < group_most; ++j)
                group.point[axis][j] = query.points[3 * (int64_t)items[j < count ? j : 0] + axis];
        group.start(count, limit2, slack);
        if (b == mesh_before) {  // a corner of the last result: no query is farther from the mesh
            const float *corner = triangles + slot_before / 8 * bvh_leaf_floats + slot_before % 8;
            group.limit({f8_set(corner[0]), f8_set(corner[8]), f8_set(corner[16])});
        }
        v3 low = group.points(0), high = low;
        for (int base = 8; base < group_most; base += 8) {
            const v3 p = group.points(base);
            low = {f8_min(low.x, p.x), f8_min(low.y, p.y), f8_min(low.z, p.z)};
            high = {f8_max(high.x, p.x), f8_max(high.y, p.y), f8_max(high.z, p.z)};
        }
        const float lo[3] = {f8_lowest(low.x), f8_lowest(low.y), f8_lowest(low.z)};
        const float hi[3] = {-f8_lowest(-high.x), -f8_lowest(-high.y), -f8_lowest(-high.z)};
        const float center[3] = {0.5f * lo[0] + 0.5f * hi[0], 0.5f * lo[1] + 0.5f * hi[1], 0.5f * lo[2] + 0.5f * hi[2]};
        const v3 box_lo = v3_set(lo), box_hi = v3_set(hi), middle = v3_set(center);
        float farthest = group.farthest();
        Place stack[bvh_stack];
        int top = 0, left = group_leaves;
        for (int32_t node = 0; node >= 0;) {
            const float *children = bounds + (int64_t)node * bvh_node_floats;
            const f8 d2 = box_distance2(children, 8, box_lo, box_hi);
            const f8 order = box_distance2(children, 8, middle, middle);
            push_group(node, d2, order, farthest, stack, top);
            node = -1;
            while (top > 0) {
                const Place entry = stack[--top];
                if (!(entry.distance2 < farthest)) continue;
                const int32_t child = tree.children[entry.place];
                if (child == bvh_empty) continue;  // its bounds may be anything, and nothing is there
                if (child >= 0) {
                    node = child;
                    break;
                }
                const float *box = bounds + (int64_t)(entry.place / 8) * bvh_node_floats + entry.place % 8;
                if (--left < 0) return false;
                uint32_t near = group.near(box);
                if (!near) continue;
                const float *rows = triangles + (int64_t)~child * bvh_leaf_floats;
                do {
                    group.visit(lowest_bit(near), rows, ~child);
                    near &= near - 1;
                } while (near);
                farthest = group.farthest();
            }
        }
        for (int j = 0; j < count; ++j) {
            if (group.logged[j] > log_most) {
                slots[j] = answer_alone(items[j]);
                continue;
            }
            const int64_t slot = group.slot(tree, j, limit2, slack);
            slots[j] = slot;
            if (slot >= 0) slot_before = slot, mesh_before = b;
        }
        return true;
    }

    int64_t answer_alone(uint32_t item) {
        const int32_t b = query.mesh ? query.mesh[item] : 0;
        const float *triangles = tree.triangles + b * tree.leaves * bvh_leaf_floats;
        const v3 p = v3_set(query.points + 3 * (int64_t)item);
        const int64_t seen = b == mesh_before ? slot_before / 8 : -1;
        Answer answer;
        measure(b);
        answer.start(limit2, slack);
        if (seen >= 0) answer.visit(tree, triangles, seen, p, slack);
        descend(tree, tree.bounds + b * tree.nodes * bvh_node_floats, triangles, p, seen, slack, answer);
        const int64_t slot = answer.slot();
        if (slot >= 0) slot_before = slot, mesh_before = b;
        return slot;
    }
};

typedef float f4 HF_VECTOR(16);
typedef int32_t i4 HF_VECTOR(16);

// Three numbers of each of four queries, anywhere, and all of them in a row.
struct x3 {
    f4 x, y, z;
};
HF_INLINE x3 x3_load(const float *const *from) {
    x3 v;
    v.x = f4{from[0][0], from[1][0], from[2][0], from[3][0]};
    v.y = f4{from[0][1], from[1][1], from[2][1], from[3][1]};
    v.z = f4{from[0][2], from[1][2], from[2][2], from[3][2]};
    return v;
}
HF_INLINE void x3_store(float *to, x3 v, int count) {
    const f4 low = HF_SHUFFLE(v.x, v.y, 0, 4, 1, 5), high = HF_SHUFFLE(v.x, v.y, 2, 6, 3, 7);
    const f4 part = HF_SHUFFLE(low, v.z, 3, 5, 3, 5);
    const f4 rows[3] = {HF_SHUFFLE(low, v.z, 0, 1, 4, 2), HF_SHUFFLE(part, high, 0, 1, 4, 5),
                        HF_SHUFFLE(high, v.z, 6, 2, 3, 7)};
    if (count == 4) {
        std::memcpy(to, rows, sizeof rows);
    } else {
        std::memcpy(to, rows, 12 * count);
    }
}
HF_INLINE w3 widened(x3 v) {
    return {HF_CONVERT(v.x, d4), HF_CONVERT(v.y, d4), HF_CONVERT(v.z, d4)};
}
HF_INLINE x3 narrowed(w3 v) {
    return {HF_CONVERT(v.x, f4), HF_CONVERT(v.y, f4), HF_CONVERT(v.z, f4)};
}
HF_INLINE x3 x3_select(i4 mask, x3 a, x3 b) { return {mask ? a.x : b.x, mask ? a.y : b.y, mask ? a.z : b.z}; }

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
        for (int j = 0; j < n; ++j) query.face[items[q + j]] = slots[j];
        q += n;
    }
}

bool bvh_closest_points(const BvhTree &tree, const BvhClosest &query, int64_t begin, int64_t end) {
    if (!query.barycentric && !(query.max_distance < infinity)) {
        for (int64_t i = begin; i < end; ++i) query.face[i] = query.face[i] < 0 ? -1 : tree.order[query.face[i]];
        return true;
    }
    bool inside = true;
    for (int64_t q = begin; q < end; q += 4) {
        const int count = end - q < 4 ? static_cast<int>(end - q) : 4;
        const float *from[4][4];  // the corners and the query; where there is no face, only the query
        alignas(16) int32_t face[4];
        for (int j = 0; j < 4; ++j) {
            const int64_t i = q + (j < count ? j : 0), slot = query.face[i];
            const float *point = query.points + 3 * i;
            const float *vertices = tree.vertices + 3 * (query.mesh ? query.mesh[i] : 0) * tree.vertex_count;
            face[j] = slot < 0 ? -1 : tree.order[slot];
            from[3][j] = point;
            for (int v = 0; v < 3; ++v) {
                const int64_t corner = face[j] < 0 ? -1 : tree.faces[3 * (int64_t)face[j] + v];
                const bool there = corner >= 0 && corner < tree.vertex_count;
                inside &= there | (face[j] < 0);
                from[v][j] = there ? vertices + 3 * corner : point;
            }
        }
        const x3 point = x3_load(from[3]);
        const w3 a = widened(x3_load(from[0])), b = widened(x3_load(from[1])), c = widened(x3_load(from[2]));
        const Foot foot = project(widened(point), a, b, c);
        const f4 zero = {0, 0, 0, 0}, distance = HF_CONVERT(foot.distance2, f4);
        i4 index;
        std::memcpy(&index, face, sizeof index);
        const i4 within = (index >= 0) & (distance <= zero + query.max_distance);
        index = within ? index : index | -1;
        for (int j = 0; j < count; ++j) query.face[q + j] = index[j];
        if (!query.barycentric) continue;
        const f4 measured = within ? distance : zero + infinity;
        std::memcpy(query.distance + q, &measured, 4 * count);
        const x3 weights = x3_select(within, narrowed({foot.w, foot.u, foot.v}), {zero, zero, zero});
        x3_store(query.barycentric + 3 * q, weights, count);
        const w3 nearest = {foot.w * a.x + foot.u * b.x + foot.v * c.x, foot.w * a.y + foot.u * b.y + foot.v * c.y,
                            foot.w * a.z + foot.u * b.z + foot.v * c.z};
        x3_store(query.nearest + 3 * q, x3_select(within, narrowed(nearest), point), count);
    }
    return inside;
}

}  // namespace HF_ISA
