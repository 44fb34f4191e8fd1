// Bindings of marching cubes.
#include "marching_cubes.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <stdexcept>

#include "parallel.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T> using Values = nb::ndarray<const T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Bits = nb::ndarray<const int64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using BitsOut = nb::ndarray<int64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<const uint8_t, nb::shape<256>, nb::c_contig, nb::device::cpu>;
using Triangles = nb::ndarray<const uint8_t, nb::shape<256, -1, 3>, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using StartsOut = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Edges = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Faces = nb::ndarray<int64_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

constexpr int64_t grain = 64;

MarchingGrid grid_of(size_t depth, size_t height, size_t width) {
    MarchingGrid grid{};
    grid.depth = static_cast<int64_t>(depth);
    grid.height = static_cast<int64_t>(height);
    grid.width = static_cast<int64_t>(width);
    grid.words = (grid.width + 63) / 64;
    if (std::min({grid.depth, grid.height, grid.width}) < 2) {
        throw std::invalid_argument("marching_cubes: a grid needs two points along each axis");
    }
    return grid;
}

// Of a grid of `width` points a row; the bits are written by marching_scan alone.
template <typename B, typename S>
MarchingGrid grid_of(const B &bits, size_t width, const S &edges, const S &triangles) {
    MarchingGrid grid = grid_of(bits.shape(0), bits.shape(1), width);
    const size_t starts = bits.shape(0) * bits.shape(1) + 1;
    if (static_cast<int64_t>(bits.shape(2)) != grid.words || edges.shape(0) != starts || triangles.shape(0) != starts) {
        throw std::invalid_argument("marching_cubes: bits or counts do not fit the grid");
    }
    grid.bits = reinterpret_cast<uint64_t *>(const_cast<int64_t *>(bits.data()));
    return grid;
}

// From the number of each row to the number before it; the last entry is their sum.
void sum_before(int64_t *counts, int64_t rows) {
    int64_t total = 0;
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t own = counts[row];
        counts[row] = total;
        total += own;
    }
    counts[rows] = total;
}

template <typename T>
void marching_scan(Values<T> values, double level, Counts count, BitsOut bits, StartsOut first_edge,
                   StartsOut first_triangle, int threads) {
    MarchingGrid grid = grid_of(bits, values.shape(2), first_edge, first_triangle);
    if (values.shape(0) != bits.shape(0) || values.shape(1) != bits.shape(1)) {
        throw std::invalid_argument("marching_cubes: bits do not fit the grid");
    }
    grid.count = count.data();
    const T *from = values.data(), below = static_cast<T>(level);
    int64_t *edges = first_edge.data(), *triangles = first_triangle.data();
    nb::gil_scoped_release release;
    const int64_t rows = grid.depth * grid.height;
    headfields::parallel_for(rows, grain, threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_bits, grid, from, below, first, last);
    });
    headfields::parallel_for(rows, grain, threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_count, grid, first, last, edges, triangles);
    });
    sum_before(edges, rows);
    sum_before(triangles, rows);
}

void marching_emit(Bits bits, int64_t width, Counts count, Triangles triangles, Starts first_edge,
                   Starts first_triangle, Edges edge, Faces faces, int threads) {
    MarchingGrid grid = grid_of(bits, static_cast<size_t>(width), first_edge, first_triangle);
    grid.count = count.data();
    grid.triangle = triangles.data();
    grid.most = static_cast<int64_t>(triangles.shape(1));
    const int64_t *edge_row = first_edge.data(), *triangle_row = first_triangle.data();
    const int64_t rows = grid.depth * grid.height;
    if (static_cast<int64_t>(edge.shape(0)) != edge_row[rows] ||
        static_cast<int64_t>(faces.shape(0)) != triangle_row[rows]) {
        throw std::invalid_argument("marching_cubes: edges or faces are not as many as were counted");
    }
    int64_t *to_edge = edge.data(), *to_face = faces.data();
    nb::gil_scoped_release release;
    headfields::parallel_for(rows, grain, threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_emit, grid, first, last, edge_row, triangle_row, to_edge, to_face);
    });
}

template <typename T>
using Fractions = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Vertices = nb::ndarray<T, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Edge = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ends = nb::ndarray<int64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;

template <typename T>
void marching_vertices(Values<T> values, double level, Edge edge, Ends ends, Fractions<T> fraction,
                       Vertices<T> vertices, int threads) {
    const MarchingGrid grid = grid_of(values.shape(0), values.shape(1), values.shape(2));
    const int64_t count = static_cast<int64_t>(edge.shape(0)), points = static_cast<int64_t>(values.size());
    const int64_t *codes = edge.data();
    bool fits = ends.shape(0) == edge.shape(0) && fraction.shape(0) == edge.shape(0);
    fits = fits && vertices.shape(0) == edge.shape(0);
    const int64_t stride[3] = {grid.height * grid.width, grid.width, 1};
    for (int64_t v = 0; v < count && fits; ++v) {
        fits = codes[v] >= 0 && codes[v] / 3 + stride[codes[v] % 3] < points;
    }
    if (!fits) throw std::invalid_argument("marching_cubes: edges do not fit the grid or the results");
    const MarchingVertices<T> of{values.data(), static_cast<T>(level), codes, ends.data(), fraction.data(),
                                 vertices.data()};
    nb::gil_scoped_release release;
    headfields::parallel_for(count, 4096, threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_vertices, grid, of, first, last);
    });
}

}  // namespace

void bind_marching_cubes(nb::module_ &m) {
    m.def("marching_scan", &marching_scan<float>, "values"_a.noconvert(), "level"_a, "count"_a.noconvert(),
          "bits"_a.noconvert(), "first_edge"_a.noconvert(), "first_triangle"_a.noconvert(), "threads"_a);
    m.def("marching_scan", &marching_scan<double>, "values"_a.noconvert(), "level"_a, "count"_a.noconvert(),
          "bits"_a.noconvert(), "first_edge"_a.noconvert(), "first_triangle"_a.noconvert(), "threads"_a);
    m.def("marching_emit", &marching_emit, "bits"_a.noconvert(), "width"_a, "count"_a.noconvert(),
          "triangles"_a.noconvert(), "first_edge"_a.noconvert(), "first_triangle"_a.noconvert(),
          "edge"_a.noconvert(), "faces"_a.noconvert(), "threads"_a);
    m.def("marching_vertices", &marching_vertices<float>, "values"_a.noconvert(), "level"_a, "edge"_a.noconvert(),
          "ends"_a.noconvert(), "fraction"_a.noconvert(), "vertices"_a.noconvert(), "threads"_a);
    m.def("marching_vertices", &marching_vertices<double>, "values"_a.noconvert(), "level"_a, "edge"_a.noconvert(),
          "ends"_a.noconvert(), "fraction"_a.noconvert(), "vertices"_a.noconvert(), "threads"_a);
}
