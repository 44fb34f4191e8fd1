// Bindings of the tree over vertices: refit and the k nearest. Its topology is bvh_build's.
#include "nearest_vertices.h"

#include <algorithm>

#include "bvh_queries.h"

namespace nb = nanobind;
using namespace headfields;

namespace {

BvhTree tree_of(const In<int32_t, 2> &children, const In<int32_t, 1> &order, const In<int32_t, 1> &slot, const In<float, 3> &vertices) {
    check_topology(children, order, slot, vertices.shape(1));
    if (vertices.shape(2) != 3) throw std::invalid_argument("nearest_vertices: vertices must be (B, V, 3)");
    BvhTree tree{};
    tree.children = children.data(), tree.order = order.data(), tree.slot = slot.data(), tree.vertices = vertices.data();
    tree.meshes = vertices.shape(0), tree.vertex_count = vertices.shape(1);
    tree.nodes = children.shape(0), tree.leaves = slot.shape(0);
    return tree;
}

void refit(In<int32_t, 2> children, In<int32_t, 1> order, In<int32_t, 1> slot, In<float, 3> vertices, Out<float, 3> bounds,
           Out<float, 3> positions, int threads) {
    nb::gil_scoped_release release;
    const BvhTree tree = tree_of(children, order, slot, vertices);
    check_block(bounds, tree.meshes, tree.nodes, bvh_node_floats);
    check_block(positions, tree.meshes, tree.leaves, vertex_leaf_floats);
    constexpr int64_t grain = 512;  // leaves
    const int64_t chunks = (tree.leaves + grain - 1) / grain;
    parallel_for(tree.meshes * chunks, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t c = begin; c < end; ++c) {
            const int64_t first = c % chunks * grain;
            HF_DISPATCH(vertex_refit_leaves, tree, bounds.data(), positions.data(), c / chunks, first, std::min(first + grain, tree.leaves));
        }
    });
    parallel_for(tree.meshes, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t b = begin; b < end; ++b) HF_DISPATCH(bvh_refit_nodes, tree, bounds.data(), b);
    });
}

void nearest(In<int32_t, 2> children, In<int32_t, 1> order, In<int32_t, 1> slot, In<float, 3> vertices, In<float, 3> bounds,
             In<float, 3> positions, In<float, 2> points, std::optional<In<int32_t, 1>> mesh, float max_distance, Out<int64_t, 2> index,
             std::optional<Out<float, 2>> distance, int threads) {
    nb::gil_scoped_release release;
    BvhTree tree = tree_of(children, order, slot, vertices);
    check_block(bounds, tree.meshes, tree.nodes, bvh_node_floats);
    check_block(positions, tree.meshes, tree.leaves, vertex_leaf_floats);
    tree.bounds = bounds.data(), tree.triangles = positions.data();
    const int64_t n = points.shape(0), k = index.shape(1);
    if (points.shape(1) != 3 || int64_t(index.shape(0)) != n) throw std::invalid_argument("nearest_vertices: points must be (n, 3), index (n, k)");
    if (distance && (int64_t(distance->shape(0)) != n || int64_t(distance->shape(1)) != k))
        throw std::invalid_argument("nearest_vertices: distance and index differ in shape");
    if (k < 1 || k > vertex_most) throw std::invalid_argument("nearest_vertices: k must be 1 to 16");
    check_mesh(mesh, n, tree.meshes);
    const NearestVertices query{points.data(), mesh ? mesh->data() : nullptr, index.data(), distance ? distance->data() : nullptr, k, max_distance};
    in_order(query.points, query.mesh, n, tree.meshes, threads,
             [&](const uint32_t *items, int64_t count) { HF_DISPATCH(nearest_vertices, tree, query, items, count); });
}

}  // namespace

void bind_nearest_vertices(nb::module_ &m) {
    m.attr("vertex_leaf_floats") = vertex_leaf_floats;
    m.def("vertex_refit", &refit, "Writes bounds and positions of every mesh.");
    m.def("nearest_vertices", &nearest, nb::arg("children"), nb::arg("order"), nb::arg("slot"), nb::arg("vertices"), nb::arg("bounds"),
          nb::arg("positions"), nb::arg("points"), nb::arg("mesh").none(), nb::arg("max_distance"), nb::arg("index"),
          nb::arg("distance").none(), nb::arg("threads"), "The k nearest vertices of each point, nearest first, and their distances.");
}
