// First hit of a ray, either side of a face.
#include "bvh.h"
#include "bvh_project.h"
#include "simd.h"

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
    float origin_x, origin_y, origin_z;
    double dx, dy, dz;
};

// Bit k is set unless triangle k is certainly missed, or met outside [0, farthest], a distance along the axis z.
HF_INLINE uint32_t may_hit(const float *rows, const Shear &shear, float farthest) {
    const f8 ox = f8_set(shear.origin_x), oy = f8_set(shear.origin_y), oz = f8_set(shear.origin_z);
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
HF_INLINE float exact_hit(const float *rows, const Shear &shear, double weights[4]) {
    const float *to_x = rows + 8 * shear.x, *to_y = rows + 8 * shear.y, *to_z = rows + 8 * shear.z;
    const auto corners = [](const float *from, double o) HF_ALWAYS_INLINE {
        return d4{from[8 * row_a], from[8 * row_b], from[8 * row_c], 0.} - d4_set(o);
    };
    const d4 along = corners(to_z, shear.origin_z);
    const d4 x = d4_set(shear.dz) * corners(to_x, shear.origin_x) - d4_set(shear.dx) * along;
    const d4 y = d4_set(shear.dz) * corners(to_y, shear.origin_y) - d4_set(shear.dy) * along;
    const double w = difference(x[1] * y[2], y[1] * x[2]), u = difference(x[2] * y[0], y[2] * x[0]);
    const double v = difference(x[0] * y[1], y[0] * x[1]), sum = w + u + v;
    const bool one_sided = (w >= 0 && u >= 0 && v >= 0) || (w <= 0 && u <= 0 && v <= 0);
    const bool area = rows[8 * row_gu] != 0 || rows[8 * (row_gu + 1)] != 0 || rows[8 * (row_gu + 2)] != 0;
    if (!one_sided || !area || sum == 0) return not_a_number;
    weights[0] = w, weights[1] = u, weights[2] = v, weights[3] = sum;
    return (float)((w * along[0] + u * along[1] + v * along[2]) / (sum * shear.dz));
}

namespace {

struct Entry {
    float enter;
    int32_t child;
};

// Pushes the children of one node that are reached, the farthest lowest on the stack.
HF_INLINE void push(const int32_t *children, uint32_t hits, f8 enter, Entry *stack, int &top) {
    if (!hits) return;
    alignas(32) float at_enter[8];
    f8_store(at_enter, enter);
    const int base = top;
    do {
        const int k = lowest_bit(hits);
        hits &= hits - 1;
        const Entry entry = {at_enter[k], children[k]};
        if (entry.child == bvh_empty) continue;
        int at = top++;
        for (; at > base && stack[at - 1].enter < entry.enter; --at) stack[at] = stack[at - 1];
        stack[at] = entry;
    } while (hits);
}

constexpr int packet_most = 16;
constexpr int packet_budget = 48;  // steps of a packet, nodes and leaves

// The first hit of a ray so far.
struct Hit {
    float distance;
    int32_t face;  // of faces at one distance, which is rounded, the lowest index wins
    int64_t slot;  // -1 where there is none
    double weights[4];

    // Of a box, which begins at a rounded distance.
    float bound() const { return distance * 1.000001f; }
    // Tests those triangles of a leaf of which a bit is set. Whether one is the first now.
    HF_INLINE_MEMBER bool meet(const BvhTree &tree, const float *rows, int64_t leaf, uint32_t bits, const Shear &shear) {
        bool nearer = false;
        for (; bits; bits &= bits - 1) {
            const int k = lowest_bit(bits);
            double at[4];
            const float t = exact_hit(rows + k, shear, at);
            const int32_t index = tree.order[8 * leaf + k];
            if (!(t >= 0 && t < infinity && (t < distance || (t == distance && index < face)))) continue;
            distance = t, face = index, slot = 8 * leaf + k, nearer = true;
            for (int w = 0; w < 4; ++w) weights[w] = at[w];
        }
        return nearer;
    }
    HF_INLINE_MEMBER void write(const BvhRays &rays, int64_t i) const {
        rays.face[i] = slot < 0 ? -1 : face;
        if (!rays.barycentric) return;
        for (int k = 0; k < 3; ++k) rays.barycentric[3 * i + k] = (float)(weights[k] / weights[3]);
        rays.distance[i] = slot < 0 ? infinity : distance;
    }
};

// Rays side by side. A row holds one number of each.
struct Packet {
    typedef float Row[packet_most];
    alignas(32) Row origin[3], direction[3], inverse[3];
    alignas(32) Row near_origin[3], far_origin[3];  // the origin, as the first and the second plane of a box see it
    alignas(32) Row near_scaled[3], far_scaled[3];  // what remains to be subtracted from a plane's place times `inverse`
    alignas(32) Row slope_x, slope_y;
    alignas(32) int32_t shear_axis[packet_most];
    alignas(32) Row bound;  // of the distance; where a box begins is rounded too
    uint32_t usable;        // a bit is 0 where the ray has no result: not finite, or too far away
    Hit hit[packet_most];

    void start(const BvhRays &rays, const uint32_t *items, int count) {
        for (int j = 0; j < packet_most; ++j) {
            const int64_t i = items[j < count ? j : 0];
            for (int axis = 0; axis < 3; ++axis) origin[axis][j] = rays.origins[3 * i + axis], direction[axis][j] = rays.directions[3 * i + axis];
            hit[j] = {rays.max_distance, INT32_MAX, -1, {0, 0, 0, 1}};
        }
        usable = 0;
        for (int base = 0; base < packet_most; base += 8) {
            const f8 zero = f8_set(0.f), one = f8_set(1.f), far = f8_set(bvh_far);
            i8 good = zero == zero;
            f8 size[3], d[3];
            for (int axis = 0; axis < 3; ++axis) {
                const f8 o = f8_load(origin[axis] + base);
                d[axis] = f8_load(direction[axis] + base), size[axis] = f8_max(d[axis], -d[axis]);
                const f8 away = f8_max(o, -o);
                good &= (away < far) & (size[axis] < far);
                // Finite also along an axis the ray does not move on, so that no product is NaN; there the planes are
                // moved outward, so that a ray within one of them, which would meet it at 0 * 1e30, is between the two.
                const i8 still = ~(size[axis] > f8_set(1e-30f));
                const f8 i = f8_select(still, f8_set(1e30f), one / f8_select(still, one, d[axis]));
                const f8 outward = f8_select(still, f8_set(1e-6f) * away + f8_set(1e-10f), zero);
                const f8 first = o + outward, second = o - outward, near = first * i, away_scaled = second * i;
                f8_store(inverse[axis] + base, i);
                f8_store(near_origin[axis] + base, first), f8_store(far_origin[axis] + base, second);
                // Rounded outward, by more than the product and the difference err.
                f8_store(near_scaled[axis] + base, near + f8_set(2.4e-7f) * f8_max(near, -near));
                f8_store(far_scaled[axis] + base, away_scaled - f8_set(2.4e-7f) * f8_max(away_scaled, -away_scaled));
            }
            const i8 is_x = (size[0] > size[1]) & (size[0] > size[2]), is_z = ~is_x & ~((size[1] > size[2]) & ~(size[0] > size[1]));
            const i8 axis = is_z ? i8{} + 2 : is_x ? i8{} : i8{} + 1;
            std::memcpy(shear_axis + base, &axis, sizeof axis);
            const f8 dz = f8_select(is_z, d[2], f8_select(is_x, d[0], d[1]));
            f8_store(slope_x + base, f8_select(is_z, d[0], f8_select(is_x, d[1], d[2])) / dz);
            f8_store(slope_y + base, f8_select(is_z, d[1], f8_select(is_x, d[2], d[0])) / dz);
            usable |= mask_bits(good) << base;
        }
        for (int j = 0; j < packet_most; ++j) bound[j] = j < count ? rays.max_distance : -1.f;
    }

    HF_INLINE_MEMBER Shear shear_of(int j) const {
        const int z = shear_axis[j], x = z == 2 ? 0 : z + 1, y = x == 2 ? 0 : x + 1;
        return {x, y, z, slope_x[j], slope_y[j], origin[x][j], origin[y][j], origin[z][j], direction[x][j], direction[y][j], direction[z][j]};
    }

    HF_INLINE_MEMBER void visit(const BvhTree &tree, const float *triangles, int64_t leaf, int j) {
        const float *rows = triangles + leaf * bvh_leaf_floats;
        const Shear shear = shear_of(j);
        const uint32_t hits = may_hit(rows, shear, hit[j].distance * absolute((float)shear.dz));
        if (hits && hit[j].meet(tree, rows, leaf, hits, shear)) bound[j] = hit[j].bound();
    }

    // All rays together, front to back. False, with what was found so far, where they run into different octants or
    // it takes too many steps to be worth it.
    bool cast(const BvhTree &tree, const float *bounds, const float *triangles) {
        f8 near[3], far[3], slow[3], fast[3];  // between which bounds origins and inverse directions lie
        int near_row[3], far_row[3];
        const auto lowest = [](const float *row) { return f8_lowest(f8_min(f8_load(row), f8_load(row + 8))); };
        const auto highest = [](const float *row) { return -f8_lowest(-f8_max(f8_load(row), f8_load(row + 8))); };
        for (int axis = 0; axis < 3; ++axis) {
            const float least = lowest(inverse[axis]), most = highest(inverse[axis]);
            const bool up = least > 0;
            if (!up && !(most < 0)) return false;
            slow[axis] = f8_set(least), fast[axis] = f8_set(most);
            near[axis] = f8_set(up ? highest(near_origin[axis]) : lowest(near_origin[axis]));
            far[axis] = f8_set(up ? lowest(far_origin[axis]) : highest(far_origin[axis]));
            near_row[axis] = 8 * (up ? axis : 3 + axis), far_row[axis] = 8 * (up ? 3 + axis : axis);
        }
        Entry stack[bvh_stack];
        int top = 0, steps = 0;
        float farthest = highest(bound);
        for (int32_t node = 0; node >= 0;) {
            const float *box = bounds + (int64_t)node * bvh_node_floats;
            f8 enter = f8_set(0.f), leave = f8_set(infinity);
            for (int axis = 0; axis < 3; ++axis) {
                const f8 in = f8_load(box + near_row[axis]) - near[axis], out = f8_load(box + far_row[axis]) - far[axis];
                enter = f8_max(enter, f8_min(in * slow[axis], in * fast[axis]));
                leave = f8_min(leave, f8_max(out * slow[axis], out * fast[axis]));
            }
            push(tree.children + 8 * (int64_t)node, mask_bits((enter <= leave * f8_set(1.0000004f)) & (enter <= f8_set(farthest))), enter, stack, top);
            node = -1;
            while (top > 0) {
                const Entry entry = stack[--top];
                if (entry.enter > farthest) continue;
                if (++steps > packet_budget) return false;
                if (entry.child >= 0) {
                    node = entry.child;
                    break;
                }
                const int64_t leaf = ~entry.child;
                const int32_t slot = tree.slot[leaf];
                uint32_t reached = reach(bounds + (int64_t)(slot / 8) * bvh_node_floats + slot % 8, near_row, far_row);
                if (!reached) continue;
                for (; reached; reached &= reached - 1) visit(tree, triangles, leaf, lowest_bit(reached));
                farthest = highest(bound);
            }
        }
        return true;
    }

    // Which rays reach the box of a leaf, a lane of its parent's rows.
    HF_INLINE_MEMBER uint32_t reach(const float *box, const int *near_row, const int *far_row) const {
        uint32_t reached = 0;
        for (int base = 0; base < packet_most; base += 8) {
            f8 enter = f8_set(0.f), leave = f8_set(infinity);
            for (int axis = 0; axis < 3; ++axis) {
                const f8 i = f8_load(inverse[axis] + base);
                enter = f8_max(enter, f8_set(box[near_row[axis]]) * i - f8_load(near_scaled[axis] + base));
                leave = f8_min(leave, f8_set(box[far_row[axis]]) * i - f8_load(far_scaled[axis] + base));
            }
            reached |= mask_bits((enter <= leave * f8_set(1.0000004f)) & (enter <= f8_load(bound + base))) << base;
        }
        return reached;
    }

};

// Rays each on its own way through the tree. A ray waits at every step, for what it loads and for branches that cannot
// be predicted. So many rays take a step in turn, and where a step leads is not a branch but a list that the ray is put
// on: the processor is then at work on several rays at a time.
constexpr int stream_most = 64;

struct Walk {
    float inverse[3], near_scaled[3], far_scaled[3];  // see Packet
    int32_t near_row[3];
    const float *bounds, *triangles;  // of its mesh
    int32_t child, top;  // where it is: a node, ~leaf, or bvh_empty at the end; the height of its stack
    Shear shear;
    float bound;
    uint32_t may;  // which triangles of its leaf are to be tested
    uint32_t item;
    Hit hit;
};

// Rays by where they are: at a node, at a leaf, or at one of which triangles may be hit.
struct Lists {
    int nodes = 0, leaves = 0, near = 0;
    uint8_t at_node[stream_most + 1], at_leaf[stream_most + 1], at_near[stream_most + 1];
};

struct Stream {
    const BvhTree &tree;
    const BvhRays &rays;
    const bool large;
    int count = 0;
    alignas(64) Walk walk[stream_most];
    Entry stack[stream_most][bvh_stack + 2];  // the lowest is the end of the way

    Stream(const BvhTree &tree, const BvhRays &rays) : tree(tree), rays(rays), large(is_large(tree)) {}

    // A ray of a packet, with its first hit so far.
    HF_INLINE_MEMBER void add(const Packet &packet, int j, uint32_t item, const float *bounds, const float *triangles) {
        Walk &w = walk[count];
        for (int axis = 0; axis < 3; ++axis) {
            w.inverse[axis] = packet.inverse[axis][j];
            w.near_scaled[axis] = packet.near_scaled[axis][j], w.far_scaled[axis] = packet.far_scaled[axis][j];
            w.near_row[axis] = 8 * (w.inverse[axis] > 0 ? axis : 3 + axis);
        }
        w.bounds = bounds, w.triangles = triangles, w.child = 0, w.top = 1;
        w.shear = packet.shear_of(j), w.bound = packet.bound[j], w.item = item, w.hit = packet.hit[j];
        stack[count++][0] = {0.f, bvh_empty};
    }

    // The box rows of a node, or of a leaf what may_hit reads; at the end of the way the root, lest it be nowhere.
    HF_INLINE_MEMBER void prefetch(const Walk &w, int32_t child) const {
        const int64_t leaf = child >> 31, place = child == bvh_empty ? 0 : child ^ leaf;  // leaf: all bits, or none
        const intptr_t bounds = (intptr_t)w.bounds, triangles = (intptr_t)w.triangles;
        const int64_t size = 4 * (bvh_node_floats + (leaf & (bvh_leaf_floats - bvh_node_floats)));
        const char *at = (const char *)(bounds ^ ((bounds ^ triangles) & leaf)) + place * size;
        for (int line = 0; line < 5; ++line) HF_PREFETCH(at + 64 * line);
    }

    // Goes on, if `moves`, to where the top of the stack says. A list is written no faster than it is read.
    HF_INLINE_MEMBER void next(Lists &lists, int j, int top, bool moves) {
        Walk &w = walk[j];
        const int32_t child = stack[j][top - 1].child;
        w.child ^= (w.child ^ child) & -(int32_t)moves, w.top = top - moves;
        if (large) prefetch(w, child);
        lists.at_node[lists.nodes] = lists.at_leaf[lists.leaves] = static_cast<uint8_t>(j);
        lists.nodes += moves & (child >= 0), lists.leaves += moves & (child < 0) & (child != bvh_empty);
    }

    HF_INLINE_MEMBER void step(Lists &lists, int j) {
        const Walk &w = walk[j];
        const float *box = w.bounds + (int64_t)w.child * bvh_node_floats;
        f8 enter = f8_set(0.f), leave = f8_set(infinity);
        for (int axis = 0; axis < 3; ++axis) {
            const f8 inverse = f8_set(w.inverse[axis]);
            const float *first = box + w.near_row[axis], *second = box + 8 * (2 * axis + 3) - w.near_row[axis];
            enter = f8_max(enter, f8_load(first) * inverse - f8_set(w.near_scaled[axis]));
            leave = f8_min(leave, f8_load(second) * inverse - f8_set(w.far_scaled[axis]));
        }
        const uint32_t hits = mask_bits((enter <= leave * f8_set(1.0000004f)) & (enter <= f8_set(w.bound)));
        const int32_t *children = tree.children + 8 * (int64_t)w.child;
        // The nearest last, without a branch on which that is. Of one child twice the same, of none anything.
        alignas(32) float at_enter[8];
        f8_store(at_enter, enter);
        Entry *entry = stack[j] + w.top;
        int nearest = lowest_bit(hits | 128);
        const int last = highest_bit(hits | 1);
        for (uint32_t rest = hits & (hits - 1) & ~(1u << last); HF_UNLIKELY(rest); rest &= rest - 1, ++entry) {
            const int k = lowest_bit(rest), turn = (nearest ^ k) & -(at_enter[k] < at_enter[nearest]), far = k ^ turn;
            *entry = {at_enter[far], children[far]};
            nearest ^= turn;
        }
        const int turn = (nearest ^ last) & -(at_enter[last] < at_enter[nearest]), far = last ^ turn;
        nearest ^= turn;
        entry[0] = {at_enter[far], children[far]};
        entry[1] = {at_enter[nearest], children[nearest]};
        next(lists, j, (int)(entry - stack[j]) + (hits != 0) + ((hits & (hits - 1)) != 0), true);
    }

    HF_INLINE_MEMBER void test(Lists &lists, int j) {
        Walk &w = walk[j];
        const float *rows = w.triangles + (int64_t)~w.child * bvh_leaf_floats;
        w.may = may_hit(rows, w.shear, w.hit.distance * absolute((float)w.shear.dz));
        lists.at_near[lists.near] = static_cast<uint8_t>(j);
        lists.near += w.may != 0;
        next(lists, j, w.top, w.may == 0);
    }

    HF_INLINE_MEMBER void meet(Lists &lists, int j) {
        Walk &w = walk[j];
        const int64_t leaf = ~w.child;
        int top = w.top;
        if (w.hit.meet(tree, w.triangles + leaf * bvh_leaf_floats, leaf, w.may, w.shear)) {
            w.bound = w.hit.bound();
            Entry *entry = stack[j];
            const int height = top;
            top = 1;
            for (int k = 1; k < height; ++k) {  // leaves out what is too far by now
                const Entry kept = entry[k];
                entry[top] = kept, top += kept.enter <= w.bound;
            }
        }
        next(lists, j, top, true);
    }

    void run() {
        Lists lists;
        for (int j = 0; j < count; ++j) lists.at_node[j] = static_cast<uint8_t>(j);
        lists.nodes = count;
        while (lists.nodes + lists.leaves > 0) {
            const int nodes = lists.nodes;
            lists.nodes = 0;
            for (int k = 0; k < nodes; ++k) step(lists, lists.at_node[k]);
            const int leaves = lists.leaves;
            lists.leaves = lists.near = 0;
            for (int k = 0; k < leaves; ++k) test(lists, lists.at_leaf[k]);
            for (int k = 0; k < lists.near; ++k) meet(lists, lists.at_near[k]);
        }
        for (int j = 0; j < count; ++j) walk[j].hit.write(rays, walk[j].item);
        count = 0;
    }
};

}  // namespace

void bvh_raycast(const BvhTree &tree, const BvhRays &rays, const uint32_t *items, int64_t count) {
    Packet packet;
    Stream stream(tree, rays);
    int64_t alone = 0, pause = packet_most;  // rays that still go alone after a packet that did not pay
    for (int64_t q = 0; q < count;) {
        const int32_t b = rays.mesh ? rays.mesh[items[q]] : 0;
        const float *bounds = tree.bounds + b * tree.nodes * bvh_node_floats;
        const float *triangles = tree.triangles + b * tree.leaves * bvh_leaf_floats;
        int n = 1;
        while (n < packet_most && q + n < count && (rays.mesh == nullptr || rays.mesh[items[q + n]] == b)) ++n;
        packet.start(rays, items + q, n);
        for (int64_t next = q + n; next < q + n + packet_most && next < count; ++next) {
            HF_PREFETCH(rays.origins + 3 * (int64_t)items[next]);
            HF_PREFETCH(rays.directions + 3 * (int64_t)items[next]);
        }
        bool done = false;
        if (alone <= 0 && n >= 4 && packet.usable == (1u << packet_most) - 1) {
            done = packet.cast(tree, bounds, triangles);
            if (done)
                pause = packet_most;
            else
                alone = pause, pause = pause < 4096 ? 2 * pause : pause;
        }
        if (!done) alone -= n;
        for (int j = 0; j < n; ++j) {
            if (done || !(packet.usable >> j & 1))
                packet.hit[j].write(rays, items[q + j]);
            else
                stream.add(packet, j, items[q + j], bounds, triangles);
        }
        if (stream.count > stream_most - packet_most) stream.run();
        q += n;
    }
    stream.run();
}

}  // namespace HF_ISA
