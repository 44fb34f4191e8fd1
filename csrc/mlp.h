// Small fully connected networks with ReLU between layers: what csrc/mlp.cpp hands to csrc/kernels/mlp.cpp.
#pragma once
#include <cstdint>

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
    const int64_t *index;  // which row of the first layer's `bias` each row of the input starts from; null: its only one
};

// Where the sums over rows go that the gradients of weights and biases are: one of these for each chunk of rows, all
// of one size, so that adding them up in order does not depend on the number of threads.
struct MlpGradient {
    float *weight[mlp_most_layers];  // transposed, (mlp_whole_blocks(in), padded); null where nobody asks for it
    float *bias[mlp_most_layers];    // rows of `padded`, as many as the layer's `bias` has; null likewise
};

inline int64_t mlp_padded(int64_t width) { return (width + 15) / 16 * 16; }
inline int64_t mlp_whole_blocks(int64_t rows) { return (rows + mlp_block - 1) / mlp_block * mlp_block; }

}  // namespace headfields
