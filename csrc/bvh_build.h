// The builder of the eight-wide tree: surface area heuristic over binned, and for small ranges sorted, middles of the
// faces (Wald 2007, "On fast construction of SAH-based bounding volume hierarchies"), then binary levels folded together.
#pragma once
#include <cstdint>
#include <vector>

namespace headfields {

struct BvhTopology {
    std::vector<int32_t> children, order, slot;  // see bvh.h
    std::vector<int32_t> levels;                 // the first node of each level
};

// faces (F, 3) into vertices (V, 3). Faces with vertices that are not finite are placed anywhere. The same tree whatever
// the number of threads.
BvhTopology bvh_build(const int32_t *faces, int64_t face_count, const float *vertices, int64_t vertex_count, int threads);

}  // namespace headfields
