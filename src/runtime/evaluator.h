// Evaluator: one sequence through the model, with everything a proof may want to turn: chunk size,
// kernels, decode or prefill, a decorator around the ops. Behind `logits`, `selfcheck` and `bench`.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "cache/kv_pool.h"
#include "comm/comm.h"
#include "kernels/ops.h"
#include "model/config.h"
#include "model/forward.h"
#include "runtime/device.h"

namespace fathom {

struct EvalOptions {
  Numerics numerics = Numerics::bf16;
  std::optional<KvFormat> kv;  // default: follows the numerics
  AttentionMode attention = AttentionMode::sparse;
  DeviceKind device = DeviceKind::cpu;  // the weights must lie there (DeviceWeights)
  bool observed = false;                // GPU: tensors that the host may read between ops
  std::string kernels;                  // CPU; empty: the best this processor can run
  int threads = 0;                      // 0: all
  int chunk = 512;                      // tokens of one prefill step
  bool batch_invariant = false;
  bool mtp = false;            // keep a cache for the MTP block and run it
  std::vector<int32_t> pages;  // page table, a permutation; empty: in order
  // Wraps the ops; the inner ones outlive the wrapper.
  std::function<std::unique_ptr<Ops>(Ops&)> wrap;
};

class Evaluator {
 public:
  // Receives the logits of one position.
  using RowSink = std::function<void(int64_t position, std::span<const float> logits)>;

  Evaluator(const Config& config, const Weights& weights, int64_t max_context,
            const EvalOptions& options);

  void reset() { position_ = 0; }
  int64_t position() const { return position_; }
  Ops& ops() { return *ops_; }
  ThreadPool& pool() { return pool_; }  // for loops between the ops' own
  std::string describe() const;

  // Continues the sequence. `rows`: ascending positions whose logits go to `sink`. With `decode`
  // every token is a step of its own and takes the decode form of attention.
  void feed(std::span<const int32_t> ids, std::span<const int64_t> rows, const RowSink& sink,
            bool decode = false);

  // As feed, from a residual stream [T, hidden] in front of layer `first`.
  void feed_hidden(int first, Tensor hidden, std::span<const int64_t> rows, const RowSink& sink);

  // Where the MTP block's logits go (options.mtp): its row at position p is for token p + 2.
  void set_mtp_sink(RowSink sink) { mtp_sink_ = std::move(sink); }

  // Called in front of every step with its first position and its number of tokens.
  void set_step_observer(std::function<void(int64_t, int)> f) { on_step_ = std::move(f); }

 private:
  void step(std::span<const int32_t> ids, int32_t next_id, int first_layer, Tensor hidden,
            bool decode, std::span<const int64_t> rows, const RowSink& sink);

  const Config& config_;
  EvalOptions options_;
  int64_t max_context_;
  ThreadPool pool_;
  std::unique_ptr<Ops> inner_ops_, ops_;
  std::unique_ptr<Comm> comm_;
  KvPool cache_;
  Forward forward_;
  FormPolicy forms_;
  StepBatch batch_;
  std::vector<int32_t> pages_;
  Buffer logits_;  // in the ops' memory
  std::vector<float> host_logits_;
  int64_t position_ = 0;
  RowSink mtp_sink_;
  std::function<void(int64_t, int)> on_step_;
};

}  // namespace fathom
