// Points and directions moved by the blended deformation gradients of a triangle and its neighbors.
#include "blended_map.h"

#include <math.h>

namespace HF_ISA {

bool blended_map(const headfields::BlendedMap &map, int64_t first, int64_t last) {
    const int64_t width = map.width;
    bool inside = true;
    for (int64_t i = first; i < last; ++i) {
        const float *x = map.points + 3 * i, *d = map.directions + 3 * i;
        const int64_t *mine = map.ring + width * map.face[i];
        const float *matrices = map.gradients + 12 * map.faces * map.mesh[i];
        const float *centers = map.centroids + 3 * map.faces * map.mesh[i];
        float mixed[12] = {0}, total = 0, nearest = 0;
        for (int64_t k = 0; k < width; ++k) {
            if (mine[k] < 0) continue;
            if (mine[k] >= map.faces) {
                inside = false;
                continue;
            }
            float weight = 1;
            if (width > 1) {
                const float *c = centers + 3 * mine[k];
                const float a = x[0] - c[0], b = x[1] - c[1], e = x[2] - c[2];
                const float distance = sqrtf(a * a + b * b + e * e);
                if (k == 0) nearest = distance;  // measured from here, so that no weight over- or underflows
                weight = expf(map.sharpness * (nearest - distance));
            }
            const float *matrix = matrices + 12 * mine[k];
            for (int j = 0; j < 12; ++j) mixed[j] += weight * matrix[j];
            total += weight;
        }
        const float scale = 1 / total;
        for (int j = 0; j < 12; ++j) mixed[j] *= scale;
        float out[3];
        for (int r = 0; r < 3; ++r) {
            const float *row = mixed + 4 * r;
            map.moved[3 * i + r] = row[0] * x[0] + row[1] * x[1] + row[2] * x[2] + row[3];
            out[r] = row[0] * d[0] + row[1] * d[1] + row[2] * d[2];
        }
        const float length = sqrtf(out[0] * out[0] + out[1] * out[1] + out[2] * out[2]);
        const float inverse = 1 / (length > 1e-12f ? length : 1e-12f);
        for (int r = 0; r < 3; ++r) map.turned[3 * i + r] = out[r] * inverse;
    }
    return inside;
}

}  // namespace HF_ISA
