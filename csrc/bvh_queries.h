// Shared by the bindings of the trees: arrays, their checks, and the order of the queries.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bvh.h"
#include "bvh_order.h"
#include "parallel.h"

namespace headfields {

template <class T, int N> using In = nanobind::ndarray<const T, nanobind::ndim<N>, nanobind::c_contig, nanobind::device::cpu>;
template <class T, int N> using Out = nanobind::ndarray<T, nanobind::ndim<N>, nanobind::c_contig, nanobind::device::cpu>;

// What the descents rely on, as a registered operation may be called with any tree: no index leads out of an array, a
// child comes after its one parent, and there are at most bvh_levels levels. `rows` is what `order` counts: faces, or
// vertices.
inline void check_topology(const In<int32_t, 2> &children, const In<int32_t, 1> &order, const In<int32_t, 1> &slot, int64_t rows) {
    const int64_t nodes = children.shape(0), leaves = slot.shape(0);
    bool fits = nodes > 0 && children.shape(1) == 8 && int64_t(order.shape(0)) == 8 * leaves;
    std::vector<int8_t> level(fits ? nodes : 0, 0);
    const int32_t *child = children.data(), *row = order.data(), *place = slot.data();
    for (int64_t n = 0; fits && n < nodes; ++n)
        for (int64_t k = 8 * n; k < 8 * n + 8; ++k) {
            if (child[k] == bvh_empty) continue;
            if (child[k] < 0) {
                fits &= ~child[k] < leaves;
            } else {
                fits &= child[k] > n && child[k] < nodes && level[child[k]] == 0 && level[n] + 1 < bvh_levels;
                if (!fits) break;
                level[child[k]] = static_cast<int8_t>(level[n] + 1);
            }
        }
    if (fits) {  // loops without a branch, which vectorize
        int32_t least = -1, most = -1, first = 0, last = 0;
        for (int64_t k = 0; k < 8 * leaves; ++k) least = std::min(least, row[k]), most = std::max(most, row[k]);
        for (int64_t k = 0; k < leaves; ++k) first = std::min(first, place[k]), last = std::max(last, place[k]);
        fits = least == -1 && most < rows && first == 0 && (leaves == 0 || last < 8 * nodes);
    }
    if (!fits) throw std::invalid_argument("children, order and slot are not a tree over these faces or vertices");
}

// The blocks of a refit, (meshes, ..., floats).
template <class Array> void check_block(const Array &block, int64_t meshes, int64_t each, int64_t floats) {
    if (int64_t(block.shape(0)) != meshes || int64_t(block.shape(1)) != each || int64_t(block.shape(2)) != floats)
        throw std::invalid_argument("bounds, or what the leaves hold, do not fit the tree and its meshes");
}

inline void check_mesh(const std::optional<In<int32_t, 1>> &mesh, int64_t n, int64_t meshes) {
    if (!mesh) {
        if (n > 0 && meshes < 1) throw std::out_of_range("there is no mesh to query");
        return;
    }
    if (int64_t(mesh->shape(0)) != n) throw std::invalid_argument("mesh_index and queries differ in length");
    const int32_t *index = mesh->data();
    for (int64_t i = 0; i < n; ++i)
        if (index[i] < 0 || index[i] >= meshes)
            throw std::out_of_range("mesh_index holds " + std::to_string(index[i]) + ", but there are " + std::to_string(meshes) + " meshes");
}

// Calls kernel(items, count) on all n queries, neighbors in space together.
template <class Kernel> void in_order(const float *points, const int32_t *mesh, int64_t n, int64_t meshes, int threads, const Kernel &kernel) {
    const std::unique_ptr<uint32_t[]> items = bvh_order(points, mesh, n, meshes, threads);
    parallel_for(n, bvh_order_grain(n, threads), threads,
                 [&](int64_t begin, int64_t end, int) { kernel(items.get() + begin, end - begin); });
}

}  // namespace headfields
