// Small fully connected networks with ReLU between layers: the arguments that csrc/mlp.cpp passes to csrc/kernels/mlp.cpp.
#pragma once
#include <cstdint>

#include "cpu.h"

namespace headfields {

constexpr int64_t mlp_widest = 128;  // of every layer's output; the input may have any width
constexpr int64_t mlp_most_layers = 16;
constexpr int64_t mlp_block = 6;  // rows that go through one product together
constexpr int64_t mlp_tile = 8 * mlp_block;  // and through all layers

struct MlpLayer {
    int64_t in, out;
    int64_t padded;       // out, rounded up to 16: what a row of activations takes
    const float *packed;  // the weights as mlp_pack writes them: in * padded floats
    const float *turned;  // for the backward pass, the transposed weights likewise: out * (in rounded up) floats
    const float *bias;    // `padded` floats, or null
};

struct MlpNetwork {
    int64_t layers;
    MlpLayer layer[mlp_most_layers];
    const float *input;  // rows of layer[0].in, `input_stride` apart
    int64_t input_stride;
    const int64_t *index;  // the row of layer[0].bias that each row of the input starts from; null: the first
};

// Where the sums over rows go that the gradients of weights and biases are: one of these for each chunk of rows, all
// of one size, so that adding them up in order does not depend on the number of threads.
struct MlpGradient {
    float *weight[mlp_most_layers];  // transposed, (mlp_whole_blocks(in), padded); null where it is not needed
    float *bias[mlp_most_layers];    // rows of `padded`, as many as the layer's `bias` has; null likewise
};

static inline int64_t mlp_padded(int64_t width) { return (width + 15) / 16 * 16; }
static inline int64_t mlp_whole_blocks(int64_t rows) { return (rows + mlp_block - 1) / mlp_block * mlp_block; }

// Of the backward pass: a tile of every layer's output, one more and the padded input.
static inline int64_t mlp_scratch(const MlpNetwork &net) {
    int64_t widest = 0;
    for (int64_t l = 0; l < net.layers; ++l) widest = net.layer[l].padded > widest ? net.layer[l].padded : widest;
    return ((net.layers + 1) * widest + mlp_padded(net.layer[0].in)) * mlp_tile;
}

}  // namespace headfields

// A matrix whose entry (k, j) is from[k * row + j * column], to the rows * mlp_padded(columns) floats that are read.
HF_DECLARE(void, mlp_pack,
           (const float *from, int64_t rows, int64_t columns, int64_t row, int64_t column, float *packed))
// Rows [first, last) of the output, (rows, width of the last layer).
HF_DECLARE(void, mlp_forward, (int64_t first, int64_t last, const headfields::MlpNetwork &net, float *out))
// Adds to `sums` what rows [first, last) give to the gradients of weights and biases, and writes those rows of
// `to_input` and of `to_start`, the gradient of the row that the first layer starts from, (rows, its width); both dense,
// null where not needed. `scratch` has mlp_scratch(net) floats.
HF_DECLARE(void, mlp_backward,
           (int64_t first, int64_t last, const headfields::MlpNetwork &net, const float *grad,
            const headfields::MlpGradient &sums, float *to_input, float *to_start, float *scratch))
