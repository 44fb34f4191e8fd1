// Bindings of the small fully connected networks.
#include "mlp.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "parallel.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace headfields;

namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Index = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Each = std::vector<std::optional<T>>;  // one for each layer, where there is one

void require(bool holds, const char *what) {
    if (!holds) throw std::invalid_argument(what);
}

template <typename T>
int64_t size(const T &array, int axis) {
    return static_cast<int64_t>(array.shape(axis));
}

// Zeroed floats that begin where a line of the cache does, so that no vector lies in two.
class Floats {
  public:
    explicit Floats(int64_t count) : memory_(count + 16, 0.0f) {
        at_ = memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64 / sizeof(float);
    }
    Floats(const Floats &) = delete;
    float *take(int64_t count) {
        float *taken = at_;
        at_ += count;
        return taken;
    }

  private:
    std::vector<float> memory_;
    float *at_;
};

// A network over the arrays it was made from, and the packed copies of its weights.
struct Packed {
    MlpNetwork net{};
    int64_t rows = 0, starts = 0;  // of the input; of the first layer's bias
    std::unique_ptr<Floats> memory;

    Packed(const Rows &x, const std::vector<Matrix> &weights, const std::vector<Matrix> &biases,
           const std::optional<Index> &index, bool backward) {
        rows = size(x, 0);
        require(!weights.empty() && weights.size() <= mlp_most_layers, "mlp: no layer, or too many");
        require(biases.size() == weights.size(), "mlp: biases and weights differ in number");
        require(size(x, 1) <= 1 || x.stride(1) == 1 || rows == 0, "mlp: a row of the input is not contiguous");
        net.input = x.data();
        net.input_stride = x.stride(0);
        int64_t width = size(x, 1), total = 0;
        for (size_t l = 0; l < weights.size(); ++l) {
            const int64_t out = size(weights[l], 0), in = size(weights[l], 1), padded = mlp_padded(out);
            require(in == width && in >= 1 && out >= 1 && out <= mlp_widest,
                    "mlp: a layer does not fit the one before");
            net.layer[net.layers++] = {in, out, padded, nullptr, nullptr, nullptr};
            total += in * padded + (backward ? out * mlp_padded(in) : 0);
            if (out != padded) total += size(biases[l], 0) * padded;
            width = out;
        }
        memory = std::make_unique<Floats>(total);
        for (size_t l = 0; l < weights.size(); ++l) {
            MlpLayer &layer = net.layer[l];
            float *packed = memory->take(layer.in * layer.padded);
            HF_DISPATCH(mlp_pack, weights[l].data(), layer.in, layer.out, 1, layer.in, packed);
            layer.packed = packed;
            if (backward) {
                float *turned = memory->take(layer.out * mlp_padded(layer.in));
                HF_DISPATCH(mlp_pack, weights[l].data(), layer.out, layer.in, layer.in, 1, turned);
                layer.turned = turned;
            }
            const int64_t count = size(biases[l], 0);  // none: the layer has no bias
            require(size(biases[l], 1) == layer.out, "mlp: a bias does not fit its layer");
            require(count <= 1 || (l == 0 && index), "mlp: a bias has more than one row");
            if (l == 0) starts = count;
            if (count == 0) continue;
            if (layer.out == layer.padded) {
                layer.bias = biases[l].data();
                continue;
            }
            float *bias = memory->take(count * layer.padded);
            for (int64_t k = 0; k < count; ++k) {
                std::copy_n(biases[l].data() + k * layer.out, layer.out, bias + k * layer.padded);
            }
            layer.bias = bias;
        }
        if (index) {
            require(size(*index, 0) == rows, "mlp: the index does not fit the input");
            net.index = index->data();
            const auto bad = [this](int64_t k) { return k < 0 || k >= starts; };
            if (std::any_of(net.index, net.index + rows, bad)) {
                throw std::out_of_range("mlp: index names a row of condition that is not there");
            }
        }
    }
};

void mlp(Rows x, const std::vector<Matrix> &weights, const std::vector<Matrix> &biases, std::optional<Index> index,
         Out out, int threads) {
    const Packed packed(x, weights, biases, index, false);
    const MlpNetwork &net = packed.net;
    require(size(out, 0) == packed.rows && size(out, 1) == net.layer[net.layers - 1].out, "mlp: shape of the output");
    float *to = out.data();
    nb::gil_scoped_release release;
    parallel_for(packed.rows, 10 * mlp_tile, threads, [&net, to](int64_t first, int64_t last, int) {
        HF_DISPATCH(mlp_forward, first, last, net, to);
    });
}

// Gradients are written where an output for them is given, (out, in) and (rows of the bias, out). `to_start`, (rows, out
// of the first layer), is given in place of the first of `to_biases` where that has too many rows to be summed here.
void mlp_backward(Matrix grad, Rows x, const std::vector<Matrix> &weights, const std::vector<Matrix> &biases,
                  std::optional<Index> index, std::optional<Out> to_x, const Each<Out> &to_weights,
                  const Each<Out> &to_biases, std::optional<Out> to_start, int threads) {
    const Packed packed(x, weights, biases, index, true);
    const MlpNetwork &net = packed.net;
    const MlpLayer *layer = net.layer;
    const int64_t rows = packed.rows, in = layer[0].in;
    require(size(grad, 0) == rows && size(grad, 1) == layer[net.layers - 1].out, "mlp_backward: shape of grad");
    require(!to_x || (size(*to_x, 0) == rows && size(*to_x, 1) == in), "mlp_backward: shape of an output");
    require(!to_start || (size(*to_start, 0) == rows && size(*to_start, 1) == layer[0].out),
            "mlp_backward: shape of an output");
    require(to_weights.size() == weights.size() && to_biases.size() == weights.size(),
            "mlp_backward: number of outputs");
    const auto starts = [&](int64_t l) { return size(biases[l], 0); };
    int64_t sums = 0;
    for (int64_t l = 0; l < net.layers; ++l) {
        require(!to_weights[l] || (size(*to_weights[l], 0) == layer[l].out && size(*to_weights[l], 1) == layer[l].in),
                "mlp_backward: shape of an output");
        require(!to_biases[l] || (size(*to_biases[l], 0) == starts(l) && size(*to_biases[l], 1) == layer[l].out),
                "mlp_backward: shape of an output");
        if (to_weights[l]) sums += mlp_whole_blocks(layer[l].in) * layer[l].padded;
        if (to_biases[l]) sums += starts(l) * layer[l].padded;
    }
    // Chunks depend on the number of rows alone, and so do the sums over them.
    const int64_t most = 64, grain = std::max<int64_t>(10, (rows + most * mlp_tile - 1) / (most * mlp_tile)) * mlp_tile;
    const int64_t chunks = std::max<int64_t>((rows + grain - 1) / grain, 1);
    const int64_t scratch = mlp_scratch(net);
    const int workers = static_cast<int>(std::max<int64_t>(std::min<int64_t>(threads, chunks), 1));
    const float *given = grad.data();
    float *input = to_x ? to_x->data() : nullptr, *first_start = to_start ? to_start->data() : nullptr;
    nb::gil_scoped_release release;
    Floats memory(workers * scratch + chunks * sums);
    float *const scratches = memory.take(workers * scratch), *const partial = memory.take(chunks * sums);
    const auto places = [&](float *at) {
        MlpGradient gradient{};
        for (int64_t l = 0; l < net.layers; ++l) {
            if (to_weights[l]) gradient.weight[l] = at, at += mlp_whole_blocks(layer[l].in) * layer[l].padded;
            if (to_biases[l] && starts(l)) gradient.bias[l] = at, at += starts(l) * layer[l].padded;
        }
        return gradient;
    };
    parallel_for(rows, grain, workers, [&](int64_t first, int64_t last, int worker) {
        HF_DISPATCH(mlp_backward, first, last, net, given, places(partial + first / grain * sums), input, first_start,
                    scratches + worker * scratch);
    });
    parallel_for(sums, 2048, threads, [&](int64_t first, int64_t last, int) {
        for (int64_t c = 1; c < chunks; ++c) {
            const float *from = partial + c * sums;
            for (int64_t i = first; i < last; ++i) partial[i] += from[i];
        }
    });
    const MlpGradient total = places(partial);
    for (int64_t l = 0; l < net.layers; ++l) {
        for (int64_t j = 0; to_weights[l] && j < layer[l].out; ++j) {
            float *to = to_weights[l]->data() + j * layer[l].in;
            for (int64_t k = 0; k < layer[l].in; ++k) to[k] = total.weight[l][k * layer[l].padded + j];
        }
        for (int64_t k = 0; to_biases[l] && k < starts(l); ++k) {
            std::copy_n(total.bias[l] + k * layer[l].padded, layer[l].out, to_biases[l]->data() + k * layer[l].out);
        }
    }
}

}  // namespace

void bind_mlp(nb::module_ &m) {
    m.def("mlp", &mlp, "x"_a.noconvert(), "weights"_a.noconvert(), "biases"_a.noconvert(), "index"_a.noconvert().none(),
          "out"_a.noconvert(), "threads"_a);
    m.def("mlp_backward", &mlp_backward, "grad"_a.noconvert(), "x"_a.noconvert(), "weights"_a.noconvert(),
          "biases"_a.noconvert(), "index"_a.noconvert().none(), "to_x"_a.noconvert().none(),
          "to_weights"_a.noconvert(), "to_biases"_a.noconvert(), "to_start"_a.noconvert().none(), "threads"_a);
}
