// Bindings of Gaussians that ride on triangles: they check shapes and indices, and spread the work over threads.
#include "bound_gaussians.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "parallel.h"

namespace nb = nanobind;
using namespace headfields;
template <class Real, int axes> using Rows = nb::ndarray<Real, nb::ndim<axes>, nb::device::cpu, nb::c_contig>;
using In = Rows<const float, 3>;
using Out = Rows<float, 3>;

namespace {

constexpr int64_t kTask = 2048;

void require(bool holds, const char *what) {
    if (!holds) throw std::invalid_argument(std::string("bound_gaussians (native): ") + what);
}

void check_index(const int64_t *index, int64_t count, int64_t end, const char *what) {
    for (int64_t k = 0; k < count; ++k) require(index[k] >= 0 && index[k] < end, what);
}

template <class A> bool has_shape(const A &array, int64_t first, int64_t second, int64_t third) {
    return int64_t(array.shape(0)) == first && int64_t(array.shape(1)) == second && int64_t(array.shape(2)) == third;
}

void similarities(In vertices, Rows<const int64_t, 2> faces, Out rows, int threads) {
    const int64_t frames = int64_t(vertices.shape(0)), v = int64_t(vertices.shape(1)), f = int64_t(faces.shape(0));
    require(vertices.shape(2) == 3 && faces.shape(1) == 3, "vertices must be (b, v, 3) and faces (f, 3)");
    require(has_shape(rows, frames, f, similarity_row), "rows must be (b, f, 17)");
    check_index(faces.data(), 3 * f, v, "a face has a vertex that there is not");
    const float *from = vertices.data();
    const int64_t *corners = faces.data(), tasks = (f + kTask - 1) / kTask;
    float *to = rows.data();
    nb::gil_scoped_release release;
    parallel_for(frames * tasks, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t frame = task / tasks, first = task % tasks * kTask;
            HF_DISPATCH(triangle_similarities, from + frame * v * 3, corners, first, std::min(first + kTask, f),
                        to + frame * f * similarity_row);
        }
    });
}

// Numbers of frames: of the table, and of the Gaussians, one or as many.
struct Sizes {
    int64_t frames, own, n, f;
    Sizes(const In &table, const Rows<const int64_t, 1> &face, int64_t own_frames)
        : frames(int64_t(table.shape(0))), own(own_frames), n(int64_t(face.shape(0))), f(int64_t(table.shape(1))) {
        require(table.shape(2) == similarity_row, "the table must be (b, f, 17)");
        require(own == 1 || own == frames, "Gaussians must be those of one frame, or of all");
        check_index(face.data(), n, f, "a Gaussian rides on a triangle that there is not");
    }
    template <class A, class B, class C> void check(const A &means, const B &quaternions, const C &scales, int64_t of) const {
        require(has_shape(means, of, n, 3) && has_shape(quaternions, of, n, 4) && has_shape(scales, of, n, 3),
                "means (n, 3), quaternions (n, 4) or scales (n, 3) have the wrong shape");
    }
};

void bind(In means, In quaternions, In scales, In table, Rows<const int64_t, 1> face, Out to_means, Out to_quaternions,
          Out to_scales, int threads) {
    const Sizes size(table, face, int64_t(means.shape(0)));
    size.check(means, quaternions, scales, size.own), size.check(to_means, to_quaternions, to_scales, size.frames);
    const int64_t n = size.n, tasks = (n + kTask - 1) / kTask;
    const float *m = means.data(), *q = quaternions.data(), *s = scales.data(), *rows = table.data();
    float *out_m = to_means.data(), *out_q = to_quaternions.data(), *out_s = to_scales.data();
    const int64_t *own = face.data();
    nb::gil_scoped_release release;
    parallel_for(size.frames * tasks, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t frame = task / tasks, first = task % tasks * kTask, from = size.own == 1 ? 0 : frame * n, to = frame * n;
            HF_DISPATCH(bind_gaussians, m + 3 * from, q + 4 * from, s + 3 * from, rows + frame * size.f * similarity_row, own, first,
                        std::min(first + kTask, n), out_m + 3 * to, out_q + 4 * to, out_s + 3 * to);
        }
    });
}

void bind_backward(In means, In quaternions, In scales, In table, Rows<const int64_t, 1> face, Out to_means, Out to_quaternions,
                   Out to_scales, int threads) {
    const Sizes size(table, face, int64_t(to_means.shape(0)));
    size.check(means, quaternions, scales, size.frames), size.check(to_means, to_quaternions, to_scales, size.own);
    const int64_t n = size.n, tasks = (n + kTask - 1) / kTask;
    const float *m = means.data(), *q = quaternions.data(), *s = scales.data(), *rows = table.data();
    float *out_m = to_means.data(), *out_q = to_quaternions.data(), *out_s = to_scales.data();
    const int64_t *own = face.data();
    nb::gil_scoped_release release;
    if (!size.frames) {  // nothing is summed
        std::fill_n(out_m, 3 * n * size.own, 0.0f), std::fill_n(out_q, 4 * n * size.own, 0.0f);
        std::fill_n(out_s, 3 * n * size.own, 0.0f);
    }
    parallel_for(tasks, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t task = begin; task < end; ++task)
            for (int64_t frame = 0; frame < size.frames; ++frame) {  // in one order, so that sums do not depend on threads
                const int64_t first = task * kTask, from = frame * n, to = size.own == 1 ? 0 : frame * n;
                HF_DISPATCH(bind_gaussians_backward, m + 3 * from, q + 4 * from, s + 3 * from, rows + frame * size.f * similarity_row,
                            own, first, std::min(first + kTask, n), size.own != 1 || frame == 0, out_m + 3 * to, out_q + 4 * to,
                            out_s + 3 * to);
            }
    });
}

}  // namespace

void bind_bound_gaussians(nb::module_ &m) {
    m.def("triangle_similarities", &similarities, "vertices (b, v, 3), faces (f, 3) -> rows (b, f, 17)");
    m.def("bind_gaussians", &bind, "means, quaternions, scales (1 or b, n, ...), table (b, f, 17), face (n,) -> the same, posed");
    m.def("bind_gaussians_backward", &bind_backward, "gradients of those posed (b, n, ...) -> of the others (1 or b, n, ...)");
}
