// Binding of the blended map.
#include "blended_map.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <atomic>
#include <stdexcept>

#include "parallel.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Rows = nb::ndarray<const float, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Index = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ring = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Matrices = nb::ndarray<const float, nb::shape<-1, -1, 3, 4>, nb::c_contig, nb::device::cpu>;
using Centers = nb::ndarray<const float, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

void blended_map(Rows points, Rows directions, Index face, Index mesh, Matrices gradients, Centers centroids, Ring ring,
                 double sharpness, Out moved, Out turned, int threads) {
    const int64_t count = static_cast<int64_t>(points.shape(0)), faces = static_cast<int64_t>(gradients.shape(1));
    const int64_t meshes = static_cast<int64_t>(gradients.shape(0)), width = static_cast<int64_t>(ring.shape(1));
    const auto rows = [](const auto &array) { return static_cast<int64_t>(array.shape(0)); };
    if (rows(directions) != count || rows(face) != count || rows(mesh) != count || rows(moved) != count ||
        rows(turned) != count || rows(centroids) != meshes || static_cast<int64_t>(centroids.shape(1)) != faces ||
        rows(ring) != faces) {
        throw std::invalid_argument("blended_map: arrays differ in length");
    }
    const int64_t *f = face.data(), *m = mesh.data();
    for (int64_t i = 0; i < count; ++i) {
        if (f[i] < 0 || f[i] >= faces || m[i] < 0 || m[i] >= meshes) {
            throw std::out_of_range("blended_map: face or mesh_index names one that is not there");
        }
    }
    const headfields::BlendedMap map{faces, width, points.data(), directions.data(), f, m, gradients.data(),
                                     centroids.data(), ring.data(), static_cast<float>(sharpness), moved.data(),
                                     turned.data()};
    std::atomic<bool> inside{true};
    nb::gil_scoped_release release;
    headfields::parallel_for(count, 1024, threads, [&](int64_t first, int64_t last, int) {
        if (!HF_DISPATCH(blended_map, map, first, last)) inside = false;
    });
    if (!inside) throw std::out_of_range("blended_map: ring names a face that is not there");
}

}  // namespace

void bind_blended_map(nb::module_ &m) {
    m.def("blended_map", &blended_map, "points"_a.noconvert(), "directions"_a.noconvert(), "face"_a.noconvert(),
          "mesh_index"_a.noconvert(), "gradients"_a.noconvert(), "centroids"_a.noconvert(), "ring"_a.noconvert(),
          "sharpness"_a, "moved"_a.noconvert(), "turned"_a.noconvert(), "threads"_a);
}
