// The stress program's part for Gaussians and their images.
#include <algorithm>

#include "blur.h"
#include "bound_gaussians.h"
#include "parallel.h"
#include "splat_bins.h"
#include "stress.h"

using namespace headfields;

namespace stress {

uint64_t splats(Random &random, int64_t n, int64_t cameras, int64_t channels, int64_t height, int64_t width, int rare) {
    const auto means = random.numbers<float>(3 * n, -1, 1, rare), turns = random.numbers<float>(4 * n, -1, 1, rare);
    const auto scales = random.numbers<float>(3 * n * cameras, 0, 0.2, rare), opacities = random.numbers<float>(n, 0, 1, rare);
    const auto colors = random.numbers<float>(n * channels, 0, 1, rare), screen = random.numbers<float>(2 * n * cameras, -1, 1, rare);
    std::vector<float> pose(16 * cameras, 0), lens(9 * cameras, 0);
    for (int64_t c = 0; c < cameras; ++c) {
        for (int k = 0; k < 4; ++k) pose[16 * c + 5 * k] = 1;
        pose[16 * c + 11] = 3 + float(c);
        lens[9 * c] = lens[9 * c + 4] = float(width) + 1, lens[9 * c + 2] = 0.5f * float(width), lens[9 * c + 5] = 0.5f * float(height);
        lens[9 * c + 8] = 1;
    }
    SplatInputs in{};
    in.n = n, in.height = height, in.width = width;
    in.means = means.data(), in.quaternions = turns.data(), in.scales = scales.data(), in.opacities = opacities.data();
    in.scales_step = 3 * n, in.pose = pose.data(), in.lens = lens.data();
    in.near_ = 0.01f, in.low_pass = 0.3f, in.antialiased = n % 2 == 1;
    std::vector<float> rows(cameras * n * splat_row), radii(cameras * n);
    parallel_for(cameras, 1, pool_threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t c = begin; c < end; ++c)
            HF_DISPATCH(splat_project, in, c, 0, n, rows.data() + c * n * splat_row, radii.data() + c * n);
    });
    uint64_t seed = 10;
    const int64_t pixels = height * width, stride = splat_slot(channels);
    for (int64_t c = 0; c < cameras; ++c) {
        SplatView view(rows.data() + c * n * splat_row, screen.data() + 2 * n * c, n, height, width);
        std::vector<float> color(pixels * channels), through(pixels), depth(pixels), normal(3 * pixels), median(pixels);
        std::vector<int32_t> last(pixels), counts(n, 0);
        const SplatImages images{color.data(), through.data(), depth.data(), normal.data(), median.data(), last.data(), counts.data()};
        const SplatImageGradients grad{color.data(), through.data(), depth.data(), normal.data(), through.data(), last.data(), true};
        for (int64_t row = 0; row < view.tiles_y;) {  // lists are short, so that there are several
            const int64_t next = SplatLists::rows_within(view, row, 100);
            expect(next > row && next <= view.tiles_y, "lists of no rows");
            const SplatLists lists(view, row, next, pool_threads);
            std::vector<float> slots(lists.slots * stride, -1);
            for (const bool backward : {false, true})
                parallel_for(int64_t(lists.start.size()) - 1, 1, pool_threads, [&](int64_t begin, int64_t end, int) {
                    std::vector<float> scratch(backward ? splat_backward_scratch(channels) : splat_forward_scratch(channels));
                    for (int64_t which = begin; which < end; ++which) {
                        const int64_t from = lists.start[which];
                        const SplatTile tile{view.items.data(), lists.entries.data() + from, lists.start[which + 1] - from,
                                             int(which % view.tiles_x * splat_tile), int((row + which / view.tiles_x) * splat_tile),
                                             int(height), int(width), rows.data() + c * n * splat_row, colors.data(), int(channels)};
                        if (backward)
                            HF_DISPATCH(splat_tile_backward, tile, grad, slots.data(), lists.places.data() + from, scratch.data());
                        else
                            HF_DISPATCH(splat_draw_tile, tile, images, scratch.data());
                    }
                });
            mix(seed, slots);
            row = next;
        }
        mix(seed, counts), mix(seed, last);
        for (const int32_t count : counts) expect(count >= 0 && count <= pixels, "a Gaussian in more pixels than there are");
    }
    std::vector<float> to_means(3 * n), to_turns(4 * n), to_scales(3 * n * cameras), to_opacities(n);
    std::vector<double> sums(splat_camera_gradient * cameras);
    const SplatGradients out{to_means.data(), to_turns.data(), to_scales.data(), to_opacities.data(), sums.data()};
    HF_DISPATCH(splat_project_backward, in, cameras, rows.data(), 0, n, out);
    for (const float g : to_opacities) expect(g == g || rare, "a gradient that is not a number");
    mix(seed, radii);
    return seed;
}

uint64_t splat_harmonics(Random &random, int64_t n, int64_t cameras, int values, int rare) {
    const bool own = n % 2 == 1;  // each camera has Gaussians of its own
    const int64_t sets = own ? cameras : 1;
    const auto means = random.numbers<float>(3 * n * sets, -1, 1, rare), centers = random.numbers<float>(3 * cameras, -3, 3, rare);
    const auto coefficients = random.numbers<float>(3 * n * values * sets, -1, 1, rare);
    SplatHarmonics in{};
    in.n = n, in.values = values, in.means = means.data(), in.coefficients = coefficients.data(), in.centers = centers.data();
    in.means_step = own ? 3 * n : 0, in.coefficients_step = own ? 3 * n * values : 0;
    std::vector<float> colors(3 * n * cameras), to_means(3 * n * sets), to_coefficients(3 * n * values * sets);
    constexpr int64_t task = 64;
    const int64_t tasks = (n + task - 1) / task;
    std::vector<double> to_centers(3 * cameras * tasks);
    parallel_for(tasks, 1, pool_threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t k = begin; k < end; ++k) {
            const int64_t first = k * task, last = std::min(first + task, n);
            for (int64_t c = 0; c < cameras; ++c) HF_DISPATCH(splat_colors, in, c, first, last, colors.data() + 3 * n * c);
            HF_DISPATCH(splat_colors_backward, in, cameras, colors.data(), first, last, to_means.data(), to_coefficients.data(),
                        to_centers.data() + 3 * cameras * k);
        }
    });
    uint64_t seed = 11;
    mix(seed, colors), mix(seed, to_coefficients), mix(seed, to_means);
    return seed;
}

uint64_t bound_gaussians(Random &random, int64_t n, int64_t frames, int64_t faces, int rare) {
    const int64_t vertices = faces + 2, own = n % 2 ? frames : 1;
    const auto vertex = random.numbers<float>(3 * vertices * frames, -1, 1, rare);
    std::vector<int64_t> corners(3 * faces), face(n);
    for (int64_t &corner : corners) corner = random.engine() % vertices;
    for (int64_t &f : face) f = random.engine() % faces;
    const auto means = random.numbers<float>(3 * n * own, -1, 1, rare), turns = random.numbers<float>(4 * n * own, -1, 1, rare);
    const auto scales = random.numbers<float>(3 * n * own, 0, 0.2, rare);
    std::vector<float> table(similarity_row * faces * frames), moved(3 * n * frames), turned(4 * n * frames), scaled(3 * n * frames);
    std::vector<float> to_means(3 * n * own), to_turns(4 * n * own), to_scales(3 * n * own);
    parallel_for(frames, 1, pool_threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t b = begin; b < end; ++b)
            HF_DISPATCH(triangle_similarities, vertex.data() + 3 * vertices * b, corners.data(), 0, faces,
                        table.data() + similarity_row * faces * b);
    });
    parallel_for(n, 16, pool_threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t b = 0; b < frames; ++b) {
            const int64_t from = own == 1 ? 0 : b * n, to = b * n;
            const float *rows = table.data() + similarity_row * faces * b;
            HF_DISPATCH(bind_gaussians, means.data() + 3 * from, turns.data() + 4 * from, scales.data() + 3 * from, rows, face.data(),
                        begin, end, moved.data() + 3 * to, turned.data() + 4 * to, scaled.data() + 3 * to);
            HF_DISPATCH(bind_gaussians_backward, moved.data() + 3 * to, turned.data() + 4 * to, scaled.data() + 3 * to, rows,
                        face.data(), begin, end, own != 1 || b == 0, to_means.data() + 3 * from, to_turns.data() + 4 * from,
                        to_scales.data() + 3 * from);
        }
    });
    uint64_t seed = 12;
    mix(seed, table), mix(seed, moved), mix(seed, to_turns);
    return seed;
}

uint64_t blurred(Random &random, int64_t count, int64_t height, int64_t width, int reach, int rare) {
    const auto images = random.numbers<float>(count * height * width, 0, 1, rare), weights = random.numbers<float>(2 * reach + 1, 0, 1);
    std::vector<float> out(count * height * width, -1);
    parallel_for(count, 1, pool_threads, [&](int64_t begin, int64_t end, int) {
        std::vector<float> scratch(height * width + width + 2 * reach);
        for (int64_t k = begin; k < end; ++k)
            HF_DISPATCH(blur_image, images.data() + k * height * width, height, width, weights.data(), reach,
                        out.data() + k * height * width, scratch.data());
    });
    for (const float mean : out) expect(mean >= 0 || rare, "a mean that is below all values, or is not written");
    uint64_t seed = 13;
    mix(seed, out);
    return seed;
}

}  // namespace stress
