// Which shapes the tile registers of a thread have, so that short products one after the other need
// not set them again: that takes as long as a few products.
#pragma once

#include <cstdint>

namespace fathom {

// A number that stands for the shapes; 0: none that a kernel knows.
extern constinit thread_local uint32_t current_tile_shapes;

}  // namespace fathom
