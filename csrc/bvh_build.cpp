#include "bvh_build.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>

#include "bvh.h"
#include "parallel.h"
#include "portable.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace headfields {
namespace {

typedef float f4 HF_VECTOR(16);
typedef int32_t i4 HF_VECTOR(16);

#if defined(__SSE2__)
f4 lower(f4 a, f4 b) { return (f4)_mm_min_ps((__m128)a, (__m128)b); }
f4 upper(f4 a, f4 b) { return (f4)_mm_max_ps((__m128)a, (__m128)b); }
#else
f4 lower(f4 a, f4 b) { return a < b ? a : b; }
f4 upper(f4 a, f4 b) { return a > b ? a : b; }
#endif
f4 all(float x) { return f4{x, x, x, x}; }

struct Box {  // the fourth lane is anything
    f4 lo = all(INFINITY), hi = all(-INFINITY);
    void add(const Box &other) { lo = lower(lo, other.lo), hi = upper(hi, other.hi); }
    void add(f4 point) { lo = lower(lo, point), hi = upper(hi, point); }
    float area() const {
        const f4 side = hi - lo, part = side * HF_SHUFFLE(side, side, 1, 2, 0, 3);
        return part[0] + part[1] + part[2];
    }
};

// The box of a face. Its middle, by which faces are sorted, is doubled.
struct Face {
    f4 lo, hi;  // the index of the face is in the fourth lane of lo
    int32_t index() const {
        int32_t bits[4];
        std::memcpy(bits, &lo, sizeof bits);
        return bits[3];
    }
    void set_index(int32_t index) { std::memcpy(reinterpret_cast<char *>(&lo) + 12, &index, sizeof index); }
    f4 middle() const { return lo + hi; }
    Box box() const { return {lo, hi}; }
};

// A node of the binary tree. `cost` and `share` say how its subtree becomes part of a wide node: cost[i] is the least
// sum of the areas of the wide nodes, the chance that they are visited, if its parent spends i + 1 children on it at
// most, and share[i] says how many of them go to its left side; 0: one child, a wide node of its own with share[7]
// (Wald et al. 2008; Ylitie et al. 2017).
struct Binary {
    int32_t begin, end;             // of the faces
    int32_t left = -1, right = -1;  // -1: a leaf
    double own = 0;                 // what the node costs as a wide one
    double cost[8] = {};            // the sum of many areas of which each may be near a float's largest
    int8_t share[8] = {};

    void settle(const Binary &a, const Binary &b) {
        for (int i = 7; i > 0; --i) {
            cost[i] = INFINITY;
            for (int k = 0; k < i; ++k) {
                const double sum = a.cost[k] + b.cost[i - 1 - k];
                if (sum < cost[i]) cost[i] = sum, share[i] = static_cast<int8_t>(k + 1);
            }
        }
        cost[0] = cost[7] + own;
        for (int i = 1; i < 7; ++i)
            if (cost[0] < cost[i]) cost[i] = cost[0], share[i] = 0;
    }
};

// A leaf tests eight triangles at once, so what a side costs is its area times the leaves it fills.
float groups(int32_t n) { return static_cast<float>((n + 7) >> 3); }

struct Split {
    float cost = INFINITY;
    int axis = -1;   // -1: there is none
    int32_t at = 0;  // the first bin, or place, of the right side
};

constexpr int bins = 16;
constexpr int sweep_most = 16;  // ranges as small as this are split at any place, larger ones between two bins

// Counts and boxes of the faces of a range by where their middles lie along each axis.
struct Bins {
    f4 start, scale;
    Box box[3][bins];
    int32_t count[3][bins] = {};

    explicit Bins(const Box &middles) : start(middles.lo), scale(all(0)) {
        for (int axis = 0; axis < 3; ++axis) {
            const float side = middles.hi[axis] - middles.lo[axis];
            scale[axis] = side > 1e-30f ? 0.9999f * bins / side : 0.f;
        }
    }
    i4 bin_of(const Face &face) const { return HF_CONVERT((face.middle() - start) * scale, i4); }
    void add(const Face *face, int32_t n) {
        for (int32_t i = 0; i < n; ++i) {
            const i4 bin = bin_of(face[i]);
            for (int axis = 0; axis < 3; ++axis) box[axis][bin[axis]].add(face[i].box()), ++count[axis][bin[axis]];
        }
    }
    Split best() const {
        Split split;
        for (int axis = 0; axis < 3; ++axis) {
            float right[bins];
            Box side;
            int32_t n = 0;
            for (int k = bins - 1; k > 0; --k) {
                side.add(box[axis][k]);
                n += count[axis][k];
                right[k] = n > 0 ? side.area() * groups(n) : INFINITY;
            }
            side = Box();
            n = 0;
            for (int k = 1; k < bins; ++k) {
                side.add(box[axis][k - 1]);
                n += count[axis][k - 1];
                const float cost = n > 0 ? side.area() * groups(n) + right[k] : INFINITY;
                if (cost < split.cost) split = {cost, axis, k};
            }
        }
        return split;
    }
};

constexpr int heuristic_depth = 48;  // below it ranges are halved
constexpr int32_t part_least = 4096;  // faces of a part of the work of one thread

struct Builder {
    bool balanced;    // halve every range
    int32_t *placed;  // the faces, in the order of the leaves

    // Ranges of faces left for another thread, and the nodes in their place.
    struct Part {
        int32_t node;
        Face *from, *to;
        int32_t begin, end, depth;
    };
    std::vector<Part> *parts = nullptr;
    int32_t part_most = 0;

    static int32_t add_node(std::vector<Binary> &tree, int32_t begin, int32_t end) {
        tree.emplace_back();
        tree.back().begin = begin, tree.back().end = end;
        return static_cast<int32_t>(tree.size()) - 1;
    }
    int32_t join(std::vector<Binary> &tree, int32_t index, int32_t left, int32_t right, const Box &box) const {
        Binary &node = tree[index];
        node.left = left, node.right = right;
        node.own = balanced ? node.end - node.begin : box.area();
        if (parts == nullptr) node.settle(tree[left], tree[right]);
        return index;
    }

    // A range of few faces is split at the best of all places, from lists of them sorted along each axis.
    struct Few {
        Box box[sweep_most];
        float right[sweep_most];
        uint8_t sorted[3][sweep_most], scratch[sweep_most];
        bool goes_left[sweep_most];
    };
    int32_t split_few(std::vector<Binary> &tree, Few &few, int32_t first, int32_t begin, int32_t end) const {
        const int32_t index = add_node(tree, first + begin, first + end);
        if (end - begin <= 8) return index;
        Split split;
        Box whole;
        for (int axis = 0; axis < 3; ++axis) {
            const uint8_t *list = few.sorted[axis];
            Box side;
            for (int32_t i = end - 1; i > begin; --i) {
                side.add(few.box[list[i]]);
                few.right[i] = side.area() * groups(end - i);
            }
            if (axis == 0) whole = side, whole.add(few.box[list[begin]]);
            side = Box();
            for (int32_t i = begin + 1; i < end; ++i) {
                side.add(few.box[list[i - 1]]);
                const float cost = few.right[i] + side.area() * groups(i - begin);
                if (cost < split.cost) split = {cost, axis, i};
            }
        }
        if (split.axis < 0) split = {0, 0, (begin + end) / 2};
        const int32_t middle = split.at;
        for (int32_t i = begin; i < end; ++i) few.goes_left[few.sorted[split.axis][i]] = i < middle;
        for (int axis = 0; axis < 3; ++axis) {
            if (axis == split.axis) continue;
            uint8_t *list = few.sorted[axis];
            int32_t left = begin, right = middle;
            for (int32_t i = begin; i < end; ++i) {
                const bool goes_left = few.goes_left[list[i]];
                few.scratch[goes_left ? left : right] = list[i];
                left += goes_left, right += !goes_left;
            }
            std::memcpy(list + begin, few.scratch + begin, end - begin);
        }
        const int32_t left = split_few(tree, few, first, begin, middle);
        const int32_t right = split_few(tree, few, first, middle, end);
        return join(tree, index, left, right, whole);
    }
    int32_t split_few(std::vector<Binary> &tree, const Face *face, int32_t begin, int32_t end) const {
        Few few;
        const int32_t n = end - begin;
        for (int axis = 0; axis < 3; ++axis) {
            std::pair<float, int32_t> key[sweep_most];
            for (int32_t i = 0; i < n; ++i) key[i] = {face[begin + i].middle()[axis], i};
            std::sort(key, key + n);
            for (int32_t i = 0; i < n; ++i) few.sorted[axis][i] = static_cast<uint8_t>(key[i].second);
        }
        for (int32_t i = 0; i < n; ++i) few.box[i] = face[begin + i].box();
        const int32_t index = split_few(tree, few, begin, 0, n);
        for (int32_t i = 0; i < n; ++i) placed[begin + i] = face[begin + few.sorted[0][i]].index();
        return index;
    }

    // Splits faces begin..end, which lie in `from`; `to` is as long, and its content of no interest.
    int32_t split(std::vector<Binary> &tree, Face *from, Face *to, int32_t begin, int32_t end, int32_t depth) const {
        const int32_t n = end - begin;
        const bool halve = balanced || depth >= heuristic_depth;
        if (parts != nullptr && n <= part_most) {
            const int32_t index = add_node(tree, begin, end);
            parts->push_back({index, from, to, begin, end, depth});
            return index;
        }
        if (!halve && n <= sweep_most) return split_few(tree, from, begin, end);
        const int32_t index = add_node(tree, begin, end);
        if (n <= 8) {
            for (int32_t i = begin; i < end; ++i) placed[i] = from[i].index();
            return index;
        }
        Box whole, middles;
        for (int32_t i = begin; i < end; ++i) whole.add(from[i].box()), middles.add(from[i].middle());
        Split split_;
        int32_t middle;
        Bins bins_(middles);
        if (!halve) {
            bins_.add(from + begin, n);
            split_ = bins_.best();
        }
        if (split_.axis >= 0) {
            middle = begin;
            for (int32_t k = 0; k < split_.at; ++k) middle += bins_.count[split_.axis][k];
            int32_t left = begin, right = middle;
            for (int32_t i = begin; i < end; ++i) {
                const bool goes_left = bins_.bin_of(from[i])[split_.axis] < split_.at;
                to[goes_left ? left : right] = from[i];
                left += goes_left, right += !goes_left;
            }
            std::swap(from, to);
        } else {
            const f4 side = middles.hi - middles.lo;
            const int axis = side[0] >= side[1] ? (side[0] >= side[2] ? 0 : 2) : (side[1] >= side[2] ? 1 : 2);
            middle = begin + (n / 2 + 7) / 8 * 8;  // whole leaves on the left
            std::nth_element(from + begin, from + middle, from + end, [axis](const Face &a, const Face &b) {
                const float x = a.middle()[axis], y = b.middle()[axis];
                return x < y || (x == y && a.index() < b.index());
            });
        }
        const int32_t left = split(tree, from, to, begin, middle, depth + 1);
        const int32_t right = split(tree, from, to, middle, end, depth + 1);
        return join(tree, index, left, right, whole);
    }

    // The tree of all faces, its root first.
    std::vector<Binary> build(Face *faces, Face *other, int32_t count, int threads) {
        std::vector<Binary> tree;
        tree.reserve(count / 3 + 16);
        part_most = std::max(count / (8 * std::max(threads, 1)), part_least);
        if (threads <= 1 || count <= part_most) {
            split(tree, faces, other, 0, count, 0);
            return tree;
        }
        std::vector<Part> left_over;
        parts = &left_over;
        split(tree, faces, other, 0, count, 0);
        parts = nullptr;
        const int32_t above = static_cast<int32_t>(tree.size());
        std::vector<std::vector<Binary>> below(left_over.size());
        parallel_for(static_cast<int64_t>(left_over.size()), 1, threads, [&](int64_t first, int64_t last, int) {
            for (int64_t p = first; p < last; ++p) {
                const Part &part = left_over[p];
                split(below[p], part.from, part.to, part.begin, part.end, part.depth);
            }
        });
        for (size_t p = 0; p < below.size(); ++p) {
            const int32_t start = static_cast<int32_t>(tree.size()) - 1;  // the root takes the place that was kept
            for (Binary &node : below[p])
                if (node.left >= 0) node.left += start, node.right += start;
            tree[left_over[p].node] = below[p][0];
            tree.insert(tree.end(), below[p].begin() + 1, below[p].end());
        }
        std::vector<char> done(above, 0);
        for (const Part &part : left_over) done[part.node] = 1;
        for (int32_t n = above - 1; n >= 0; --n)  // children come after their parents
            if (!done[n]) tree[n].settle(tree[tree[n].left], tree[tree[n].right]);
        return tree;
    }
};

// The children, `most` at most, that a wide node spends on a binary subtree.
void spend(const std::vector<Binary> &tree, int32_t n, int most, int32_t *kids, int &count) {
    const int left = tree[n].left < 0 ? 0 : tree[n].share[most - 1];
    if (left == 0) {
        kids[count++] = n;
        return;
    }
    spend(tree, tree[n].left, left, kids, count);
    spend(tree, tree[n].right, most - left, kids, count);
}

// Folds the binary tree into the wide one, breadth first, so that each level is a range of nodes.
BvhTopology fold(const std::vector<Binary> &tree, const int32_t *placed) {
    BvhTopology out;
    std::vector<int32_t> level = {0}, below;
    for (int32_t node = 0; !level.empty(); level.swap(below), below.clear()) {
        out.levels.push_back(node);
        out.children.resize(out.children.size() + 8 * level.size(), bvh_empty);
        int32_t next = node + static_cast<int32_t>(level.size());
        for (const int32_t top : level) {
            int32_t kids[8];
            int count = 0;
            spend(tree, top, 8, kids, count);
            for (int k = 0; k < count; ++k) {
                const Binary &b = tree[kids[k]];
                if (b.left < 0) {
                    out.children[8 * node + k] = ~static_cast<int32_t>(out.slot.size());
                    for (int32_t i = b.begin; i < b.begin + 8; ++i) out.order.push_back(i < b.end ? placed[i] : -1);
                    out.slot.push_back(8 * node + k);
                } else {
                    out.children[8 * node + k] = next++;
                    below.push_back(kids[k]);
                }
            }
            ++node;
        }
    }
    return out;
}

}  // namespace

BvhTopology bvh_build(const int32_t *faces, int64_t face_count, const float *vertices, int64_t vertex_count, int threads) {
    BvhTopology out;
    if (face_count == 0) {
        out.children.assign(8, bvh_empty);
        out.levels = {0};
        return out;
    }
    if (face_count > (INT64_C(1) << 30)) throw std::length_error("bvh_build: too many faces for the tree");
    const std::unique_ptr<f4[]> corner(new f4[vertex_count]);
    for (int64_t v = 0; v < vertex_count; ++v)
        for (int axis = 0; axis < 3; ++axis) {
            const float x = vertices[3 * v + axis];
            corner[v][axis] = std::abs(x) < bvh_far ? x : 0.f;
        }
    const std::unique_ptr<Face[]> buffer(new Face[2 * face_count]);
    const std::unique_ptr<int32_t[]> placed(new int32_t[face_count]);
    for (const bool balanced : {false, true}) {  // odd meshes make the heuristic's tree deep; the stacks of the queries are short
        parallel_for(face_count, 65536, threads, [&](int64_t begin, int64_t end, int) {
            for (int64_t f = begin; f < end; ++f) {
                const f4 a = corner[faces[3 * f]], b = corner[faces[3 * f + 1]], c = corner[faces[3 * f + 2]];
                Face &face = buffer[f];
                face = {lower(a, lower(b, c)), upper(a, upper(b, c))};
                face.set_index(static_cast<int32_t>(f));
            }
        });
        Builder builder{balanced, placed.get()};
        out = fold(builder.build(buffer.get(), buffer.get() + face_count, static_cast<int32_t>(face_count), threads), placed.get());
        if (static_cast<int>(out.levels.size()) <= bvh_levels) return out;
    }
    throw std::length_error("bvh_build: too many faces for the tree");
}

}  // namespace headfields
