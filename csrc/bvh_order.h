// The order in which queries are visited: along a Morton curve, so that one query's answer bounds the next.
#pragma once
#include <cstdint>
#include <vector>

namespace headfields {

// How many queries are put in order together: few enough for the threads to share the work evenly.
int64_t bvh_order_grain(int64_t n, int threads);

// Indices begin..end by mesh (null: all the same) and then by the Morton code of points[3 i], in the box of these points.
void bvh_order(const float *points, const int32_t *mesh, int64_t begin, int64_t end, std::vector<uint32_t> &items);

}  // namespace headfields
