#include "bvh_build.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "bvh.h"

namespace headfields {
namespace {

struct Box {
    float lo[3] = {INFINITY, INFINITY, INFINITY}, hi[3] = {-INFINITY, -INFINITY, -INFINITY};
    void add(const Box &other) {
        for (int i = 0; i < 3; ++i) lo[i] = std::min(lo[i], other.lo[i]), hi[i] = std::max(hi[i], other.hi[i]);
    }
    float area() const {
        float side[3];
        for (int i = 0; i < 3; ++i) side[i] = std::max(hi[i] - lo[i], 0.f);
        const auto [x, y, z] = side;
        return x * y + y * z + z * x;
    }
};

struct Binary {
    Box box;
    int64_t begin, end;            // faces, in sorted[0]
    int32_t left = -1, right = -1;  // -1: a leaf
};

struct Builder {
    std::vector<Box> boxes;
    std::vector<int32_t> sorted[3];  // the faces of every range, by centroid along each axis
    std::vector<int32_t> scratch;
    std::vector<float> cost;
    std::vector<char> goes_left;
    std::vector<Binary> binary;
    int heuristic_depth = 48;  // below it ranges are halved, and at 0 the tree is balanced throughout

    // A leaf tests eight triangles at once, so what a side costs is its area times the leaves it fills.
    static float groups(int64_t n) { return static_cast<float>((n + 7) / 8); }

    int32_t split(int64_t begin, int64_t end, int depth) {
        const int32_t index = static_cast<int32_t>(binary.size());
        binary.push_back({Box(), begin, end});
        for (int64_t i = begin; i < end; ++i) binary[index].box.add(boxes[sorted[0][i]]);
        if (end - begin <= 8) return index;
        int best_axis = 0;
        int64_t middle = (begin + end) / 2;
        float best = INFINITY;
        if (depth < heuristic_depth) {
            for (int axis = 0; axis < 3; ++axis) {
                const std::vector<int32_t> &list = sorted[axis];
                Box box;
                for (int64_t i = end - 1; i > begin; --i) {
                    box.add(boxes[list[i]]);
                    cost[i] = box.area() * groups(end - i);
                }
                box = Box();
                for (int64_t i = begin + 1; i < end; ++i) {
                    box.add(boxes[list[i - 1]]);
                    const float total = cost[i] + box.area() * groups(i - begin);
                    if (total < best) best = total, best_axis = axis, middle = i;
                }
            }
        }
        for (int64_t i = begin; i < end; ++i) goes_left[sorted[best_axis][i]] = i < middle;
        for (int axis = 0; axis < 3; ++axis) {
            std::vector<int32_t> &list = sorted[axis];
            int64_t left = begin, right = middle;
            for (int64_t i = begin; i < end; ++i) scratch[goes_left[list[i]] ? left++ : right++] = list[i];
            std::copy(scratch.begin() + begin, scratch.begin() + end, list.begin() + begin);
        }
        const int32_t left = split(begin, middle, depth + 1);
        const int32_t right = split(middle, end, depth + 1);
        binary[index].left = left, binary[index].right = right;
        return index;
    }

    // How a binary subtree becomes part of a node: cost[i] is the least sum of the areas of the wide nodes, the chance
    // that they are visited, if its parent spends i + 1 children on it at most, and left[i] says how many of them go to
    // its left side; 0: one child, a wide node of its own with left[7] (Wald et al. 2008; Ylitie et al. 2017).
    struct Cut {
        double cost[8];  // the sum of many areas of which each may be near a float's largest
        int8_t left[8];
    };
    std::vector<Cut> cuts() const {
        std::vector<Cut> cut(binary.size(), Cut{});
        for (int64_t n = static_cast<int64_t>(binary.size()) - 1; n >= 0; --n) {  // children come after their parents
            const Binary &b = binary[n];
            if (b.left < 0) continue;
            Cut &mine = cut[n];
            for (int i = 7; i > 0; --i) {
                mine.cost[i] = INFINITY;
                for (int k = 0; k < i; ++k) {
                    const double cost = cut[b.left].cost[k] + cut[b.right].cost[i - 1 - k];
                    if (cost < mine.cost[i]) mine.cost[i] = cost, mine.left[i] = static_cast<int8_t>(k + 1);
                }
            }
            mine.cost[0] = mine.cost[7] + (heuristic_depth > 0 ? b.box.area() : static_cast<double>(b.end - b.begin));
            for (int i = 1; i < 7; ++i)
                if (mine.cost[0] < mine.cost[i]) mine.cost[i] = mine.cost[0], mine.left[i] = 0;
        }
        return cut;
    }
    // The children, `most` at most, that a wide node spends on a binary subtree.
    void spend(const std::vector<Cut> &cut, int32_t n, int most, int32_t *kids, int &count) const {
        const int left = binary[n].left < 0 ? 0 : cut[n].left[most - 1];
        if (left == 0) {
            kids[count++] = n;
            return;
        }
        spend(cut, binary[n].left, left, kids, count);
        spend(cut, binary[n].right, most - left, kids, count);
    }

    // Folds the binary tree into the wide one, breadth first, so that each level is a range of nodes.
    void fold(int32_t root, BvhTopology &out) const {
        const std::vector<Cut> cut = cuts();
        std::vector<int32_t> level = {root}, below;
        for (int32_t node = 0; !level.empty(); level.swap(below), below.clear()) {
            out.levels.push_back(node);
            out.children.resize(out.children.size() + 8 * level.size(), bvh_empty);
            int32_t next = node + static_cast<int32_t>(level.size());
            for (const int32_t top : level) {
                int32_t kids[8];
                int count = 0;
                spend(cut, top, 8, kids, count);
                for (int k = 0; k < count; ++k) {
                    const Binary &b = binary[kids[k]];
                    if (b.left < 0) {
                        out.children[8 * node + k] = ~static_cast<int32_t>(out.slot.size());
                        for (int64_t i = b.begin; i < b.begin + 8; ++i)
                            out.order.push_back(i < b.end ? sorted[0][i] : -1);
                        out.slot.push_back(8 * node + k);
                    } else {
                        out.children[8 * node + k] = next++;
                        below.push_back(kids[k]);
                    }
                }
                ++node;
            }
        }
    }
};

}  // namespace

BvhTopology bvh_build(const int32_t *faces, int64_t face_count, const float *vertices) {
    BvhTopology out;
    if (face_count == 0) {
        out.children.assign(8, bvh_empty);
        out.levels = {0};
        return out;
    }
    Builder builder;
    builder.boxes.resize(face_count);
    std::vector<float> centroid(3 * face_count);
    for (int64_t f = 0; f < face_count; ++f)
        for (int axis = 0; axis < 3; ++axis) {
            float lo = INFINITY, hi = -INFINITY;
            for (int k = 0; k < 3; ++k) {
                float x = vertices[3 * static_cast<int64_t>(faces[3 * f + k]) + axis];
                if (!(std::abs(x) < bvh_far)) x = 0;
                lo = std::min(lo, x), hi = std::max(hi, x);
            }
            builder.boxes[f].lo[axis] = lo, builder.boxes[f].hi[axis] = hi;
            centroid[axis * face_count + f] = 0.5f * lo + 0.5f * hi;
        }
    for (int axis = 0; axis < 3; ++axis) {
        builder.sorted[axis].resize(face_count);
        std::iota(builder.sorted[axis].begin(), builder.sorted[axis].end(), 0);
        const float *key = centroid.data() + axis * face_count;
        std::stable_sort(builder.sorted[axis].begin(), builder.sorted[axis].end(),
                         [key](int32_t a, int32_t b) { return key[a] < key[b]; });
    }
    builder.scratch.resize(face_count);
    builder.cost.resize(face_count);
    builder.goes_left.resize(face_count);
    for (const int depth : {48, 0}) {  // odd meshes make the heuristic's tree deep; the stacks of the queries are short
        builder.heuristic_depth = depth;
        builder.binary.clear();
        out = BvhTopology();
        builder.fold(builder.split(0, face_count, 0), out);
        if (static_cast<int>(out.levels.size()) <= bvh_levels) return out;
    }
    throw std::length_error("bvh_build: too many faces for the tree");
}

}  // namespace headfields
