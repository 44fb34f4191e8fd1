// Binding of the weighted means of images.
#include "blur.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <vector>

#include "parallel.h"

namespace nb = nanobind;
using headfields::parallel_for;
template <class Real> using Images = nb::ndarray<Real, nb::ndim<3>, nb::device::cpu, nb::c_contig>;
template <class Real> using Row = nb::ndarray<Real, nb::ndim<1>, nb::device::cpu, nb::c_contig>;

namespace {

void blur(Images<const float> images, Row<const float> weights, Images<float> out, int threads) {
    const int64_t count = int64_t(images.shape(0)), height = int64_t(images.shape(1)), width = int64_t(images.shape(2));
    if (out.shape(0) != images.shape(0) || out.shape(1) != images.shape(1) || out.shape(2) != images.shape(2))
        throw std::invalid_argument("blur (native): out must have the shape of images");
    const int64_t side = int64_t(weights.shape(0));
    if (side % 2 == 0 || side > 1023) throw std::invalid_argument("blur (native): weights must be an odd number, at most 1023");
    if (!count || !height || !width) return;
    const int reach = int(side / 2), workers = threads < 1 ? 1 : threads;
    const int64_t memory = height * width + width + 2 * reach;
    std::vector<float> scratch(workers * memory);
    const float *from = images.data(), *by = weights.data();
    float *to = out.data();
    nb::gil_scoped_release release;
    parallel_for(count, 1, workers, [&](int64_t begin, int64_t end, int worker) {
        for (int64_t k = begin; k < end; ++k)
            HF_DISPATCH(blur_image, from + k * height * width, height, width, by, reach, to + k * height * width,
                        scratch.data() + worker * memory);
    });
}

}  // namespace

void bind_blur(nb::module_ &m) {
    m.def("blur", &blur, "images (n, h, w), weights (k,) -> out (n, h, w): weighted means, zeros beyond the border");
}
