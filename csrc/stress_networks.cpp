// The stress program's part for networks and for maps by deformation gradients.
#include <algorithm>

#include "blended_map.h"
#include "mlp.h"
#include "parallel.h"
#include "softplus.h"
#include "stress.h"

using namespace headfields;

namespace stress {

uint64_t softplus(Random &random, int n, int rare) {
    uint64_t seed = 8;
    const auto x = random.numbers<float>(n, -3, 3, rare), grad = random.numbers<float>(n, -1, 1, rare);
    std::vector<float> value(n), slope(n), curve(n);
    parallel_for(n, 100, pool_threads, [&](int64_t begin, int64_t end, int) {
        HF_DISPATCH(softplus_value, x.data(), 100.f, value.data(), begin, end);
        HF_DISPATCH(softplus_slope, grad.data(), x.data(), 100.f, slope.data(), begin, end);
        HF_DISPATCH(softplus_curve, grad.data(), x.data(), 100.f, curve.data(), begin, end);
    });
    mix(seed, value), mix(seed, slope), mix(seed, curve);
    return seed;
}

// Networks of odd and whole widths, with and without biases and a condition; forward, and backward in two chunks.
uint64_t networks(Random &random, int rows, int rare) {
    uint64_t seed = 6;
    const std::vector<std::vector<int64_t>> shapes = {
        {1, 1}, {17, 3}, {33, 64, 4}, {16, 128, 15, 1}, {130, 16, 16, 16}};
    for (const std::vector<int64_t> &widths : shapes) {
        const int64_t conditions = 1 + random.engine() % 3, in = widths[0], stride = in + random.engine() % 2;
        const bool chosen = conditions > 1;
        MlpNetwork net{};
        net.layers = int64_t(widths.size()) - 1;
        std::vector<std::vector<float>> packed, turned, biases;
        for (int64_t l = 0; l < net.layers; ++l) {
            const int64_t from = widths[l], to = widths[l + 1], padded = mlp_padded(to);
            const std::vector<float> weights = random.numbers<float>(to * from, -1, 1, rare);
            packed.emplace_back(from * padded), turned.emplace_back(to * mlp_padded(from));
            HF_DISPATCH(mlp_pack, weights.data(), from, to, 1, from, packed.back().data());
            HF_DISPATCH(mlp_pack, weights.data(), to, from, from, 1, turned.back().data());
            biases.push_back(random.numbers<float>((l == 0 ? conditions : 1) * padded, -1, 1, rare));
            const bool biased = (l == 0 && chosen) || random.engine() % 2;
            net.layer[l] = {from, to, padded, packed[l].data(), turned[l].data(), biased ? biases[l].data() : nullptr};
        }
        // The last row ends where its last number does, whatever the stride.
        const std::vector<float> input = random.numbers<float>(rows ? (rows - 1) * stride + in : 0, -1, 1, rare);
        const std::vector<float> grad = random.numbers<float>(rows * widths.back(), -1, 1, rare);
        std::vector<int64_t> index(rows);
        for (int64_t &i : index) i = random.engine() % conditions;
        net.input = input.data(), net.input_stride = stride, net.index = chosen ? index.data() : nullptr;
        std::vector<float> out(rows * widths.back()), to_input(rows * in), to_start(rows * net.layer[0].out);
        const int64_t grain = (rows / 2 + mlp_tile) / mlp_tile * mlp_tile, chunks = rows / grain + 1;
        parallel_for(rows, grain, pool_threads, [&](int64_t first, int64_t last, int) {
            HF_DISPATCH(mlp_forward, first, last, net, out.data());
        });
        std::vector<std::vector<float>> sums;
        std::vector<MlpGradient> gradients(chunks, MlpGradient{});
        const auto room = [&](int64_t size) { return sums.emplace_back(size, 0.f).data(); };
        for (MlpGradient &gradient : gradients)
            for (int64_t l = 0; l < net.layers; ++l) {
                const MlpLayer &layer = net.layer[l];
                if (random.engine() % 4) gradient.weight[l] = room(mlp_whole_blocks(layer.in) * layer.padded);
                if (layer.bias) gradient.bias[l] = room((l == 0 ? conditions : 1) * layer.padded);
            }
        const bool asked = random.engine() % 4;
        parallel_for(rows, grain, pool_threads, [&](int64_t first, int64_t last, int) {
            std::vector<float> scratch(mlp_scratch(net));
            HF_DISPATCH(mlp_backward, first, last, net, grad.data(), gradients[first / grain],
                        asked ? to_input.data() : nullptr, asked ? to_start.data() : nullptr, scratch.data());
        });
        mix(seed, out), mix(seed, to_input), mix(seed, to_start);
        for (const std::vector<float> &sum : sums) mix(seed, sum);
    }
    return seed;
}

uint64_t blended_maps(Random &random, int n, int width, int rare) {
    const int64_t meshes = 2, faces = 31;
    const std::vector<float> points = random.numbers<float>(3 * n, -1, 1, rare);
    const std::vector<float> directions = random.numbers<float>(3 * n, -1, 1, rare);
    const std::vector<float> gradients = random.numbers<float>(meshes * faces * 12, -1, 1, rare);
    const std::vector<float> centroids = random.numbers<float>(meshes * faces * 3, -1, 1, rare);
    std::vector<int64_t> face(n), mesh(n), ring(faces * width);
    for (int64_t &f : face) f = random.engine() % faces;
    for (int64_t &m : mesh) m = random.engine() % meshes;
    for (int64_t k = 0; k < int64_t(ring.size()); ++k)
        ring[k] = k % width == 0 ? k / width : int64_t(random.engine() % (faces + 1)) - 1;
    std::vector<float> moved(3 * n), turned(3 * n);
    const BlendedMap map{faces, width, points.data(), directions.data(), face.data(), mesh.data(), gradients.data(),
                         centroids.data(), ring.data(), 500.f, moved.data(), turned.data()};
    parallel_for(n, 50, pool_threads, [&](int64_t first, int64_t last, int) {
        expect(HF_DISPATCH(blended_map, map, first, last), "blended_map finds a ring out of range");
    });
    uint64_t seed = 7;
    mix(seed, moved), mix(seed, turned);
    return seed;
}

}  // namespace stress
