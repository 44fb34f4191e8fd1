// Bindings of the Gaussian rasterizer: they check shapes and spread the work over threads.
#include "splat.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.h"
#include "splat_bins.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace headfields;

namespace {

template <class T> using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using In = Array<const float>;
using Out = Array<float>;
template <class T> using Maybe = std::optional<Array<T>>;

// Gaussians of a task of the projection, and of its sums for the cameras: the same whatever the number of threads.
constexpr int64_t kChunk = 1024;
// Entries of tiles' lists that are made at a time; backward holds a slot for each.
constexpr int64_t kEntries = int64_t(1) << 21;

void require(bool holds, const char *what) {
    if (!holds) throw std::invalid_argument(std::string("splat (native): ") + what);
}

template <class A> bool has_shape(const A &array, std::initializer_list<int64_t> shape) {
    if (array.ndim() != shape.size()) return false;
    size_t axis = 0;
    for (const int64_t size : shape)
        if (int64_t(array.shape(axis++)) != size) return false;
    return true;
}

// The step from one camera's values to the next one's: 0 where the array has one for all.
int64_t step_of(const In &array, int64_t cameras, int64_t n, int64_t values, const char *what) {
    const bool vector = values > 0;
    require(array.ndim() == size_t(vector ? 3 : 2) && int64_t(array.shape(1)) == n && (!vector || int64_t(array.shape(2)) == values) &&
                (array.shape(0) == 1 || int64_t(array.shape(0)) == cameras), what);
    return array.shape(0) == 1 ? 0 : n * (vector ? values : 1);
}

SplatInputs inputs_of(const In &means, const In &quaternions, const In &scales, const In &opacities, const In &pose,
                      const In &lens, int64_t height, int64_t width, double near_, double low_pass, bool antialiased) {
    require(pose.ndim() == 3 && has_shape(pose, {int64_t(pose.shape(0)), 4, 4}), "world_to_camera must be (c, 4, 4)");
    const int64_t cameras = int64_t(pose.shape(0));
    require(has_shape(lens, {cameras, 3, 3}), "intrinsics must be (c, 3, 3)");
    require(means.ndim() == 3 && height >= 0 && width >= 0 && height < (1 << 24) && width < (1 << 24), "bad means or size");
    const int64_t n = int64_t(means.shape(1));
    require(n < (int64_t(1) << 31), "too many Gaussians");
    SplatInputs in{};
    in.n = n, in.height = height, in.width = width;
    in.means = means.data(), in.means_step = step_of(means, cameras, n, 3, "means must be (1 or c, n, 3)");
    in.quaternions = quaternions.data(), in.quaternions_step = step_of(quaternions, cameras, n, 4, "quaternions must be (1 or c, n, 4)");
    in.scales = scales.data(), in.scales_step = step_of(scales, cameras, n, 3, "scales must be (1 or c, n, 3)");
    in.opacities = opacities.data(), in.opacities_step = step_of(opacities, cameras, n, 0, "opacities must be (1 or c, n)");
    in.pose = pose.data(), in.lens = lens.data();
    in.near_ = float(near_), in.low_pass = float(low_pass), in.antialiased = antialiased;
    return in;
}

// Whether a Gaussian has values that the caller should look for and refuse.
bool project(const In &means, const In &quaternions, const In &scales, const In &opacities, const In &pose, const In &lens,
             int64_t height, int64_t width, double near_, double low_pass, bool antialiased, Out rows, Out radii, int threads) {
    const SplatInputs in = inputs_of(means, quaternions, scales, opacities, pose, lens, height, width, near_, low_pass, antialiased);
    const int64_t cameras = int64_t(pose.shape(0)), n = in.n;
    require(has_shape(rows, {cameras, n, splat_row}) && has_shape(radii, {cameras, n}), "rows or radii have the wrong shape");
    const int64_t chunks = (n + kChunk - 1) / kChunk;
    float *to_rows = rows.data(), *to_radii = radii.data();
    std::atomic<bool> strange{false};
    nb::gil_scoped_release release;
    parallel_for(cameras * chunks, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t camera = task / chunks, first = task % chunks * kChunk;
            if (HF_DISPATCH(splat_project, in, camera, first, std::min(first + kChunk, n), to_rows + camera * n * splat_row,
                            to_radii + camera * n))
                strange = true;
        }
    });
    return strange;
}

void project_backward(const In &grad, const In &means, const In &quaternions, const In &scales, const In &opacities,
                      const In &pose, const In &lens, int64_t height, int64_t width, double near_, double low_pass,
                      bool antialiased, Out to_means, Out to_quaternions, Out to_scales, Out to_opacities, Out to_pose,
                      Out to_lens, int threads) {
    const SplatInputs in = inputs_of(means, quaternions, scales, opacities, pose, lens, height, width, near_, low_pass, antialiased);
    const int64_t cameras = int64_t(pose.shape(0)), n = in.n;
    require(has_shape(grad, {cameras, n, splat_row}), "the gradient of rows has the wrong shape");
    const auto alike = [](const Out &a, const In &b) {
        if (a.ndim() != b.ndim()) return false;
        for (size_t k = 0; k < a.ndim(); ++k)
            if (a.shape(k) != b.shape(k)) return false;
        return true;
    };
    require(alike(to_means, means) && alike(to_quaternions, quaternions) && alike(to_scales, scales) &&
                alike(to_opacities, opacities) && alike(to_pose, pose) && alike(to_lens, lens), "a gradient has the wrong shape");
    const int64_t chunks = (n + kChunk - 1) / kChunk, each = splat_camera_gradient * cameras;
    float *pose_out = to_pose.data(), *lens_out = to_lens.data();
    const float *from = grad.data();
    std::vector<double> sums(chunks * each);
    SplatGradients out{to_means.data(), to_quaternions.data(), to_scales.data(), to_opacities.data(), nullptr};
    nb::gil_scoped_release release;
    parallel_for(chunks, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t chunk = begin; chunk < end; ++chunk) {
            SplatGradients own = out;
            own.camera = sums.data() + chunk * each;
            HF_DISPATCH(splat_project_backward, in, cameras, from, chunk * kChunk, std::min((chunk + 1) * kChunk, n), own);
        }
    });
    for (int64_t camera = 0; camera < cameras; ++camera) {
        double total[splat_camera_gradient] = {0};
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
            for (int k = 0; k < splat_camera_gradient; ++k) total[k] += sums[chunk * each + camera * splat_camera_gradient + k];
        for (int k = 0; k < 16; ++k) pose_out[16 * camera + k] = k < 12 ? float(total[k]) : 0.0f;
        for (int k = 0; k < 9; ++k) lens_out[9 * camera + k] = k < 6 ? float(total[12 + k]) : 0.0f;
    }
}

SplatHarmonics harmonics_of(const In &means, const In &coefficients, const In &centers) {
    const int64_t cameras = int64_t(centers.shape(0)), values = coefficients.ndim() == 4 ? int64_t(coefficients.shape(2)) : 0;
    require(means.ndim() == 3 && centers.ndim() == 2 && has_shape(centers, {cameras, 3}), "means or centers have the wrong shape");
    const int64_t n = int64_t(means.shape(1)), own = int64_t(coefficients.shape(0));
    require(values == 1 || values == 4 || values == 9 || values == 16, "coefficients must be of degree 0 to 3");
    require((own == 1 || own == cameras) && has_shape(coefficients, {own, n, values, 3}), "coefficients must be (1 or c, n, k, 3)");
    const int64_t means_step = step_of(means, cameras, n, 3, "means must be (1 or c, n, 3)");
    return {n, int(values), means.data(), coefficients.data(), means_step, own == 1 ? 0 : 3 * values * n, centers.data()};
}

void colors(const In &means, const In &coefficients, const In &centers, Out out, int threads) {
    const SplatHarmonics in = harmonics_of(means, coefficients, centers);
    const int64_t cameras = int64_t(centers.shape(0)), n = in.n, chunks = (n + kChunk - 1) / kChunk;
    require(has_shape(out, {cameras, n, 3}), "colors have the wrong shape");
    float *to = out.data();
    nb::gil_scoped_release release;
    parallel_for(cameras * chunks, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t camera = task / chunks, first = task % chunks * kChunk;
            HF_DISPATCH(splat_colors, in, camera, first, std::min(first + kChunk, n), to + camera * n * 3);
        }
    });
}

void colors_backward(const In &grad, const In &means, const In &coefficients, const In &centers, Out to_means,
                     Out to_coefficients, Out to_centers, int threads) {
    const SplatHarmonics in = harmonics_of(means, coefficients, centers);
    const int64_t cameras = int64_t(centers.shape(0)), n = in.n, chunks = (n + kChunk - 1) / kChunk;
    require(has_shape(grad, {cameras, n, 3}), "the gradient of colors has the wrong shape");
    require(has_shape(to_means, {int64_t(means.shape(0)), n, 3}) && has_shape(to_centers, {cameras, 3}) &&
                has_shape(to_coefficients, {int64_t(coefficients.shape(0)), n, in.values, 3}), "a gradient has the wrong shape");
    std::vector<double> sums(chunks * cameras * 3);
    const float *from = grad.data();
    float *means_out = to_means.data(), *coefficients_out = to_coefficients.data(), *centers_out = to_centers.data();
    nb::gil_scoped_release release;
    parallel_for(chunks, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t chunk = begin; chunk < end; ++chunk)
            HF_DISPATCH(splat_colors_backward, in, cameras, from, chunk * kChunk, std::min((chunk + 1) * kChunk, n), means_out,
                        coefficients_out, sums.data() + chunk * cameras * 3);
    });
    for (int64_t k = 0; k < 3 * cameras; ++k) {
        double total = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[chunk * cameras * 3 + k];
        centers_out[k] = float(total);
    }
}

// What both directions of the rasterizer read, with its checks.
struct Scene {
    int64_t cameras, n, d, height, width;
    const float *rows, *colors, *screen;
    int64_t colors_step;

    Scene(const In &rows_, const In &colors_, const Maybe<const float> &screen_, int64_t height_, int64_t width_)
        : height(height_), width(width_) {
        require(rows_.ndim() == 3 && rows_.shape(2) == splat_row, "rows must be (c, n, 10)");
        cameras = int64_t(rows_.shape(0)), n = int64_t(rows_.shape(1));
        require(colors_.ndim() == 3 && int64_t(colors_.shape(1)) == n && (colors_.shape(0) == 1 || int64_t(colors_.shape(0)) == cameras),
                "colors must be (1 or c, n, d)");
        d = int64_t(colors_.shape(2));
        require(d <= 4096 && n < (int64_t(1) << 31), "too many channels or Gaussians");
        require(height >= 0 && width >= 0 && height < (1 << 24) && width < (1 << 24), "bad size");
        require(!screen_ || has_shape(*screen_, {cameras, n, 2}), "screen must be (c, n, 2)");
        rows = rows_.data(), colors = colors_.data(), screen = screen_ ? screen_->data() : nullptr;
        colors_step = colors_.shape(0) == 1 ? 0 : n * d;
    }
    SplatView view(int64_t camera) const {
        return SplatView(rows + camera * n * splat_row, screen ? screen + camera * n * 2 : nullptr, n, height, width);
    }
    template <class A> bool fits(const A &a, int64_t channels) const {  // an image of all cameras; 0: without a last axis
        return channels ? has_shape(a, {cameras, height, width, channels}) : has_shape(a, {cameras, height, width});
    }
    SplatTile tile(int64_t camera, const SplatView &view, const SplatLists &lists, int64_t which) const {
        const int64_t row = lists.first_row + which / view.tiles_x, column = which % view.tiles_x;
        return {view.items.data(), lists.entries.data() + lists.start[which], lists.start[which + 1] - lists.start[which],
                int(column * splat_tile), int(row * splat_tile), int(height), int(width), rows + camera * n * splat_row,
                colors + camera * colors_step, int(d)};
    }
};

// Working memory of each thread, from the start of a cache line.
struct Scratch {
    std::vector<float> memory;
    int64_t each;
    Scratch(int threads, int64_t floats) : memory(std::max(threads, 1) * ((floats + 15) / 16 * 16) + 16), each((floats + 15) / 16 * 16) {}
    float *of(int worker) {
        const uintptr_t start = (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64;
        return reinterpret_cast<float *>(start) + worker * each;
    }
};

// Calls body(camera, view, lists) for all rows of tiles, some at a time.
template <class Body> void for_lists(const Scene &scene, int threads, const Body &body) {
    if (!scene.height || !scene.width) return;
    std::vector<std::unique_ptr<SplatView>> views(scene.cameras);
    for (int64_t begin = 0; begin < scene.cameras; begin += std::max(threads, 1)) {  // so many views in memory at a time
        const int64_t end = std::min<int64_t>(begin + std::max(threads, 1), scene.cameras);
        parallel_for(end - begin, 1, threads, [&](int64_t first, int64_t last, int) {
            for (int64_t k = first; k < last; ++k) views[begin + k] = std::make_unique<SplatView>(scene.view(begin + k));
        });
        for (int64_t camera = begin; camera < end; ++camera) {
            SplatView &view = *views[camera];
            for (int64_t row = 0; row < view.tiles_y;) {
                const int64_t next = SplatLists::rows_within(view, row, kEntries);
                body(camera, view, SplatLists(view, row, next, threads));
                row = next;
            }
            views[camera].reset();
        }
    }
}

void rasterize(const In &rows, const In &colors, const Maybe<const float> &screen, int64_t height, int64_t width, Out color,
               Out through, Out depth, Out normal, Out median, Array<int32_t> last, Array<int32_t> counts, int threads) {
    const Scene scene(rows, colors, screen, height, width);
    const int64_t pixels = height * width, d = scene.d;
    require(has_shape(color, {scene.cameras, height, width, d}) && scene.fits(through, 0) && scene.fits(depth, 0) &&
                scene.fits(normal, 3) && scene.fits(median, 0) && scene.fits(last, 0) && has_shape(counts, {scene.cameras, scene.n}),
            "an image has the wrong shape");
    const SplatImages all{color.data(), through.data(), depth.data(), normal.data(), median.data(), last.data(), counts.data()};
    nb::gil_scoped_release release;
    std::fill_n(all.counts, scene.cameras * scene.n, 0);
    Scratch scratch(threads, splat_forward_scratch(d));
    for_lists(scene, threads, [&](int64_t camera, const SplatView &view, const SplatLists &lists) {
        const int64_t at = camera * pixels;
        const SplatImages out{all.color + at * d, all.through + at, all.depth + at, all.normal + 3 * at,
                              all.median + at, all.last + at, all.counts + camera * scene.n};
        parallel_for(int64_t(lists.start.size()) - 1, 1, threads, [&](int64_t first, int64_t end, int worker) {
            for (int64_t which = first; which < end; ++which)
                HF_DISPATCH(splat_draw_tile, scene.tile(camera, view, lists, which), out, scratch.of(worker));
        });
    });
}

// Adds up the slots of an item into the gradients of its Gaussian.
void add_item(float *slots, int64_t tiles, int64_t d, const float *row, float *to_row, float *to_color, float *to_magnitudes) {
    const int64_t stride = splat_slot(d);
    float *sum = slots;  // the first slot becomes the sum
    for (int64_t k = 1; k < tiles; ++k)
        for (int64_t f = 0; f < stride; ++f) sum[f] += slots[k * stride + f];
    // Moments of h, the gradient of log alpha = log opacity - (xx dx² + 2 xy dx dy + yy dy²) / 2.
    to_row[0] += row[2] * sum[1] + row[3] * sum[2];
    to_row[1] += row[3] * sum[1] + row[4] * sum[2];
    to_row[2] -= 0.5f * sum[3];
    to_row[3] -= sum[4];
    to_row[4] -= 0.5f * sum[5];
    to_row[5] += sum[0] / row[5];
    for (int k = 0; k < 4; ++k) to_row[6 + k] += sum[8 + d + k];
    for (int64_t f = 0; f < d; ++f) to_color[f] += sum[8 + f];
    if (to_magnitudes)
        for (int k = 0; k < 2; ++k) to_magnitudes[k] += sum[6 + k];
}

void rasterize_backward(const Maybe<const float> &to_color, const Maybe<const float> &to_through, const Maybe<const float> &to_depth,
                        const Maybe<const float> &to_normal, const In &rows, const In &colors, const Maybe<const float> &screen,
                        int64_t height, int64_t width, const In &light, const Array<const int32_t> &last, Out out_rows,
                        Out out_colors, const Maybe<float> &out_magnitudes, int threads) {
    const Scene scene(rows, colors, screen, height, width);
    const int64_t pixels = height * width, d = scene.d, stride = splat_slot(d);
    require((!to_color || has_shape(*to_color, {scene.cameras, height, width, d})) && (!to_through || scene.fits(*to_through, 0)) &&
                (!to_depth || scene.fits(*to_depth, 0)) && (!to_normal || scene.fits(*to_normal, 3)) && scene.fits(light, 0) &&
                scene.fits(last, 0), "an image has the wrong shape");
    require(has_shape(out_rows, {scene.cameras, scene.n, splat_row}) &&
                has_shape(out_colors, {int64_t(colors.shape(0)), scene.n, d}) &&
                (!out_magnitudes || has_shape(*out_magnitudes, {scene.cameras, scene.n, 2})), "a gradient has the wrong shape");
    float *rows_out = out_rows.data(), *colors_out = out_colors.data(), *magnitudes = out_magnitudes ? out_magnitudes->data() : nullptr;
    const SplatImageGradients all{to_color ? to_color->data() : nullptr, to_through ? to_through->data() : nullptr,
                                  to_depth ? to_depth->data() : nullptr, to_normal ? to_normal->data() : nullptr,
                                  light.data(), last.data(), magnitudes != nullptr};
    nb::gil_scoped_release release;
    std::fill_n(rows_out, scene.cameras * scene.n * splat_row, 0.0f);
    std::fill_n(colors_out, int64_t(out_colors.size()), 0.0f);
    if (magnitudes) std::fill_n(magnitudes, scene.cameras * scene.n * 2, 0.0f);
    Scratch scratch(threads, splat_backward_scratch(d));
    std::unique_ptr<float[]> slots;
    int64_t capacity = 0;
    for_lists(scene, threads, [&](int64_t camera, const SplatView &view, const SplatLists &lists) {
        const int64_t at = camera * pixels;
        const SplatImageGradients grad{all.color ? all.color + at * d : nullptr, all.through ? all.through + at : nullptr,
                                       all.depth ? all.depth + at : nullptr, all.normal ? all.normal + 3 * at : nullptr,
                                       all.light + at, all.last + at, all.magnitudes};
        if (lists.slots * stride > capacity) {
            capacity = lists.slots * stride;
            slots.reset();
            slots.reset(new float[capacity]);
        }
        parallel_for(int64_t(lists.start.size()) - 1, 1, threads, [&](int64_t first, int64_t end, int worker) {
            for (int64_t which = first; which < end; ++which)
                HF_DISPATCH(splat_tile_backward, scene.tile(camera, view, lists, which), grad, slots.get(),
                            lists.places.data() + lists.start[which], scratch.of(worker));
        });
        parallel_for(int64_t(view.items.size()), 1024, threads, [&](int64_t first, int64_t end, int) {
            for (int64_t k = first; k < end; ++k) {
                const SplatItem &item = view.items[k];
                const int64_t after = k + 1 < int64_t(view.items.size()) ? int64_t(view.items[k + 1].slot) : lists.slots;
                if (after == int64_t(item.slot)) continue;
                const int64_t own = camera * scene.n + item.index;
                add_item(slots.get() + int64_t(item.slot) * stride, after - int64_t(item.slot), d, scene.rows + own * splat_row,
                         rows_out + own * splat_row, colors_out + camera * scene.colors_step + int64_t(item.index) * d,
                         magnitudes ? magnitudes + 2 * own : nullptr);
            }
        });
    });
}

}  // namespace

void bind_splat(nb::module_ &m) {
    m.def("splat_project", &project, "means"_a, "quaternions"_a, "scales"_a, "opacities"_a, "pose"_a, "lens"_a, "height"_a,
          "width"_a, "near"_a, "low_pass"_a, "antialiased"_a, "rows"_a.noconvert(), "radii"_a.noconvert(), "threads"_a);
    m.def("splat_project_backward", &project_backward, "grad"_a, "means"_a, "quaternions"_a, "scales"_a, "opacities"_a, "pose"_a,
          "lens"_a, "height"_a, "width"_a, "near"_a, "low_pass"_a, "antialiased"_a, "to_means"_a.noconvert(),
          "to_quaternions"_a.noconvert(), "to_scales"_a.noconvert(), "to_opacities"_a.noconvert(), "to_pose"_a.noconvert(),
          "to_lens"_a.noconvert(), "threads"_a);
    m.def("splat_colors", &colors, "means"_a, "coefficients"_a, "centers"_a, "out"_a.noconvert(), "threads"_a);
    m.def("splat_colors_backward", &colors_backward, "grad"_a, "means"_a, "coefficients"_a, "centers"_a,
          "to_means"_a.noconvert(), "to_coefficients"_a.noconvert(), "to_centers"_a.noconvert(), "threads"_a);
    m.def("splat_rasterize", &rasterize, "rows"_a, "colors"_a, "screen"_a.none(), "height"_a, "width"_a, "color"_a.noconvert(),
          "through"_a.noconvert(), "depth"_a.noconvert(), "normal"_a.noconvert(), "median"_a.noconvert(), "last"_a.noconvert(),
          "counts"_a.noconvert(), "threads"_a);
    m.def("splat_rasterize_backward", &rasterize_backward, "to_color"_a.none(), "to_through"_a.none(), "to_depth"_a.none(),
          "to_normal"_a.none(), "rows"_a, "colors"_a, "screen"_a.none(), "height"_a, "width"_a, "light"_a, "last"_a,
          "out_rows"_a.noconvert(), "out_colors"_a.noconvert(), "out_magnitudes"_a.none(), "threads"_a);
}
