// Gaussians projected to the screen, eight at a time, and the gradients of that.
#include "splat.h"

#include <math.h>

#include "simd.h"

namespace HF_ISA {
namespace {

struct Lens {
    f8 xx, xy, x, yx, yy, y;
};

struct Camera {
    v3 turn[3];  // rows
    v3 shift;
    Lens lens;
    f8 height, width;
};

HF_INLINE Camera camera_at(const headfields::SplatInputs &in, int64_t k) {
    const float *pose = in.pose + 16 * k, *lens = in.lens + 9 * k;
    Camera out;
    for (int r = 0; r < 3; ++r) out.turn[r] = v3_set(pose + 4 * r);
    out.shift = {f8_set(pose[3]), f8_set(pose[7]), f8_set(pose[11])};
    out.lens = {f8_set(lens[0]), f8_set(lens[1]), f8_set(lens[2]), f8_set(lens[3]), f8_set(lens[4]), f8_set(lens[5])};
    out.height = f8_set(float(in.height)), out.width = f8_set(float(in.width));
    return out;
}

// Rows of `width` numbers to one value for each column; lanes behind the last row repeat it.
HF_INLINE void gather(const float *rows, int width, int64_t count, f8 *columns) {
    float all[10][8];
    for (int64_t k = 0; k < 8; ++k) {
        const float *row = rows + (k < count ? k : count - 1) * width;
        for (int c = 0; c < width; ++c) all[c][k] = row[c];
    }
    for (int c = 0; c < width; ++c) columns[c] = f8_load(all[c]);
}
HF_INLINE void scatter(const f8 *columns, int width, int64_t count, float *rows) {
    float all[10][8];
    for (int c = 0; c < width; ++c) f8_store(all[c], columns[c]);
    for (int64_t k = 0; k < count; ++k)
        for (int c = 0; c < width; ++c) rows[k * width + c] = all[c][k];
}

HF_INLINE v3 times(v3 a, v3 b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }
HF_INLINE v3 combine(f8 a, v3 u, f8 b, v3 v, f8 c, v3 w) { return a * u + b * v + c * w; }

// Eight Gaussians and everything on the way to their rows.
struct Projected {
    v3 mean, scale, local;
    f8 w, i, j, k, squared, twice;  // the quaternion, its squared length, and 2 over that
    v3 axes[3];                 // rows of its matrix
    f8 inverse;                 // 1 / depth
    f8 a, b, near_a, near_b;    // slopes, and those within the margin
    v3 first, second;           // rows of lens · Jacobian (camera frame)
    v3 p, q;                    // in world frame
    v3 e, f, m, n;              // in the Gaussian's frame; scaled
    f8 xx, xy, yy, sharp, blurred, area;  // area: 1 / blurred
    f8 share, opacity;
    i8 flat1, flat2;  // the flattest axis is the second, the third
    f8 sign;
};

HF_INLINE f8 within(f8 slope, f8 focal, f8 principal, f8 pixels) {
    const f8 margin = f8_set(headfields::splat_field_margin * 0.5f) * pixels;
    return f8_max(f8_min(slope, (pixels - principal + margin) / focal), -(principal + margin) / focal);
}

HF_INLINE Projected projected(const headfields::SplatInputs &in, const Camera &camera, int64_t index, int64_t at,
                              int64_t count) {
    Projected o;
    f8 c[4];
    gather(in.means + index * in.means_step + 3 * at, 3, count, c);
    o.mean = {c[0], c[1], c[2]};
    gather(in.scales + index * in.scales_step + 3 * at, 3, count, c);
    o.scale = {c[0], c[1], c[2]};
    gather(in.opacities + index * in.opacities_step + at, 1, count, c);
    o.opacity = c[0];
    gather(in.quaternions + index * in.quaternions_step + 4 * at, 4, count, c);
    o.w = c[0], o.i = c[1], o.j = c[2], o.k = c[3];
    const f8 zero = f8_set(0), one = f8_set(1);
    o.squared = o.w * o.w + o.i * o.i + o.j * o.j + o.k * o.k;
    o.twice = f8_select(o.squared <= zero, zero, 2.0f / o.squared);
    const f8 x = o.i, y = o.j, z = o.k, w = o.w, d = o.twice;
    o.axes[0] = {one - d * (y * y + z * z), d * (x * y - w * z), d * (x * z + w * y)};
    o.axes[1] = {d * (x * y + w * z), one - d * (x * x + z * z), d * (y * z - w * x)};
    o.axes[2] = {d * (x * z - w * y), d * (y * z + w * x), one - d * (x * x + y * y)};
    const v3 *turn = camera.turn;
    o.local = v3{dot(turn[0], o.mean), dot(turn[1], o.mean), dot(turn[2], o.mean)} + camera.shift;
    o.inverse = one / o.local.z;
    o.a = o.local.x * o.inverse, o.b = o.local.y * o.inverse;
    const Lens &lens = camera.lens;
    o.near_a = within(o.a, lens.xx, lens.x, camera.width), o.near_b = within(o.b, lens.yy, lens.y, camera.height);
    o.first = o.inverse * v3{lens.xx, lens.xy, -(lens.xx * o.near_a + lens.xy * o.near_b)};
    o.second = o.inverse * v3{lens.yx, lens.yy, -(lens.yx * o.near_a + lens.yy * o.near_b)};
    o.p = combine(o.first.x, turn[0], o.first.y, turn[1], o.first.z, turn[2]);
    o.q = combine(o.second.x, turn[0], o.second.y, turn[1], o.second.z, turn[2]);
    o.e = combine(o.p.x, o.axes[0], o.p.y, o.axes[1], o.p.z, o.axes[2]);
    o.f = combine(o.q.x, o.axes[0], o.q.y, o.axes[1], o.q.z, o.axes[2]);
    o.m = times(o.e, o.scale), o.n = times(o.f, o.scale);
    const v3 normal = cross(o.m, o.n);
    const f8 low = f8_set(in.low_pass);
    o.xx = dot(o.m, o.m), o.xy = dot(o.m, o.n), o.yy = dot(o.n, o.n), o.sharp = dot(normal, normal);
    o.blurred = o.sharp + low * (o.xx + o.yy) + low * low;
    o.area = one / o.blurred;
    o.share = in.antialiased ? f8_select(o.sharp > zero, f8_sqrt(o.sharp * o.area), zero) : one;
    const v3 s = o.scale;
    const i8 second_flatter = s.y < s.x;
    o.flat2 = s.z < f8_select(second_flatter, s.y, s.x);
    o.flat1 = second_flatter & ~o.flat2;
    const v3 axis = {f8_select(o.flat2, o.axes[0].z, f8_select(o.flat1, o.axes[0].y, o.axes[0].x)),
                     f8_select(o.flat2, o.axes[1].z, f8_select(o.flat1, o.axes[1].y, o.axes[1].x)),
                     f8_select(o.flat2, o.axes[2].z, f8_select(o.flat1, o.axes[2].y, o.axes[2].x))};
    const v3 seen = {dot(turn[0], axis), dot(turn[1], axis), dot(turn[2], axis)};
    o.sign = f8_select(dot(seen, o.local) > zero, -one, one);
    return o;
}

HF_INLINE void row_of(const Projected &o, const Lens &lens, float low_pass, f8 *row) {
    const f8 low = f8_set(low_pass);
    row[0] = lens.xx * o.a + lens.xy * o.b + lens.x;
    row[1] = lens.yx * o.a + lens.yy * o.b + lens.y;
    row[2] = (o.yy + low) * o.area;
    row[3] = -o.xy * o.area;
    row[4] = (o.xx + low) * o.area;
    row[5] = o.opacity * o.share;
    row[6] = o.local.z;
    for (int r = 0; r < 3; ++r)
        row[7 + r] = o.sign * f8_select(o.flat2, o.axes[r].z, f8_select(o.flat1, o.axes[r].y, o.axes[r].x));
}

// Which of eight Gaussians have values that nobody means, which the binding's caller looks for and refuses: comparisons with NaN
// do not hold. A quaternion of zeros is the identity.
HF_INLINE i8 suspicious(const Projected &o) {
    const f8 zero = f8_set(0);
    const i8 turns = (o.w != zero) | (o.i != zero) | (o.j != zero) | (o.k != zero);
    return (o.scale.x < zero) | (o.scale.y < zero) | (o.scale.z < zero) | (o.opacity < zero) |
           (o.opacity > f8_set(1)) | ((o.squared < f8_set(1e-30f)) & turns) | (o.squared > f8_set(1e30f));
}

}  // namespace

bool splat_project(const headfields::SplatInputs &in, int64_t index, int64_t first, int64_t last, float *rows,
                   float *radii) {
    const Camera camera = camera_at(in, index);
    const f8 zero = f8_set(0);
    i8 strange = {};
    for (int64_t at = first; at < last; at += 8) {
        const int64_t count = last - at < 8 ? last - at : 8;
        const Projected o = projected(in, camera, index, at, count);
        strange |= suspicious(o);
        f8 row[headfields::splat_row];
        row_of(o, camera.lens, in.low_pass, row);
        const f8 middle = 0.5f * (o.xx + o.yy) + f8_set(in.low_pass), apart = 0.5f * (o.xx - o.yy);
        f8 radius = 3.0f * f8_sqrt(middle + f8_sqrt(apart * apart + o.xy * o.xy));
        f8 nothing = zero * radius;  // NaN where a number is not finite
        for (int c = 0; c < headfields::splat_row; ++c) nothing = nothing + zero * row[c];
        const i8 drawn = (nothing == zero) & (o.local.z > f8_set(in.near_)) &
                         (row[5] >= f8_set(headfields::splat_least_alpha));
        for (int c = 0; c < headfields::splat_row; ++c) row[c] = f8_select(drawn, row[c], zero);
        scatter(row, headfields::splat_row, count, rows + headfields::splat_row * at);
        radius = f8_select(drawn, radius, zero);
        for (int64_t k = 0; k < count; ++k) {
            const float *r = rows + headfields::splat_row * (at + k);
            float shown = 0;
            if (r[5] > 0) {
                const float reach = 2 * logf(r[5] / headfields::splat_least_alpha) / (r[2] * r[4] - r[3] * r[3]);
                const float x = sqrtf(reach * r[4]), y = sqrtf(reach * r[2]);
                if (r[0] + x > 0 && r[0] - x < float(in.width) && r[1] + y > 0 && r[1] - y < float(in.height))
                    shown = radius[k];
            }
            radii[at + k] = shown;
        }
    }
    return mask_bits(strange) != 0;
}

void splat_project_backward(const headfields::SplatInputs &in, int64_t cameras, const float *rows, int64_t first,
                            int64_t last, const headfields::SplatGradients &out) {
    const f8 zero = f8_set(0), half = f8_set(0.5f);
    const v3 none = {zero, zero, zero};
    for (int64_t c = 0; c < headfields::splat_camera_gradient * cameras; ++c) out.camera[c] = 0;
    for (int64_t at = first; at < last; at += 8) {
        const int64_t count = last - at < 8 ? last - at : 8;
        f8 to_mean[3] = {zero, zero, zero}, to_scale[3] = {zero, zero, zero}, to_opacity[1] = {zero};
        f8 to_turn[4] = {zero, zero, zero, zero};
        for (int64_t index = 0; index < cameras; ++index) {
            const Camera camera = camera_at(in, index);
            const Projected o = projected(in, camera, index, at, count);
            f8 row[headfields::splat_row], g[headfields::splat_row];
            row_of(o, camera.lens, in.low_pass, row);
            gather(rows + headfields::splat_row * (index * in.n + at), headfields::splat_row, count, g);
            f8 nothing = zero;
            for (int c = 0; c < headfields::splat_row; ++c) nothing = nothing + zero * row[c];
            i8 live = (nothing == zero) & (o.local.z > f8_set(in.near_)) &
                      (row[5] >= f8_set(headfields::splat_least_alpha));
            for (int64_t k = count; k < 8; ++k) live[k] = 0;
            for (int c = 0; c < headfields::splat_row; ++c) g[c] = f8_select(live, g[c], zero);

            const Lens &lens = camera.lens;
            f8 g_sharp = zero, g_blurred = -(g[2] * row[2] + g[3] * row[3] + g[4] * row[4]) * o.area;
            if (in.antialiased) {
                const f8 g_share = half * g[5] * o.opacity * o.share;
                g_sharp = f8_select(o.sharp > zero, g_share / o.sharp, zero);
                g_blurred = g_blurred - g_share * o.area;
            }
            g_sharp = g_sharp + g_blurred;
            const f8 low = f8_set(in.low_pass);
            const f8 g_xx = g[4] * o.area + low * g_blurred, g_yy = g[2] * o.area + low * g_blurred;
            const f8 g_xy = -g[3] * o.area;
            const v3 normal = cross(o.m, o.n), g_normal = 2.0f * g_sharp * normal;
            const v3 g_m = cross(o.n, g_normal) + 2.0f * g_xx * o.m + g_xy * o.n;
            const v3 g_n = cross(g_normal, o.m) + 2.0f * g_yy * o.n + g_xy * o.m;
            const v3 g_e = times(g_m, o.scale), g_f = times(g_n, o.scale);
            const v3 g_scale = times(g_m, o.e) + times(g_n, o.f);
            // The matrix of the quaternion, by rows: from the covariance, and from the normal, one of its columns.
            v3 g_axes[3];
            const f8 p[3] = {o.p.x, o.p.y, o.p.z}, q[3] = {o.q.x, o.q.y, o.q.z};
            const i8 flat0 = ~(o.flat1 | o.flat2);
            for (int r = 0; r < 3; ++r) {
                const f8 along = o.sign * g[7 + r];
                g_axes[r] = p[r] * g_e + q[r] * g_f +
                            v3{f8_select(flat0, along, zero), f8_select(o.flat1, along, zero),
                               f8_select(o.flat2, along, zero)};
            }
            const v3 g_p = {dot(o.axes[0], g_e), dot(o.axes[1], g_e), dot(o.axes[2], g_e)};
            const v3 g_q = {dot(o.axes[0], g_f), dot(o.axes[1], g_f), dot(o.axes[2], g_f)};
            const v3 *turn = camera.turn;
            const v3 g_first = {dot(turn[0], g_p), dot(turn[1], g_p), dot(turn[2], g_p)};
            const v3 g_second = {dot(turn[0], g_q), dot(turn[1], g_q), dot(turn[2], g_q)};
            // first = (xx, xy, -(xx a' + xy b')) / z and second alike, a' and b' the slopes within the margin.
            const f8 i = o.inverse, na = o.near_a, nb = o.near_b;
            f8 g_lens_xx = i * (g_first.x - na * g_first.z), g_lens_xy = i * (g_first.y - nb * g_first.z);
            f8 g_lens_yx = i * (g_second.x - na * g_second.z), g_lens_yy = i * (g_second.y - nb * g_second.z);
            const f8 g_na = -i * (lens.xx * g_first.z + lens.yx * g_second.z);
            const f8 g_nb = -i * (lens.xy * g_first.z + lens.yy * g_second.z);
            f8 g_inverse = (dot(g_first, o.first) + dot(g_second, o.second)) / i;
            f8 g_a = lens.xx * g[0] + lens.yx * g[1], g_b = lens.xy * g[0] + lens.yy * g[1];
            g_lens_xx = g_lens_xx + o.a * g[0], g_lens_xy = g_lens_xy + o.b * g[0];
            g_lens_yx = g_lens_yx + o.a * g[1], g_lens_yy = g_lens_yy + o.b * g[1];
            f8 g_lens_x = g[0], g_lens_y = g[1];
            const i8 in_a = na == o.a, in_b = nb == o.b;  // else at the margin, which is (pixels - principal) / focal
            g_a = g_a + f8_select(in_a, g_na, zero), g_b = g_b + f8_select(in_b, g_nb, zero);
            g_lens_xx = g_lens_xx - f8_select(in_a, zero, g_na * na / lens.xx);
            g_lens_yy = g_lens_yy - f8_select(in_b, zero, g_nb * nb / lens.yy);
            g_lens_x = g_lens_x - f8_select(in_a, zero, g_na / lens.xx);
            g_lens_y = g_lens_y - f8_select(in_b, zero, g_nb / lens.yy);
            g_inverse = g_inverse + g_a * o.local.x + g_b * o.local.y;
            const v3 g_local = {g_a * i, g_b * i, g[6] - g_inverse * i * i};
            const v3 g_mean = combine(g_local.x, turn[0], g_local.y, turn[1], g_local.z, turn[2]);
            // The quaternion, its length held; its matrix does not change along it, and so neither does the gradient.
            const f8 w = o.w, x = o.i, y = o.j, z = o.k;
            const v3 r0 = g_axes[0], r1 = g_axes[1], r2 = g_axes[2];
            f8 g_turn[4] = {
                o.twice * (z * (r1.x - r0.y) + y * (r0.z - r2.x) + x * (r2.y - r1.z)),
                o.twice * (y * (r0.y + r1.x) + z * (r0.z + r2.x) + w * (r2.y - r1.z) - 2.0f * x * (r1.y + r2.z)),
                o.twice * (x * (r0.y + r1.x) + z * (r1.z + r2.y) + w * (r0.z - r2.x) - 2.0f * y * (r0.x + r2.z)),
                o.twice * (x * (r0.z + r2.x) + y * (r1.z + r2.y) + w * (r1.x - r0.y) - 2.0f * z * (r0.x + r1.y))};
            const f8 along = half * o.twice * (w * g_turn[0] + x * g_turn[1] + y * g_turn[2] + z * g_turn[3]);
            const f8 turned[4] = {w, x, y, z};

            const v3 m = o.mean;
            const f8 to_camera[headfields::splat_camera_gradient] = {
                g_local.x * m.x + o.first.x * g_p.x + o.second.x * g_q.x,
                g_local.x * m.y + o.first.x * g_p.y + o.second.x * g_q.y,
                g_local.x * m.z + o.first.x * g_p.z + o.second.x * g_q.z, g_local.x,
                g_local.y * m.x + o.first.y * g_p.x + o.second.y * g_q.x,
                g_local.y * m.y + o.first.y * g_p.y + o.second.y * g_q.y,
                g_local.y * m.z + o.first.y * g_p.z + o.second.y * g_q.z, g_local.y,
                g_local.z * m.x + o.first.z * g_p.x + o.second.z * g_q.x,
                g_local.z * m.y + o.first.z * g_p.y + o.second.z * g_q.y,
                g_local.z * m.z + o.first.z * g_p.z + o.second.z * g_q.z, g_local.z,
                g_lens_xx, g_lens_xy, g_lens_x, g_lens_yx, g_lens_yy, g_lens_y};
            for (int c = 0; c < headfields::splat_camera_gradient; ++c) {
                const f8 kept = f8_select(live, to_camera[c], zero);
                double sum = 0;
                for (int k = 0; k < 8; ++k) sum += double(kept[k]);
                out.camera[headfields::splat_camera_gradient * index + c] += sum;
            }
            const v3 kept_mean = {f8_select(live, g_mean.x, none.x), f8_select(live, g_mean.y, none.y),
                                  f8_select(live, g_mean.z, none.z)};
            to_mean[0] = to_mean[0] + kept_mean.x, to_mean[1] = to_mean[1] + kept_mean.y;
            to_mean[2] = to_mean[2] + kept_mean.z;
            to_scale[0] = to_scale[0] + f8_select(live, g_scale.x, zero);
            to_scale[1] = to_scale[1] + f8_select(live, g_scale.y, zero);
            to_scale[2] = to_scale[2] + f8_select(live, g_scale.z, zero);
            for (int c = 0; c < 4; ++c) to_turn[c] = to_turn[c] + f8_select(live, g_turn[c] - along * turned[c], zero);
            to_opacity[0] = to_opacity[0] + g[5] * f8_select(live, o.share, zero);
            // Written where each camera has its own, or after the last of those that share.
            const bool done = index + 1 == cameras;
            if (in.means_step || done) scatter(to_mean, 3, count, out.means + index * in.means_step + 3 * at);
            if (in.scales_step || done) scatter(to_scale, 3, count, out.scales + index * in.scales_step + 3 * at);
            if (in.quaternions_step || done)
                scatter(to_turn, 4, count, out.quaternions + index * in.quaternions_step + 4 * at);
            if (in.opacities_step || done) scatter(to_opacity, 1, count, out.opacities + index * in.opacities_step + at);
            for (int c = 0; c < 3; ++c) {
                if (in.means_step) to_mean[c] = zero;
                if (in.scales_step) to_scale[c] = zero;
            }
            for (int c = 0; c < 4; ++c)
                if (in.quaternions_step) to_turn[c] = zero;
            if (in.opacities_step) to_opacity[0] = zero;
        }
    }
}

}  // namespace HF_ISA
