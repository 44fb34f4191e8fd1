// Similarities of triangles, and Gaussians moved by them; definitions in headfields/ops/reference/bound_gaussians.py.
#include "bound_gaussians.h"

#include <math.h>

#include <cstring>

namespace HF_ISA {
namespace {

constexpr float tiny = 1e-20f;      // squared meters below which a side has no direction
constexpr float sliver = 1e-12f;    // square of a triangle's height over its side below which it has no area
constexpr float smallest = 1e-7f;   // meters

struct Vector {
    float x, y, z;
};
inline Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vector operator*(float s, Vector a) { return {s * a.x, s * a.y, s * a.z}; }
inline float dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vector cross(Vector a, Vector b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }
inline Vector vertex(const float *vertices, int64_t index) {
    return {vertices[3 * index], vertices[3 * index + 1], vertices[3 * index + 2]};
}
inline Vector direction(Vector v, Vector otherwise) {
    const float squared = dot(v, v);
    return squared <= tiny ? otherwise : (1.0f / sqrtf(squared)) * v;
}

}  // namespace

void triangle_similarities(const float *vertices, const int64_t *faces, int64_t first, int64_t last, float *rows) {
    for (int64_t f = first; f < last; ++f) {
        const Vector a = vertex(vertices, faces[3 * f]), b = vertex(vertices, faces[3 * f + 1]), c = vertex(vertices, faces[3 * f + 2]);
        const Vector edge = b - a, side = c - a, tangent = direction(edge, {1, 0, 0});
        const float u = fabsf(tangent.x), v = fabsf(tangent.y), w = fabsf(tangent.z);
        const Vector flattest = u <= v && u <= w ? Vector{1, 0, 0} : v <= w ? Vector{0, 1, 0} : Vector{0, 0, 1};
        const Vector fallback = direction(cross(tangent, flattest), {1, 0, 0});
        // What rounding leaves of a side along the edge is no direction.
        const Vector across = side - dot(side, tangent) * tangent;
        const bool flat = dot(across, across) <= sliver * dot(side, side);
        const Vector bitangent = direction(flat ? Vector{0, 0, 0} : across, cross(fallback, tangent));
        const Vector normal = cross(tangent, bitangent);
        const float size = 0.5f * (dot(edge, tangent) + dot(side, bitangent)), k = size < smallest ? smallest : size;
        const float m[9] = {tangent.x, normal.x, -bitangent.x, tangent.y, normal.y, -bitangent.y, tangent.z, normal.z, -bitangent.z};
        float *row = rows + headfields::similarity_row * f;
        for (int j = 0; j < 9; ++j) row[j] = m[j] * k;
        row[9] = (a.x + b.x + c.x) / 3, row[10] = (a.y + b.y + c.y) / 3, row[11] = (a.z + b.z + c.z) / 3;
        // Shepperd's method: of four times the squares of the quaternion's entries the largest (of equal ones the first).
        const float squares[4] = {1 + m[0] + m[4] + m[8], 1 + m[0] - m[4] - m[8], 1 - m[0] + m[4] - m[8], 1 - m[0] - m[4] + m[8]};
        const float p = m[7] - m[5], q = m[2] - m[6], r = m[3] - m[1], s = m[1] + m[3], t = m[2] + m[6], o = m[5] + m[7];
        const float all[4][4] = {{squares[0], p, q, r}, {p, squares[1], s, t}, {q, s, squares[2], o}, {r, t, o, squares[3]}};
        int best = 3;
        for (int j = 2; j >= 0; --j)
            if (squares[j] >= squares[best]) best = j;
        const float largest = squares[best] < 1e-12f ? 1e-12f : squares[best], scale = 0.5f / sqrtf(largest);
        for (int j = 0; j < 4; ++j) row[12 + j] = all[best][j] * scale;
        row[16] = k;
    }
}

void bind_gaussians(const float *means, const float *quaternions, const float *scales, const float *rows, const int64_t *face,
                    int64_t first, int64_t last, float *to_means, float *to_quaternions, float *to_scales) {
    for (int64_t k = first; k < last; ++k) {
        const float *row = rows + headfields::similarity_row * face[k], *m = means + 3 * k, *q = quaternions + 4 * k;
        for (int r = 0; r < 3; ++r)
            to_means[3 * k + r] = row[3 * r] * m[0] + row[3 * r + 1] * m[1] + row[3 * r + 2] * m[2] + row[9 + r];
        const float a = row[12], b = row[13], c = row[14], d = row[15], w = q[0], x = q[1], y = q[2], z = q[3];
        float *to = to_quaternions + 4 * k;
        to[0] = a * w - b * x - c * y - d * z, to[1] = a * x + b * w + c * z - d * y;
        to[2] = a * y - b * z + c * w + d * x, to[3] = a * z + b * y - c * x + d * w;
        for (int r = 0; r < 3; ++r) to_scales[3 * k + r] = scales[3 * k + r] * row[16];
    }
}

void bind_gaussians_backward(const float *means, const float *quaternions, const float *scales, const float *rows,
                             const int64_t *face, int64_t first, int64_t last, bool fresh, float *to_means,
                             float *to_quaternions, float *to_scales) {
    for (int64_t k = first; k < last; ++k) {
        const float *row = rows + headfields::similarity_row * face[k], *m = means + 3 * k, *q = quaternions + 4 * k;
        const float a = row[12], b = row[13], c = row[14], d = row[15], w = q[0], x = q[1], y = q[2], z = q[3];
        const float turned[4] = {a * w + b * x + c * y + d * z, a * x - b * w - c * z + d * y, a * y + b * z - c * w - d * x,
                                 a * z - b * y + c * x - d * w};
        for (int r = 0; r < 3; ++r) {
            const float g = row[r] * m[0] + row[3 + r] * m[1] + row[6 + r] * m[2], s = scales[3 * k + r] * row[16];
            to_means[3 * k + r] = fresh ? g : to_means[3 * k + r] + g;
            to_scales[3 * k + r] = fresh ? s : to_scales[3 * k + r] + s;
        }
        for (int j = 0; j < 4; ++j) to_quaternions[4 * k + j] = fresh ? turned[j] : to_quaternions[4 * k + j] + turned[j];
    }
}

}  // namespace HF_ISA
