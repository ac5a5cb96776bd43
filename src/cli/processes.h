// The program as one of several processes that mpirun has started: process 0 is the program that
// the user sees, the others follow it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "comm/process_link.h"
#include "runtime/compute_plan.h"

namespace fathom::cli {

// To be called once, before there are other threads. In a process that follows it returns the exit
// code, once the run is over. Throws Error when the processes cannot work together.
std::optional<int> join_launched_processes(int argc, char** argv);

// The link of process 0 to the others; null for a program that runs alone.
ProcessLink* process_link();

// Spreads the plan's ranks over the processes. Throws Error where that does not go. `timeout`:
// seconds that a process may be silent.
void spread_over_processes(ComputePlan& plan, double timeout);

// Before a checkpoint is loaded: throws Error if another process has another one, or no device for
// its ranks. Does nothing in a program that runs alone.
void check_processes(const std::string& folder, const std::string& config_file,
                     const ComputePlan& plan);
// What check_processes() found: bytes of memory of the other process that has least.
std::optional<int64_t> memory_of_others();

// Whether standard error has been told this reason already: that another process failed.
bool process_failure_said(const std::string& why);

// The end of process 0's work.
void end_processes();

}  // namespace fathom::cli
