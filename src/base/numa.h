// Memory placement on machines with several NUMA nodes.
#pragma once

namespace fathom {

// Asks the system to interleave the pages of this process's memory (weights in the page cache
// included) over all nodes whose processors it may use. Every thread reads every weight, so with
// any other placement the memory channels of all but one node would be idle. Call it before memory
// is touched. Returns the number of nodes used; 1 if there is nothing to spread.
int spread_memory_over_nodes();

// For the ranks of one model: binds the calling thread, and threads that it starts from now on, to
// the processors and the memory of the node (or nodes) of `part`. Nodes and parts are matched in
// order; with as many parts as nodes, each part has one node. Returns false and changes nothing if
// there is only one node, or if neither number is a multiple of the other.
bool bind_thread_to_node(int part, int parts);

}  // namespace fathom
