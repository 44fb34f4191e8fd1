// Which Gaussians show in which tile of an image, in order of depth.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "splat.h"

namespace headfields {

// The Gaussians of one camera that may show, by depth and then index, and those of each row of tiles.
struct SplatView {
    int64_t height = 0, width = 0, tiles_x = 0, tiles_y = 0;
    std::vector<SplatItem> items;
    std::vector<uint32_t> row_items;  // places in `items`, in order, of each row of tiles
    std::vector<int64_t> row_start;   // tiles_y + 1

    // rows: (n, 10); screen: (n, 2), added to the centers, or null.
    SplatView(const float *rows, const float *screen, int64_t n, int64_t height, int64_t width);
};

// The lists of the tiles in some rows of tiles of a view.
struct SplatLists {
    int64_t first_row, last_row;
    std::vector<int64_t> start;       // of each tile, row by row, and the end
    std::vector<uint32_t> entries;    // places in `items`
    std::vector<uint32_t> places;     // of each entry: its tile's number among those of its item
    int64_t slots = 0;                // entries, numbered item by item

    // The most rows from `first_row` on whose lists have at most `most` entries together; one row at least.
    static int64_t rows_within(const SplatView &view, int64_t first_row, int64_t most);
    SplatLists(SplatView &view, int64_t first_row, int64_t last_row, int threads);
};

}  // namespace headfields
