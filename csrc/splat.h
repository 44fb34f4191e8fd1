// The Gaussian rasterizer: projection (kernels/splat_project.cpp), lists of tiles (splat_bins.h), and the loops over
// a tile's pixels (kernels/splat_tile.cpp, kernels/splat_tile_backward.cpp).
#pragma once
#include <cstdint>

#include "cpu.h"

namespace headfields {

// As headfields/ops/reference/splat.py, which says what they are and whence.
constexpr int splat_row = 10;  // x, y, the inverse covariance xx, xy, yy, opacity, depth, normal
constexpr float splat_least_alpha = 1.0f / 255, splat_most_alpha = 0.99f, splat_field_margin = 0.3f;
// A pixel ends where less light is left: no color in [0, 1] changes by more.
constexpr float splat_least_light = 1e-5f;
constexpr int splat_tile = 16;            // pixels on a side
constexpr int splat_camera_gradient = 18;  // pose: 3 rows of 4; intrinsics: 2 rows of 3

struct SplatInputs {
    int64_t n, height, width;
    // Of the first camera; the step to the next one in floats, 0 where cameras share them.
    const float *means, *quaternions, *scales, *opacities;
    int64_t means_step, quaternions_step, scales_step, opacities_step;
    const float *pose, *lens;  // (c, 4, 4), (c, 3, 3)
    float near_, low_pass;
    bool antialiased;
};

// Gradients, laid out as the inputs; those that cameras share are summed over them.
struct SplatGradients {
    float *means, *quaternions, *scales, *opacities;
    double *camera;  // (chunks, c, 18) sums over a chunk of Gaussians
};

// A Gaussian that shows in an image, for the loops over pixels: log2 of alpha is (a dx + b dy) dx + c dy² + l.
struct SplatItem {
    float x, y, a, b, c, l;
    int32_t x0, x1, y0, y1;  // the box of pixels, both ends included
    uint32_t index;          // of the Gaussian
    uint32_t slot;           // of its first tile among the gradients of the tiles
};

// One tile of one camera.
struct SplatTile {
    const SplatItem *items;
    const uint32_t *list;  // the items that touch it, in order of depth
    int64_t length;
    int left, top;             // its first pixel
    int height, width;         // of the image
    const float *rows, *colors;  // (n, 10), (n, d) of the camera
    int channels;              // d
};

// Images of the camera.
struct SplatImages {
    float *color, *through, *depth, *normal, *median;
    int32_t *last;    // place in the tile's list of the Gaussian that ended the pixel
    int32_t *counts;  // (n,), added to by several tiles at once
};

// Gaussians whose color is a sum of spherical harmonics of the direction from the camera.
struct SplatHarmonics {
    int64_t n;
    int values;  // K: 1, 4, 9 or 16
    // Of the first camera; the step to the next one in floats, 0 where cameras share them.
    const float *means, *coefficients;  // (n, 3), (n, K, 3)
    int64_t means_step, coefficients_step;
    const float *centers;  // (c, 3) of the cameras
};

struct SplatImageGradients {
    const float *color, *through, *depth, *normal;  // null for none
    const float *light;                             // the transmittance of the forward pass
    const int32_t *last;
    bool magnitudes;  // of the centers' gradients too
};

// Floats of the working memory of a tile.
constexpr int64_t splat_forward_scratch(int64_t channels) { return (channels + 4 + 3) * splat_tile * splat_tile; }
constexpr int64_t splat_backward_scratch(int64_t channels) {
    return (channels + 4 + 3) * splat_tile * splat_tile + (channels + 4 + 16) * 16;
}
// Floats of one slot: six moments of the gradient, two magnitudes, and the gradients of colors, depth and normal.
constexpr int64_t splat_slot(int64_t channels) { return (8 + channels + 4 + 7) / 8 * 8; }

}  // namespace headfields

// Rows (n, 10) and radii (n,) of Gaussians [first, last) in one camera. Whether one has a negative scale, an opacity
// outside [0, 1], or a quaternion whose length is beyond 1e-15 to 1e15.
HF_DECLARE(bool, splat_project, (const headfields::SplatInputs &inputs, int64_t camera, int64_t first, int64_t last,
                                 float *rows, float *radii))
// Gradients of Gaussians [first, last) for those of the rows of all cameras, (c, n, 10); null where not wanted. `camera`
// has the sums of this chunk.
HF_DECLARE(void, splat_project_backward, (const headfields::SplatInputs &inputs, int64_t cameras, const float *rows,
                                          int64_t first, int64_t last, const headfields::SplatGradients &out))
// Colors (n, 3) of Gaussians [first, last) in one camera.
HF_DECLARE(void, splat_colors, (const headfields::SplatHarmonics &in, int64_t camera, int64_t first, int64_t last, float *colors))
// Gradients of means and coefficients, laid out as the inputs, of Gaussians [first, last) for those of the colors of all
// cameras, (c, n, 3); those that cameras share are summed over them. `centers` (c, 3) has the sums of this chunk.
HF_DECLARE(void, splat_colors_backward, (const headfields::SplatHarmonics &in, int64_t cameras, const float *grad,
                                         int64_t first, int64_t last, float *means, float *coefficients, double *centers))
HF_DECLARE(void, splat_draw_tile, (const headfields::SplatTile &tile, const headfields::SplatImages &out, float *scratch))
// Writes one slot for each entry of the tile's list, at its item's slot plus `place`.
HF_DECLARE(void, splat_tile_backward, (const headfields::SplatTile &tile, const headfields::SplatImageGradients &grad,
                                       float *slots, const uint32_t *places, float *scratch))
