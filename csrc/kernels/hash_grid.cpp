// The multiresolution hash grid (Müller et al. 2022, section 3): loops over blocks of points, one level at a time.
// Locating a block (cells, weights, table rows) vectorizes over points; reading the table is then bound by memory.
#include "hash_grid.h"

#include <cmath>

#include "hash_grid_row.h"

namespace HF_ISA {
namespace {

using headfields::GridType;
using headfields::HashGrid;

constexpr int kBlock = 64;
// Eq. 4 of the paper; the fourth prime, for four-dimensional grids, is our own choice.
constexpr uint32_t kPrime[4] = {1u, 2654435761u, 805459861u, 3674653429u};

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

    void locate(const HashGrid &grid, int level, int64_t begin, int count, int order) {
        const Real *points = static_cast<const Real *>(grid.points) + begin * D;
        const int32_t cells = static_cast<int32_t>(grid.resolution[level]);
        const Real scale = static_cast<Real>(cells);
        const bool hashed = grid.hashed[level];
        for (int i = 0; i < count; ++i) {
            bool nan = false;
            for (int k = 0; k < D; ++k) nan |= points[i * D + k] != points[i * D + k];
            undefined[i] = nan;
        }
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
                    const Real inside = (x >= Real(0)) & (x <= Real(1)) ? scale : Real(0);
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

// Reading a table is a random access for each corner. Prefetching the rows of the point kAhead further on, while this
// one is summed, hides most of the latency; a table that fits the second-level cache needs no prefetching.
constexpr int kAhead = 16;
constexpr int64_t kCached = 256 << 10;

template <class Real, int D>
inline void fetch(const Block<Real, D> &block, int i, const char *table, int64_t row_bytes) {
    for (int c = 0; c < (1 << D); ++c) __builtin_prefetch(table + block.entry[c][i] * row_bytes, 0, 3);
}

// F is the number of features, 0 where it is known only at run time.
template <class Real, class Store, int D, int F, bool kAdd>
void gather_point(const Block<Real, D> &block, int i, const Store *table, int features, Real *row) {
    constexpr int corners = 1 << D;
    if constexpr (F > 0) {
        typename Row<Real, F>::type sum{};
        if constexpr (kAdd) sum = load_row<Real, F>(row);
        for (int c = 0; c < corners; ++c) sum += block.weight[c][i] * load_row<Real, F>(table + int64_t(block.entry[c][i]) * F);
        store_row<Real, F>(row, sum);
    } else {
        for (int c = 0; c < corners; ++c) {
            const Store *entry = table + int64_t(block.entry[c][i]) * features;
            const Real weight = block.weight[c][i];
            if (!kAdd && c == 0)
                for (int f = 0; f < features; ++f) row[f] = weight * widen(entry[f]);
            else
                for (int f = 0; f < features; ++f) row[f] += weight * widen(entry[f]);
        }
    }
}

// sum[corner] += weight * row
template <class Real, int D, int F>
void scatter_point(const Block<Real, D> &block, int i, const Real *row, int features, Real *target) {
    if constexpr (F > 0) {
        const typename Row<Real, F>::type value = load_row<Real, F>(row);
        for (int c = 0; c < (1 << D); ++c) {
            Real *entry = target + int64_t(block.entry[c][i]) * F;
            store_row<Real, F>(entry, load_row<Real, F>(entry) + block.weight[c][i] * value);
        }
    } else {
        for (int c = 0; c < (1 << D); ++c) {
            Real *entry = target + int64_t(block.entry[c][i]) * features;
            const Real weight = block.weight[c][i];
            for (int f = 0; f < features; ++f) entry[f] += weight * row[f];
        }
    }
}

template <class Real, class Store, int D, int F>
struct Loops {
    // Calls body(block, i, start + i) for every point of begin..end on one level, and prefetches the rows of `table`,
    // and whatever fetch_more(point) prefetches, kAhead points before.
    template <class Body, class More>
    static void each_point(const HashGrid &grid, int level, int64_t begin, int64_t end, const void *table, int64_t row_bytes,
                           const Body &body, const More &fetch_more) {
        Block<Real, D> blocks[2];
        const auto prepare = [&](Block<Real, D> &block, int64_t start) {
            const int count = static_cast<int>(end - start < kBlock ? end - start : kBlock);
            block.locate(grid, level, start, count, grid.direction != nullptr);
            if (grid.direction != nullptr)
                block.weigh_directional(count);
            else
                block.weigh(count);
            return count;
        };
        const bool far = (grid.offset[level + 1] - grid.offset[level]) * row_bytes > kCached;
        const char *rows = static_cast<const char *>(table);
        if (begin >= end) return;
        int count = prepare(blocks[0], begin);
        for (int64_t start = begin, turn = 0; start < end; start += kBlock, turn ^= 1) {
            Block<Real, D> &block = blocks[turn], &next = blocks[turn ^ 1];
            const int next_count = start + kBlock < end ? prepare(next, start + kBlock) : 0;
            for (int i = 0; i < count; ++i) {
                const int ahead = i + kAhead;
                if (start + ahead < end) {
                    if (far) fetch(ahead < kBlock ? block : next, ahead % kBlock, rows, row_bytes);
                    fetch_more(start + ahead);
                }
                body(block, i, start + i);
            }
            count = next_count;
        }
    }

    static void gather(const HashGrid &grid, const Store *table, const Store *plain, Real *out, int64_t begin, int64_t end) {
        const int features = F > 0 ? F : grid.features;
        const int64_t width = int64_t(grid.levels) * features, row_bytes = features * int64_t(sizeof(Store));
        for (int level = 0; level < grid.levels; ++level) {
            const Store *first = table + grid.offset[level] * features;
            Real *target = out + level * features;
            // A value at NaN is NaN; a derivative there is zero, so that one bad point does not spoil the table.
            const Real fill = grid.derivative ? Real(0) : Real(NAN);
            each_point(
                grid, level, begin, end, first, row_bytes,
                [&](const Block<Real, D> &block, int i, int64_t point) {
                    Real *row = target + point * width;
                    gather_point<Real, Store, D, F, false>(block, i, first, features, row);
                    if (block.undefined[i])
                        for (int f = 0; f < features; ++f) row[f] = fill;
                },
                [&](int64_t point) { __builtin_prefetch(target + point * width, 1, 3); });
            if (plain == nullptr) continue;
            HashGrid undirected = grid;
            undirected.direction = nullptr;
            const Store *other = plain + grid.offset[level] * features;
            each_point(
                undirected, level, begin, end, other, row_bytes,
                [&](const Block<Real, D> &block, int i, int64_t point) {
                    if (!block.undefined[i]) gather_point<Real, Store, D, F, true>(block, i, other, features, target + point * width);
                },
                [](int64_t) {});
        }
    }

    static void scatter(const HashGrid &grid, int level, const Real *grad, Real *sum, int64_t begin, int64_t end) {
        const int features = F > 0 ? F : grid.features;
        const int64_t width = int64_t(grid.levels) * features;
        Real *target = sum + grid.offset[level] * features;
        const Real *source = grad + level * features;
        each_point(
            grid, level, begin, end, target, features * int64_t(sizeof(Real)),
            [&](const Block<Real, D> &block, int i, int64_t point) {
                if (!block.undefined[i]) scatter_point<Real, D, F>(block, i, source + point * width, features, target);
            },
            [&](int64_t point) { __builtin_prefetch(source + point * width, 0, 3); });
    }

    static Real dot(const Store *entry, const Real *row, int features) {
        Real sum = Real(0);
        for (int f = 0; f < (F > 0 ? F : features); ++f) sum += widen(entry[f]) * row[f];
        return sum;
    }

    static void point_gradient(const HashGrid &grid, const Real *grad, const Store *table, const Store *plain, Real *out,
                               int64_t begin, int64_t end) {
        Block<Real, D> block;
        const int features = F > 0 ? F : grid.features;
        const int64_t width = int64_t(grid.levels) * features;
        const bool directional = grid.direction != nullptr;
        for (int level = 0; level < grid.levels; ++level) {
            const int64_t offset = grid.offset[level] * features;
            for (int64_t start = begin; start < end; start += kBlock) {
                const int count = static_cast<int>(end - start < kBlock ? end - start : kBlock);
                block.locate(grid, level, start, count, directional ? 2 : 1);
                for (int i = 0; i < count; ++i) {
                    Real *target = out + (start + i) * D;
                    const Real *row = grad + (start + i) * width + level * features;
                    Real sum[D] = {};
                    for (int c = 0; c < (1 << D); ++c) {
                        const int64_t at = offset + int64_t(block.entry[c][i]) * features;
                        const Real value = dot(table + at, row, features);
                        for (int j = 0; j < D; ++j)
                            sum[j] += value * (directional ? block.second(c, j, i) : block.first(c, j, i));
                        if (plain != nullptr) {
                            const Real other = dot(plain + at, row, features);
                            for (int j = 0; j < D; ++j) sum[j] += other * block.first(c, j, i);
                        }
                    }
                    for (int j = 0; j < D; ++j)
                        target[j] = block.undefined[i] ? Real(0) : level == 0 ? sum[j] : target[j] + sum[j];
                }
            }
        }
    }

    static void rows(const HashGrid &grid, int64_t *out, int64_t begin, int64_t end) {
        Block<Real, D> block;
        constexpr int corners = 1 << D;
        for (int level = 0; level < grid.levels; ++level)
            for (int64_t start = begin; start < end; start += kBlock) {
                const int count = static_cast<int>(end - start < kBlock ? end - start : kBlock);
                block.locate(grid, level, start, count, 0);
                for (int i = 0; i < count; ++i)
                    for (int c = 0; c < corners; ++c)
                        out[((start + i) * grid.levels + level) * corners + c] = grid.offset[level] + block.entry[c][i];
            }
    }
};

// The common widths are compiled for points in space; everything else runs the same loops with the width at run time.
#define HF_GRID_CASES(CALL)                                                      \
    if (grid.type == GridType::f64) HF_GRID_DIMENSIONS(CALL, double, double)     \
    else if (grid.type == GridType::f16) HF_GRID_FEATURES(CALL, float, Half)     \
    else HF_GRID_FEATURES(CALL, float, float)
#define HF_GRID_FEATURES(CALL, REAL, STORE)                        \
    {                                                              \
        const int known = grid.dimensions == 3 ? grid.features : 0; \
        if (known == 1) CALL(REAL, STORE, 3, 1);                   \
        else if (known == 2) CALL(REAL, STORE, 3, 2);              \
        else if (known == 4) CALL(REAL, STORE, 3, 4);              \
        else if (known == 8) CALL(REAL, STORE, 3, 8);              \
        else HF_GRID_DIMENSIONS(CALL, REAL, STORE)                 \
    }
#define HF_GRID_DIMENSIONS(CALL, REAL, STORE)               \
    {                                                       \
        if (grid.dimensions == 1) CALL(REAL, STORE, 1, 0);  \
        else if (grid.dimensions == 2) CALL(REAL, STORE, 2, 0); \
        else if (grid.dimensions == 3) CALL(REAL, STORE, 3, 0); \
        else CALL(REAL, STORE, 4, 0);                       \
    }

}  // namespace

void hash_grid_gather(const HashGrid &grid, const void *table, const void *plain, void *out, int64_t begin, int64_t end) {
#define HF_CALL(REAL, STORE, D, F)                                                                              \
    Loops<REAL, STORE, D, F>::gather(grid, static_cast<const STORE *>(table), static_cast<const STORE *>(plain), \
                                     static_cast<REAL *>(out), begin, end)
    HF_GRID_CASES(HF_CALL)
#undef HF_CALL
}

void hash_grid_scatter(const HashGrid &grid, int level, const void *grad, void *sum, int64_t begin, int64_t end) {
#define HF_CALL(REAL, STORE, D, F)                                                                            \
    Loops<REAL, REAL, D, F>::scatter(grid, level, static_cast<const REAL *>(grad), static_cast<REAL *>(sum), begin, end)
    HF_GRID_CASES(HF_CALL)
#undef HF_CALL
}

void hash_grid_point_gradient(const HashGrid &grid, const void *grad, const void *table, const void *plain, void *out,
                              int64_t begin, int64_t end) {
#define HF_CALL(REAL, STORE, D, F)                                                                                     \
    Loops<REAL, STORE, D, F>::point_gradient(grid, static_cast<const REAL *>(grad), static_cast<const STORE *>(table), \
                                             static_cast<const STORE *>(plain), static_cast<REAL *>(out), begin, end)
    HF_GRID_CASES(HF_CALL)
#undef HF_CALL
}

void hash_grid_rows(const HashGrid &grid, int64_t *out, int64_t begin, int64_t end) {
#define HF_CALL(REAL, STORE, D, F) Loops<REAL, REAL, D, 0>::rows(grid, out, begin, end)
    if (grid.type == GridType::f64) HF_GRID_DIMENSIONS(HF_CALL, double, double)
    else HF_GRID_DIMENSIONS(HF_CALL, float, float)
#undef HF_CALL
}

}  // namespace HF_ISA
