// Shared by the parts of the stress program: random arrays, checks, and digests of results.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

namespace stress {

constexpr int pool_threads = 3;
inline std::atomic<int> failures{0};

inline void expect(bool holds, const char *what) {
    if (holds) return;
    std::fprintf(stderr, "stress: %s\n", what);
    ++failures;
}

struct Random {
    std::mt19937 engine;
    explicit Random(unsigned seed) : engine(seed) {}
    double uniform(double lo, double hi) { return lo + (hi - lo) * (engine() / 4294967296.0); }
    // Numbers of which one in `rare` is not an ordinary one.
    template <class T> std::vector<T> numbers(int64_t n, double lo, double hi, int rare = 0) {
        using limits = std::numeric_limits<T>;
        const T infinity = limits::infinity();
        const T odd[] = {limits::quiet_NaN(),  infinity, -infinity, limits::max(), limits::lowest(),
                         limits::denorm_min(), T(-0.0),  T(1e30)};
        std::vector<T> values(n);
        for (T &x : values) x = rare && engine() % rare == 0 ? odd[engine() % 8] : T(uniform(lo, hi));
        return values;
    }
    std::vector<int64_t> offsets(int64_t rays, int most) {
        std::vector<int64_t> at(rays + 1, 0);
        for (int64_t r = 0; r < rays; ++r) at[r + 1] = at[r] + engine() % (most + 1);
        return at;
    }
};

inline uint64_t digest(const void *data, size_t bytes, uint64_t seed) {
    const unsigned char *p = static_cast<const unsigned char *>(data);
    for (size_t i = 0; i < bytes; ++i) seed = (seed ^ p[i]) * 1099511628211ull;
    return seed;
}
template <class T> void mix(uint64_t &seed, const std::vector<T> &values) {
    seed = digest(values.data(), values.size() * sizeof(T), seed);
}

uint64_t networks(Random &random, int rows, int rare);
uint64_t softplus(Random &random, int n, int rare);
uint64_t blended_maps(Random &random, int n, int width, int rare);
uint64_t splats(Random &random, int64_t n, int64_t cameras, int64_t channels, int64_t height, int64_t width, int rare);
uint64_t splat_harmonics(Random &random, int64_t n, int64_t cameras, int values, int rare);
uint64_t bound_gaussians(Random &random, int64_t n, int64_t frames, int64_t faces, int rare);
uint64_t blurred(Random &random, int64_t count, int64_t height, int64_t width, int reach, int rare);
uint64_t surfaces(Random &random, int64_t depth, int64_t height, int64_t width, int share);

}  // namespace stress
