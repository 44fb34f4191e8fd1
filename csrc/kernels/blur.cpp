// Weighted means in a separable window: by rows into the working memory, then by columns.
#include <cstring>

#include "blur.h"
#include "portable.h"

namespace HF_ISA {
namespace {

// `fixed` is the reach where it is a constant, which lets the compiler keep the sums of a pixel in a register.
template <int fixed>
HF_INLINE_MEMBER void blur(const float *image, int64_t height, int64_t width, const float *weights, int any,
                           float *out, float *scratch) {
    const int reach = fixed ? fixed : any, side = 2 * reach + 1;
    float *rows = scratch, *line = scratch + height * width;
    std::memset(line, 0, sizeof(float) * reach);
    std::memset(line + reach + width, 0, sizeof(float) * reach);
    for (int64_t y = 0; y < height; ++y) {
        std::memcpy(line + reach, image + y * width, sizeof(float) * width);
        float *to = rows + y * width;
        for (int64_t x = 0; x < width; ++x) {
            float sum = 0;
            for (int k = 0; k < side; ++k) sum += weights[k] * line[x + k];
            to[x] = sum;
        }
    }
    for (int64_t y = 0; y < height; ++y) {
        float *to = out + y * width;
        if (fixed && y >= reach && y + reach < height) {
            const float *from = rows + (y - reach) * width;
            for (int64_t x = 0; x < width; ++x) {
                float sum = 0;
                for (int k = 0; k < side; ++k) sum += weights[k] * from[k * width + x];
                to[x] = sum;
            }
            continue;
        }
        std::memset(to, 0, sizeof(float) * width);
        for (int k = 0; k < side; ++k) {
            const int64_t row = y + k - reach;
            if (row < 0 || row >= height) continue;
            for (int64_t x = 0; x < width; ++x) to[x] += weights[k] * rows[row * width + x];
        }
    }
}

}  // namespace

void blur_image(const float *image, int64_t height, int64_t width, const float *weights, int reach, float *out,
                float *scratch) {
    if (reach == 5)
        blur<5>(image, height, width, weights, reach, out, scratch);
    else
        blur<0>(image, height, width, weights, reach, out, scratch);
}

}  // namespace HF_ISA
