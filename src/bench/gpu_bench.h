// Times whole steps on a GPU, by context and batch, sparse and dense. The steps are those of the
// engine (recorded graphs, sampling included), of a model or of a slice of one.
//
// From a slice of 1 dense and N MoE layers the cost of the whole model is extrapolated: it is run
// with 1, 2 and 1 + N layers, and with its dense layer twice. Differences give the cost of a layer
// of either kind; what is left are embedding, head and drafts, which are there once.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/weights.h"
#include "runtime/compute_plan.h"

namespace fathom {

// Positions after a context that decoding may use.
inline constexpr int64_t kBenchSlack = 64;

// Decode steps before the measured ones: they load kernels and record the graph.
inline constexpr int kBenchWarmup = 3;

struct GpuBenchOptions {
  // For GPUs. Attention, context and sequences are replaced: every row has its own.
  ComputePlan compute;
  // In this order; sparse only for a model with an indexer.
  std::vector<AttentionMode> attention{AttentionMode::sparse, AttentionMode::dense};
  std::vector<int64_t> contexts{2048, 32768, 131072};
  std::vector<int> batches{1, 16, 64};
  int decode_steps = 21;  // a figure is the median of this many
  int whole_layers = 0;  // layers of the model that a slice is extrapolated to; 0: no extrapolation
  int whole_dense = 0;   // of these, with a dense MLP
  double dollars_per_hour = 2.0;  // of one GPU
  // Bytes of memory that are left on each GPU of other processes; none: there are no others.
  std::optional<int64_t> free_elsewhere;
  double acceptance = 0.8;  // of drafts, with compute.speculative_tokens: see BenchOptions
};

// Times in milliseconds. Those of the whole model are 0 if nothing is extrapolated.
struct GpuBenchRow {
  AttentionMode attention = AttentionMode::sparse;
  bool decode = false;  // else: the chunk of a prompt that ends at `context`
  int64_t context = 0;
  int batch = 1;  // decode; tokens of the chunk otherwise; of each group of ranks
  int groups = 1;
  double ms = 0;
  double layer_ms = 0;  // one MoE layer
  double whole_ms = 0;
  double tokens_per_run = 1;  // of one sequence in a decode step: more than one with drafts
  std::string skipped;        // why there is no figure

  double tokens() const { return groups * batch * tokens_per_run; }
  double tokens_per_s() const { return ms > 0 ? tokens() / ms * 1e3 : 0; }
  double whole_tokens_per_s() const { return whole_ms > 0 ? tokens() / whole_ms * 1e3 : 0; }
  // Returns the price of a million tokens of the whole model (or of what was run, if nothing is
  // extrapolated) when the GPUs of all ranks together cost `per_hour`.
  double dollars(double per_hour) const {
    return (whole_ms > 0 ? whole_ms : ms) / 3.6e6 * per_hour / tokens() * 1e6;
  }
};

// `config` is the whole model's; the weights of each rank must lie on its GPU. Returns all rows, in
// order of attention mode and context.
std::vector<GpuBenchRow> bench_gpu(const Config& config, const RankWeights& weights,
                                   const GpuBenchOptions& options,
                                   const std::function<void(const std::string&)>& progress);

}  // namespace fathom
