// The order of queries: along a Morton curve, so that the result of one bounds the next.
#pragma once
#include <cstdint>
#include <memory>

namespace headfields {

// 0..n-1 by mesh (null: all the same) and then by the Morton code of points[3 i], in the box of all points. The same
// whatever the number of threads. Throws std::length_error for 2^32 points and more.
std::unique_ptr<uint32_t[]> bvh_order(const float *points, const int32_t *mesh, int64_t n, int64_t meshes, int threads);

// How many queries, put in order, a thread takes at a time.
int64_t bvh_order_grain(int64_t n, int threads);

}  // namespace headfields
