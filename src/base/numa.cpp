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

}  // namespace fathom
