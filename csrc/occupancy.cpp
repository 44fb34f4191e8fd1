// Bindings of the occupancy kernels.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>

#include "occupancy.h"
#include "parallel.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Rows = nb::ndarray<const T, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
template <class T>
using Box = nb::ndarray<const T, nb::shape<2, 3>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Cells = nb::ndarray<const uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

struct Size {
    int64_t of[3] = {0, 0, 0};
    explicit Size(const Cells *cells) {
        for (size_t axis = 0; cells != nullptr && axis < 3; ++axis) of[axis] = static_cast<int64_t>(cells->shape(axis));
    }
};

// The arguments of a march but for its results. Without a grid every interval of the lattice is kept.
template <class T>
struct March {
    std::optional<Rows<T>> origins, directions;
    In<T> near, far;
    std::optional<In<T>> jitter;
    std::optional<Cells> occupied;
    std::optional<Box<T>> aabb;
    double step, cone;

    // `rows`: how many values the caller's array of one value a ray has.
    void run(size_t rows, int64_t *counts, const int64_t *offsets, int64_t *ray, T *start, T *end, int threads) const {
        const int64_t rays = static_cast<int64_t>(near.shape(0));
        const bool grid = occupied.has_value();
        bool fits = rows == near.shape(0) && far.shape(0) == rows && (!jitter || jitter->shape(0) == rows);
        fits = fits && (!grid || (origins && directions && aabb && origins->shape(0) == rows && directions->shape(0) == rows));
        if (!fits) throw nb::value_error("march: origins, directions, near, far, jitter and results differ in length");
        if (!(step > 0) || !(cone >= 0)) throw nb::value_error("march: the step must be > 0 and the cone >= 0");
        const Size size(grid ? &*occupied : nullptr);
        const T *o = grid ? origins.value().data() : nullptr, *d = grid ? directions.value().data() : nullptr;
        const T *n = near.data(), *f = far.data(), *j = jitter ? jitter->data() : nullptr;
        const uint8_t *cells = grid ? occupied->data() : nullptr;
        const T *box = grid ? aabb.value().data() : nullptr;
        const T a = static_cast<T>(step), c = static_cast<T>(cone);
        if (!(a > 0)) throw nb::value_error("march: the step is lost to rounding");
        const int64_t *shape = size.of;
        nb::gil_scoped_release release;
        headfields::parallel_for(rays, 128, threads, [=](int64_t first, int64_t last, int) {
            HF_DISPATCH(march, first, last, o, d, n, f, j, cells, shape, box, a, c, counts, offsets, ray, start, end);
        });
    }
};

template <class T>
void bind(nb::module_ &m) {
    using MaybeRows = std::optional<Rows<T>>;
    m.def("march_count",
          [](MaybeRows origins, MaybeRows directions, In<T> near, In<T> far, std::optional<In<T>> jitter,
             std::optional<Cells> occupied, std::optional<Box<T>> aabb, double step, double cone, Out<int64_t> counts,
             int threads) {
              const March<T> march{origins, directions, near, far, jitter, occupied, aabb, step, cone};
              march.run(counts.shape(0), counts.data(), nullptr, nullptr, nullptr, nullptr, threads);
          },
          nb::arg("origins").noconvert().none(), nb::arg("directions").noconvert().none(), "near"_a.noconvert(),
          "far"_a.noconvert(), nb::arg("jitter").noconvert().none(), nb::arg("occupied").noconvert().none(),
          nb::arg("aabb").noconvert().none(), "step"_a, "cone"_a, "counts"_a.noconvert(), "threads"_a);
    m.def("march_fill",
          [](MaybeRows origins, MaybeRows directions, In<T> near, In<T> far, std::optional<In<T>> jitter,
             std::optional<Cells> occupied, std::optional<Box<T>> aabb, double step, double cone, In<int64_t> offsets,
             Out<int64_t> ray, Out<T> start, Out<T> end, int threads) {
              if (ray.shape(0) == 0) return;
              const March<T> march{origins, directions, near, far, jitter, occupied, aabb, step, cone};
              const int64_t *at = offsets.data();
              const size_t rays = offsets.shape(0) - 1;
              bool fits = offsets.shape(0) > 0 && at[0] == 0 && at[rays] == static_cast<int64_t>(ray.shape(0));
              for (size_t r = 0; fits && r < rays; ++r) fits = at[r] <= at[r + 1];
              if (!fits || start.shape(0) != ray.shape(0) || end.shape(0) != ray.shape(0))
                  throw nb::value_error("march: offsets do not fit the results");
              march.run(rays, nullptr, offsets.data(), ray.data(), start.data(), end.data(), threads);
          },
          nb::arg("origins").noconvert().none(), nb::arg("directions").noconvert().none(), "near"_a.noconvert(),
          "far"_a.noconvert(), nb::arg("jitter").noconvert().none(), nb::arg("occupied").noconvert().none(),
          nb::arg("aabb").noconvert().none(), "step"_a, "cone"_a, "offsets"_a.noconvert(), "ray"_a.noconvert(),
          "start"_a.noconvert(), "end"_a.noconvert(), "threads"_a);
    m.def("lookup",
          [](Rows<T> points, Cells occupied, Box<T> aabb, Out<uint8_t> out, int threads) {
              const Size size(&occupied);
              if (out.shape(0) != points.shape(0)) throw nb::value_error("lookup: points and results differ in length");
              const T *p = points.data(), *box = aabb.data();
              const uint8_t *cells = occupied.data();
              uint8_t *o = out.data();
              const int64_t *shape = size.of, n = static_cast<int64_t>(points.shape(0));
              nb::gil_scoped_release release;
              headfields::parallel_for(n, 8192, threads, [=](int64_t first, int64_t last, int) {
                  HF_DISPATCH(lookup, first, last, p, cells, shape, box, o);
              });
          },
          "points"_a.noconvert(), "occupied"_a.noconvert(), "aabb"_a.noconvert(), "out"_a.noconvert(), "threads"_a);
}

}  // namespace

void bind_occupancy(nb::module_ &m) {
    bind<float>(m);
    bind<double>(m);
}
