// Gaussians that ride on triangles: each triangle's similarity, and Gaussians moved by it.
#pragma once
#include <cstdint>

#include "cpu.h"

namespace headfields {

// A row of the table: size times rotation (row by row), centroid, rotation as a quaternion (w, x, y, z), size.
constexpr int similarity_row = 17;

}  // namespace headfields

// Rows of faces [first, last) of one mesh.
HF_DECLARE(void, triangle_similarities, (const float *vertices, const int64_t *faces, int64_t first, int64_t last, float *rows))
// Gaussians [first, last) moved: means, quaternions, scales.
HF_DECLARE(void, bind_gaussians, (const float *means, const float *quaternions, const float *scales, const float *rows,
                                  const int64_t *face, int64_t first, int64_t last, float *to_means, float *to_quaternions,
                                  float *to_scales))
// Gradients of what was moved, by the transposed maps; added to what is there unless `fresh`.
HF_DECLARE(void, bind_gaussians_backward, (const float *means, const float *quaternions, const float *scales, const float *rows,
                                           const int64_t *face, int64_t first, int64_t last, bool fresh, float *to_means,
                                           float *to_quaternions, float *to_scales))
