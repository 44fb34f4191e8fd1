#include "bvh_order.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "bvh.h"
#include "parallel.h"

namespace headfields {
namespace {

constexpr int digit = 10;
constexpr int64_t share_least = 8192;  // points of one share of the work

uint64_t spread(uint32_t x) {  // 10 bits, two zeros between each
    x = (x | (x << 16)) & 0x030000FF;
    x = (x | (x << 8)) & 0x0300F00F;
    x = (x | (x << 4)) & 0x030C30C3;
    return (x | (x << 2)) & 0x09249249;
}

int bits_of(uint64_t most) {
    int bits = 0;
    while (bits < 63 && (uint64_t(1) << bits) <= most) ++bits;
    return bits;
}

struct Box {
    float lo[3] = {INFINITY, INFINITY, INFINITY}, hi[3] = {-INFINITY, -INFINITY, -INFINITY};
};
struct Share {
    Box box;
    uint64_t differ = 0;  // bits in which keys of this share differ from the very first one
    std::array<uint32_t, 1 << digit> start{};
};

}  // namespace

int64_t bvh_order_grain(int64_t n, int threads) {
    const int64_t share = (n + 8 * threads - 1) / (8 * threads);
    return std::min<int64_t>(std::max<int64_t>(share, 256), 8192);
}

// A key is mesh, Morton code and item in one integer; least significant digit first, each share of the keys counted and
// moved by whoever is free.
std::unique_ptr<uint32_t[]> bvh_order(const float *points, const int32_t *mesh, int64_t n, int64_t meshes,
                                      int threads) {
    if (n > INT64_C(0xffffffff)) throw std::length_error("more than 2^32 queries in one call; split them");
    threads = std::max(threads, 1);
    const int64_t count = std::max<int64_t>(std::min<int64_t>(threads, n / share_least), 1),
                  each = (n + count - 1) / count;
    std::vector<Share> shares(count);
    const auto for_shares = [&](const auto &body) {
        parallel_for(count, 1, threads, [&](int64_t first, int64_t last, int) {
            for (int64_t s = first; s < last; ++s) body(shares[s], s * each, std::min((s + 1) * each, n));
        });
    };
    for_shares([&](Share &share, int64_t begin, int64_t end) {
        Box box;
        for (int64_t i = begin; i < end; ++i)
            for (int axis = 0; axis < 3; ++axis) {
                const float x = points[3 * i + axis];
                if (!(std::abs(x) < bvh_far)) continue;
                box.lo[axis] = std::min(box.lo[axis], x), box.hi[axis] = std::max(box.hi[axis], x);
            }
        share.box = box;
    });
    Box box;
    for (const Share &share : shares)
        for (int axis = 0; axis < 3; ++axis) {
            box.lo[axis] = std::min(box.lo[axis], share.box.lo[axis]);
            box.hi[axis] = std::max(box.hi[axis], share.box.hi[axis]);
        }
    const float side =
        std::max(box.hi[0] - box.lo[0], std::max(box.hi[1] - box.lo[1], box.hi[2] - box.lo[2]));  // cubes, not bricks
    const float scale = side > 0 && side < INFINITY ? 1023.99f / side : 0;
    const int item_bits = bits_of(n > 0 ? n - 1 : 0), mesh_bits = mesh ? bits_of(meshes) : 0;
    const int code_bits =
        std::max(std::min(30, 64 - item_bits - mesh_bits), 0);  // fewer: a coarser curve, nothing worse
    const uint64_t item_mask = (uint64_t(1) << item_bits) - 1;
    std::unique_ptr<uint64_t[]> keys(new uint64_t[n]), other(new uint64_t[n]);
    const auto key_of = [&](int64_t i) {
        uint32_t cell[3];
        for (int axis = 0; axis < 3; ++axis) {
            const float x = (points[3 * i + axis] - box.lo[axis]) * scale;
            cell[axis] = x >= 0 && x < 1024 ? static_cast<uint32_t>(x) : 0;  // NaN: 0
        }
        const uint64_t code = spread(cell[0]) << 2 | spread(cell[1]) << 1 | spread(cell[2]);
        const uint64_t which = mesh && mesh_bits + item_bits < 64 ? static_cast<uint64_t>(mesh[i]) << code_bits : 0;
        return (which | code >> (30 - code_bits)) << item_bits | static_cast<uint64_t>(i);
    };
    const uint64_t first_key = n > 0 ? key_of(0) : 0;
    for_shares([&](Share &share, int64_t begin, int64_t end) {
        uint64_t differ = 0;
        for (int64_t i = begin; i < end; ++i) {
            keys[i] = key_of(i);
            differ |= keys[i] ^ first_key;
        }
        share.differ = differ;
    });
    uint64_t differ = 0;
    for (const Share &share : shares) differ |= share.differ;
    for (int shift = item_bits; shift < 64; shift += digit) {
        if ((differ >> shift & ((1 << digit) - 1)) == 0) continue;  // the same in all keys
        const auto bucket = [shift](uint64_t key) { return key >> shift & ((1 << digit) - 1); };
        for_shares([&](Share &share, int64_t begin, int64_t end) {
            share.start.fill(0);
            for (int64_t i = begin; i < end; ++i) ++share.start[bucket(keys[i])];
        });
        uint32_t sum = 0;
        for (int64_t b = 0; b < 1 << digit; ++b)
            for (Share &share : shares) {
                const uint32_t size = share.start[b];
                share.start[b] = sum;
                sum += size;
            }
        for_shares([&](Share &share, int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) other[share.start[bucket(keys[i])]++] = keys[i];
        });
        keys.swap(other);
    }
    std::unique_ptr<uint32_t[]> items(new uint32_t[n]);
    for_shares([&](Share &, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) items[i] = static_cast<uint32_t>(keys[i] & item_mask);
    });
    return items;
}

}  // namespace headfields
