// A plan as text for a terminal.
#pragma once

#include <string>

#include "plan/planner.h"

namespace fathom::plan {

// Returns the whole plan: a table of the layouts, the recommended one, how to run it, and notes.
std::string text_of(const Plan& plan);

// Returns a few lines about one layout, which `serve` prints before it loads.
std::string summary_of(const Plan& plan, const LayoutPlan& layout);

}  // namespace fathom::plan
