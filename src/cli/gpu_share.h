// GPUs of the processes of one machine.
#pragma once

#include <optional>
#include <string>

#include "comm/process_link.h"

namespace fathom::cli {

// Returns CUDA_VISIBLE_DEVICES for a process that sees the same GPUs as others of the run: its part
// of them, as even as possible. `visible`: what the variable is for all of them; none: it is not
// set, and they see the `there` GPUs of the machine.
std::string gpus_of_process(const std::optional<std::string>& visible, int there, Sharing sharing);

// Lets this process see its own part alone, if it shares GPUs with others. Called before CUDA is
// used.
void take_own_gpus(Sharing sharing);

}  // namespace fathom::cli
