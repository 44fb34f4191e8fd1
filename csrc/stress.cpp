// Drives every kernel, on every instruction set of this processor, from several threads at once and without Python,
// for the sanitizers. Arrays have exactly the size that the kernels expect, so that reading one element too far is
// caught; inputs hold infinities, NaN and huge numbers. Exits with 0 if results are the same on every thread.
//     stress [rounds] [no-forks]
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bvh.h"
#include "bvh_build.h"
#include "bvh_order.h"
#include "harmonics.h"
#include "hash_grid.h"
#include "nearest_vertices.h"
#include "occupancy.h"
#include "packed.h"
#include "parallel.h"
#include "rows.h"
#include "stress.h"

using namespace headfields;
using namespace stress;

namespace {

uint64_t triangles(Random &random, int faces, int meshes, int n, int rare) {
    const int vertices = faces / 2 + 3;
    std::vector<float> vertex = random.numbers<float>(int64_t(meshes) * vertices * 3, -1, 1, rare);
    std::vector<int32_t> face(3 * faces);
    for (int32_t &f : face) f = int32_t(random.engine() % vertices);
    BvhTopology topology = bvh_build(face.data(), faces, vertex.data(), vertices, 3);
    BvhTree tree{};
    tree.children = topology.children.data(), tree.order = topology.order.data(), tree.slot = topology.slot.data();
    tree.faces = face.data(), tree.vertices = vertex.data();
    tree.meshes = meshes, tree.vertex_count = vertices;
    tree.nodes = int64_t(topology.children.size()) / 8, tree.leaves = int64_t(topology.slot.size());
    std::vector<float> bounds(meshes * tree.nodes * bvh_node_floats), rows(meshes * tree.leaves * bvh_leaf_floats);
    parallel_for(meshes, 1, pool_threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t b = begin; b < end; ++b) {
            HF_DISPATCH(bvh_refit_leaves, tree, bounds.data(), rows.data(), b, 0, tree.leaves);
            HF_DISPATCH(bvh_refit_nodes, tree, bounds.data(), b);
        }
    });
    tree.bounds = bounds.data(), tree.triangles = rows.data();
    const std::vector<float> points = random.numbers<float>(3 * n, -1.5, 1.5, rare);
    std::vector<float> directions = random.numbers<float>(3 * n, -1, 1, rare);
    for (int i = 0; i < n; ++i) {
        float *d = directions.data() + 3 * i;
        const float length = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
        if (length > 0 && length < 10) d[0] /= length, d[1] /= length, d[2] /= length;
    }
    std::vector<int32_t> mesh(n);
    for (int32_t &m : mesh) m = int32_t(random.engine() % meshes);
    const int32_t *which = meshes > 1 ? mesh.data() : nullptr;
    std::vector<int64_t> nearest_face(n), hit(n);
    std::vector<float> barycentric(3 * n), distance(n), nearest(3 * n), hit_weights(3 * n), hit_distance(n), first(n),
        last(n);
    BvhClosest query{points.data(),  which,   nearest_face.data(), barycentric.data(), distance.data(),
                     nearest.data(), INFINITY};
    BvhRays rays{};
    rays.origins = points.data(), rays.directions = directions.data(), rays.mesh = which;
    rays.face = hit.data(), rays.barycentric = hit_weights.data(), rays.distance = hit_distance.data(),
    rays.max_distance = 3;
    rays.margin = 0.1f, rays.near_ = first.data(), rays.far_ = last.data();
    const std::unique_ptr<uint32_t[]> order = bvh_order(points.data(), which, n, meshes, pool_threads);
    std::vector<char> seen(n);
    for (int i = 0; i < n; ++i) seen[order[i]] = 1;
    for (const char s : seen) expect(s, "bvh_order leaves a query out");
    parallel_for(n, bvh_order_grain(n, pool_threads), pool_threads, [&](int64_t begin, int64_t end, int) {
        HF_DISPATCH(bvh_closest, tree, query, order.get() + begin, end - begin);
        HF_DISPATCH(bvh_raycast, tree, rays, order.get() + begin, end - begin);
        HF_DISPATCH(bvh_interval, tree, rays, order.get() + begin, end - begin);
    });
    parallel_for(n, 7, pool_threads, [&](int64_t begin, int64_t end, int) {
        expect(HF_DISPATCH(bvh_closest_points, tree, query, begin, end), "bvh_closest_points names a vertex that is not there");
    });
    for (const int64_t f : nearest_face) expect(f >= -1 && f < faces, "bvh_closest names a face that is not there");
    uint64_t seed = 1;
    mix(seed, nearest_face), mix(seed, hit), mix(seed, distance), mix(seed, nearest), mix(seed, first);
    return seed;
}

uint64_t vertices(Random &random, int count, int meshes, int n, int rare) {
    const std::vector<float> vertex = random.numbers<float>(int64_t(meshes) * count * 3, -1, 1, rare);
    std::vector<int32_t> face(3 * count);
    for (int i = 0; i < 3 * count; ++i) face[i] = i / 3;
    BvhTopology topology = bvh_build(face.data(), count, vertex.data(), count, 3);
    BvhTree tree{};
    tree.children = topology.children.data(), tree.order = topology.order.data(), tree.slot = topology.slot.data();
    tree.vertices = vertex.data(), tree.meshes = meshes, tree.vertex_count = count;
    tree.nodes = int64_t(topology.children.size()) / 8, tree.leaves = int64_t(topology.slot.size());
    std::vector<float> bounds(meshes * tree.nodes * bvh_node_floats), rows(meshes * tree.leaves * vertex_leaf_floats);
    for (int b = 0; b < meshes; ++b) {
        HF_DISPATCH(vertex_refit_leaves, tree, bounds.data(), rows.data(), b, 0, tree.leaves);
        HF_DISPATCH(bvh_refit_nodes, tree, bounds.data(), b);
    }
    tree.bounds = bounds.data(), tree.triangles = rows.data();
    const std::vector<float> points = random.numbers<float>(3 * n, -1.5, 1.5, rare);
    std::vector<int32_t> mesh(n);
    for (int32_t &m : mesh) m = int32_t(random.engine() % meshes);
    const int32_t *which = meshes > 1 ? mesh.data() : nullptr;
    const std::unique_ptr<uint32_t[]> order = bvh_order(points.data(), which, n, meshes, pool_threads);
    uint64_t seed = 2;
    for (const int k : {1, 5, vertex_most}) {
        std::vector<int64_t> index(int64_t(n) * k);
        std::vector<float> distance(int64_t(n) * k);
        const NearestVertices query{points.data(), which, index.data(), distance.data(), k, k == 5 ? 0.2f : INFINITY};
        parallel_for(n, bvh_order_grain(n, pool_threads), pool_threads, [&](int64_t begin, int64_t end, int) {
            HF_DISPATCH(nearest_vertices, tree, query, order.get() + begin, end - begin);
        });
        for (const int64_t v : index) expect(v >= -1 && v < count, "nearest_vertices names a vertex that is not there");
        mix(seed, index), mix(seed, distance);
    }
    return seed;
}

template <class Real, class Store>
uint64_t grid_of(Random &random, GridType type, int dimensions, int features, int n, int rare) {
    const std::vector<int64_t> resolution = {1, 3, 17, 300};
    const int levels = int(resolution.size()), log2_size = 7;
    std::vector<int64_t> offset = {0};
    bool hashed[4];
    for (int l = 0; l < levels; ++l) {
        int64_t vertices = 1;
        for (int k = 0; k < dimensions && vertices <= 1 << log2_size; ++k) vertices *= resolution[l] + 1;
        hashed[l] = vertices > 1 << log2_size;
        offset.push_back(offset.back() + (hashed[l] ? 1 << log2_size : vertices));
    }
    const std::vector<Real> points = random.numbers<Real>(int64_t(n) * dimensions, -0.1, 1.1, rare);
    const std::vector<Real> direction = random.numbers<Real>(int64_t(n) * dimensions, -1, 1);
    std::vector<Store> table(offset.back() * features);
    for (Store &x : table) {
        if constexpr (sizeof(Store) == 2) x.bits = uint16_t(random.engine());
        else x = Store(random.uniform(-1, 1));
    }
    std::vector<Real> out(int64_t(n) * levels * features), to_points(points.size()),
        sum(offset.back() * features, Real(0));
    HashGrid grid{type, levels, features, dimensions, random.engine() % 2 == 0, (1u << log2_size) - 1,
                  resolution.data(), offset.data(), hashed, points.data(), nullptr, false};
    HashGrid along = grid;
    along.direction = direction.data(), along.derivative = true;
    parallel_for(n, 100, pool_threads, [&](int64_t begin, int64_t end, int) {
        HF_DISPATCH(hash_grid_gather, grid, table.data(), nullptr, out.data(), nullptr, begin, end);
    });
    if (sizeof(Real) == 4 && dimensions == 3 && (features == 4 || features == 8)) {
        std::vector<Real> memory(out.size() + 16);
        Real *const line = memory.data() + -reinterpret_cast<uintptr_t>(memory.data()) % 64 / sizeof(Real);
        parallel_for(n, 100, pool_threads, [&](int64_t begin, int64_t end, int) {
            std::vector<Real> lines((end - begin) * 16);
            HF_DISPATCH(hash_grid_gather, grid, table.data(), nullptr, line, lines.data(), begin, end);
        });
        for (size_t k = 0; k < out.size(); ++k)
            expect(std::memcmp(&line[k], &out[k], sizeof(Real)) == 0, "hash_grid_gather depends on how lines are written");
    }
    std::vector<Real> arranged(out.size());
    parallel_for(n, 100, pool_threads, [&](int64_t begin, int64_t end, int) {
        HF_DISPATCH(hash_grid_by_level, grid, out.data(), arranged.data(), n, begin, end);
    });
    parallel_for(levels, 1, pool_threads, [&](int64_t first, int64_t last, int) {
        for (int64_t level = first; level < last; ++level) {
            HF_DISPATCH(hash_grid_scatter, grid, int(level), arranged.data() + level * n * features, features, sum.data(), 0, n);
            HF_DISPATCH(hash_grid_scatter, along, int(level), out.data() + level * features, levels * features, sum.data(), 0, n);
        }
    });
    uint64_t seed = 2;
    mix(seed, sum);
    parallel_for(n, 100, pool_threads, [&](int64_t begin, int64_t end, int) {
        HF_DISPATCH(hash_grid_point_gradient, grid, out.data(), table.data(), nullptr, to_points.data(), begin, end);
        HF_DISPATCH(hash_grid_point_gradient, along, out.data(), table.data(), table.data(), to_points.data(), begin,
                    end);
        HF_DISPATCH(hash_grid_gather, along, table.data(), table.data(), out.data(), nullptr, begin, end);
    });
    std::vector<int64_t> rows((int64_t(n) * levels) << dimensions);
    HF_DISPATCH(hash_grid_rows, grid, rows.data(), 0, n);
    for (const int64_t row : rows) expect(row >= 0 && row < offset.back(), "hash_grid_rows leaves the table");
    mix(seed, out), mix(seed, to_points), mix(seed, rows);
    return seed;
}

uint64_t harmonics(Random &random, int degree, int n, int rare) {
    Harmonics h{};
    h.degree = degree;
    for (double &x : h.start) x = 0.5;
    for (int k = 0; k < 64; ++k) h.a[k] = 1.1, h.b[k] = -0.4;
    const auto d = random.numbers<float>(3 * n, -1, 1, rare);
    const auto d64 = random.numbers<double>(3 * n, -1, 1, rare);
    std::vector<float> out(int64_t(n) * degree * degree), back(3 * n);
    std::vector<double> out64(out.size()), back64(3 * n);
    parallel_for(n, 64, pool_threads, [&](int64_t begin, int64_t end, int) {
        HF_DISPATCH(harmonics_f32, h, d.data(), out.data(), begin, end);
        HF_DISPATCH(harmonics_f64, h, d64.data(), out64.data(), begin, end);
        HF_DISPATCH(harmonics_gradient_f32, h, out.data(), d.data(), back.data(), begin, end);
        HF_DISPATCH(harmonics_gradient_f64, h, out64.data(), d64.data(), back64.data(), begin, end);
    });
    uint64_t seed = 3;
    mix(seed, back), mix(seed, back64);
    return seed;
}

uint64_t rows(Random &random, int64_t count, int64_t picks, int64_t table, int64_t width, int rare) {
    const auto values = random.numbers<float>(table * width, -1, 1, rare), grad = random.numbers<float>(count * width, -1, 1, rare);
    const auto weights = random.numbers<float>(count * picks, -1, 1, rare);
    std::vector<int64_t> index(count * picks);
    for (int64_t &i : index) i = int64_t(random.engine() % (table + 1)) - 1;
    std::vector<float> out(count * width), back(table * width, 0.0f), products(count * picks);
    parallel_for(count, 16, pool_threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(rows_gather, first, last, picks, width, values.data(), index.data(), weights.data(), out.data());
        HF_DISPATCH(rows_dot, first, last, picks, width, values.data(), index.data(), grad.data(), products.data());
    });
    parallel_for(pool_threads, 1, pool_threads, [&](int64_t first, int64_t last, int) {
        for (int64_t share = first; share < last; ++share)
            HF_DISPATCH(rows_scatter, share, pool_threads, count, picks, width, grad.data(), index.data(), weights.data(), back.data());
    });
    uint64_t seed = 4;
    mix(seed, out), mix(seed, back), mix(seed, products);
    return seed;
}

template <class T> uint64_t packed(Random &random, int64_t rays, int most, int rare) {
    const std::vector<int64_t> at = random.offsets(rays, most), bt = random.offsets(rays, most);
    const int64_t n = at.back(), m = bt.back(), channels = 1 + random.engine() % 5, quantiles = random.engine() % 6;
    const bool alpha = random.engine() % 2, total = random.engine() % 2;
    const std::vector<T> values = random.numbers<T>(n, -1, 3, rare), grad = random.numbers<T>(n, -1, 1, rare);
    const std::vector<T> colors = random.numbers<T>(n * channels, 0, 1, rare),
                         wanted = random.numbers<T>(rays * quantiles, 0, 1, rare);
    const std::vector<T> sum_grad = random.numbers<T>(rays * (channels + total), 0, 1, rare);
    const auto edges = [&](const std::vector<int64_t> &offsets, std::vector<T> &start, std::vector<T> &stop) {
        for (int64_t r = 0; r < rays; ++r) {
            T t = 0;
            for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i)
                start[i] = t += T(random.uniform(0, 1)), stop[i] = t += T(random.uniform(0, 1));
        }
    };
    std::vector<T> start_a(n), stop_a(n), start_b(m), stop_b(m);
    edges(at, start_a, stop_a), edges(bt, start_b, stop_b);
    std::vector<T> weights(n), back(n), twice_w(n), twice_v(n), sums(n), row(rays * (channels + total)), to_w(n),
        to_v(n * channels), placed(rays * quantiles);
    std::vector<int64_t> counts(rays), into(rays + 1, 0);
    parallel_for(rays, 5, pool_threads, [&](int64_t begin, int64_t end, int) {
        std::vector<T> scratch(3 * (at[end] - at[begin]));
        HF_DISPATCH(ray_weights, begin, end, at.data(), values.data(), alpha, weights.data(), scratch.data());
        HF_DISPATCH(ray_weights_backward, begin, end, at.data(), grad.data(), values.data(), alpha, back.data(),
                    scratch.data());
        HF_DISPATCH(ray_weights_double, begin, end, at.data(), values.data(), grad.data(), values.data(), alpha,
                    twice_w.data(), twice_v.data(), scratch.data());
        HF_DISPATCH(exclusive_sum, begin, end, at.data(), values.data(), alpha, sums.data());
        HF_DISPATCH(weighted_sum, begin, end, at.data(), weights.data(), colors.data(), channels, total, row.data());
        HF_DISPATCH(weighted_sum_backward, begin, end, at.data(), sum_grad.data(), weights.data(), colors.data(),
                    channels, total, to_w.data(), to_v.data());
        HF_DISPATCH(inverse_cdf, begin, end, at.data(), start_a.data(), stop_a.data(), weights.data(), wanted.data(),
                    quantiles, placed.data());
        HF_DISPATCH(merge, begin, end, at.data(), start_a.data(), stop_a.data(), bt.data(), start_b.data(),
                    stop_b.data(), counts.data(), nullptr, nullptr, static_cast<T *>(nullptr),
                    static_cast<T *>(nullptr));
    });
    for (int64_t r = 0; r < rays; ++r) into[r + 1] = into[r] + counts[r];
    std::vector<int64_t> ray(into.back());
    std::vector<T> start(into.back()), stop(into.back());
    parallel_for(rays, 5, pool_threads, [&](int64_t begin, int64_t end, int) {
        HF_DISPATCH(merge, begin, end, at.data(), start_a.data(), stop_a.data(), bt.data(), start_b.data(),
                    stop_b.data(), nullptr, into.data(), ray.data(), start.data(), stop.data());
    });
    uint64_t seed = 4;
    mix(seed, ray), mix(seed, start), mix(seed, counts);
    return seed;
}

template <class T> uint64_t occupancy(Random &random, int64_t rays, int rare) {
    const int64_t size[3] = {5, 1, 9};
    const T box[6] = {-1, -1, -1, 1, 1, 1}, step = T(0.05), cone = random.engine() % 2 ? T(0.01) : T(0);
    std::vector<uint8_t> cells(45), inside(rays);
    for (uint8_t &c : cells) c = random.engine() % 3 == 0;
    const auto origins = random.numbers<T>(3 * rays, -2, 2, rare),
               directions = random.numbers<T>(3 * rays, -1, 1, rare);
    const auto near = random.numbers<T>(rays, 0, 1, rare), far = random.numbers<T>(rays, 0, 4, rare),
               jitter = random.numbers<T>(rays, 0, 1);
    std::vector<int64_t> counts(rays), at(rays + 1, 0);
    uint64_t seed = 5;
    for (const uint8_t *grid : {static_cast<const uint8_t *>(cells.data()), static_cast<const uint8_t *>(nullptr)}) {
        HF_DISPATCH(march, 0, rays, origins.data(), directions.data(), near.data(), far.data(), jitter.data(), grid,
                    size, box, step, cone, counts.data(), nullptr, nullptr, static_cast<T *>(nullptr),
                    static_cast<T *>(nullptr));
        for (int64_t r = 0; r < rays; ++r) {
            if (counts[r] > 10000)
                counts[r] = 0;  // the caller rejects such a ray; filling it would exhaust memory
            at[r + 1] = at[r] + counts[r];
        }
        std::vector<int64_t> ray(at.back());
        std::vector<T> start(at.back()), stop(at.back());
        for (int64_t r = 0; r < rays; ++r)
            if (counts[r] > 0)
                HF_DISPATCH(march, r, r + 1, origins.data(), directions.data(), near.data(), far.data(), jitter.data(),
                            grid, size, box, step, cone, nullptr, at.data(), ray.data(), start.data(), stop.data());
        mix(seed, ray), mix(seed, start), mix(seed, counts);
    }
    HF_DISPATCH(lookup, 0, rays, origins.data(), cells.data(), size, box, inside.data());
    mix(seed, inside);
    return seed;
}

// Everything once, in a fixed order; the same seed gives the same digest on every thread.
uint64_t all(unsigned seed) {
    Random random(seed);
    uint64_t sum = 6;
    const int rare = seed % 2 ? 40 : 0;
    for (const int faces : {0, 1, 7, 8, 9, 300}) sum ^= triangles(random, faces, 1 + faces % 3, 500, rare) * 3;
    sum ^= triangles(random, 5000, 2, 20000, rare) * 5;
    for (const int count : {1, 8, 9, 300}) sum ^= vertices(random, count, 1 + count % 3, 500, rare) * 23;
    sum ^= vertices(random, 3000, 2, 5000, rare) * 25;
    for (const int n : {0, 1, 63, 64, 65, 500})
        for (const int features : {1, 2, 3, 4, 8}) {
            sum ^= grid_of<float, float>(random, GridType::f32, 3, features, n, rare) * 7;
            sum ^= grid_of<float, Half>(random, GridType::f16, 3, features, n, rare) * 9;
            sum ^= grid_of<double, double>(random, GridType::f64, 1 + features % 4, features, n, rare) * 11;
        }
    for (const int n : {0, 1, 63, 65, 300}) sum ^= harmonics(random, 1 + n % 8, n, rare) * 13;
    for (const int n : {0, 1, 17, 200}) sum ^= rows(random, n, n % 5, n % 7, 1 + n % 67, rare) * 29;
    for (const int rays : {0, 1, 40}) {
        sum ^= packed<float>(random, rays, 20, rare) * 15 ^ packed<double>(random, rays, 20, rare) * 17;
        sum ^= occupancy<float>(random, rays, rare) * 19 ^ occupancy<double>(random, rays, rare) * 21;
    }
    for (const int rows : {0, 1, 5, 47, 48, 49, 700}) sum ^= networks(random, rows, rare) * 23;
    for (const int n : {0, 1, 7, 8, 9, 1003}) sum ^= softplus(random, n, rare) * 31;
    for (const int width : {1, 4})
        for (const int n : {0, 1, 300}) sum ^= blended_maps(random, n, width, rare) * 25;
    for (const int n : {0, 1, 9, 300})
        for (const int side : {1, 16, 37}) sum ^= splats(random, n, 1 + n % 2, n % 13, side, side + n % 5, rare) * 33;
    for (const int n : {0, 3, 9, 302})
        for (const int values : {1, 4, 9, 16}) sum ^= splat_harmonics(random, n, n % 4, values, rare) * 35;
    for (const int n : {0, 1, 37, 300})
        for (const int faces : {1, 7, 8, 9, 100}) sum ^= bound_gaussians(random, n, 1 + n % 3, faces, rare) * 37;
    for (const int side : {1, 3, 12, 37})
        for (const int reach : {0, 3, 5}) sum ^= blurred(random, side % 4, side, 40 - side, reach, rare) * 39;
    for (const int share : {0, 5, 50, 100})
        for (const int size : {2, 3, 17}) sum ^= surfaces(random, size, 2 + size / 2, 8 * size - 14, share) * 31;
    return sum;
}

void pool_alone() {
    std::vector<std::atomic<int>> done(1000);
    parallel_for(1000, 7, pool_threads, [&](int64_t begin, int64_t end, int worker) {
        expect(worker >= 0 && worker < pool_threads, "a worker's number is out of range");
        for (int64_t i = begin; i < end; ++i) ++done[i];
        parallel_for(3, 1, pool_threads,
                     [&](int64_t, int64_t, int inner) { expect(inner == 0, "a loop in a loop runs alone"); });
    });
    for (const auto &d : done) expect(d == 1, "parallel_for leaves an item out or does it twice");
    bool thrown = false;
    try {
        parallel_for(100, 1, pool_threads, [](int64_t begin, int64_t, int) {
            if (begin == 50) throw std::runtime_error("fifty");
        });
    } catch (const std::runtime_error &error) {
        thrown = std::strcmp(error.what(), "fifty") == 0;
    }
    expect(thrown, "parallel_for loses an exception");
}

// A child of a process whose pool is at work has a pool of its own.
void forked() {
    std::atomic<bool> stop{false};
    std::thread busy([&] {
        while (!stop) parallel_for(1000, 1, pool_threads, [](int64_t, int64_t, int) {});
    });
    for (int k = 0; k < 20; ++k) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(20);  // ends a child that waits for a missing thread
            std::atomic<int> items{0};
            parallel_for(100, 1, pool_threads, [&](int64_t, int64_t, int) { ++items; });
            _exit(items == 100 ? 0 : 1);
        }
        int status = 1;
        expect(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
               "a forked child fails or hangs");
    }
    stop = true;
    busy.join();
}

}  // namespace

int main(int argc, char **argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 2;
    const bool forks = argc <= 2 || std::strcmp(argv[2], "no-forks") != 0;
    for (int round = 0; round < rounds; ++round) {
        const uint64_t expected = all(unsigned(round));
        std::vector<std::thread> callers;
        for (int k = 0; k < 3; ++k)
            callers.emplace_back([&] {
                pool_alone();
                expect(all(unsigned(round)) == expected, "an answer depends on which threads compute it");
            });
        for (std::thread &caller : callers) caller.join();
    }
    if (forks) forked();
    std::printf("stress: %s, %d rounds, %d failures\n", isa_name(active_isa()), rounds, failures.load());
    return failures == 0 ? 0 : 1;
}
