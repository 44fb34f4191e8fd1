// Shared by the bindings of the trees: arrays, their checks, and the order of the queries.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "bvh_order.h"
#include "parallel.h"

namespace headfields {

template <class T, int N> using In = nanobind::ndarray<const T, nanobind::ndim<N>, nanobind::c_contig, nanobind::device::cpu>;
template <class T, int N> using Out = nanobind::ndarray<T, nanobind::ndim<N>, nanobind::c_contig, nanobind::device::cpu>;

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
