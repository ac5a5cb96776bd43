// Describes this machine to the planner.
#pragma once

#include <string>

#include "cli/loaded_model.h"
#include "plan/planner.h"

namespace fathom::cli {

// Returns this machine as a command with this plan would use it: its GPUs or its processors. For a
// GPU that the planner does not know, `gpu` is null and `memory` 0; nothing is planned for it.
plan::Machine machine_of(const ComputePlan& compute);

// Prints on standard error how a checkpoint will be loaded and how much fits then. Throws Error
// after that if it does not fit a GPU. (What does not fit a host is refused by the engine.)
void say_plan(const std::string& folder, const ModelOptions& options);

}  // namespace fathom::cli
