// One step of the engine on a device: the forward pass over a batch, and the next token of every
// sequence that has come to its end. The engine knows no tensor, no graph and no device beyond
// this.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "comm/comm.h"
#include "kernels/ops.h"
#include "model/forward.h"
#include "model/step_batch.h"
#include "numerics/sampling.h"
#include "runtime/device.h"
#include "runtime/kv_pool.h"

namespace fathom {

// How one logit row becomes a token.
struct Draw {
  SamplingParams params;
  int64_t position = 0;  // of the token that is drawn
};

struct RunnerSetup {
  const Config* config = nullptr;
  const Weights* weights = nullptr;  // where the device reads them
  OpsOptions ops;
  ForwardOptions forward;
  int64_t index_budget = 0;
  int max_seqs = 0;
  KvShape cache;
  int pages = 0;
  // Used instead of a cache of the runner's own, so that a measurement can compare two runners on
  // the same rows: `pages` and one more (GPU).
  KvPool* shared_cache = nullptr;
};

class StepRunner {
 public:
  virtual ~StepRunner() = default;

  // Computes the batch and draws for its logit rows, in their order. A failure is that request's
  // alone; a device that fails throws.
  virtual void run(StepBatch& batch, std::span<const Draw> draws,
                   std::vector<Result<int32_t>>& tokens) = 0;
  virtual std::string describe() const = 0;
  virtual int64_t cache_bytes() const = 0;
};

// What the setup's ops plan for.
Workload workload_of(const RunnerSetup& setup);

// Sequences of one step: each may take two entries, the end of its prompt and recomputed decodes,
// and padding one more.
constexpr int step_sequences(int max_seqs) { return 2 * max_seqs + 1; }

// Logit rows that a step may need room for: padding included.
int padded_tokens(int tokens);

// Memory of a runner beside weights and cache, from above.
int64_t runner_bytes(const RunnerSetup& setup);

std::unique_ptr<StepRunner> make_step_runner(const RunnerSetup& setup, ThreadPool& pool);
// The GPU's (graph_runner.cpp).
std::unique_ptr<StepRunner> make_graph_runner(const RunnerSetup& setup, ThreadPool& pool);

}  // namespace fathom
