// Points and directions taken along by the deformation gradients of a triangle and its neighbours.
#include <math.h>
#include <stdint.h>

namespace HF_ISA {

// For points [first, last): the mean of the `width` gradients (3 x 4) that `ring` names for the point's face, each with
// weight exp(-sharpness |x - centroid|), applied to the point and, without its offset, to the direction. A negative
// entry of the ring has no weight; the first one is the face itself.
void blended_map(int64_t first, int64_t last, int64_t faces, int64_t width, const float *points,
                 const float *directions, const int64_t *face, const int64_t *mesh, const float *gradients,
                 const float *centroids, const int64_t *ring, float sharpness, float *moved, float *turned) {
    for (int64_t i = first; i < last; ++i) {
        const float *x = points + 3 * i, *d = directions + 3 * i;
        const int64_t *mine = ring + width * face[i];
        const float *matrices = gradients + 12 * faces * mesh[i], *centres = centroids + 3 * faces * mesh[i];
        float mixed[12] = {0}, total = 0, nearest = 0;
        for (int64_t k = 0; k < width; ++k) {
            if (mine[k] < 0) continue;
            float weight = 1;
            if (width > 1) {
                const float *c = centres + 3 * mine[k];
                const float a = x[0] - c[0], b = x[1] - c[1], e = x[2] - c[2];
                const float distance = sqrtf(a * a + b * b + e * e);
                if (k == 0) nearest = distance;  // measured from here, so that no weight over- or underflows
                weight = expf(sharpness * (nearest - distance));
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
            moved[3 * i + r] = row[0] * x[0] + row[1] * x[1] + row[2] * x[2] + row[3];
            out[r] = row[0] * d[0] + row[1] * d[1] + row[2] * d[2];
        }
        const float length = sqrtf(out[0] * out[0] + out[1] * out[1] + out[2] * out[2]);
        const float inverse = 1 / (length > 1e-12f ? length : 1e-12f);
        for (int r = 0; r < 3; ++r) turned[3 * i + r] = out[r] * inverse;
    }
}

}  // namespace HF_ISA
