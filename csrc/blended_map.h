// Points and directions moved by blended deformation gradients; the loop is in kernels/blended_map.cpp.
#pragma once
#include <cstdint>

#include "cpu.h"

namespace headfields {

struct BlendedMap {
    int64_t faces, width;        // of a mesh; of the ring
    const float *points;         // (n, 3)
    const float *directions;     // (n, 3)
    const int64_t *face, *mesh;  // (n,)
    const float *gradients;      // (meshes, faces, 3, 4)
    const float *centroids;      // (meshes, faces, 3)
    const int64_t *ring;         // (faces, width), -1 where a face has fewer neighbors; the first is the face itself
    float sharpness;             // per meter
    float *moved, *turned;       // (n, 3)
};

}  // namespace headfields

// For points [first, last): the mean of the gradients that `ring` names for the point's face, each with weight
// exp(-sharpness |x - centroid|), applied to the point and, without its offset, to the direction. False where a ring names
// a face that is not there.
HF_DECLARE(bool, blended_map, (const headfields::BlendedMap &map, int64_t first, int64_t last))
