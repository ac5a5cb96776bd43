// The planner: how a model can be spread over the GPUs (or NUMA nodes) of one or several machines,
// how many sequences fit with each layout, and how fast it is expected to be. It is a pure function
// of a config, a machine and a request; it does not query the machine that it runs on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/rank_layout.h"
#include "plan/gpu_model.h"
#include "plan/rank_volume.h"
#include "runtime/compute_plan.h"
#include "runtime/memory_plan.h"

namespace fathom::plan {

// A rank is a GPU, or on a CPU a NUMA node.
struct Machine {
  const GpuModel* gpu = nullptr;  // null: processors
  int per_node = 1;               // ranks of a machine
  int nodes = 1;                  // machines
  int parts = 1;                  // ranks that share a NUMA node, of processors
  int processes = 1;              // that share the processors of a machine
  int threads = 0;                // of each of them
  int64_t memory = 0;             // bytes of one rank; 0 with a GPU: GpuModel::memory
  double dollars_per_hour = 2;    // of one GPU, or of one machine of processors

  // Rates of one NUMA node; 0: not known, then no speed is predicted.
  double read_rate = 0;     // bytes/s
  double product_rate = 0;  // FLOP/s

  int ranks() const { return per_node * nodes; }
  int64_t rank_memory() const { return memory > 0 || !gpu ? memory : gpu->memory; }
};

struct Request {
  int64_t context = 0;  // tokens of one sequence; 0: what fits, up to the model's own
  int concurrency = 0;  // sequences at once, of all ranks together; 0: kRankSequences per rank
  int step_tokens = 0;  // 0: the device's default
  bool mtp = false;     // the MTP layer is loaded, for drafts, and the cache has rows for it
  std::optional<int> tensor, data;  // a layout that is asked for; none: all layouts
  // How to compute, if that is already decided; its context, sequences and step tokens are
  // replaced. None: fp8 on a GPU that has it, else bf16.
  std::optional<ComputePlan> compute;

  // For the command lines that the plan prints.
  std::string folder;       // checkpoint; empty: none yet
  std::string config_file;  // --config; empty: the folder's own
  int converted_ranks = 0;  // ranks that the folder was converted for; 0: Hugging Face's form
};

constexpr int kRankSequences = 64;  // sequences that `serve` computes at once on a GPU by default

// A time, and the speed and price that follow from it.
struct Speed {
  double ms = 0;  // of a step, or of a whole prompt
  double tokens_per_second = 0;
  double dollars_per_million = 0;
  bool known() const { return ms > 0; }
};

// How many sequences of a length fit at once, over all ranks.
struct Room {
  int64_t context = 0, sequences = 0;
};

struct LayoutPlan {
  RankLayout layout;
  std::string name;          // "tp", "dp", "tp 4 x dp 2"
  std::string refused;       // why it cannot be run; empty: it can
  RankVolume weights;        // of one rank
  int64_t exchange = 0;      // bytes of one rank's buffers for exchange
  MemoryPlan memory;         // of one rank; all zero if it does not fit
  int64_t cache_tokens = 0;  // of all ranks together, each counted once
  std::vector<Room> rooms;
  int64_t context = 0;  // context of the speeds below
  int sequences = 0;    // sequences of `many`: the request's, or as many as fit
  Speed prompt;         // a prompt of `context` tokens in every group
  Speed one;            // decode, one sequence alone
  Speed many;           // decode, `sequences` at once

  bool fits() const { return refused.empty(); }
};

struct Plan {
  Machine machine;
  Request request;         // with defaults filled in
  int64_t checkpoint = 0;  // bytes of the whole
  int64_t mtp = 0;         // of these: the MTP layer
  std::vector<LayoutPlan> layouts;
  int recommended = -1;                // index of layouts; -1: none can be run
  std::string why;                     // why it is recommended, or why none can be run
  std::vector<std::string> would_fit;  // other machines, if none can be run
  std::vector<std::string> notes;
  std::vector<std::string> commands;  // to convert and serve with the recommended layout

  const LayoutPlan* best() const {
    return recommended < 0 ? nullptr : &layouts[static_cast<size_t>(recommended)];
  }
};

// Throws UsageError for impossible sizes of a machine. Throws Error for a request that no machine
// could serve: a context above the model's, or a layout that the model or the number of ranks
// cannot be divided into.
Plan make_plan(const Config& config, const Machine& machine, const Request& request);

}  // namespace fathom::plan
