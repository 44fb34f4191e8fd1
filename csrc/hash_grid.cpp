// Bindings of the hash grid: they check shapes, spread the work over threads, and call kernels/hash_grid.cpp.
#include "hash_grid.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.h"

namespace nb = nanobind;
using headfields::GridType;
using headfields::HashGrid;
using headfields::parallel_for;
using Array = nb::ndarray<nb::device::cpu, nb::c_contig>;
using Maybe = std::optional<Array>;
using Ints = std::vector<int64_t>;

namespace {

// Points of one task. A table that outgrows the second-level cache is read once a task, so tasks are large; where all
// levels are small it is the task's output that must stay in cache from level to level.
constexpr int64_t kTask = 131072, kSmallTask = 8192, kSmallTable = 1 << 20;
constexpr int64_t kLine = 64;  // bytes of a cache line
// Outputs below this stay in a cache, and are better left there.
constexpr int64_t kSmallOutput = 4 << 20;
// Of the gradient of the features, arranged by level.
constexpr int64_t kArranged = 16 << 20;

void require(bool holds, const char *what) {
    if (!holds) throw std::invalid_argument(std::string("hash_grid (native): ") + what);
}

bool is_float(const Array &a, int bits) { return a.dtype() == nb::dlpack::dtype{uint8_t(nb::dlpack::dtype_code::Float), uint8_t(bits), 1}; }

// Owns the arrays that HashGrid points to.
struct Grid {
    Ints resolution, offset;
    std::unique_ptr<bool[]> hashed;
    HashGrid view{};
    int64_t n = 0;
    int real_bits = 32;

    Grid(const Array &points, const Ints &resolutions, const Ints &offsets, int features, int log2_size, bool smoothstep,
         GridType type, const Maybe &direction)
        : resolution(resolutions), offset(offsets), hashed(new bool[resolutions.size()]) {
        require(points.ndim() == 2 && points.shape(1) >= 1 && points.shape(1) <= 4, "points must be (n, 1..4)");
        require(offset.size() == resolution.size() + 1 && !resolution.empty() && offset[0] == 0, "bad offsets");
        require(features >= 1 && log2_size >= 0 && log2_size <= 30, "bad features or table size");
        real_bits = type == GridType::f64 ? 64 : 32;
        require(is_float(points, real_bits), "points have the wrong dtype");
        n = int64_t(points.shape(0));
        const int d = int(points.shape(1));
        const int64_t size = int64_t(1) << log2_size;
        for (size_t l = 0; l < resolution.size(); ++l) {
            require(resolution[l] >= 1 && resolution[l] <= (1 << 24), "bad resolution");
            int64_t vertices = 1;
            for (int k = 0; k < d && vertices <= size; ++k) vertices *= resolution[l] + 1;
            hashed[l] = vertices > size;
            require(offset[l + 1] - offset[l] >= (hashed[l] ? size : vertices), "a level's table is too small");
        }
        if (direction) {
            require(direction->ndim() == 2 && direction->shape(0) == points.shape(0) &&
                        direction->shape(1) == points.shape(1) && is_float(*direction, real_bits),
                    "the second gradient of points differs in shape or dtype from points");
        }
        view = {type, int(resolution.size()), features, d, smoothstep, uint32_t(size - 1), resolution.data(),
                offset.data(), hashed.get(), points.data(), direction ? direction->data() : nullptr, false};
    }
    void check_rows(const Array &a) const {  // (n, levels * features)
        require(a.ndim() == 2 && int64_t(a.shape(0)) == n && int64_t(a.shape(1)) == int64_t(view.levels) * view.features &&
                    is_float(a, real_bits), "features or their gradient have the wrong shape or dtype");
    }
    void check_points(const Array &a) const {
        require(a.ndim() == 2 && int64_t(a.shape(0)) == n && int64_t(a.shape(1)) == view.dimensions && is_float(a, real_bits),
                "the gradient of points has the wrong shape or dtype");
    }
    void check_table(const Array &a, int bits) const {
        require(a.ndim() == 2 && int64_t(a.shape(0)) == offset.back() && int64_t(a.shape(1)) == view.features && is_float(a, bits),
                "a table has the wrong shape or dtype");
    }
    int table_bits() const { return view.type == GridType::f64 ? 64 : view.type == GridType::f16 ? 16 : 32; }
    // Equal tasks, at least one a thread where there are points enough.
    int64_t task(int threads) const {
        int64_t widest = 0;
        for (size_t l = 0; l < resolution.size(); ++l) widest = std::max(widest, offset[l + 1] - offset[l]);
        const int64_t most = widest * view.features * (table_bits() / 8) > kSmallTable ? kTask : kSmallTask;
        const int64_t lanes = std::max(threads, 1);
        const int64_t rounds = std::max<int64_t>((n + lanes * most - 1) / (lanes * most), 1);
        return std::max<int64_t>((n + lanes * rounds - 1) / (lanes * rounds), 256);
    }
    int64_t row_bytes() const { return view.features * int64_t(real_bits / 8); }  // of one level
    // Whether a cache line of the output is the features of several levels.
    bool in_lines() const {
        return kLine % row_bytes() == 0 && row_bytes() < kLine && (view.levels * row_bytes()) % kLine == 0 &&
               (view.features & (view.features - 1)) == 0 && view.dimensions == 3 && view.type != GridType::f64;
    }
};

GridType type_of(const Array &table) {
    if (is_float(table, 32)) return GridType::f32;
    if (is_float(table, 16)) return GridType::f16;
    require(is_float(table, 64), "table must be float16, float32 or float64");
    return GridType::f64;
}

const void *data(const Maybe &a) { return a ? a->data() : nullptr; }

// Calls body(begin, end, lines) for tasks of points; `lines` is what hash_grid_gather asks for, to write into `out`.
template <class Body>
void each_task(const Grid &grid, const void *out, int threads, const Body &body) {
    const int64_t task = grid.task(threads), workers = std::max(threads, 1);
    const bool aligned = reinterpret_cast<uintptr_t>(out) % kLine == 0;
    const bool large = grid.n * grid.view.levels * grid.row_bytes() >= kSmallOutput;
    const bool whole = out != nullptr && aligned && large && grid.in_lines();
    const std::unique_ptr<char[]> lines(whole ? new char[workers * task * kLine] : nullptr);
    parallel_for(grid.n, task, threads, [&](int64_t begin, int64_t end, int worker) {
        body(begin, end, whole ? lines.get() + worker * task * kLine : nullptr);
    });
}

void forward(const Array &points, const Array &table, Array out, const Ints &resolution, const Ints &offset,
             int log2_size, bool smoothstep, int threads) {
    require(table.ndim() == 2, "table must be (entries, features)");
    Grid grid(points, resolution, offset, int(table.shape(1)), log2_size, smoothstep, type_of(table), std::nullopt);
    grid.check_table(table, grid.table_bits());
    grid.check_rows(out);
    nb::gil_scoped_release release;
    each_task(grid, out.data(), threads, [&](int64_t begin, int64_t end, void *lines) {
        HF_DISPATCH(hash_grid_gather, grid.view, table.data(), nullptr, out.data(), lines, begin, end);
    });
}

void scatter(const Grid &grid, const Array &grad, void *sum, int threads) {
    const int64_t row = grid.row_bytes(), width = grid.view.levels * int64_t(grid.view.features);
    // Where a cache line holds the gradient of more than two levels it is arranged by level first, some points at a time:
    // as it is, the line would be read anew for each of them.
    const bool arrange = row * 2 < kLine && grid.n > 1;
    const int64_t part = arrange ? std::max<int64_t>(kArranged / (grid.view.levels * row), 1) : std::max<int64_t>(grid.n, 1);
    const std::unique_ptr<char[]> arranged(arrange ? new char[std::min(part, grid.n) * grid.view.levels * row] : nullptr);
    for (int64_t begin = 0; begin < grid.n; begin += part) {
        const int64_t count = std::min(part, grid.n - begin);
        const char *rows = static_cast<const char *>(grad.data()) + begin * grid.view.levels * row;
        if (arrange)
            parallel_for(count, 4096, threads, [&](int64_t first, int64_t last, int) {
                HF_DISPATCH(hash_grid_by_level, grid.view, rows, arranged.get(), count, first, last);
            });
        // A level belongs to one thread: no atomics, and the same sum whatever the number of threads.
        parallel_for(grid.view.levels, 1, threads, [&](int64_t first, int64_t last, int) {
            for (int64_t turn = first; turn < last; ++turn) {
                const int level = int(grid.view.levels - 1 - turn);  // the finest levels are the slowest; they start first
                const void *of_level = arrange ? arranged.get() + level * count * row : rows + level * row;
                HF_DISPATCH(hash_grid_scatter, grid.view, level, of_level, arrange ? grid.view.features : width, sum, begin,
                            begin + count);
            }
        });
    }
}

void backward(const Array &grad, const Array &points, const Array &table, Maybe dpoints, Maybe dtable,
              const Ints &resolution, const Ints &offset, int log2_size, bool smoothstep, int threads) {
    require(table.ndim() == 2, "table must be (entries, features)");
    Grid grid(points, resolution, offset, int(table.shape(1)), log2_size, smoothstep, type_of(table), std::nullopt);
    grid.check_table(table, grid.table_bits());
    grid.check_rows(grad);
    if (dpoints) grid.check_points(*dpoints);
    if (dtable) grid.check_table(*dtable, grid.real_bits);
    nb::gil_scoped_release release;
    if (dtable) scatter(grid, grad, dtable->data(), threads);
    if (dpoints)
        parallel_for(grid.n, grid.task(threads), threads, [&](int64_t begin, int64_t end, int) {
            HF_DISPATCH(hash_grid_point_gradient, grid.view, grad.data(), table.data(), nullptr, dpoints->data(), begin, end);
        });
}

void backward_backward(const Array &grad, const Array &points, const Array &table, Maybe gg_points, Maybe gg_table,
                       Maybe dgrad, Maybe dpoints, Maybe dtable, const Ints &resolution, const Ints &offset,
                       int log2_size, bool smoothstep, int threads) {
    require(table.ndim() == 2, "table must be (entries, features)");
    Grid grid(points, resolution, offset, int(table.shape(1)), log2_size, smoothstep, type_of(table), gg_points);
    grid.check_table(table, grid.table_bits());
    grid.check_rows(grad);
    grid.view.derivative = true;
    require(gg_points || gg_table, "one second gradient at least must be given");
    if (gg_table) grid.check_table(*gg_table, grid.table_bits());
    if (dgrad) grid.check_rows(*dgrad);
    if (dpoints) grid.check_points(*dpoints);
    if (dtable) grid.check_table(*dtable, grid.real_bits);
    // Without a second gradient of points only the undifferentiated term is left, on the other table.
    const void *main = gg_points ? table.data() : gg_table->data();
    const void *plain = gg_points ? data(gg_table) : nullptr;
    nb::gil_scoped_release release;
    if (dtable && gg_points) scatter(grid, grad, dtable->data(), threads);
    each_task(grid, dgrad ? dgrad->data() : nullptr, threads, [&](int64_t begin, int64_t end, void *lines) {
        if (dgrad) HF_DISPATCH(hash_grid_gather, grid.view, main, plain, dgrad->data(), lines, begin, end);
        if (dpoints) HF_DISPATCH(hash_grid_point_gradient, grid.view, grad.data(), main, plain, dpoints->data(), begin, end);
    });
}

void rows(const Array &points, Array out, const Ints &resolution, const Ints &offset, int log2_size, int threads) {
    const GridType type = is_float(points, 64) ? GridType::f64 : GridType::f32;
    Grid grid(points, resolution, offset, 1, log2_size, false, type, std::nullopt);
    require(out.ndim() == 3 && int64_t(out.shape(0)) == grid.n && int64_t(out.shape(1)) == grid.view.levels &&
                int64_t(out.shape(2)) == (1 << grid.view.dimensions) && out.dtype() == nb::dtype<int64_t>(),
            "out must be (n, levels, 2^d) int64");
    nb::gil_scoped_release release;
    parallel_for(grid.n, grid.task(threads), threads, [&](int64_t begin, int64_t end, int) {
        HF_DISPATCH(hash_grid_rows, grid.view, static_cast<int64_t *>(out.data()), begin, end);
    });
}

}  // namespace

void bind_hash_grid(nb::module_ &m) {
    m.def("hash_grid", &forward, "points (n, d), table (entries, f) -> out (n, levels * f)");
    m.def("hash_grid_backward", &backward, nb::arg("grad"), nb::arg("points"), nb::arg("table"),
          nb::arg("dpoints").none(), nb::arg("dtable").none(), nb::arg("resolution"), nb::arg("offset"),
          nb::arg("log2_size"), nb::arg("smoothstep"), nb::arg("threads"),
          "Writes dpoints (n, d); adds to dtable (entries, f), which the caller has zeroed.");
    m.def("hash_grid_backward_backward", &backward_backward, nb::arg("grad"), nb::arg("points"), nb::arg("table"),
          nb::arg("gg_points").none(), nb::arg("gg_table").none(), nb::arg("dgrad").none(), nb::arg("dpoints").none(),
          nb::arg("dtable").none(), nb::arg("resolution"), nb::arg("offset"), nb::arg("log2_size"),
          nb::arg("smoothstep"), nb::arg("threads"),
          "Writes dgrad (n, levels * f) and dpoints (n, d); adds to dtable (entries, f), which the caller has zeroed.");
    m.def("hash_grid_rows", &rows, "points (n, d) -> out (n, levels, 2^d): which row of the table each corner reads");
}
