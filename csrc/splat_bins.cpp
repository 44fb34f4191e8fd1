#include "splat_bins.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parallel.h"

namespace headfields {
namespace {

// The item of a row, or false where it shows nowhere. Any numbers are legal.
bool make_item(const float *row, const float *screen, int64_t index, int64_t height, int64_t width, SplatItem &item) {
    const double x = double(row[0]) + (screen ? double(screen[0]) : 0.0), y = double(row[1]) + (screen ? double(screen[1]) : 0.0);
    const double xx = row[2], xy = row[3], yy = row[4], opacity = row[5];
    const double determinant = xx * yy - xy * xy;
    if (!(opacity >= double(splat_least_alpha)) || !(determinant > 0) || !(xx > 0) || !(yy > 0) ||
        !std::isfinite(row[6] + row[7] + row[8] + row[9]))
        return false;
    const double reach = 2 * std::log(opacity / double(splat_least_alpha)) / determinant;
    const double across = std::sqrt(reach * yy) * 1.00001 + 0.01, down = std::sqrt(reach * xx) * 1.00001 + 0.01;
    const double left = std::max(x - across - 0.5, 0.0), right = std::min(x + across - 0.5, double(width - 1));
    const double top = std::max(y - down - 0.5, 0.0), bottom = std::min(y + down - 0.5, double(height - 1));
    if (!(left <= right) || !(top <= bottom)) return false;  // and where one is NaN
    item.x0 = int32_t(std::ceil(left)), item.x1 = int32_t(right);
    item.y0 = int32_t(std::ceil(top)), item.y1 = int32_t(bottom);
    if (item.x0 > item.x1 || item.y0 > item.y1) return false;
    constexpr double log2e = 1.4426950408889634;
    item.x = float(x), item.y = float(y);
    item.a = float(-0.5 * log2e * xx), item.b = float(-log2e * xy), item.c = float(-0.5 * log2e * yy);
    item.l = float(std::log2(opacity));
    item.index = uint32_t(index), item.slot = 0;
    return true;
}

struct Key {
    uint32_t depth, place;
};

// Stable, by the bits of a positive float, which rise with it.
void sort_by_depth(std::vector<Key> &keys) {
    std::vector<Key> other(keys.size());
    for (int shift = 0; shift < 33; shift += 11) {
        uint32_t count[2048] = {0};
        for (const Key &key : keys) ++count[(key.depth >> shift) & 2047];
        uint32_t at = 0;
        for (uint32_t &c : count) {
            const uint32_t own = c;
            c = at, at += own;
        }
        for (const Key &key : keys) other[count[(key.depth >> shift) & 2047]++] = key;
        keys.swap(other);
    }
}

}  // namespace

SplatView::SplatView(const float *rows, const float *screen, int64_t n, int64_t height_, int64_t width_)
    : height(height_), width(width_), tiles_x((width_ + splat_tile - 1) / splat_tile),
      tiles_y((height_ + splat_tile - 1) / splat_tile), row_start(tiles_y + 1, 0) {
    std::vector<SplatItem> all;
    std::vector<Key> keys;
    all.reserve(n), keys.reserve(n);
    SplatItem item;
    for (int64_t k = 0; k < n; ++k) {
        if (!make_item(rows + splat_row * k, screen ? screen + 2 * k : nullptr, k, height, width, item)) continue;
        uint32_t bits;
        const float depth = std::max(rows[splat_row * k + 6], 0.0f);
        std::memcpy(&bits, &depth, sizeof bits);
        keys.push_back({bits & 0x7fffffffu, uint32_t(all.size())});
        all.push_back(item);
        for (int32_t row = item.y0 / splat_tile; row <= item.y1 / splat_tile; ++row) ++row_start[row + 1];
    }
    sort_by_depth(keys);
    items.resize(all.size());
    for (size_t k = 0; k < keys.size(); ++k) items[k] = all[keys[k].place];
    for (int64_t row = 0; row < tiles_y; ++row) row_start[row + 1] += row_start[row];
    row_items.resize(row_start[tiles_y]);
    std::vector<int64_t> at(row_start.begin(), row_start.end() - 1);
    for (size_t k = 0; k < items.size(); ++k)
        for (int32_t row = items[k].y0 / splat_tile; row <= items[k].y1 / splat_tile; ++row) row_items[at[row]++] = uint32_t(k);
}

int64_t SplatLists::rows_within(const SplatView &view, int64_t first_row, int64_t most) {
    int64_t sum = 0, row = first_row;
    for (; row < view.tiles_y; ++row) {
        for (int64_t k = view.row_start[row]; k < view.row_start[row + 1]; ++k) {
            const SplatItem &item = view.items[view.row_items[k]];
            sum += item.x1 / splat_tile - item.x0 / splat_tile + 1;
        }
        if (sum > most && row > first_row) break;
    }
    return row;
}

SplatLists::SplatLists(SplatView &view, int64_t first, int64_t last, int threads)
    : first_row(first), last_row(last), start((last - first) * view.tiles_x + 1, 0) {
    const int64_t across = view.tiles_x;
    parallel_for(last - first, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row)
            for (int64_t k = view.row_start[first + row]; k < view.row_start[first + row + 1]; ++k) {
                const SplatItem &item = view.items[view.row_items[k]];
                for (int32_t tile = item.x0 / splat_tile; tile <= item.x1 / splat_tile; ++tile) ++start[row * across + tile + 1];
            }
    });
    for (size_t tile = 0; tile + 1 < start.size(); ++tile) start[tile + 1] += start[tile];
    entries.resize(start.back()), places.resize(start.back());
    std::vector<int64_t> at(start.begin(), start.end() - 1);
    parallel_for(last - first, 1, threads, [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row)
            for (int64_t k = view.row_start[first + row]; k < view.row_start[first + row + 1]; ++k) {
                const uint32_t which = view.row_items[k];
                const SplatItem &item = view.items[which];
                const int32_t left = item.x0 / splat_tile, right = item.x1 / splat_tile;
                const int64_t above = std::max<int64_t>(item.y0 / splat_tile, first);
                for (int32_t tile = left; tile <= right; ++tile) {
                    const int64_t to = at[row * across + tile]++;
                    entries[to] = which;
                    places[to] = uint32_t((first + row - above) * (right - left + 1) + tile - left);
                }
            }
    });
    for (SplatItem &item : view.items) {
        const int64_t above = std::max<int64_t>(item.y0 / splat_tile, first), below = std::min<int64_t>(item.y1 / splat_tile, last - 1);
        item.slot = uint32_t(slots);
        if (below >= above) slots += (below - above + 1) * (item.x1 / splat_tile - item.x0 / splat_tile + 1);
    }
}

}  // namespace headfields
