// The program as one of several processes that mpirun has started. Process 0 runs the command; the
// others follow it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "comm/process_link.h"
#include "runtime/compute_plan.h"

namespace fathom::cli {

// Call it once, before there are other threads. In a process that follows it returns when the run
// is over, with the exit code; in process 0 it returns nothing. Throws Error when the processes
// cannot work together.
std::optional<int> join_launched_processes(int argc, char** argv);

// The link of process 0 to the others; null for a program that runs alone.
ProcessLink* process_link();

// Spreads the plan's ranks over the processes. Throws Error if that is not possible. `timeout`:
// seconds that a process may be silent.
void spread_over_processes(ComputePlan& plan, double timeout);

// Called before a checkpoint is loaded. Throws Error if another process has a different checkpoint,
// or no device for its ranks. Does nothing in a program that runs alone.
void check_processes(const std::string& folder, const std::string& config_file,
                     const ComputePlan& plan);
// Returns what check_processes() has found: the available bytes of the other process with the least
// memory.
std::optional<int64_t> memory_of_others();

// Whether this reason (another process has failed) has already been printed to standard error.
bool process_failure_said(const std::string& why);

// Ends the other processes. Called at the end of process 0's work.
void end_processes();

}  // namespace fathom::cli
