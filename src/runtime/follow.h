// The other processes of a run: they follow process 0, order by order.
#pragma once

#include "comm/process_link.h"

namespace fathom {

// Does what process 0 tells (runtime/orders.h) until it says that the run is over. Throws Error
// when this process fails, which all others are told, and ExchangeEnded when another one does.
void follow(ProcessLink& link);

}  // namespace fathom
