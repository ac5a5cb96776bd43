#include "cli/processes.h"

#include <csignal>
#include <memory>

#include "base/error.h"
#include "base/processors.h"
#include "base/version.h"
#include "cache/page_key.h"
#include "cli/gpu_share.h"
#include "io/mapped_file.h"
#include "runtime/follow.h"
#include "runtime/orders.h"

namespace fathom::cli {
namespace {

// There is one MPI in a process, as there is one standard output.
std::unique_ptr<ProcessLink> the_link;
std::optional<int64_t> least_memory;

// Another compiler, or other flags, may round differently: the same version is not enough.
std::string build_text() {
  const MappedFile program("/proc/self/exe");
  return fmt::format("fathom {}, program {:016x}", kVersion,
                     digest(program.data(), program.size()).a);
}

int follow_process_0() {
  // Who ends the run speaks to process 0, which ends it in order.
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGTERM, SIG_IGN);
  int code = 0;
  try {
    follow(*the_link);
  } catch (const std::exception&) {
    code = 1;
    // Process 0 says what has happened, unless that is its own end.
    const std::string why = the_link->failure();
    if (the_link->process() == 1 && why.starts_with(the_link->name(0)))
      fmt::print(stderr, "fathom: {}\n", why);
  }
  the_link->end();
  the_link.reset();
  return code;
}

}  // namespace

std::optional<int> join_launched_processes(int argc, char** argv) {
  if (launched_processes() == 1) return std::nullopt;
  try {
    the_link = join_processes({build_text(), {argv + 1, argv + argc}});
  } catch (const Error&) {
    if (launched_process() == 0) throw;
    return 0;  // process 0 finds the same, and says it
  }
  share_processors(the_link->share().processors.count);
  take_own_gpus(the_link->share().gpus);
  if (the_link->process() > 0) return follow_process_0();
  // At once: mpirun ends process 0, too, when it finds another one dead.
  the_link->on_failure([](const std::string& why) { fmt::print(stderr, "fathom: {}\n", why); });
  return std::nullopt;
}

ProcessLink* process_link() { return the_link.get(); }

void spread_over_processes(ComputePlan& plan, double timeout) {
  if (!the_link) return;
  RankLayout& l = plan.layout;
  const int processes = the_link->processes();
  if (l.data == 1 && l.tensor % processes != 0)
    throw UsageError(
        fmt::format("--tensor-parallel-size {}: mpirun has started {} processes, so a multiple of "
                    "{} is needed, as many ranks for each",
                    l.tensor, processes, processes));
  l.processes = processes;
  l.process = 0;
  if (l.ranks() % processes != 0 ||
      (l.ranks_here() % l.tensor != 0 && l.tensor % l.ranks_here() != 0))
    throw UsageError(
        fmt::format("{} groups of {} ranks: mpirun has started {} processes, and each needs the "
                    "same number of whole groups, or an even part of one",
                    l.data, l.tensor, processes));
  plan.link = the_link.get();
  the_link->set_timeout(timeout);
}

void check_processes(const std::string& folder, const std::string& config_file,
                     const ComputePlan& plan) {
  if (!the_link) return;
  least_memory = check_followers(*the_link, folder, config_file, plan).available;
}

std::optional<int64_t> memory_of_others() { return least_memory; }

bool process_failure_said(const std::string& why) { return the_link && the_link->failure() == why; }

void end_processes() {
  if (!the_link) return;
  try {
    end_followers(*the_link);
  } catch (const Error&) {
    // A process that fails at the very end has nothing left to do.
  }
  the_link->end();
  the_link.reset();
}

}  // namespace fathom::cli
