// What the hash grid's memory traffic costs by itself: rows read, or added to, at given indices.
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t AHEAD = 32;  // rows: as many misses as a core has under way, and some

template <int Width>
struct Row {
    typedef float type __attribute__((vector_size(Width * sizeof(float)), aligned(4)));
};

template <int Width>
float gather(const float *table, const int32_t *index, int64_t count) {
    typename Row<Width>::type sum[4] = {};  // four chains of additions, so that the loads are what takes the time
    int64_t i = 0;
    for (; i + 4 + AHEAD <= count; i += 4) {
#pragma GCC unroll 4
        for (int chain = 0; chain < 4; ++chain) {
            __builtin_prefetch(table + int64_t(index[i + chain + AHEAD]) * Width);
            typename Row<Width>::type row;
            std::memcpy(&row, table + int64_t(index[i + chain]) * Width, sizeof row);
            sum[chain] += row;
        }
    }
    for (; i < count; ++i) {
        typename Row<Width>::type row;
        std::memcpy(&row, table + int64_t(index[i]) * Width, sizeof row);
        sum[0] += row;
    }
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
        typename Row<Width>::type row;
        std::memcpy(&row, place, sizeof row);
        row += 1.0f;
        std::memcpy(place, &row, sizeof row);
    }
}

}  // namespace

extern "C" float gather_rows(const float *table, const int32_t *index, int64_t count, int width) {
    return width == 2 ? gather<2>(table, index, count) : width == 8 ? gather<8>(table, index, count) : -1.0f;
}

extern "C" int scatter_rows(float *table, const int32_t *index, int64_t count, int width) {
    if (width != 2 && width != 8) return -1;
    width == 2 ? scatter<2>(table, index, count) : scatter<8>(table, index, count);
    return 0;
}
