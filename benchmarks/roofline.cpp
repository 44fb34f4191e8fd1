// What the hash grid's memory traffic costs by itself: rows read, or added to, at given indices.
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t AHEAD = 32;  // rows: as many misses as a core has under way, and some

template <int Width>
struct Row {
    typedef float type __attribute__((vector_size(Width * sizeof(float)), aligned(4)));
};

// Two floats are loaded and stored as one double, in half a register: as a vector of their own, compilers move them
// through the integer registers.
typedef double Pair __attribute__((vector_size(16)));
template <>
struct Row<2> {
    typedef float type __attribute__((vector_size(16)));
};

template <int Width>
typename Row<Width>::type load(const float *from) {
    typename Row<Width>::type row;
    if constexpr (Width == 2) {
        Pair pair = {};
        std::memcpy(&pair, from, sizeof(double));
        std::memcpy(&row, &pair, sizeof row);
    } else {
        std::memcpy(&row, from, sizeof row);
    }
    return row;
}

template <int Width>
float gather(const float *table, const int32_t *index, int64_t count) {
    typename Row<Width>::type sum[4] = {};  // four chains of additions, so that the loads are what takes the time
    int64_t i = 0;
    for (; i + 4 + AHEAD <= count; i += 4) {
#pragma GCC unroll 4
        for (int chain = 0; chain < 4; ++chain) {
            __builtin_prefetch(table + int64_t(index[i + chain + AHEAD]) * Width);
            sum[chain] += load<Width>(table + int64_t(index[i + chain]) * Width);
        }
    }
    for (; i < count; ++i) sum[0] += load<Width>(table + int64_t(index[i]) * Width);
    const auto all = sum[0] + sum[1] + sum[2] + sum[3];
    float total = 0;
    for (int k = 0; k < Width; ++k) total += all[k];
    return total;
}

template <int Width>
void scatter(float *table, const int32_t *index, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) __builtin_prefetch(table + int64_t(index[i + AHEAD]) * Width, 1);
        float *place = table + int64_t(index[i]) * Width;
        const typename Row<Width>::type row = load<Width>(place) + 1.0f;
        std::memcpy(place, &row, Width * sizeof(float));
    }
}

}  // namespace

extern "C" float gather_rows(const float *table, const int32_t *index, int64_t count, int width) {
    return width == 2 ? gather<2>(table, index, count) : width == 8 ? gather<8>(table, index, count) : -1.0f;
}

extern "C" float read_all(const float *values, int64_t count) {
    Row<8>::type sum[4] = {};
    int64_t i = 0;
    for (; i + 32 <= count; i += 32)
        for (int chain = 0; chain < 4; ++chain) sum[chain] += load<8>(values + i + 8 * chain);
    const auto all = sum[0] + sum[1] + sum[2] + sum[3];
    float total = 0;
    for (int k = 0; k < 8; ++k) total += all[k];
    for (; i < count; ++i) total += values[i];
    return total;
}

extern "C" int scatter_rows(float *table, const int32_t *index, int64_t count, int width) {
    if (width != 2 && width != 8) return -1;
    width == 2 ? scatter<2>(table, index, count) : scatter<8>(table, index, count);
    return 0;
}
