// What tokens cost on a GPU, by context and batch, sparse and dense: whole steps as the engine runs
// them (recorded graphs, sampling included), of a model or of a slice of one.
//
// A slice of 1 dense and N MoE layers stands for all layers: run with 1, 2 and 1 + N of them, the
// cost of an MoE layer is a difference, and so the cost of the whole model follows. What is counted
// once too often is embedding and head, in each dense layer but one.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/weights.h"
#include "numerics/modes.h"

namespace fathom {

// Positions behind a context that decoding may use.
inline constexpr int64_t kBenchSlack = 64;

// Decode steps in front of the measured ones: they load kernels and record the graph.
inline constexpr int kBenchWarmup = 3;

struct GpuBenchOptions {
  Numerics numerics = Numerics::fp8;
  std::optional<KvFormat> kv;  // none: as the numerics ask
  // In this order; sparse only for a model with an indexer.
  std::vector<AttentionMode> attention{AttentionMode::sparse, AttentionMode::dense};
  std::vector<int64_t> contexts{2048, 32768, 131072};
  std::vector<int> batches{1, 16, 64};
  int decode_steps = 21;  // of which a figure is the median
  int chunk = 4096;
  bool batch_invariant = false;
  int whole_layers = 0;  // layers of the model that a slice stands for, 0: no extrapolation
  int whole_dense = 0;   // of these, with a dense MLP
  double dollars_per_hour = 2.0;
};

// Milliseconds; the whole model's are 0 where nothing is extrapolated.
struct GpuBenchRow {
  AttentionMode attention = AttentionMode::sparse;
  bool decode = false;  // else: the chunk of a prompt that ends at `context`
  int64_t context = 0;
  int batch = 1;  // decode; tokens of the chunk otherwise
  double ms = 0;
  double layer_ms = 0;  // one MoE layer
  double whole_ms = 0;
  std::string skipped;  // why there is no figure

  double tokens_per_s() const { return ms > 0 ? batch / ms * 1e3 : 0; }
  double whole_tokens_per_s() const { return whole_ms > 0 ? batch / whole_ms * 1e3 : 0; }
  // Of one GPU's time, for a million tokens of the whole model, or of what was run where nothing is
  // extrapolated.
  double dollars(double per_hour) const {
    return (whole_ms > 0 ? whole_ms : ms) / 3.6e6 * per_hour / batch * 1e6;
  }
};

// Weights must lie on the GPU. Rows come in order of mode and context when all is measured.
std::vector<GpuBenchRow> bench_gpu(const Config& config, const Weights& weights,
                                   const GpuBenchOptions& options,
                                   const std::function<void(const std::string&)>& progress);

}  // namespace fathom
