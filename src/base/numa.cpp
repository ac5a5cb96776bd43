#include "base/numa.h"

#include <numa.h>

namespace fathom {

int spread_memory_over_nodes() {
  if (numa_available() < 0) return 1;
  bitmask* nodes = numa_get_run_node_mask();
  int count = static_cast<int>(numa_bitmask_weight(nodes));
  if (count > 1) numa_set_interleave_mask(nodes);
  numa_free_nodemask(nodes);
  return count > 1 ? count : 1;
}

bool bind_thread_to_node(int part, int parts) {
  if (numa_available() < 0) return false;
  bitmask* usable = numa_get_run_node_mask();
  const int nodes = static_cast<int>(numa_bitmask_weight(usable));
  const bool divides = nodes > 1 && (parts % nodes == 0 || nodes % parts == 0);
  if (divides) {
    // The usable nodes from the first to the last of this part's, counted among themselves.
    const int first = part * nodes / parts, last = ((part + 1) * nodes - 1) / parts;
    bitmask* own = numa_allocate_nodemask();
    for (unsigned node = 0, index = 0; node < usable->size; ++node) {
      if (!numa_bitmask_isbitset(usable, node)) continue;
      if (static_cast<int>(index) >= first && static_cast<int>(index) <= last)
        numa_bitmask_setbit(own, node);
      ++index;
    }
    numa_run_on_node_mask(own);
    if (first == last)
      numa_set_localalloc();
    else
      numa_set_interleave_mask(own);
    numa_free_nodemask(own);
  }
  numa_free_nodemask(usable);
  return divides;
}

}  // namespace fathom
