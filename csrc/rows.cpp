// Bindings of the weighted sums of rows.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <stdexcept>

#include "parallel.h"
#include "rows.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Table = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Index = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr int64_t grain = 1024;
constexpr int most_shares = 16;  // each share reads the whole index, so more of them gain little

template <typename Array>
int64_t size(const Array &array, size_t axis) {
    return static_cast<int64_t>(array.shape(axis));
}

void require(bool holds) {
    if (!holds) throw std::invalid_argument("interpolate_rows: arrays differ in shape");
}

template <typename A, typename B>
bool same(const A &a, const B &b) {
    return size(a, 0) == size(b, 0) && size(a, 1) == size(b, 1);
}

void check(const Index &index, int64_t rows) {
    const int64_t total = size(index, 0) * size(index, 1), *i = index.data();
    int64_t largest = -1;
    for (int64_t k = 0; k < total; ++k) largest = std::max(largest, i[k]);
    if (largest >= rows) throw std::out_of_range("interpolate_rows: index names a row that is not there");
}

void rows_gather(Table table, Index index, Table weights, Out out, int threads) {
    require(same(weights, index) && size(out, 0) == size(index, 0) && size(out, 1) == size(table, 1));
    check(index, size(table, 0));
    const int64_t picks = size(index, 1), width = size(table, 1);
    const float *t = table.data(), *w = weights.data();
    const int64_t *i = index.data();
    float *to = out.data();
    nb::gil_scoped_release release;
    headfields::parallel_for(size(index, 0), grain, threads, [=](int64_t first, int64_t last, int) {
        HF_DISPATCH(rows_gather, first, last, picks, width, t, i, w, to);
    });
}

void rows_scatter(Table values, Index index, Table weights, Out out, int threads) {
    require(same(weights, index) && size(values, 0) == size(index, 0) && size(values, 1) == size(out, 1));
    check(index, size(out, 0));
    const int64_t count = size(index, 0), picks = size(index, 1), width = size(values, 1);
    const float *v = values.data(), *w = weights.data();
    const int64_t *i = index.data(), total = size(out, 0) * width;
    float *to = out.data();
    nb::gil_scoped_release release;
    std::fill(to, to + total, 0.0f);
    const int shares = std::clamp(threads, 1, most_shares);
    headfields::parallel_for(shares, 1, threads, [=](int64_t first, int64_t last, int) {
        for (int64_t share = first; share < last; ++share) {
            HF_DISPATCH(rows_scatter, share, shares, count, picks, width, v, i, w, to);
        }
    });
}

void rows_dot(Table table, Index index, Table values, Out out, int threads) {
    require(same(out, index) && size(values, 0) == size(index, 0) && size(values, 1) == size(table, 1));
    check(index, size(table, 0));
    const int64_t picks = size(index, 1), width = size(table, 1);
    const float *t = table.data(), *v = values.data();
    const int64_t *i = index.data();
    float *to = out.data();
    nb::gil_scoped_release release;
    headfields::parallel_for(size(index, 0), grain, threads, [=](int64_t first, int64_t last, int) {
        HF_DISPATCH(rows_dot, first, last, picks, width, t, i, v, to);
    });
}

}  // namespace

void bind_rows(nb::module_ &m) {
    m.def("rows_gather", &rows_gather, "table"_a.noconvert(), "index"_a.noconvert(), "weights"_a.noconvert(),
          "out"_a.noconvert(), "threads"_a);
    m.def("rows_scatter", &rows_scatter, "values"_a.noconvert(), "index"_a.noconvert(), "weights"_a.noconvert(),
          "out"_a.noconvert(), "threads"_a);
    m.def("rows_dot", &rows_dot, "table"_a.noconvert(), "index"_a.noconvert(), "values"_a.noconvert(),
          "out"_a.noconvert(), "threads"_a);
}
