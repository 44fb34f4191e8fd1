// Bindings of the packed-sample kernels: volume-rendering quadrature and sample placement.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <memory>

#include "packed.h"
#include "parallel.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Offsets = In<int64_t>;

// Optical depths below this are no rounding of 0.
constexpr double least_depth = -1e-4;

// Waking a thread costs about what 8,000 samples do.
constexpr int64_t samples_per_thread = 8192;

// Rays in chunks of a few thousand samples each, on as many threads as that much work pays for.
template <class Body>
void for_rays(int64_t rays, int64_t samples, int threads, const Body &body) {
    nb::gil_scoped_release release;
    const int64_t worth = 1 + samples / samples_per_thread;
    const int64_t grain = std::max<int64_t>(1, rays * 2048 / std::max<int64_t>(samples, 2048));
    headfields::parallel_for(rays, grain, static_cast<int>(std::min<int64_t>(threads, worth)), body);
}

// The same, with working memory of `each` values a sample of the chunk.
template <class T, class Body>
void for_rays_with_scratch(const Offsets &offsets, int each, int threads, const Body &body) {
    const int64_t rays = static_cast<int64_t>(offsets.shape(0)) - 1;
    if (rays <= 0) return;
    const int64_t *at = offsets.data();
    for_rays(rays, at[rays], threads, [&](int64_t begin, int64_t end, int) {
        const std::unique_ptr<T[]> scratch(new T[static_cast<size_t>(each * (at[end] - at[begin]))]);
        body(begin, end, scratch.get());
    });
}

// The kernels index by offsets, so they must ascend from 0 to the number of samples.
void check(const Offsets &offsets, size_t samples) {
    const int64_t *at = offsets.data();
    const size_t n = offsets.shape(0);
    bool fine = n > 0 && at[0] == 0 && at[n - 1] == static_cast<int64_t>(samples);
    for (size_t i = 1; fine && i < n; ++i) fine = at[i - 1] <= at[i];
    if (!fine)
        throw nb::value_error("packed samples: offsets do not fit the samples; expected what ray_offsets(ray, rays) gives");
}

// Every array of a kernel must have as many values as it reads or writes.
void check_size(int64_t size, std::initializer_list<size_t> sizes) {
    for (const size_t s : sizes)
        if (static_cast<int64_t>(s) != size) throw nb::value_error("packed samples: arrays differ in length");
}

int64_t ray_count(const Offsets &offsets) { return static_cast<int64_t>(offsets.shape(0)) - 1; }

// Fills offsets[r] with the first sample of ray r; returns the first sample that is out of order or of no ray, or -1.
int64_t ray_offsets(Offsets ray, Out<int64_t> offsets) {
    const int64_t samples = static_cast<int64_t>(ray.shape(0)), rays = static_cast<int64_t>(offsets.shape(0)) - 1;
    const int64_t *r = ray.data();
    int64_t *out = offsets.data(), filled = 0;  // out[0 .. filled) are known
    nb::gil_scoped_release release;
    for (int64_t i = 0; i < samples; ++i) {
        if (r[i] < filled - 1 || r[i] < 0 || r[i] >= rays) return i;
        while (filled <= r[i]) out[filled++] = i;
    }
    while (filled <= rays) out[filled++] = samples;
    return -1;
}

template <class T>
void bind_quadrature(nb::module_ &m) {
    m.def("ray_weights",
          [](In<T> values, Offsets offsets, bool alpha, Out<T> out, int threads) {
              check(offsets, values.shape(0));
              check_size(values.shape(0), {out.shape(0)});
              const T *v = values.data();
              T *o = out.data();
              const int64_t *at = offsets.data();
              std::atomic<bool> negative{false};
              for_rays_with_scratch<T>(offsets, 2, threads, [=, &negative](int64_t begin, int64_t end, T *scratch) {
                  HF_DISPATCH(ray_weights, begin, end, at, v, alpha, o, scratch);
                  T least = 0;
                  for (int64_t i = at[begin]; i < at[end]; ++i) least = v[i] < least ? v[i] : least;
                  if (least < T(least_depth)) negative = true;
              });
              if (negative && !alpha)
                  throw nb::value_error("weights_from_density: a density is negative, or an interval ends before it starts; "
                                        "an exponential, softplus or ReLU makes densities that are not");
          },
          "values"_a.noconvert(), "offsets"_a.noconvert(), "alpha"_a, "out"_a.noconvert(), "threads"_a);
    m.def("ray_weights_backward",
          [](In<T> grad, In<T> values, Offsets offsets, bool alpha, Out<T> out, int threads) {
              check(offsets, values.shape(0));
              check_size(values.shape(0), {grad.shape(0), out.shape(0)});
              const T *g = grad.data(), *v = values.data();
              T *o = out.data();
              const int64_t *at = offsets.data();
              for_rays_with_scratch<T>(offsets, 2, threads, [=](int64_t begin, int64_t end, T *scratch) {
                  HF_DISPATCH(ray_weights_backward, begin, end, at, g, v, alpha, o, scratch);
              });
          },
          "grad"_a.noconvert(), "values"_a.noconvert(), "offsets"_a.noconvert(), "alpha"_a, "out"_a.noconvert(),
          "threads"_a);
    m.def("ray_weights_double",
          [](In<T> direction, In<T> grad, In<T> values, Offsets offsets, bool alpha, Out<T> out_weights,
             Out<T> out_values, int threads) {
              check(offsets, values.shape(0));
              check_size(values.shape(0), {direction.shape(0), grad.shape(0), out_weights.shape(0), out_values.shape(0)});
              const T *h = direction.data(), *g = grad.data(), *v = values.data();
              T *ow = out_weights.data(), *ov = out_values.data();
              const int64_t *at = offsets.data();
              for_rays_with_scratch<T>(offsets, 3, threads, [=](int64_t begin, int64_t end, T *scratch) {
                  HF_DISPATCH(ray_weights_double, begin, end, at, h, g, v, alpha, ow, ov, scratch);
              });
          },
          "direction"_a.noconvert(), "grad"_a.noconvert(), "values"_a.noconvert(), "offsets"_a.noconvert(), "alpha"_a,
          "out_weights"_a.noconvert(), "out_values"_a.noconvert(), "threads"_a);
    m.def("exclusive_sum",
          [](In<T> values, Offsets offsets, bool reverse, Out<T> out, int threads) {
              check(offsets, values.shape(0));
              check_size(values.shape(0), {out.shape(0)});
              const T *v = values.data();
              T *o = out.data();
              const int64_t *at = offsets.data();
              for_rays(ray_count(offsets), values.shape(0), threads, [=](int64_t begin, int64_t end, int) {
                  HF_DISPATCH(exclusive_sum, begin, end, at, v, reverse, o);
              });
          },
          "values"_a.noconvert(), "offsets"_a.noconvert(), "reverse"_a, "out"_a.noconvert(), "threads"_a);
    m.def("weighted_sum",
          [](In<T> weights, In<T> values, Offsets offsets, int64_t channels, bool total, Out<T> out, int threads) {
              check(offsets, weights.shape(0));
              check_size(weights.shape(0) * channels, {values.shape(0)});
              check_size(ray_count(offsets) * (channels + total), {out.shape(0)});
              const T *w = weights.data(), *v = values.data();
              T *o = out.data();
              const int64_t *at = offsets.data();
              for_rays(ray_count(offsets), weights.shape(0), threads, [=](int64_t begin, int64_t end, int) {
                  HF_DISPATCH(weighted_sum, begin, end, at, w, v, channels, total, o);
              });
          },
          "weights"_a.noconvert(), "values"_a.noconvert(), "offsets"_a.noconvert(), "channels"_a, "total"_a,
          "out"_a.noconvert(), "threads"_a);
    m.def("weighted_sum_backward",
          [](In<T> grad, In<T> weights, In<T> values, Offsets offsets, int64_t channels, bool total, Out<T> out_weights,
             Out<T> out_values, int threads) {
              check(offsets, weights.shape(0));
              check_size(weights.shape(0) * channels, {values.shape(0), out_values.shape(0)});
              check_size(ray_count(offsets) * (channels + total), {grad.shape(0)});
              check_size(weights.shape(0), {out_weights.shape(0)});
              const T *g = grad.data(), *w = weights.data(), *v = values.data();
              T *ow = out_weights.data(), *ov = out_values.data();
              const int64_t *at = offsets.data();
              for_rays(ray_count(offsets), weights.shape(0), threads, [=](int64_t begin, int64_t end, int) {
                  HF_DISPATCH(weighted_sum_backward, begin, end, at, g, w, v, channels, total, ow, ov);
              });
          },
          "grad"_a.noconvert(), "weights"_a.noconvert(), "values"_a.noconvert(), "offsets"_a.noconvert(), "channels"_a,
          "total"_a, "out_weights"_a.noconvert(), "out_values"_a.noconvert(), "threads"_a);
}

template <class T>
void bind_sampling(nb::module_ &m) {
    m.def("inverse_cdf",
          [](In<T> start, In<T> end, In<T> weights, Offsets offsets, In<T> quantiles, int64_t quantile_count,
             Out<T> edges, int threads) {
              check(offsets, weights.shape(0));
              check_size(weights.shape(0), {start.shape(0), end.shape(0)});
              check_size(ray_count(offsets) * quantile_count, {quantiles.shape(0), edges.shape(0)});
              const T *s = start.data(), *e = end.data(), *w = weights.data(), *q = quantiles.data();
              T *o = edges.data();
              const int64_t *at = offsets.data();
              for_rays(ray_count(offsets), weights.shape(0) + quantiles.shape(0), threads,
                       [=](int64_t first, int64_t last, int) {
                           HF_DISPATCH(inverse_cdf, first, last, at, s, e, w, q, quantile_count, o);
                       });
          },
          "start"_a.noconvert(), "end"_a.noconvert(), "weights"_a.noconvert(), "offsets"_a.noconvert(),
          "quantiles"_a.noconvert(), "quantile_count"_a, "edges"_a.noconvert(), "threads"_a);
    m.def("merge_count",
          [](Offsets offsets_a, In<T> start_a, In<T> end_a, Offsets offsets_b, In<T> start_b, In<T> end_b,
             Out<int64_t> counts, int threads) {
              check(offsets_a, start_a.shape(0));
              check(offsets_b, start_b.shape(0));
              check_size(start_a.shape(0), {end_a.shape(0)});
              check_size(start_b.shape(0), {end_b.shape(0)});
              check_size(ray_count(offsets_a), {offsets_b.shape(0) - 1, counts.shape(0)});
              const int64_t *at = offsets_a.data(), *bt = offsets_b.data();
              const T *sa = start_a.data(), *ea = end_a.data(), *sb = start_b.data(), *eb = end_b.data();
              int64_t *c = counts.data();
              for_rays(ray_count(offsets_a), start_a.shape(0) + start_b.shape(0), threads,
                       [=](int64_t first, int64_t last, int) {
                           HF_DISPATCH(merge, first, last, at, sa, ea, bt, sb, eb, c, nullptr, nullptr,
                                       static_cast<T *>(nullptr), static_cast<T *>(nullptr));
                       });
          },
          "offsets_a"_a.noconvert(), "start_a"_a.noconvert(), "end_a"_a.noconvert(), "offsets_b"_a.noconvert(),
          "start_b"_a.noconvert(), "end_b"_a.noconvert(), "counts"_a.noconvert(), "threads"_a);
    m.def("merge_fill",
          [](Offsets offsets_a, In<T> start_a, In<T> end_a, Offsets offsets_b, In<T> start_b, In<T> end_b,
             Offsets offsets, Out<int64_t> ray, Out<T> start, Out<T> end, int threads) {
              check(offsets_a, start_a.shape(0));
              check(offsets_b, start_b.shape(0));
              check(offsets, ray.shape(0));
              check_size(start_a.shape(0), {end_a.shape(0)});
              check_size(start_b.shape(0), {end_b.shape(0)});
              check_size(ray_count(offsets_a), {offsets_b.shape(0) - 1, offsets.shape(0) - 1});
              check_size(ray.shape(0), {start.shape(0), end.shape(0)});
              if (ray.shape(0) == 0) return;
              const int64_t *at = offsets_a.data(), *bt = offsets_b.data(), *to = offsets.data();
              const T *sa = start_a.data(), *ea = end_a.data(), *sb = start_b.data(), *eb = end_b.data();
              int64_t *r = ray.data();
              T *s = start.data(), *e = end.data();
              for_rays(ray_count(offsets_a), ray.shape(0), threads, [=](int64_t first, int64_t last, int) {
                  HF_DISPATCH(merge, first, last, at, sa, ea, bt, sb, eb, nullptr, to, r, s, e);
              });
          },
          "offsets_a"_a.noconvert(), "start_a"_a.noconvert(), "end_a"_a.noconvert(), "offsets_b"_a.noconvert(),
          "start_b"_a.noconvert(), "end_b"_a.noconvert(), "offsets"_a.noconvert(), "ray"_a.noconvert(),
          "start"_a.noconvert(), "end"_a.noconvert(), "threads"_a);
}

}  // namespace

void bind_packed(nb::module_ &m) {
    m.def("ray_offsets", &ray_offsets, "ray"_a.noconvert(), "offsets"_a.noconvert());
    bind_quadrature<float>(m);
    bind_quadrature<double>(m);
    bind_sampling<float>(m);
    bind_sampling<double>(m);
}
