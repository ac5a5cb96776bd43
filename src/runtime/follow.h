// The other processes of a run: they follow process 0, order by order.
#pragma once

#include "comm/process_link.h"

namespace fathom {

// Carries out process 0's orders (runtime/orders.h) until the run is over. Throws Error when this
// process fails (all others are told), and ExchangeEnded when another one fails.
void follow(ProcessLink& link);

}  // namespace fathom
