// Times the model's own steps: prompts of given lengths in chunks, and decode steps of several
// sequences at once that each have a cache of that length. Uses the forward pass directly, below
// scheduler and sampler: what is timed is the model.
//
// Tokens are random ids: the work depends on them only through the experts they are routed to, and
// those are counted while timing.
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
  ComputePlan compute;  // of a CPU; context and sequences are the rows' own
  std::vector<int64_t> contexts;
  std::vector<int> batches;
  int decode_tokens = 32;  // steps of one decode figure
  int repeat = 3;          // figures are medians of so many runs
  double patience = 60;    // seconds; a figure that took longer in all is not repeated
  // Beyond so many tokens in all, caches of further sequences are copies of the first ones: that
  // changes little in the work (their tokens differ), and prefilling eight times 128K takes hours.
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
  double experts_per_layer = 0;  // distinct ones a step, mean over MoE layers and steps

  double tokens_per_s() const { return static_cast<double>(tokens) / seconds; }
  double bytes_per_s() const { return cost.bytes.total() / seconds; }
  double flops_per_s() const { return cost.flops.total() / seconds; }
};

struct BenchRow {
  int64_t context = 0;
  int batch = 0;
  std::string skipped;                 // why there are no figures
  std::optional<BenchFigure> prefill;  // in the first row of a context
  std::optional<BenchFigure> decode;
};

struct BenchSetup {
  MachineLimits limits;
  std::string kernels;  // what runs underneath, in words
  KvShape cache;
  ModelVolumes volumes;
  int moe_layers = 0;
};

class BenchRunner {
 public:
  // Checks options (Error), plans memory, measures the machine's limits and brings the weights into
  // memory. Config and weights must outlive the runner.
  BenchRunner(const Config& config, const Weights& weights, const BenchOptions& options);
  ~BenchRunner();
  BenchRunner(const BenchRunner&) = delete;
  BenchRunner& operator=(const BenchRunner&) = delete;

  const BenchSetup& setup() const { return setup_; }
  const CostModel& model() const { return *model_; }
  // What a reader of the figures should know; complete after run.
  const std::vector<std::string>& notes() const { return notes_; }

  // Every context with every batch, in the order asked for.
  void run(const std::function<void(const BenchRow&)>& on_row);

 private:
  class Machine;  // what one step needs: pool, ops, forward pass, batch
  void check_options() const;
  void plan_memory();
  int64_t pages_of(int64_t context, int batch) const;
  int most_pages() const;
  std::string misfit(int64_t context, int batch) const;
  BenchFigure time_prefill(int64_t context, int sequences);
  BenchFigure time_decode(int batch);

  const Config& config_;
  const Weights& weights_;
  BenchOptions options_;
  BenchSetup setup_;
  std::vector<std::string> notes_;
  int64_t workspace_ = 0;     // bytes
  int64_t budget_ = 0;        // bytes that caches may take
  bool weights_stay_ = true;  // in memory, once read
  std::unique_ptr<CostModel> model_;
  std::unique_ptr<Machine> machine_;
};

}  // namespace fathom
