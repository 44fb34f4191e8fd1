// The multiresolution hash grid (Müller et al. 2022, section 3): loops over blocks of points, one level at a time, bound
// by the memory that the rows of the table and of the features are in.
#include "hash_grid.h"

#include <cmath>

#include "hash_grid_block.h"
#include "hash_grid_row.h"

namespace HF_ISA {
namespace {

using headfields::GridType;

// Reading a table is a random access for each corner. Prefetching the rows of the points kAhead further on, while a run
// of kRun points is summed, hides most of the latency; a table that fits the second-level cache needs no prefetching.
constexpr int kRun = 8, kAhead = 16;
constexpr int64_t kCached = 256 << 10;

// F is the number of features, 0 where it is known only at run time.
template <class Real, class Store, int D, int F, bool kAdd>
inline void gather_point(const Block<Real, D> &block, int i, const Store *table, int features, Real *row) {
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

// Eight points of two features at once, four to a vector.
template <bool kAdd>
inline void gather_pairs(const Block<float, 3> &block, int i, const float *table, float *rows, int64_t stride) {
    const auto *pairs = reinterpret_cast<const Pair *>(table);
    f8 sum[2] = {};
    if constexpr (kAdd)
        for (int k = 0; k < 8; ++k) std::memcpy(reinterpret_cast<char *>(sum) + 8 * k, rows + k * stride, 8);
    for (int c = 0; c < 8; ++c) {
        const uint32_t *entry = block.entry[c] + i;
        const f8 weight = f8_load(block.weight[c] + i);
        sum[0] += HF_SHUFFLE(weight, weight, 0, 0, 1, 1, 2, 2, 3, 3) *
                  (f8)d4{pairs[entry[0]], pairs[entry[1]], pairs[entry[2]], pairs[entry[3]]};
        sum[1] += HF_SHUFFLE(weight, weight, 4, 4, 5, 5, 6, 6, 7, 7) *
                  (f8)d4{pairs[entry[4]], pairs[entry[5]], pairs[entry[6]], pairs[entry[7]]};
    }
    if (stride == 2)
        std::memcpy(rows, sum, sizeof sum);
    else
        for (int k = 0; k < 8; ++k) std::memcpy(rows + k * stride, reinterpret_cast<const char *>(sum) + 8 * k, 8);
}

// sum[corner] += weight * row
template <class Real, int D, int F>
inline void scatter_point(const Block<Real, D> &block, int i, const Real *row, int features, Real *target) {
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
    // Calls body(block, i, count, start + i) for every run of `count` points of begin..end on one level, and prefetches
    // the rows of `table`, and whatever fetch_more(point) prefetches, kAhead points before.
    template <class Body, class More>
    static HF_INLINE_MEMBER void each_run(const HashGrid &grid, int level, int64_t begin, int64_t end, const void *table,
                                          int64_t row_bytes, const Body body, const More fetch_more) {
        Block<Real, D> blocks[2];
        const bool far = (grid.offset[level + 1] - grid.offset[level]) * row_bytes > kCached;
        const char *rows = static_cast<const char *>(table);
        if (begin >= end) return;
        blocks[0].prepare(grid, level, begin, points_of_block(begin, end));
        for (int64_t start = begin, turn = 0; start < end; start += kBlock, turn ^= 1) {
            const Block<Real, D> &block = blocks[turn], &next = blocks[turn ^ 1];
            const int count = points_of_block(start, end);
            if (start + kBlock < end) blocks[turn ^ 1].prepare(grid, level, start + kBlock, points_of_block(start + kBlock, end));
            for (int i = 0; i < count; i += kRun) {
                const int ahead = i + kAhead;
                const int more = static_cast<int>(end - start - ahead < kRun ? end - start - ahead : kRun);
                const Block<Real, D> &source = ahead < kBlock ? block : next;
                for (int k = 0; k < more; ++k) {
                    if (far)
                        for (int c = 0; c < (1 << D); ++c)
                            HF_PREFETCH(rows + source.entry[c][ahead % kBlock + k] * row_bytes);
                    fetch_more(start + ahead + k);
                }
                body(block, i, count - i < kRun ? count - i : kRun, start + i);
            }
        }
    }
    static int points_of_block(int64_t start, int64_t end) { return static_cast<int>(end - start < kBlock ? end - start : kBlock); }

    // One level of the features of begin..end, or the sum with what is there, into rows `stride` apart.
    template <bool kAdd>
    static void gather_level(const HashGrid &grid, int level, const Store *table, Real *target, int64_t stride, int64_t begin,
                             int64_t end) {
        const int features = F > 0 ? F : grid.features;
        // A value at NaN is NaN; a derivative there is zero, so that one bad point does not spoil the table.
        const Real fill = grid.derivative ? Real(0) : Real(NAN);
        const bool distant = stride * int64_t(sizeof(Real)) > 64;  // the processor does not fetch the rows by itself
        each_run(
            grid, level, begin, end, table, features * int64_t(sizeof(Store)),
            [=](const Block<Real, D> &block, int i, int count, int64_t point) {
                Real *rows = target + (point - begin) * stride;
                if constexpr (F == 2 && D == 3 && sizeof(Real) == 4 && sizeof(Store) == 4) {
                    if (count == kRun) {
                        gather_pairs<kAdd>(block, i, table, rows, stride);
                        count = 0;
                    }
                }
                for (int k = 0; k < count; ++k)
                    gather_point<Real, Store, D, F, kAdd>(block, i + k, table, features, rows + k * stride);
                if (!block.any_undefined) return;
                const int run = points_of_run(point, end);
                for (int k = 0; k < run; ++k)
                    if (block.undefined[i + k])
                        for (int f = 0; f < features; ++f) rows[k * stride + f] = fill;
            },
            [=](int64_t point) {
                if (distant) HF_PREFETCH_TO_WRITE(target + (point - begin) * stride);
            });
    }
    static int points_of_run(int64_t point, int64_t end) { return static_cast<int>(end - point < kRun ? end - point : kRun); }

    // `lines` has room for one cache line for each point: the levels that make up a line of the output are collected
    // there, each level's rows side by side, and written together. Written one by one, each would bring the line into
    // the cache and send it back to memory.
    static void gather(const HashGrid &grid, const Store *table, const Store *plain, Real *out, Real *lines, int64_t begin,
                       int64_t end) {
        const int features = F > 0 ? F : grid.features;
        const int64_t width = int64_t(grid.levels) * features, count = end - begin;
        const int together = lines == nullptr ? 1 : int(64 / (features * sizeof(Real)));
        for (int level = 0; level < grid.levels; ++level) {
            Real *row = out + begin * width + level * features;
            Real *target = lines == nullptr ? row : lines + level % together * features * count;
            const int64_t stride = lines == nullptr ? width : features, first = grid.offset[level] * features;
            gather_level<false>(grid, level, table + first, target, stride, begin, end);
            if (plain != nullptr) {
                HashGrid undirected = grid;
                undirected.direction = nullptr;
                gather_level<true>(undirected, level, plain + first, target, stride, begin, end);
            }
            if (lines != nullptr && (level + 1) % together == 0)
                write_lines(lines, row - (together - 1) * features, width, count);
        }
    }

    // Writes whole cache lines past the cache: out[i * width ..] = lines[0][i], lines[1][i], ...
    static void write_lines(const Real *lines, Real *out, int64_t width, int64_t count) {
        if constexpr (F > 0 && F * sizeof(Real) < 64) {
            constexpr int together = int(64 / (F * sizeof(Real)));
            for (int64_t i = 0; i < count; ++i) {
                Real line[64 / sizeof(Real)];
                for (int l = 0; l < together; ++l) store_row<Real, F>(line + l * F, load_row<Real, F>(lines + (l * count + i) * F));
                write_line(out + i * width, line);
            }
            finish_lines();
        }
    }

    // `grad` are the rows of this level, `stride` apart, of begin..end.
    static void scatter(const HashGrid &grid, int level, const Real *grad, int64_t stride, Real *sum, int64_t begin, int64_t end) {
        const int features = F > 0 ? F : grid.features;
        Real *target = sum + grid.offset[level] * features;
        const bool distant = stride * int64_t(sizeof(Real)) > 64;
        each_run(
            grid, level, begin, end, target, features * int64_t(sizeof(Real)),
            [=](const Block<Real, D> &block, int i, int count, int64_t point) {
                const Real *rows = grad + (point - begin) * stride;
                for (int k = 0; k < count; ++k)
                    if (!(block.any_undefined && block.undefined[i + k]))
                        scatter_point<Real, D, F>(block, i + k, rows + k * stride, features, target);
            },
            [=](int64_t point) {
                if (distant) HF_PREFETCH(grad + (point - begin) * stride);
            });
    }

    static void by_level(const HashGrid &grid, const Real *grad, Real *out, int64_t count, int64_t begin, int64_t end) {
        const int features = F > 0 ? F : grid.features;
        const int64_t width = int64_t(grid.levels) * features;
        for (int64_t i = begin; i < end; ++i)
            for (int level = 0; level < grid.levels; ++level) {
                const Real *from = grad + i * width + level * features;
                Real *to = out + (level * count + i) * features;
                if constexpr (F > 0)
                    store_row<Real, F>(to, load_row<Real, F>(from));
                else
                    for (int f = 0; f < features; ++f) to[f] = from[f];
            }
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
                        target[j] = block.any_undefined && block.undefined[i] ? Real(0) : level == 0 ? sum[j] : target[j] + sum[j];
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

void hash_grid_gather(const HashGrid &grid, const void *table, const void *plain, void *out, void *lines, int64_t begin,
                      int64_t end) {
#define HF_CALL(REAL, STORE, D, F)                                                                              \
    Loops<REAL, STORE, D, F>::gather(grid, static_cast<const STORE *>(table), static_cast<const STORE *>(plain), \
                                     static_cast<REAL *>(out), static_cast<REAL *>(lines), begin, end)
    HF_GRID_CASES(HF_CALL)
#undef HF_CALL
}

void hash_grid_scatter(const HashGrid &grid, int level, const void *grad, int64_t stride, void *sum, int64_t begin, int64_t end) {
#define HF_CALL(REAL, STORE, D, F)                                                                                    \
    Loops<REAL, REAL, D, F>::scatter(grid, level, static_cast<const REAL *>(grad), stride, static_cast<REAL *>(sum), \
                                     begin, end)
    HF_GRID_CASES(HF_CALL)
#undef HF_CALL
}

void hash_grid_by_level(const HashGrid &grid, const void *grad, void *out, int64_t count, int64_t begin, int64_t end) {
#define HF_CALL(REAL, STORE, D, F) \
    Loops<REAL, REAL, D, F>::by_level(grid, static_cast<const REAL *>(grad), static_cast<REAL *>(out), count, begin, end)
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
