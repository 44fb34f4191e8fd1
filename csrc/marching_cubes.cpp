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

using Points = nb::ndarray<const uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using PointsOut = nb::ndarray<uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<const uint8_t, nb::shape<256>, nb::c_contig, nb::device::cpu>;
using Triangles = nb::ndarray<const uint8_t, nb::shape<256, -1, 3>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using RowsOut = nb::ndarray<int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Edges = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Faces = nb::ndarray<int64_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

constexpr int64_t grain = 64;

template <typename Grid>
MarchingGrid grid_of(const Grid &points) {
    MarchingGrid grid{};
    grid.depth = static_cast<int64_t>(points.shape(0));
    grid.height = static_cast<int64_t>(points.shape(1));
    grid.width = static_cast<int64_t>(points.shape(2));
    if (std::min({grid.depth, grid.height, grid.width}) < 2) {
        throw std::invalid_argument("marching_cubes: a grid needs two points along each axis");
    }
    return grid;
}

template <typename A>
void check_rows(const MarchingGrid &grid, const A &rows) {
    if (static_cast<int64_t>(rows.shape(0)) != grid.depth || static_cast<int64_t>(rows.shape(1)) != grid.height) {
        throw std::invalid_argument("marching_cubes: counts do not fit the grid");
    }
}

void marching_scan(Points inside, Counts count, PointsOut marks, RowsOut edges, RowsOut triangles, int threads) {
    MarchingGrid grid = grid_of(inside);
    check_rows(grid, edges);
    check_rows(grid, triangles);
    if (marks.size() != inside.size()) throw std::invalid_argument("marching_cubes: marks do not fit the grid");
    grid.inside = inside.data();
    grid.count = count.data();
    grid.marks = marks.data();
    int64_t *edge = edges.data(), *triangle = triangles.data();
    nb::gil_scoped_release release;
    const int64_t rows = grid.depth * grid.height;
    headfields::parallel_for(rows, grain, threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_marks, grid, first, last, edge);
    });
    headfields::parallel_for(rows, grain, threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_count, grid, first, last, edge, triangle);
    });
}

void marching_emit(PointsOut marks, Counts count, Triangles triangles, Rows first_edge, Rows first_triangle, Edges edge,
                   Faces faces, int threads) {
    MarchingGrid grid = grid_of(marks);
    check_rows(grid, first_edge);
    check_rows(grid, first_triangle);
    grid.marks = marks.data();
    grid.count = count.data();
    grid.triangle = triangles.data();
    grid.most = static_cast<int64_t>(triangles.shape(1));
    const int64_t *edge_row = first_edge.data(), *triangle_row = first_triangle.data();
    int64_t *to_edge = edge.data(), *to_face = faces.data();
    nb::gil_scoped_release release;
    headfields::parallel_for(grid.depth * grid.height, grain, threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_emit, grid, first, last, edge_row, triangle_row, to_edge, to_face);
    });
}

template <typename T>
using Values = nb::ndarray<const T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Fractions = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Vertices = nb::ndarray<T, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Edge = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ends = nb::ndarray<int64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;

template <typename T>
void marching_vertices(Values<T> values, double level, Edge edge, Ends ends, Fractions<T> fraction,
                       Vertices<T> vertices, int threads) {
    const MarchingGrid grid = grid_of(values);
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
    m.def("marching_scan", &marching_scan, "inside"_a.noconvert(), "count"_a.noconvert(), "marks"_a.noconvert(),
          "edges"_a.noconvert(), "triangles"_a.noconvert(), "threads"_a);
    m.def("marching_emit", &marching_emit, "marks"_a.noconvert(), "count"_a.noconvert(), "triangles"_a.noconvert(),
          "first_edge"_a.noconvert(), "first_triangle"_a.noconvert(), "edge"_a.noconvert(), "faces"_a.noconvert(),
          "threads"_a);
    m.def("marching_vertices", &marching_vertices<float>, "values"_a.noconvert(), "level"_a, "edge"_a.noconvert(),
          "ends"_a.noconvert(), "fraction"_a.noconvert(), "vertices"_a.noconvert(), "threads"_a);
    m.def("marching_vertices", &marching_vertices<double>, "values"_a.noconvert(), "level"_a, "edge"_a.noconvert(),
          "ends"_a.noconvert(), "fraction"_a.noconvert(), "vertices"_a.noconvert(), "threads"_a);
}
