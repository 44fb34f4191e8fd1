// The stress program's part for marching cubes.
#include "marching_cubes.h"
#include "parallel.h"
#include "stress.h"

using namespace headfields;

namespace stress {

// The table is not Python's: any table whose triangles name cut edges takes the same paths. Each case has as
// many triangles as it has cut edges, up to five, on edges that are cut.
uint64_t surfaces(Random &random, int64_t depth, int64_t height, int64_t width, int share) {
    const int axis_corners[12] = {0, 1, 2, 3, 0, 1, 4, 5, 0, 2, 4, 6};
    std::vector<uint8_t> count(256), triangle(256 * 5 * 3, 0);
    for (int which = 0; which < 256; ++which) {
        std::vector<uint8_t> cut;
        for (int e = 0; e < 12; ++e) {
            const int a = axis_corners[e], b = a | (4 >> (e / 4));
            if ((which >> a & 1) != (which >> b & 1)) cut.push_back(static_cast<uint8_t>(e));
        }
        count[which] = static_cast<uint8_t>(cut.size() < 5 ? cut.size() : 5);
        for (int t = 0; t < 3 * count[which]; ++t) triangle[which * 15 + t] = cut[t % cut.size()];
    }
    std::vector<float> values(depth * height * width);
    for (float &p : values) p = static_cast<int>(random.engine() % 100) < share ? -1.0f : 3.0f;
    const int64_t rows = depth * height, words = (width + 63) / 64;
    std::vector<uint64_t> bits(rows * words);
    std::vector<int64_t> edges(rows), triangles(rows), first_edge(rows + 1, 0), first_triangle(rows + 1, 0);
    MarchingGrid grid{depth, height, width, words, bits.data(), count.data(), triangle.data(), 5};
    parallel_for(rows, 3, pool_threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_bits, grid, values.data(), 0.0f, first, last);
    });
    parallel_for(rows, 3, pool_threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_count, grid, first, last, edges.data(), triangles.data());
    });
    for (int64_t r = 0; r < rows; ++r) {
        first_edge[r + 1] = first_edge[r] + edges[r];
        first_triangle[r + 1] = first_triangle[r] + triangles[r];
    }
    const int64_t edge_total = first_edge[rows], triangle_total = first_triangle[rows];
    std::vector<int64_t> edge(edge_total, -1), faces(3 * triangle_total, -1);
    parallel_for(rows, 3, pool_threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_emit, grid, first, last, first_edge.data(), first_triangle.data(), edge.data(), faces.data());
    });
    for (size_t k = 0; k < edge.size(); ++k) {
        expect(edge[k] >= 0 && (k == 0 || edge[k] > edge[k - 1]), "marching_emit names edges in another order");
    }
    for (const int64_t corner : faces) expect(corner >= 0 && corner < edge_total, "marching_emit names no edge");
    std::vector<float> fraction(edge_total), vertices(3 * edge_total);
    std::vector<int64_t> ends(2 * edge_total);
    const MarchingVertices<float> of{values.data(), 0.0f, edge.data(), ends.data(), fraction.data(), vertices.data()};
    parallel_for(edge_total, 5, pool_threads, [&](int64_t first, int64_t last, int) {
        HF_DISPATCH(marching_vertices, grid, of, first, last);
    });
    for (const float at : fraction) expect(at == 0.25f || at == 0.75f, "marching_vertices is not between its ends");
    uint64_t seed = 9;
    mix(seed, edge), mix(seed, faces), mix(seed, ends);
    return seed;
}

}  // namespace stress
