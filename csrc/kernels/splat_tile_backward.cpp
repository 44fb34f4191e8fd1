// The gradient of one tile's Gaussians, from the last to the first. On the way a pixel needs only the light in front
// of the Gaussian, recovered by division, and the light's worth behind it: the sum of weight times the gradient along the
// Gaussian's color. What a Gaussian gets is summed over the tile in registers and written once, as moments of the gradient
// of log alpha about its center.
#include "splat.h"

#include "lanes.h"

namespace HF_ISA {
namespace {

constexpr int tile = headfields::splat_tile, block_w = 4, block_h = lanes / block_w;
constexpr int across = tile / block_w, blocks = tile * tile / lanes;

// `fixed`: as in splat_tile.cpp. `geometry`: whether depth or normal has a gradient; `magnitudes`: whether the centers'
// gradients are summed by magnitude too.
HF_INLINE void backward(const headfields::SplatTile &t, const headfields::SplatImageGradients &grad, float *slots,
                        const uint32_t *places, float *scratch, const int fixed, const bool geometry, const bool magnitudes) {
    const int d = fixed ? fixed : t.channels, width = geometry ? d + 4 : d;
    const int64_t stride = headfields::splat_slot(d);
    float *g = scratch, *light = g + int64_t(d + 4) * tile * tile, *behind = light + tile * tile;
    int32_t *last = reinterpret_cast<int32_t *>(behind + tile * tile);
    float *rest = reinterpret_cast<float *>(last + tile * tile);  // sums that the registers do not hold
    const int cut_x = t.width - t.left < tile ? t.width - t.left : tile, cut_y = t.height - t.top < tile ? t.height - t.top : tile;
    int32_t latest[blocks], start = -1;
    for (int block = 0; block < blocks; ++block) {
        latest[block] = -1;
        float *to = g + int64_t(block) * width * lanes;
        for (int k = 0; k < lanes; ++k) {
            const int column = block % across * block_w + k % block_w, row = block / across * block_h + k / block_w;
            const bool inside = column < cut_x && row < cut_y;
            const int64_t pixel = inside ? int64_t(t.top + row) * t.width + t.left + column : 0;
            const int at = block * lanes + k;
            light[at] = inside ? grad.light[pixel] : 0.0f;
            behind[at] = inside && grad.through ? grad.through[pixel] * light[at] : 0.0f;
            last[at] = inside ? grad.last[pixel] : -1;
            latest[block] = last[at] > latest[block] ? last[at] : latest[block];
            for (int f = 0; f < d; ++f) to[f * lanes + k] = inside && grad.color ? grad.color[pixel * d + f] : 0.0f;
            if (geometry) {
                to[d * lanes + k] = inside && grad.depth ? grad.depth[pixel] : 0.0f;
                for (int f = 0; f < 3; ++f) to[(d + 1 + f) * lanes + k] = inside && grad.normal ? grad.normal[3 * pixel + f] : 0.0f;
            }
        }
        start = latest[block] > start ? latest[block] : start;
    }
    float lane_x[lanes], lane_y[lanes];
    for (int k = 0; k < lanes; ++k) lane_x[k] = 0.5f + float(k % block_w), lane_y[k] = 0.5f + float(k / block_w);
    const fv right = fv_load(lane_x), down = fv_load(lane_y);
    const fv least = fv_set(-7.9943534f), most = fv_set(headfields::splat_most_alpha), zero = fv_set(0), one = fv_set(1);

    for (int64_t entry = t.length - 1; entry >= 0; --entry) {
        const headfields::SplatItem &item = t.items[t.list[entry]];
        float *slot = slots + (int64_t(item.slot) + places[entry]) * stride;
        bool any = false;
        fv sum[16];
        for (int k = 0; k < 16; ++k) sum[k] = zero;
        if (entry <= start) {
            const float *color = t.colors + int64_t(item.index) * t.channels;
            const float *own = t.rows + int64_t(item.index) * headfields::splat_row;
            const int x0 = item.x0 > t.left ? item.x0 - t.left : 0, x1 = item.x1 - t.left < tile - 1 ? item.x1 - t.left : tile - 1;
            const int y0 = item.y0 > t.top ? item.y0 - t.top : 0, y1 = item.y1 - t.top < tile - 1 ? item.y1 - t.top : tile - 1;
            const fv a = fv_set(item.a), b = fv_set(item.b), c = fv_set(item.c), l = fv_set(item.l);
            const fv xx = fv_set(own[2]), xy = fv_set(own[3]), yy = fv_set(own[4]);
            const float x = item.x - float(t.left), y = item.y - float(t.top);
            iv number;
            for (int k = 0; k < lanes; ++k) number[k] = int32_t(entry);
            for (int by = y0 / block_h; by <= y1 / block_h; ++by) {
                const fv dy = down + fv_set(float(by * block_h) - y);
                const fv slope = b * dy, offset = fv_fma(c * dy, dy, l);
                for (int bx = x0 / block_w; bx <= x1 / block_w; ++bx) {
                    const int block = by * across + bx;
                    if (entry > latest[block]) continue;
                    const fv dx = right + fv_set(float(bx * block_w) - x);
                    const fv power = fv_fma(fv_fma(a, dx, slope), dx, offset);
                    const mv drawn = greater_equal(power, least) & greater_equal(iv_load(last + block * lanes), number);
                    if (!bits(drawn)) continue;
                    if (!any && width > 8)
                        for (int k = 0; k < (width - 8) * lanes; ++k) rest[k] = 0;
                    any = true;
                    const fv raw = fv_exp2(power), alpha = fv_min(raw, most);
                    const fv inverse = fv_reciprocal(one - alpha);
                    const fv after = fv_load(light + block * lanes), later = fv_load(behind + block * lanes);
                    const fv before = after * inverse, weight = fv_select(drawn, alpha * before, zero);
                    const float *from = g + int64_t(block) * width * lanes;
                    fv worth = zero;
                    for (int f = 0; f < d; ++f) worth = fv_fma(fv_load(from + f * lanes), fv_set(color[f]), worth);
                    if (geometry)
                        for (int f = 0; f < 4; ++f) worth = fv_fma(fv_load(from + (d + f) * lanes), fv_set(own[6 + f]), worth);
                    // By log alpha; none where alpha is clamped.
                    const fv by_alpha = (before * worth - later * inverse) * alpha;
                    const fv h = fv_select(without(drawn, greater(raw, most)), by_alpha, zero);
                    fv_store(light + block * lanes, fv_select(drawn, before, after));
                    fv_store(behind + block * lanes, fv_fma(weight, worth, later));
                    const fv hx = h * dx, hy = h * dy;
                    sum[0] = sum[0] + h, sum[1] = sum[1] + hx, sum[2] = sum[2] + hy;
                    sum[3] = fv_fma(hx, dx, sum[3]), sum[4] = fv_fma(hx, dy, sum[4]), sum[5] = fv_fma(hy, dy, sum[5]);
                    if (magnitudes) {
                        sum[6] = sum[6] + fv_abs(fv_fma(xx, hx, xy * hy));
                        sum[7] = sum[7] + fv_abs(fv_fma(xy, hx, yy * hy));
                    }
                    for (int f = 0; f < (width < 8 ? width : 8); ++f) sum[8 + f] = fv_fma(weight, fv_load(from + f * lanes), sum[8 + f]);
                    for (int f = 8; f < width; ++f) {
                        float *to = rest + (f - 8) * lanes;
                        fv_store(to, fv_fma(weight, fv_load(from + f * lanes), fv_load(to)));
                    }
                }
            }
        }
        if (!any) {
            for (int64_t k = 0; k < stride; ++k) slot[k] = 0;
            continue;
        }
        f8_store(slot, sums_of_eight(sum));
        if (stride > 8) f8_store(slot + 8, sums_of_eight(sum + 8));
        for (int64_t k = 16; k < stride; k += 8) {
            fv more[8];
            for (int j = 0; j < 8; ++j) more[j] = k - 8 + j < width ? fv_load(rest + (k - 16 + j) * lanes) : zero;
            f8_store(slot + k, sums_of_eight(more));
        }
    }
}

}  // namespace

void splat_tile_backward(const headfields::SplatTile &t, const headfields::SplatImageGradients &grad, float *slots,
                         const uint32_t *places, float *scratch) {
    const bool geometry = grad.depth || grad.normal;
    if (t.channels != 3)
        backward(t, grad, slots, places, scratch, 0, geometry, grad.magnitudes);
    else if (geometry)
        backward(t, grad, slots, places, scratch, 3, true, grad.magnitudes);
    else if (grad.magnitudes)
        backward(t, grad, slots, places, scratch, 3, false, true);
    else
        backward(t, grad, slots, places, scratch, 3, false, false);
}

}  // namespace HF_ISA
