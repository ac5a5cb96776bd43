// Memory placement on machines with several NUMA nodes.
#pragma once

namespace fathom {

// Asks the system to place this process's memory, weights in the page cache included, page by page
// in turn on all nodes whose processors it may use: every thread reads every weight, so any other
// placement would leave the channels of all but one node idle. To be called before memory is
// touched. Returns the number of nodes used: 1 where there is nothing to spread.
int spread_memory_over_nodes();

// For the ranks of one model: lets the calling thread, and threads that it starts from now on, run
// on the processors of one node alone, with memory from there. Parts are dealt out to the nodes in
// order: with as many parts as nodes each has its own. False, with nothing changed, where there is
// one node, or no whole number of parts a node or of nodes a part.
bool bind_thread_to_node(int part, int parts);

}  // namespace fathom
