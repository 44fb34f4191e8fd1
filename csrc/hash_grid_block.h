// Blocks of points on one level of the hash grid: cells, weights and table rows of their corners. Locating a block
// vectorizes over its points. Only for kernels/*.cpp: each instruction set has its own copy.
#pragma once
#include "hash_grid.h"
#include "simd.h"

namespace HF_ISA {
namespace {

using headfields::HashGrid;

constexpr int kBlock = 64;
// Eq. 4 of the paper; the fourth prime, for four-dimensional grids, is our own choice.
constexpr uint32_t kPrime[4] = {1u, 2654435761u, 805459861u, 3674653429u};

typedef uint32_t u8 HF_VECTOR(32);

// One block of points on one level. Along an axis the weight of the lower and upper vertex is side[k][0], side[k][1];
// slope and bend are the first and second derivative of the upper one by the point's coordinate (the lower's are the
// negatives). Corner c takes the upper vertex on the axes whose bit is set in it.
template <class Real, int D>
struct Block {
    static constexpr int kCorners = 1 << D;
    Real side[D][2][kBlock], slope[D][kBlock], bend[D][kBlock], along[D][kBlock];
    Real weight[kCorners][kBlock];
    uint32_t entry[kCorners][kBlock];
    bool undefined[kBlock];  // a coordinate is NaN
    bool any_undefined;

    bool find_undefined(const Real *points, int count) {
        int32_t found = 0;
        for (int i = 0; i < count * D; ++i) found |= points[i] != points[i];
        if (!found) return false;
        for (int i = 0; i < count; ++i) {
            undefined[i] = false;
            for (int k = 0; k < D; ++k) undefined[i] |= points[i * D + k] != points[i * D + k];
        }
        return true;
    }

    // Cells, rows, and the weights of the corners or, where the grid has a direction, their derivative along it.
    void prepare(const HashGrid &grid, int level, int64_t begin, int count) {
        if constexpr (D == 3 && sizeof(Real) == 4) {
            if (grid.direction == nullptr && count == kBlock)
                return grid.hashed[level] ? prepare_in_space<true>(grid, level, begin)
                                          : prepare_in_space<false>(grid, level, begin);
        }
        locate(grid, level, begin, count, grid.direction != nullptr);
        if (grid.direction != nullptr)
            weigh_directional(count);
        else
            weigh(count);
    }

    // `prepare` for a whole block of float points in space, eight at a time from their coordinates to their weights:
    // the same numbers as `locate` and `weigh` compute, without arrays in between.
    template <bool kHashed>
    void prepare_in_space(const HashGrid &grid, int level, int64_t begin) {
        const float *points = static_cast<const float *>(grid.points) + begin * 3;
        any_undefined = find_undefined(points, kBlock);
        float x[3][kBlock];
        for (int k = 0; k < 3; ++k)
            for (int i = 0; i < kBlock; ++i) {
                const float coordinate = points[i * 3 + k];
                x[k][i] = coordinate > 0.0f ? coordinate : 0.0f;
                x[k][i] = x[k][i] < 1.0f ? x[k][i] : 1.0f;
            }
        const int32_t cells = static_cast<int32_t>(grid.resolution[level]);
        const float scale = static_cast<float>(cells);
        const i8 last = i8{} + (cells - 1);
        const uint32_t side = static_cast<uint32_t>(cells) + 1u, mask = grid.mask;
        const uint32_t step[3] = {1u, kHashed ? kPrime[1] : side, kHashed ? kPrime[2] : side * side};
        for (int i = 0; i < kBlock; i += 8) {
            f8 along_axis[3][2];
            u8 term[3][2];
            for (int k = 0; k < 3; ++k) {
                const f8 position = f8_load(x[k] + i) * scale;
                i8 cell = HF_CONVERT(position, i8);
                cell = cell < last ? cell : last;
                f8 t = position - HF_CONVERT(cell, f8);
                if (grid.smoothstep) t = t * t * (3.0f - 2.0f * t);
                along_axis[k][1] = t, along_axis[k][0] = 1.0f - t;
                term[k][0] = (u8)cell * step[k], term[k][1] = term[k][0] + step[k];
            }
            for (int c = 0; c < 8; ++c) {
                const int x_side = c & 1, y_side = c >> 1 & 1, z_side = c >> 2;
                f8_store(weight[c] + i, along_axis[0][x_side] * along_axis[1][y_side] * along_axis[2][z_side]);
                const u8 a = term[0][x_side], b = term[1][y_side], d = term[2][z_side];
                const u8 row = kHashed ? (a ^ b ^ d) & mask : a + b + d;
                std::memcpy(entry[c] + i, &row, sizeof row);
            }
        }
    }

    void locate(const HashGrid &grid, int level, int64_t begin, int count, int order) {
        const Real *points = static_cast<const Real *>(grid.points) + begin * D;
        any_undefined = find_undefined(points, count);
        const int32_t cells = static_cast<int32_t>(grid.resolution[level]);
        const Real scale = static_cast<Real>(cells);
        const bool hashed = grid.hashed[level];
        uint32_t term[D][2][kBlock];
        uint32_t stride = 1;
        for (int k = 0; k < D; ++k) {
            const uint32_t step = hashed ? kPrime[k] : stride;
            stride *= static_cast<uint32_t>(cells) + 1u;
            for (int i = 0; i < count; ++i) {
                Real x = points[i * D + k];
                x = x > Real(0) ? x : Real(0);  // and NaN becomes 0
                x = x < Real(1) ? x : Real(1);
                const Real position = x * scale;
                int32_t cell = static_cast<int32_t>(position);
                cell = cell < cells - 1 ? cell : cells - 1;
                const Real t = position - static_cast<Real>(cell);
                side[k][1][i] = t;
                side[k][0][i] = Real(1) - t;
                term[k][0][i] = static_cast<uint32_t>(cell) * step;
                term[k][1][i] = static_cast<uint32_t>(cell) * step + step;
            }
            if (order > 0) {
                for (int i = 0; i < count; ++i) {
                    const Real x = points[i * D + k], t = side[k][1][i];
                    const Real inside = ((x >= Real(0)) & (x <= Real(1))) ? scale : Real(0);
                    slope[k][i] = grid.smoothstep ? inside * Real(6) * t * (Real(1) - t) : inside;
                    bend[k][i] = grid.smoothstep ? inside * inside * (Real(6) - Real(12) * t) : Real(0);
                }
            }
            if (grid.smoothstep) {
                for (int i = 0; i < count; ++i) {
                    const Real t = side[k][1][i], s = t * t * (Real(3) - Real(2) * t);
                    side[k][1][i] = s;
                    side[k][0][i] = Real(1) - s;
                }
            }
            if (grid.direction != nullptr) {
                const Real *direction = static_cast<const Real *>(grid.direction) + begin * D;
                for (int i = 0; i < count; ++i) along[k][i] = direction[i * D + k];
            }
        }
        for (int c = 0; c < kCorners; ++c) {
            if (hashed) {
                for (int i = 0; i < count; ++i) {
                    uint32_t sum = term[0][c & 1][i];
                    for (int k = 1; k < D; ++k) sum ^= term[k][c >> k & 1][i];
                    entry[c][i] = sum & grid.mask;
                }
            } else {
                for (int i = 0; i < count; ++i) {
                    uint32_t sum = term[0][c & 1][i];
                    for (int k = 1; k < D; ++k) sum += term[k][c >> k & 1][i];
                    entry[c][i] = sum;
                }
            }
        }
    }

    // Product of the sides of corner c over all axes but those in `skip`.
    Real product(int c, int i, unsigned skip) const {
        Real value = Real(1);
        for (int k = 0; k < D; ++k)
            if (!(skip >> k & 1u)) value *= side[k][c >> k & 1][i];
        return value;
    }
    static Real sign(int c, int k) { return (c >> k & 1) ? Real(1) : Real(-1); }

    void weigh(int count) {
        for (int c = 0; c < kCorners; ++c)
            for (int i = 0; i < count; ++i) weight[c][i] = product(c, i, 0u);
    }
    // The derivative of the weights along `along`.
    void weigh_directional(int count) {
        for (int c = 0; c < kCorners; ++c)
            for (int i = 0; i < count; ++i) {
                Real value = Real(0);
                for (int k = 0; k < D; ++k) value += sign(c, k) * along[k][i] * slope[k][i] * product(c, i, 1u << k);
                weight[c][i] = value;
            }
    }
    // d/dx_j of the weight of corner c, and of its derivative along `along`.
    Real first(int c, int j, int i) const { return sign(c, j) * slope[j][i] * product(c, i, 1u << j); }
    Real second(int c, int j, int i) const {
        Real value = sign(c, j) * along[j][i] * bend[j][i] * product(c, i, 1u << j);
        for (int k = 0; k < D; ++k)
            if (k != j)
                value += sign(c, j) * sign(c, k) * along[k][i] * slope[k][i] * slope[j][i] *
                         product(c, i, 1u << j | 1u << k);
        return value;
    }
};

}  // namespace
}  // namespace HF_ISA
