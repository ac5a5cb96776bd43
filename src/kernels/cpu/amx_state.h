// Remembers which shapes a thread's tile registers have. Setting them takes as long as a few
// products, so a product that needs the same shapes as the one before skips it.
#pragma once

#include <cstdint>

namespace fathom {

// The number of the current shapes; 0: none of a kernel's.
extern constinit thread_local uint32_t current_tile_shapes;

}  // namespace fathom
