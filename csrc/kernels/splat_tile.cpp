// Gaussians drawn into one tile, one after the other from the front. The tile's pixels lie in blocks of as many as a
// register holds, four wide, so that a small Gaussian touches few of them.
#include "splat.h"

#include "lanes.h"

namespace HF_ISA {
namespace {

constexpr int tile = headfields::splat_tile, block_w = 4, block_h = lanes / block_w;
constexpr int across = tile / block_w, blocks = tile * tile / lanes;

// `fixed` channels, or tile.channels where it is 0: a constant lets the compiler keep the loops over channels apart.
HF_INLINE void draw(const headfields::SplatTile &t, const headfields::SplatImages &out, float *scratch, const int fixed) {
    const int d = fixed ? fixed : t.channels, width = d + 4;
    float *sums = scratch, *light = sums + int64_t(width) * tile * tile, *median = light + tile * tile;
    int32_t *last = reinterpret_cast<int32_t *>(median + tile * tile);
    float lane_x[lanes], lane_y[lanes];
    for (int k = 0; k < lanes; ++k) lane_x[k] = 0.5f + float(k % block_w), lane_y[k] = 0.5f + float(k / block_w);
    const fv right = fv_load(lane_x), down = fv_load(lane_y);
    const fv least = fv_set(-7.9943534f);  // log2(1 / 255)
    const fv stop = fv_set(headfields::splat_least_light), most = fv_set(headfields::splat_most_alpha);
    const fv zero = fv_set(0), half = fv_set(0.5f);
    const int cut_x = t.width - t.left < tile ? t.width - t.left : tile, cut_y = t.height - t.top < tile ? t.height - t.top : tile;
    bool open[blocks];
    int still_open = 0;
    for (int b = 0; b < blocks; ++b) {
        for (int k = 0; k < lanes; ++k) {
            const int x = b % across * block_w + k % block_w, y = b / across * block_h + k / block_w;
            light[b * lanes + k] = x < cut_x && y < cut_y ? 1.0f : 0.0f;  // no light outside the image
            median[b * lanes + k] = 0, last[b * lanes + k] = INT32_MAX;
        }
        open[b] = bits(greater(fv_load(light + b * lanes), stop)) != 0;
        still_open += open[b];
    }
    for (int64_t k = 0; k < int64_t(width) * tile * tile; ++k) sums[k] = 0;

    for (int64_t entry = 0; entry < t.length && still_open; ++entry) {
        const headfields::SplatItem &item = t.items[t.list[entry]];
        const float *color = t.colors + int64_t(item.index) * t.channels;
        const float *geometry = t.rows + int64_t(item.index) * headfields::splat_row + 6;
        const int x0 = item.x0 > t.left ? item.x0 - t.left : 0, x1 = item.x1 - t.left < tile - 1 ? item.x1 - t.left : tile - 1;
        const int y0 = item.y0 > t.top ? item.y0 - t.top : 0, y1 = item.y1 - t.top < tile - 1 ? item.y1 - t.top : tile - 1;
        const fv a = fv_set(item.a), b = fv_set(item.b), c = fv_set(item.c), l = fv_set(item.l);
        const float x = item.x - float(t.left), y = item.y - float(t.top);
        int32_t count = 0;
        for (int by = y0 / block_h; by <= y1 / block_h; ++by) {
            const fv dy = down + fv_set(float(by * block_h) - y);
            const fv slope = b * dy, offset = fv_fma(c * dy, dy, l);
            for (int bx = x0 / block_w; bx <= x1 / block_w; ++bx) {
                const int block = by * across + bx;
                if (!open[block]) continue;
                const fv dx = right + fv_set(float(bx * block_w) - x);
                const fv power = fv_fma(fv_fma(a, dx, slope), dx, offset);
                const fv before = fv_load(light + block * lanes);
                const mv drawn = greater_equal(power, least) & greater(before, stop);
                if (!bits(drawn)) continue;
                const fv weight = fv_select(drawn, fv_min(fv_exp2(power), most) * before, zero);
                const fv after = before - weight;
                fv_store(light + block * lanes, after);
                count += count_bits(bits(drawn));
                const mv middle = without(greater(before, half), greater(after, half));
                if (bits(middle)) {
                    float *to = median + block * lanes;
                    fv_store(to, fv_select(middle, fv_set(geometry[0]), fv_load(to)));
                }
                float *to = sums + int64_t(block) * width * lanes;
                for (int f = 0; f < d; ++f) fv_store(to + f * lanes, fv_fma(weight, fv_set(color[f]), fv_load(to + f * lanes)));
                for (int f = 0; f < 4; ++f)
                    fv_store(to + (d + f) * lanes, fv_fma(weight, fv_set(geometry[f]), fv_load(to + (d + f) * lanes)));
                const mv going = greater(after, stop);
                if (bits(without(drawn, going))) {
                    const uint32_t ended = bits(without(drawn, going));
                    for (int k = 0; k < lanes; ++k)
                        if (ended >> k & 1) last[block * lanes + k] = int32_t(entry);
                    if (!bits(going)) open[block] = false, --still_open;
                }
            }
        }
        if (count) __atomic_fetch_add(out.counts + item.index, count, __ATOMIC_RELAXED);
    }

    for (int row = 0; row < cut_y; ++row)
        for (int column = 0; column < cut_x; ++column) {
            const int block = row / block_h * across + column / block_w, k = row % block_h * block_w + column % block_w;
            const int64_t pixel = int64_t(t.top + row) * t.width + t.left + column;
            const float *from = sums + int64_t(block) * width * lanes + k;
            for (int f = 0; f < d; ++f) out.color[pixel * d + f] = from[f * lanes];
            out.depth[pixel] = from[d * lanes];
            for (int f = 0; f < 3; ++f) out.normal[pixel * 3 + f] = from[(d + 1 + f) * lanes];
            out.through[pixel] = light[block * lanes + k];
            out.median[pixel] = median[block * lanes + k];
            out.last[pixel] = last[block * lanes + k];
        }
}

}  // namespace

void splat_draw_tile(const headfields::SplatTile &t, const headfields::SplatImages &out, float *scratch) {
    if (t.channels == 3)
        draw(t, out, scratch, 3);
    else
        draw(t, out, scratch, 0);
}

}  // namespace HF_ISA
