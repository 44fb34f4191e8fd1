// Weighted sums of rows of a table, their transpose, and the products that differentiate them.
#include <stdint.h>

namespace HF_ISA {

// One row of rows_gather, columns [begin, begin + block): the sum stays in registers until all picks are in.
template <int block>
static inline void gather_block(int64_t begin, int64_t picks, int64_t width, const float *table, const int64_t *index,
                                const float *weights, float *out) {
    float sum[block];
    for (int c = 0; c < block; ++c) sum[c] = 0;
    for (int64_t k = 0; k < picks; ++k) {
        if (index[k] < 0) continue;
        const float weight = weights[k];
        const float *from = table + index[k] * width + begin;
        for (int c = 0; c < block; ++c) sum[c] += weight * from[c];
    }
    for (int c = 0; c < block; ++c) out[begin + c] = sum[c];
}

// out (n, width): for rows [first, last), the sum over k of weights[n, k] table[index[n, k]]. A negative index has no
// weight.
void rows_gather(int64_t first, int64_t last, int64_t picks, int64_t width, const float *table, const int64_t *index,
                 const float *weights, float *out) {
    for (int64_t n = first; n < last; ++n) {
        const int64_t *i = index + n * picks;
        const float *w = weights + n * picks;
        float *to = out + n * width;
        int64_t c = 0;
        for (; c + 32 <= width; c += 32) gather_block<32>(c, picks, width, table, i, w, to);
        for (; c + 8 <= width; c += 8) gather_block<8>(c, picks, width, table, i, w, to);
        for (; c < width; ++c) gather_block<1>(c, picks, width, table, i, w, to);
    }
}

// out (rows, width) += weights[n, k] values[n] at row index[n, k], for all n, and of the rows only those that are
// `share` modulo `shares`: so several threads add without atomics, in an order that does not depend on their number.
void rows_scatter(int64_t share, int64_t shares, int64_t count, int64_t picks, int64_t width, const float *values,
                  const int64_t *index, const float *weights, float *out) {
    for (int64_t n = 0; n < count; ++n) {
        const float *from = values + n * width;
        for (int64_t k = 0; k < picks; ++k) {
            const int64_t row = index[n * picks + k];
            if (row < 0 || row % shares != share) continue;
            const float weight = weights[n * picks + k];
            float *to = out + row * width;
            for (int64_t c = 0; c < width; ++c) to[c] += weight * from[c];
        }
    }
}

// out (n, picks): the inner product of table[index[n, k]] and values[n]; 0 for a negative index.
void rows_dot(int64_t first, int64_t last, int64_t picks, int64_t width, const float *table, const int64_t *index,
              const float *values, float *out) {
    for (int64_t n = first; n < last; ++n) {
        const float *b = values + n * width;
        for (int64_t k = 0; k < picks; ++k) {
            const int64_t row = index[n * picks + k];
            float lanes[16] = {0}, sum = 0;
            if (row >= 0) {
                const float *a = table + row * width;
                int64_t c = 0;
                for (; c + 16 <= width; c += 16)
                    for (int j = 0; j < 16; ++j) lanes[j] += a[c + j] * b[c + j];
                for (; c < width; ++c) sum += a[c] * b[c];
                for (int j = 0; j < 16; ++j) sum += lanes[j];
            }
            out[n * picks + k] = sum;
        }
    }
}

}  // namespace HF_ISA
