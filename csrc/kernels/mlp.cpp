// Small fully connected networks, a tile of rows through all layers at a time: activations never leave the cache.
#include "mlp.h"

#include <stdint.h>
#include <string.h>

#include "mlp_block.h"

namespace HF_ISA {

using headfields::mlp_padded;
using headfields::MlpGradient;
using headfields::MlpLayer;
using headfields::MlpNetwork;

constexpr int64_t T = headfields::mlp_tile;

static int64_t at_most(int64_t value, int64_t most) { return value < most ? value : most; }

// A matrix whose entry (k, j) is from[k * row + j * column], to what `block` reads: for each panel of columns, all
// rows of it, with zeros after the last column.
void mlp_pack(const float *from, int64_t rows, int64_t columns, int64_t row, int64_t column, float *packed) {
    const int64_t padded = mlp_padded(columns);
    for (int64_t c0 = 0; c0 < padded; c0 += panel) {
        const int64_t wide = at_most(padded - c0, panel);
        float *to = packed + c0 * rows;
        for (int64_t k = 0; k < rows; ++k) {
            for (int64_t j = 0; j < wide; ++j) to[k * wide + j] = c0 + j < columns ? from[k * row + (c0 + j) * column] : 0;
        }
    }
}

// to = start + from times a packed matrix of `columns` columns, for n rows. A last block of fewer than R rows repeats
// its last one: `to` has room for it.
static void product(const float *from, int64_t stride, int64_t n, int64_t depth, const float *packed, int64_t columns,
                    const float *const *start, bool relu, float *to, int64_t to_stride) {
    for (int64_t c0 = 0; c0 < columns; c0 += panel) {
        const int64_t wide = at_most(columns - c0, panel);
        for (int64_t r0 = 0; r0 < n; r0 += R) {
            const float *a[R], *begin[R];
            for (int64_t r = 0; r < R; ++r) {
                const int64_t row = at_most(r0 + r, n - 1);
                a[r] = from + row * stride;
                if (start != nullptr) begin[r] = start[row] + c0;
            }
            block_of(wide, a, 1, depth, packed + c0 * depth, wide, start == nullptr ? nullptr : begin,
                     to + r0 * to_stride + c0, to_stride, relu);
        }
    }
}

// Layer l for rows [t0, t0 + n) of the input, or for the tile `from` of the output of the layer before.
static void forward(const MlpNetwork &net, int64_t l, int64_t t0, int64_t n, const float *from, float *to,
                    int64_t stride) {
    const MlpLayer &layer = net.layer[l];
    const float *start[T];
    for (int64_t r = 0; layer.bias != nullptr && r < n; ++r) {
        start[r] = layer.bias + (l == 0 && net.index != nullptr ? net.index[t0 + r] * layer.padded : 0);
    }
    if (l == 0) from = net.input + t0 * net.input_stride;
    product(from, l ? stride : net.input_stride, n, layer.in, layer.packed, layer.padded,
            layer.bias == nullptr ? nullptr : start, l + 1 < net.layers, to, stride);
}

static int64_t widest(const MlpNetwork &net) {
    int64_t width = 0;
    for (int64_t l = 0; l < net.layers; ++l) width = net.layer[l].padded > width ? net.layer[l].padded : width;
    return width;
}

// Rows [first, last) of the output, (rows, width of the last layer).
void mlp_forward(int64_t first, int64_t last, const MlpNetwork &net, float *out) {
    alignas(64) float scratch[2][T * headfields::mlp_widest];
    const int64_t stride = widest(net), width = net.layer[net.layers - 1].out;
    for (int64_t t0 = first; t0 < last; t0 += T) {
        const int64_t n = at_most(last - t0, T);
        for (int64_t l = 0; l < net.layers; ++l) forward(net, l, t0, n, scratch[(l + 1) % 2], scratch[l % 2], stride);
        const float *result = scratch[(net.layers - 1) % 2];
        for (int64_t r = 0; r < n; ++r) memcpy(out + (t0 + r) * width, result + r * stride, width * sizeof(float));
    }
}

// Adds to `sums` the contributions of rows [first, last) to the gradients of weights and biases, and writes those
// rows of `to_input` and `to_start`, the gradients of the input and of the initial sums (dense; null: not needed). `scratch` has room for a
// tile of every layer's output, one more and the padded input.
void mlp_backward(int64_t first, int64_t last, const MlpNetwork &net, const float *grad, const MlpGradient &sums,
                  float *to_input, float *to_start, float *scratch) {
    const int64_t stride = widest(net), in = net.layer[0].in, wide = mlp_padded(in);
    float *hidden = scratch;  // the output of each layer but the last
    float *delta = hidden + (net.layers - 1) * T * stride, *next = delta + T * stride, *result = next + T * stride;
    for (int64_t t0 = first; t0 < last; t0 += T) {
        const int64_t n = at_most(last - t0, T);
        for (int64_t l = 0; l + 1 < net.layers; ++l) {
            forward(net, l, t0, n, l ? hidden + (l - 1) * T * stride : nullptr, hidden + l * T * stride, stride);
        }
        const int64_t width = net.layer[net.layers - 1].out, padded = net.layer[net.layers - 1].padded;
        for (int64_t r = 0; r < n; ++r) {
            memcpy(delta + r * stride, grad + (t0 + r) * width, width * sizeof(float));
            memset(delta + r * stride + width, 0, (padded - width) * sizeof(float));
        }
        for (int64_t l = net.layers - 1; l >= 0; --l) {
            const MlpLayer &layer = net.layer[l];
            const float *from = l ? hidden + (l - 1) * T * stride : net.input + t0 * net.input_stride;
            const int64_t from_stride = l ? stride : net.input_stride;
            if (l == 0 && to_start != nullptr) {
                for (int64_t r = 0; r < n; ++r) memcpy(to_start + (t0 + r) * layer.out, delta + r * stride, layer.out * sizeof(float));
            }
            if (sums.bias[l] != nullptr) {
                for (int64_t r = 0; r < n; ++r) {
                    float *to = sums.bias[l] + (l == 0 && net.index != nullptr ? net.index[t0 + r] * layer.padded : 0);
                    for (int64_t j = 0; j < layer.padded; j += V) {
                        vf_store(to + j, vf_load(to + j) + vf_load(delta + r * stride + j));
                    }
                }
            }
            if (sums.weight[l] != nullptr) {
                for (int64_t c0 = 0; c0 < layer.padded; c0 += panel) {
                    for (int64_t k0 = 0; k0 < layer.in; k0 += R) {
                        const float *a[R], *start[R];
                        float *to = sums.weight[l] + k0 * layer.padded + c0;
                        for (int64_t r = 0; r < R; ++r) {
                            a[r] = from + at_most(k0 + r, layer.in - 1);
                            start[r] = to + r * layer.padded;
                        }
                        block_of(at_most(layer.padded - c0, panel), a, from_stride, n, delta + c0, stride, start, to,
                                 layer.padded, false);
                    }
                }
            }
            if (l > 0) {
                product(delta, stride, n, layer.out, layer.turned, net.layer[l - 1].padded, nullptr, false, next, stride);
                for (int64_t r = 0; r < n; ++r) {
                    for (int64_t j = 0; j < net.layer[l - 1].padded; j += V) {
                        const vf was = vf_load(from + r * stride + j);
                        vf_store(next + r * stride + j, was <= 0 ? vf{} : vf_load(next + r * stride + j));
                    }
                }
                float *swap = delta;
                delta = next;
                next = swap;
            } else if (to_input != nullptr) {
                product(delta, stride, n, layer.out, layer.turned, wide, nullptr, false, result, wide);
                for (int64_t r = 0; r < n; ++r) memcpy(to_input + (t0 + r) * in, result + r * wide, in * sizeof(float));
            }
        }
    }
}

}  // namespace HF_ISA
