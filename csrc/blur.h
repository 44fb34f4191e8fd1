// Weighted means of images in a square, separable window.
#pragma once
#include <cstdint>

#include "cpu.h"

// Row `height` x `width` of weights outer(weights, weights) around each pixel, zeros beyond the border; `reach` weights on
// either side of the middle one. `scratch` has (height * width) + width + 2 reach floats.
HF_DECLARE(void, blur_image, (const float *image, int64_t height, int64_t width, const float *weights, int reach, float *out,
                              float *scratch))
