// Memory placement on machines with several NUMA nodes.
#pragma once

namespace fathom {

// Asks the system to place this process's memory, weights in the page cache included, page by page
// in turn on all nodes whose processors it may use: every thread reads every weight, so any other
// placement would leave the channels of all but one node idle. To be called before memory is
// touched. Returns the number of nodes used: 1 where there is nothing to spread.
int spread_memory_over_nodes();

}  // namespace fathom
