// Sample placement on packed rays: the inverse of a cumulative distribution, and the union of two sets of intervals.
#include <stdint.h>

#include <math.h>

namespace HF_ISA {

// edges: (rays, quantile_count), for sorted quantiles in [0, 1]; 0 on rays without samples. One walk along the samples
// a ray: a sample holds a quantile if it is the first whose inclusive sum exceeds it, or the last that has weight.
template <class T>
static void inverse_cdf_of(int64_t begin, int64_t end, const int64_t *offsets, const T *start, const T *stop,
                           const T *weights, const T *quantiles, int64_t quantile_count, T *edges) {
    for (int64_t ray = begin; ray < end; ++ray) {
        const int64_t first = offsets[ray], last = offsets[ray + 1];
        T *row = edges + ray * quantile_count;
        const T *wanted = quantiles + ray * quantile_count;
        if (first == last) {
            for (int64_t q = 0; q < quantile_count; ++q) row[q] = 0;
            continue;
        }
        T total = 0;
        for (int64_t i = first; i < last; ++i) total += weights[i] < 0 ? T(0) : weights[i];
        const bool usable = total > 0 && total < T(HUGE_VAL);
        if (!usable) {
            total = 0;
            for (int64_t i = first; i < last; ++i) total += stop[i] - start[i];
        }
        // `at` holds weight, and cumulative runs up to its beginning.
        T cumulative = 0, after = 0;
        int64_t at = first, next = first;
        const auto advance = [&]() {
            T running = after;
            while (next < last) {
                const T mass = usable ? (weights[next] < 0 ? T(0) : weights[next]) : stop[next] - start[next];
                const T sum = running + mass;
                if (sum > running) {
                    at = next++;
                    cumulative = running;
                    after = sum;
                    return true;
                }
                ++next;
            }
            return false;
        };
        bool more = advance();
        for (int64_t q = 0; q < quantile_count; ++q) {
            const T target = wanted[q] * total;
            while (more && !(after > target)) more = advance();
            const T width = after - cumulative;
            T fraction = width > 0 ? (target - cumulative) / width : T(0);
            fraction = fraction < 0 ? T(0) : fraction > 1 ? T(1) : fraction;
            const T place = start[at] + fraction * (stop[at] - start[at]);  // rounding may pass the end
            row[q] = place < stop[at] ? place : stop[at];
        }
    }
}

// Pieces between neighboring edges of a and b that either covers. out_start == nullptr: only counts them.
template <class T>
static void merge_of(int64_t begin, int64_t end, const int64_t *offsets_a, const T *start_a, const T *stop_a,
                     const int64_t *offsets_b, const T *start_b, const T *stop_b, int64_t *counts,
                     const int64_t *offsets, int64_t *out_ray, T *out_start, T *out_stop) {
    for (int64_t ray = begin; ray < end; ++ray) {
        int64_t a = offsets_a[ray], b = offsets_b[ray], found = 0;
        const int64_t end_a = offsets_a[ray + 1], end_b = offsets_b[ray + 1];
        bool in_a = false, in_b = false;  // whether the interval at a (at b) has begun
        T previous = 0;
        while (a < end_a || b < end_b) {
            const bool have_a = a < end_a, have_b = b < end_b;
            const T edge_a = !have_a ? T(0) : in_a ? stop_a[a] : start_a[a];
            const T edge_b = !have_b ? T(0) : in_b ? stop_b[b] : start_b[b];
            const bool take_a = have_a && (!have_b || edge_a <= edge_b);
            const T edge = take_a ? edge_a : edge_b;
            if ((in_a || in_b) && previous < edge) {
                if (out_start != nullptr) {
                    const int64_t to = offsets[ray] + found;
                    if (to >= offsets[ray + 1]) break;  // the input has changed since it was counted
                    out_ray[to] = ray;
                    out_start[to] = previous;
                    out_stop[to] = edge;
                }
                ++found;
            }
            previous = edge;
            if (take_a) {
                a += in_a;
                in_a = !in_a;
            } else {
                b += in_b;
                in_b = !in_b;
            }
        }
        if (out_start == nullptr) {
            counts[ray] = found;
            continue;
        }
        for (int64_t to = offsets[ray] + found; to < offsets[ray + 1]; ++to) {
            out_ray[to] = ray;
            out_start[to] = out_stop[to] = previous;
        }
    }
}

#define HF_SAMPLING(T)                                                                                                 \
    void inverse_cdf(int64_t begin, int64_t end, const int64_t *offsets, const T *start, const T *stop,                \
                     const T *weights, const T *quantiles, int64_t quantile_count, T *edges) {                         \
        inverse_cdf_of<T>(begin, end, offsets, start, stop, weights, quantiles, quantile_count, edges);                \
    }                                                                                                                  \
    void merge(int64_t begin, int64_t end, const int64_t *offsets_a, const T *start_a, const T *stop_a,                \
               const int64_t *offsets_b, const T *start_b, const T *stop_b, int64_t *counts, const int64_t *offsets,   \
               int64_t *out_ray, T *out_start, T *out_stop) {                                                          \
        merge_of<T>(begin, end, offsets_a, start_a, stop_a, offsets_b, start_b, stop_b, counts, offsets, out_ray,      \
                    out_start, out_stop);                                                                              \
    }
HF_SAMPLING(float)
HF_SAMPLING(double)

}  // namespace HF_ISA
