// Bindings of the triangle tree: build, refit and the three queries.
#include "bvh.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <vector>

#include "bvh_build.h"
#include "bvh_queries.h"

namespace nb = nanobind;
using namespace headfields;

namespace {

nb::ndarray<nb::numpy, int32_t, nb::ndim<1>> give(std::vector<int32_t> &&values) {
    auto *kept = new std::vector<int32_t>(std::move(values));
    nb::capsule owner(kept, [](void *p) noexcept { delete static_cast<std::vector<int32_t> *>(p); });
    return {kept->data(), {kept->size()}, owner};
}

// Arrays of one row a query; (n, 3) where there are columns.
template <class... Arrays> void check_rows(int64_t n, const Arrays &...arrays) {
    const auto fits = [n](const auto &a) { return int64_t(a.shape(0)) == n && (a.ndim() == 1 || a.shape(1) == 3); };
    if (!(fits(arrays) && ...)) throw std::invalid_argument("bvh: queries and results differ in length, or are not (n, 3)");
}

BvhTree tree_of(const In<int32_t, 2> &children, const In<int32_t, 1> &order, const In<int32_t, 1> &slot, const In<int32_t, 2> &faces,
                const In<float, 3> &vertices) {
    check_topology(children, order, slot, faces.shape(0));
    if (faces.shape(1) != 3 || vertices.shape(2) != 3) throw std::invalid_argument("bvh: faces must be (F, 3) and vertices (B, V, 3)");
    BvhTree tree{};
    tree.children = children.data(), tree.order = order.data(), tree.slot = slot.data();
    tree.faces = faces.data(), tree.vertices = vertices.data();
    tree.meshes = vertices.shape(0), tree.vertex_count = vertices.shape(1);
    tree.nodes = children.shape(0), tree.leaves = slot.shape(0);
    return tree;
}

BvhTree filled_tree(const In<int32_t, 2> &children, const In<int32_t, 1> &order, const In<int32_t, 1> &slot, const In<int32_t, 2> &faces,
                    const In<float, 3> &vertices, const In<float, 3> &bounds, const In<float, 3> &triangles) {
    BvhTree tree = tree_of(children, order, slot, faces, vertices);
    check_block(bounds, tree.meshes, tree.nodes, bvh_node_floats);
    check_block(triangles, tree.meshes, tree.leaves, bvh_leaf_floats);
    tree.bounds = bounds.data(), tree.triangles = triangles.data();
    return tree;
}

nb::tuple build(In<int32_t, 2> faces, In<float, 2> vertices, int threads) {
    const auto outside = [&vertices](int32_t v) { return v < 0 || v >= int64_t(vertices.shape(0)); };
    if (faces.shape(1) != 3 || vertices.shape(1) != 3) throw std::invalid_argument("bvh_build: faces must be (F, 3) and vertices (V, 3)");
    if (std::any_of(faces.data(), faces.data() + faces.size(), outside)) throw std::out_of_range("bvh_build: faces name a vertex that is not there");
    BvhTopology topology;
    {
        nb::gil_scoped_release release;
        topology = bvh_build(faces.data(), faces.shape(0), vertices.data(), vertices.shape(0), threads);
    }
    return nb::make_tuple(give(std::move(topology.children)), give(std::move(topology.order)), give(std::move(topology.slot)),
                          give(std::move(topology.levels)));
}

void refit(In<int32_t, 2> children, In<int32_t, 1> order, In<int32_t, 1> slot, In<int32_t, 2> faces, In<float, 3> vertices,
           Out<float, 3> bounds, Out<float, 3> triangles, int threads) {
    nb::gil_scoped_release release;
    const BvhTree tree = tree_of(children, order, slot, faces, vertices);
    check_block(bounds, tree.meshes, tree.nodes, bvh_node_floats);
    check_block(triangles, tree.meshes, tree.leaves, bvh_leaf_floats);
    const int32_t *corner = faces.data();
    const auto outside = [&tree](int32_t v) { return v < 0 || v >= tree.vertex_count; };
    if (std::any_of(corner, corner + faces.size(), outside)) throw std::out_of_range("bvh: faces name a vertex that is not there");
    constexpr int64_t grain = 256;  // leaves
    const int64_t chunks = (tree.leaves + grain - 1) / grain;
    parallel_for(tree.meshes * chunks, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t c = begin; c < end; ++c) {
            const int64_t first = c % chunks * grain;
            HF_DISPATCH(bvh_refit_leaves, tree, bounds.data(), triangles.data(), c / chunks, first, std::min(first + grain, tree.leaves));
        }
    });
    parallel_for(tree.meshes, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t b = begin; b < end; ++b) HF_DISPATCH(bvh_refit_nodes, tree, bounds.data(), b);
    });
}

void closest(In<int32_t, 2> children, In<int32_t, 1> order, In<int32_t, 1> slot, In<int32_t, 2> faces, In<float, 3> vertices,
             In<float, 3> bounds, In<float, 3> triangles, In<float, 2> points, std::optional<In<int32_t, 1>> mesh, float max_distance,
             Out<int64_t, 1> face, std::optional<Out<float, 2>> barycentric, std::optional<Out<float, 1>> distance, std::optional<Out<float, 2>> nearest, int threads) {
    nb::gil_scoped_release release;
    const BvhTree tree = filled_tree(children, order, slot, faces, vertices, bounds, triangles);
    const int64_t n = points.shape(0);
    BvhClosest query{points.data(), mesh ? mesh->data() : nullptr, face.data(), nullptr, nullptr, nullptr, max_distance};
    check_rows(n, points, face);
    if (barycentric) {
        if (!distance || !nearest) throw std::invalid_argument("bvh_closest: barycentric, distance and nearest come together");
        check_rows(n, *barycentric, *nearest);
        check_rows(n, *distance);
        query.barycentric = barycentric->data(), query.distance = distance->data(), query.nearest = nearest->data();
    }
    check_mesh(mesh, n, tree.meshes);
    in_order(query.points, query.mesh, n, tree.meshes, threads,
             [&](const uint32_t *items, int64_t count) { HF_DISPATCH(bvh_closest, tree, query, items, count); });
    std::atomic<bool> inside{true};
    parallel_for(n, 4096, threads, [&](int64_t begin, int64_t end, int) {
        if (!HF_DISPATCH(bvh_closest_points, tree, query, begin, end)) inside = false;
    });
    if (!inside) throw std::out_of_range("bvh: faces name a vertex that is not there");
}

// Where rays pass nearest to the middle of their mesh: rays near one another there meet the same faces.
class Passing {
public:
    Passing(const BvhTree &tree, const BvhRays &rays) : rays(rays), center(3 * tree.meshes, 0.f), side(tree.meshes, 0.f) {
        for (int64_t b = 0; b < tree.meshes; ++b)
            for (int axis = 0; axis < 3; ++axis) {
                const float *root = tree.bounds + b * tree.nodes * bvh_node_floats + 8 * axis;
                const float lo = *std::min_element(root, root + 8), hi = *std::max_element(root + 24, root + 32);
                const float middle = 0.5f * (lo + hi);
                if (std::abs(middle) < bvh_far) center[3 * b + axis] = middle, side[b] = std::max(side[b], hi - lo);
            }
    }
    std::vector<float> of_all(int64_t n, int threads) const {
        std::vector<float> points(3 * n);
        parallel_for(n, 8192, threads, [&](int64_t begin, int64_t end, int) {
            for (int64_t i = begin; i < end; ++i) of(i, points.data() + 3 * i);
        });
        return points;
    }
    // Whether the rays come as those of an image do, most of them next to the one before: that serves as well as a
    // better order, which would take about as long to find as the hits.
    bool in_order(int64_t n) const {
        constexpr int64_t most = 1024;  // pairs looked at
        const int64_t pairs = std::min(n - 1, most), stride = pairs > 0 ? (n - 1) / pairs : 0;
        int64_t near = 0;
        for (int64_t k = 0; k < pairs; ++k) {
            const int64_t i = k * stride, b = mesh(i);
            if (mesh(i + 1) != b) continue;
            float one[3], next[3];
            of(i, one), of(i + 1, next);
            const float step = std::max({std::abs(next[0] - one[0]), std::abs(next[1] - one[1]), std::abs(next[2] - one[2])});
            near += step * std::sqrt(static_cast<float>(n)) <= 4 * side[b];
        }
        return 4 * near >= 3 * pairs;
    }
    // Whether rays in no order are to be put in one, in which those of one camera are coherent: others' first hits, and
    // all in a small tree, take less time than the order would.
    bool better_ordered(int64_t n, const BvhTree &tree) const {
        constexpr int64_t most = 64;  // rays looked at
        if (!is_large(tree)) return false;
        for (int64_t i = 0, stride = n / most + 1; i < n; i += stride)
            for (int axis = 0; axis < 3; ++axis)
                if (!(std::abs(rays.origins[3 * i + axis] - rays.origins[axis]) <= 0.1f * side[mesh(i)])) return false;
        return true;
    }

private:
    const BvhRays &rays;
    std::vector<float> center, side;

    int64_t mesh(int64_t i) const { return rays.mesh ? rays.mesh[i] : 0; }
    void of(int64_t i, float *point) const {
        const float *o = rays.origins + 3 * i, *d = rays.directions + 3 * i, *c = center.data() + 3 * mesh(i);
        float along = 0, squared = 1e-30f;
        for (int axis = 0; axis < 3; ++axis) along += (c[axis] - o[axis]) * d[axis], squared += d[axis] * d[axis];
        for (int axis = 0; axis < 3; ++axis) point[axis] = o[axis] + along / squared * d[axis];
    }
};

// Orders and runs one of the ray queries; `always`: unless the rays come in order.
template <class Kernel> void cast(const BvhTree &tree, const BvhRays &rays, int64_t n, int threads, bool always, const Kernel &kernel) {
    const Passing passing(tree, rays);
    if (!passing.in_order(n) && (always || passing.better_ordered(n, tree))) return in_order(passing.of_all(n, threads).data(), rays.mesh, n, tree.meshes, threads, kernel);
    parallel_for(n, bvh_order_grain(n, threads), threads, [&](int64_t begin, int64_t end, int) {
        std::vector<uint32_t> items(end - begin);
        std::iota(items.begin(), items.end(), static_cast<uint32_t>(begin));
        kernel(items.data(), end - begin);
    });
}

void raycast(In<int32_t, 2> children, In<int32_t, 1> order, In<int32_t, 1> slot, In<int32_t, 2> faces, In<float, 3> vertices,
             In<float, 3> bounds, In<float, 3> triangles, In<float, 2> origins, In<float, 2> directions, std::optional<In<int32_t, 1>> mesh,
             float max_distance, Out<int64_t, 1> face, std::optional<Out<float, 2>> barycentric, std::optional<Out<float, 1>> distance,
             int threads) {
    nb::gil_scoped_release release;
    const BvhTree tree = filled_tree(children, order, slot, faces, vertices, bounds, triangles);
    BvhRays rays{};
    rays.origins = origins.data(), rays.directions = directions.data(), rays.mesh = mesh ? mesh->data() : nullptr;
    rays.face = face.data(), rays.max_distance = max_distance;
    const int64_t n = origins.shape(0);
    check_rows(n, origins, directions, face);
    if (barycentric) {
        if (!distance) throw std::invalid_argument("bvh_raycast: barycentric and distance come together");
        check_rows(n, *barycentric);
        check_rows(n, *distance);
        rays.barycentric = barycentric->data(), rays.distance = distance->data();
    }
    check_mesh(mesh, n, tree.meshes);
    cast(tree, rays, n, threads, false, [&](const uint32_t *items, int64_t count) { HF_DISPATCH(bvh_raycast, tree, rays, items, count); });
}

void interval(In<int32_t, 2> children, In<int32_t, 1> order, In<int32_t, 1> slot, In<int32_t, 2> faces, In<float, 3> vertices,
              In<float, 3> bounds, In<float, 3> triangles, In<float, 2> origins, In<float, 2> directions, std::optional<In<int32_t, 1>> mesh,
              float margin, Out<float, 1> near_, Out<float, 1> far_, int threads) {
    nb::gil_scoped_release release;
    const BvhTree tree = filled_tree(children, order, slot, faces, vertices, bounds, triangles);
    BvhRays rays{};
    rays.origins = origins.data(), rays.directions = directions.data(), rays.mesh = mesh ? mesh->data() : nullptr;
    rays.margin = margin, rays.near_ = near_.data(), rays.far_ = far_.data();
    check_rows(origins.shape(0), origins, directions, near_, far_);
    check_mesh(mesh, origins.shape(0), tree.meshes);
    cast(tree, rays, origins.shape(0), threads, true, [&](const uint32_t *items, int64_t count) { HF_DISPATCH(bvh_interval, tree, rays, items, count); });
}

}  // namespace

void bind_bvh(nb::module_ &m) {
    m.attr("bvh_node_floats") = bvh_node_floats;
    m.attr("bvh_leaf_floats") = bvh_leaf_floats;
    m.def("bvh_build", &build, nb::arg("faces"), nb::arg("vertices"), nb::arg("threads") = 1, "Topology of the tree: children, order, slot, levels (flat int32).");
    m.def("bvh_refit", &refit, "Writes bounds and triangles of every mesh.");
    m.def("bvh_closest", &closest, nb::arg("children"), nb::arg("order"), nb::arg("slot"), nb::arg("faces"), nb::arg("vertices"),
          nb::arg("bounds"), nb::arg("triangles"), nb::arg("points"), nb::arg("mesh").none(), nb::arg("max_distance"), nb::arg("face"),
          nb::arg("barycentric").none(), nb::arg("distance").none(), nb::arg("nearest").none(), nb::arg("threads"),
          "Nearest triangle of each point and, where arrays for them are given, the nearest point on it.");
    m.def("bvh_raycast", &raycast, nb::arg("children"), nb::arg("order"), nb::arg("slot"), nb::arg("faces"), nb::arg("vertices"),
          nb::arg("bounds"), nb::arg("triangles"), nb::arg("origins"), nb::arg("directions"), nb::arg("mesh").none(),
          nb::arg("max_distance"), nb::arg("face"), nb::arg("barycentric").none(), nb::arg("distance").none(), nb::arg("threads"),
          "First hit of each ray.");
    m.def("bvh_interval", &interval, nb::arg("children"), nb::arg("order"), nb::arg("slot"), nb::arg("faces"), nb::arg("vertices"),
          nb::arg("bounds"), nb::arg("triangles"), nb::arg("origins"), nb::arg("directions"), nb::arg("mesh").none(), nb::arg("margin"),
          nb::arg("near"), nb::arg("far"), nb::arg("threads"), "First and last distance of each ray within a margin of the surface.");
}
