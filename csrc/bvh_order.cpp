#include "bvh_order.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "bvh.h"

namespace headfields {
namespace {

uint64_t spread(uint32_t x) {  // 10 bits, two zeros between each
    x = (x | (x << 16)) & 0x030000FF;
    x = (x | (x << 8)) & 0x0300F00F;
    x = (x | (x << 4)) & 0x030C30C3;
    return (x | (x << 2)) & 0x09249249;
}

struct Key {
    uint64_t code;
    uint32_t item;
};

}  // namespace

int64_t bvh_order_grain(int64_t n, int threads) {
    const int64_t share = (n + 4 * threads - 1) / (4 * threads);
    return std::min<int64_t>(std::max<int64_t>(share, 512), 65536);
}

void bvh_order(const float *points, const int32_t *mesh, int64_t begin, int64_t end, std::vector<uint32_t> &items) {
    const int64_t n = end - begin;
    float lo[3] = {INFINITY, INFINITY, INFINITY}, hi[3] = {-INFINITY, -INFINITY, -INFINITY}, scale[3];
    for (int64_t i = begin; i < end; ++i)
        for (int axis = 0; axis < 3; ++axis) {
            const float x = points[3 * i + axis];
            if (!(std::abs(x) < bvh_far)) continue;
            lo[axis] = std::min(lo[axis], x), hi[axis] = std::max(hi[axis], x);
        }
    const float side = std::max(hi[0] - lo[0], std::max(hi[1] - lo[1], hi[2] - lo[2]));  // cubes, not bricks
    for (float &s : scale) s = side > 0 && side < INFINITY ? 1023.99f / side : 0;
    std::vector<Key> keys(n), other(n);
    uint64_t differ = 0;
    for (int64_t i = 0; i < n; ++i) {
        const float *p = points + 3 * (begin + i);
        uint32_t cell[3];
        for (int axis = 0; axis < 3; ++axis) {
            const float x = (p[axis] - lo[axis]) * scale[axis];
            cell[axis] = x >= 0 && x < 1024 ? static_cast<uint32_t>(x) : 0;  // NaN: 0
        }
        const uint64_t which = mesh ? static_cast<uint32_t>(mesh[begin + i]) : 0;
        keys[i] = {which << 30 | spread(cell[0]) << 2 | spread(cell[1]) << 1 | spread(cell[2]), static_cast<uint32_t>(begin + i)};
        differ |= keys[i].code ^ keys[0].code;
    }
    for (int shift = 0; shift < 64; shift += 10) {  // least significant digit first; digits that never differ are skipped
        if ((differ >> shift & 1023) == 0) continue;
        std::array<uint32_t, 1024> start{};
        for (const Key &key : keys) ++start[key.code >> shift & 1023];
        uint32_t sum = 0;
        for (uint32_t &s : start) {
            const uint32_t count = s;
            s = sum;
            sum += count;
        }
        for (const Key &key : keys) other[start[key.code >> shift & 1023]++] = key;
        keys.swap(other);
    }
    items.resize(n);
    for (int64_t i = 0; i < n; ++i) items[i] = keys[i].item;
}

}  // namespace headfields
