// Bindings of softplus and its derivatives.
#include "softplus.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>

#include "parallel.h"

namespace nb = nanobind;
using headfields::parallel_for;
template <class Real>
using Row = nb::ndarray<Real, nb::ndim<1>, nb::device::cpu, nb::c_contig>;

namespace {

constexpr int64_t kTask = 16384;

void value(Row<const float> x, float beta, Row<float> out, int threads) {
    if (out.shape(0) != x.shape(0)) throw std::invalid_argument("softplus (native): x and out must be of one length");
    const float *from = x.data();
    float *to = out.data();
    nb::gil_scoped_release release;
    parallel_for(int64_t(x.shape(0)), kTask, threads,
                 [&](int64_t begin, int64_t end, int) { HF_DISPATCH(softplus_value, from, beta, to, begin, end); });
}

void derivative(Row<const float> grad, Row<const float> x, float beta, bool second, Row<float> out, int threads) {
    if (out.shape(0) != x.shape(0) || grad.shape(0) != x.shape(0))
        throw std::invalid_argument("softplus (native): grad, x and out must be of one length");
    const float *by = grad.data(), *from = x.data();
    float *to = out.data();
    nb::gil_scoped_release release;
    parallel_for(int64_t(x.shape(0)), kTask, threads, [&](int64_t begin, int64_t end, int) {
        if (second)
            HF_DISPATCH(softplus_curve, by, from, beta, to, begin, end);
        else
            HF_DISPATCH(softplus_slope, by, from, beta, to, begin, end);
    });
}

}  // namespace

void bind_softplus(nb::module_ &m) {
    m.def("softplus", &value, "x (n,) -> out (n,)");
    m.def("softplus_derivative", &derivative, "grad (n,), x (n,) -> out (n,): grad times the first or second derivative");
}
