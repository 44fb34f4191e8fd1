// The builder of the eight-wide tree: surface area heuristic over sorted centroids, then binary levels folded together.
#pragma once
#include <cstdint>
#include <vector>

namespace headfields {

struct BvhTopology {
    std::vector<int32_t> children, order, slot;  // see bvh.h
    std::vector<int32_t> levels;                 // the first node of each level
};

// faces (F, 3) into vertices (V, 3). Faces with vertices that are not finite are placed anywhere.
BvhTopology bvh_build(const int32_t *faces, int64_t face_count, const float *vertices);

}  // namespace headfields
