// Times steps of the model on a CPU: prompts of given lengths in chunks, and decode steps of
// several sequences at once, each with a cache of that length. It runs the forward pass directly,
// without scheduler and sampler, so that only the model is timed.
//
// Tokens are random ids. The work depends on them only through the experts they are routed to, and
// these are counted while timing.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/cost_model.h"
#include "bench/machine_limits.h"
#include "model/config.h"
#include "model/weights.h"
#include "runtime/compute_plan.h"

namespace fathom {

constexpr int kMaxBatch = 1024;

struct BenchOptions {
  ComputePlan compute;  // for a CPU; its context and sequences are replaced by those below
  std::vector<int64_t> contexts;
  std::vector<int> batches;  // of each group of ranks; figures are of all groups together
  int decode_tokens = 32;    // steps of one decode figure
  int repeat = 3;            // a figure is the median of this many runs
  // With compute.speculative_tokens: the share of drafts that count as accepted, each given that
  // those before it are. The tokens are random, so no draft would really be accepted.
  double acceptance = 0.8;
  double patience = 60;  // seconds: runs of one figure are not repeated beyond this
  // Caches are prefilled up to this many tokens in all; those of further sequences are copies of
  // the first ones. That changes the work little (the decoded tokens still differ), and prefilling
  // eight times 128K takes hours.
  int64_t prefilled_tokens = 16384;
  int64_t limits_buffer = 0;      // see measure_limits
  int64_t available_memory = -1;  // bytes; -1: what the machine says
};

// One figure: a whole prompt, or one decode step of all sequences.
struct BenchFigure {
  double seconds = 0;  // median
  int runs = 0;
  int64_t tokens = 0;
  StepCost cost;
  double experts_per_layer = 0;  // distinct experts per step, mean over MoE layers and steps
  double tokens_per_run = 1;     // of one sequence in a decode step: more than one with drafts

  double tokens_per_s() const { return static_cast<double>(tokens) * tokens_per_run / seconds; }
  double bytes_per_s() const { return cost.bytes.total() / seconds; }
  double flops_per_s() const { return cost.flops.total() / seconds; }
};

struct BenchRow {
  int64_t context = 0;
  int batch = 0;
  std::string skipped;                 // why there are no figures; else empty
  std::optional<BenchFigure> prefill;  // in the first row of a context
  std::optional<BenchFigure> decode;
};

struct BenchSetup {
  MachineLimits limits;
  std::string kernels;  // the kernels, in words
  KvShape cache;
  ModelVolumes volumes;
  int moe_layers = 0;
};

class BenchRunner {
 public:
  // Checks the options, plans memory, measures the machine's limits and reads the weights into
  // memory. `weights` are the whole model's, `ranks` those of each rank of the plan. Config and
  // weights must outlive the runner. Throws Error for options that cannot be run.
  BenchRunner(const Config& config, const Weights& weights, const RankWeights& ranks,
              const BenchOptions& options);
  BenchRunner(const Config& config, const Weights& weights, const BenchOptions& options)
      : BenchRunner(config, weights, weights, options) {}
  ~BenchRunner();
  BenchRunner(const BenchRunner&) = delete;
  BenchRunner& operator=(const BenchRunner&) = delete;

  const BenchSetup& setup() const { return setup_; }
  const CostModel& model() const { return *model_; }
  // Notes that a reader of the figures should know. Complete after run().
  const std::vector<std::string>& notes() const { return notes_; }

  // Times every context with every batch, in the order of the options.
  void run(const std::function<void(const BenchRow&)>& on_row);

 private:
  class Machine;  // the model instance with its threads and batch
  void check_options() const;
  void plan_memory();
  int64_t pages_of(int64_t context, int batch) const;
  int most_pages() const;
  std::string misfit(int64_t context, int batch) const;
  int ranks() const { return options_.compute.layout.ranks_here(); }
  BenchFigure time_prefill(int64_t context, int sequences);
  BenchFigure time_decode(int batch);

  const Config& config_;
  const Weights& weights_;
  BenchOptions options_;
  BenchSetup setup_;
  std::vector<std::string> notes_;
  int64_t workspace_ = 0;     // bytes
  int64_t budget_ = 0;        // bytes that caches may take
  bool weights_stay_ = true;  // the weights stay in memory once they have been read
  std::unique_ptr<CostModel> model_;
  std::unique_ptr<Machine> machine_;
};

}  // namespace fathom
