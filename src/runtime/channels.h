// Channels of the link between processes (ProcessLink::part), so that groups of ranks can work side
// by side. Channel 0, the link itself, is for orders that concern all groups.
#pragma once

namespace fathom {

constexpr int kWorldChannel = 1;  // exchanges of all ranks
constexpr int kLoadChannel = 2;   // how far the processes have loaded
constexpr int orders_channel(int group) { return 3 + 2 * group; }
constexpr int exchange_channel(int group) { return 4 + 2 * group; }

}  // namespace fathom
