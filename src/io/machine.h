// What this machine has to give.
#pragma once

#include <cstdint>

namespace fathom {

// Bytes a program can take without pushing others out: MemAvailable, or what is left of the control
// group's limit when that is less. 0 when the system does not say.
int64_t available_memory();

}  // namespace fathom
