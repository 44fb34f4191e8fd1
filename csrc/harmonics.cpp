// Bindings of the spherical harmonics. The coefficients come from Python, so that one table serves every backend.
#include "harmonics.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "parallel.h"

namespace nb = nanobind;
using headfields::Harmonics;
using headfields::parallel_for;
template <class Real>
using Rows = nb::ndarray<Real, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Numbers = std::vector<double>;

namespace {

constexpr int64_t kTask = 8192;

Harmonics recurrence(const Numbers &start, const Numbers &a, const Numbers &b) {
    const size_t degree = start.size();
    if (degree < 1 || degree > 8 || a.size() != degree * degree || b.size() != a.size())
        throw std::invalid_argument("spherical_harmonics (native): degree must be 1 to 8, with degree^2 coefficients");
    Harmonics h{};
    h.degree = int(degree);
    std::copy(start.begin(), start.end(), h.start);
    std::copy(a.begin(), a.end(), h.a);
    std::copy(b.begin(), b.end(), h.b);
    return h;
}

template <class A, class B>
void check(const Harmonics &h, const A &directions, const B &features) {
    if (directions.shape(1) != 3 || features.shape(0) != directions.shape(0) ||
        features.shape(1) != size_t(h.degree) * size_t(h.degree))
        throw std::invalid_argument("spherical_harmonics (native): expected directions (n, 3) and features (n, degree^2)");
}

template <class Real, class Kernel>
void run(Rows<const Real> directions, Rows<Real> out, const Numbers &start, const Numbers &a, const Numbers &b, int threads,
         Kernel kernel) {
    const Harmonics h = recurrence(start, a, b);
    check(h, directions, out);
    const Real *from = directions.data();
    Real *to = out.data();
    nb::gil_scoped_release release;
    parallel_for(int64_t(directions.shape(0)), kTask, threads,
                 [&](int64_t begin, int64_t end, int) { kernel(h, from, to, begin, end); });
}

template <class Real, class Kernel>
void run_gradient(Rows<const Real> grad, Rows<const Real> directions, Rows<Real> out, const Numbers &start, const Numbers &a,
                  const Numbers &b, int threads, Kernel kernel) {
    const Harmonics h = recurrence(start, a, b);
    check(h, directions, grad);
    if (out.shape(0) != directions.shape(0) || out.shape(1) != 3)
        throw std::invalid_argument("spherical_harmonics (native): expected a gradient (n, 3)");
    const Real *weights = grad.data(), *from = directions.data();
    Real *to = out.data();
    nb::gil_scoped_release release;
    parallel_for(int64_t(directions.shape(0)), kTask, threads,
                 [&](int64_t begin, int64_t end, int) { kernel(h, weights, from, to, begin, end); });
}

template <class Real>
void values(Rows<const Real> directions, Rows<Real> out, const Numbers &start, const Numbers &a, const Numbers &b, int threads) {
    run<Real>(directions, out, start, a, b, threads, [](const Harmonics &h, const Real *d, Real *o, int64_t i, int64_t j) {
        if constexpr (sizeof(Real) == 4)
            HF_DISPATCH(harmonics_f32, h, d, o, i, j);
        else
            HF_DISPATCH(harmonics_f64, h, d, o, i, j);
    });
}

template <class Real>
void gradients(Rows<const Real> grad, Rows<const Real> directions, Rows<Real> out, const Numbers &start, const Numbers &a,
               const Numbers &b, int threads) {
    run_gradient<Real>(grad, directions, out, start, a, b, threads,
                       [](const Harmonics &h, const Real *g, const Real *d, Real *o, int64_t i, int64_t j) {
                           if constexpr (sizeof(Real) == 4)
                               HF_DISPATCH(harmonics_gradient_f32, h, g, d, o, i, j);
                           else
                               HF_DISPATCH(harmonics_gradient_f64, h, g, d, o, i, j);
                       });
}

}  // namespace

void bind_harmonics(nb::module_ &m) {
    m.def("spherical_harmonics", &values<float>, "directions (n, 3) -> out (n, degree^2)");
    m.def("spherical_harmonics", &values<double>);
    m.def("spherical_harmonics_backward", &gradients<float>, "grad (n, degree^2), directions (n, 3) -> out (n, 3)");
    m.def("spherical_harmonics_backward", &gradients<double>);
}
