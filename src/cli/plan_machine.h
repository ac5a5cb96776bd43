// What the planner is told of the machine at hand.
#pragma once

#include <string>

#include "cli/loaded_model.h"
#include "plan/planner.h"

namespace fathom::cli {

// This machine as a command with this plan would use it: its GPUs or its processors. A GPU that is
// not in the planner's table leaves `gpu` null and `memory` 0: nothing is planned for it.
plan::Machine machine_of(const ComputePlan& compute);

// Says on standard error how a checkpoint would be loaded and what that leaves room for. Throws
// Error, once it is said, where it does not fit a GPU; the engine refuses what does not fit a host.
void say_plan(const std::string& folder, const ModelOptions& options);

}  // namespace fathom::cli
