// One step of the engine on a device: the forward pass over a batch, and the next token of every
// sequence that has come to its end. The engine knows no tensor, no graph and no device beyond
// this.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "cache/kv_pool.h"
#include "cache/page_rows.h"
#include "comm/comm.h"
#include "kernels/ops.h"
#include "model/forward.h"
#include "model/step_batch.h"
#include "numerics/sampling.h"
#include "runtime/device.h"

namespace fathom {

// How one logit row becomes a token.
struct Draw {
  SamplingParams params;
  int64_t position = 0;         // of the token that is drawn
  bool by_host = false;         // nothing is drawn here, the caller does
  bool logits = false;          // the caller reads the row's logits
  bool keep_selection = false;  // the caller reads what the row's token picked
};

// A token of the batch whose id is what row `row` of the step launched before drew: the device has
// it, the host has not seen it yet.
struct CarriedId {
  int token = 0;
  int row = 0;
};

struct RunnerSetup {
  const Config* config = nullptr;
  const Weights* weights = nullptr;  // where the device reads them
  OpsOptions ops;
  ForwardOptions forward;
  int64_t index_budget = 0;
  int max_seqs = 0;
  int logit_rows = 0;           // of one step; 0: one a sequence
  bool keep_selection = false;  // Draw::keep_selection will be asked for
  KvShape cache;
  int pages = 0;
  // Used instead of a cache of the runner's own, so that a measurement can compare two runners on
  // the same rows: `pages` and one more (GPU).
  KvPool* shared_cache = nullptr;
};

class StepRunner : public PageRows {
 public:
  // Starts a step: the batch, and what is to be drawn for its logit rows, in their order. A device
  // of its own returns at once; the arguments need not outlive the call. A device that fails
  // throws, here or in finish().
  virtual void launch(StepBatch& batch, std::span<const Draw> draws,
                      std::span<const CarriedId> carried) = 0;
  // Waits for the oldest step that is under way. tokens[row] is what its row drew (nothing, where
  // the host draws); a failure is that request's alone.
  virtual void finish(std::vector<Result<int32_t>>& tokens) = 0;
  // Steps that may be under way at once: above 1, ids may be carried from one to the next.
  virtual int steps_at_once() const { return 1; }

  // Of the step finished last, until the next one is finished or two more are launched: what was
  // asked for of a row. Behind a step with logits to read none is launched before it is finished.
  // The logits, [vocab]:
  virtual std::span<const float> logits(int row) const = 0;
  // What the indexer of a layer picked for the row's token, ascending:
  virtual std::span<const int32_t> picked(int row, int layer) const = 0;

  void run(StepBatch& batch, std::span<const Draw> draws, std::vector<Result<int32_t>>& tokens) {
    launch(batch, draws, {});
    finish(tokens);
  }
  virtual std::string describe() const = 0;
  virtual int64_t cache_bytes() const = 0;
};

// What the setup's ops plan for.
Workload workload_of(const RunnerSetup& setup);

// Sequences of one step: each may take two entries, the end of its prompt and recomputed decodes,
// and padding one more.
constexpr int step_sequences(int max_seqs) { return 2 * max_seqs + 1; }

// Logit rows of one step of the engine: each sequence's last, and some for prompts whose every
// token has its log-probability reported.
constexpr int step_logit_rows(int max_seqs, int max_step_tokens) {
  return max_seqs + (max_step_tokens < 64 ? max_step_tokens : 64);
}

// Logit rows that a step may need room for: padding included.
int padded_tokens(int tokens);

// Memory of a runner beside weights and cache, from above.
int64_t runner_bytes(const RunnerSetup& setup);

std::unique_ptr<StepRunner> make_step_runner(const RunnerSetup& setup, ThreadPool& pool);
// The GPU's (graph_runner.cpp).
std::unique_ptr<StepRunner> make_graph_runner(const RunnerSetup& setup, ThreadPool& pool);

}  // namespace fathom
