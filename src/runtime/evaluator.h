// Evaluator: runs one sequence through the model under any plan, as prefill or decode, perhaps with
// an observer around the ops. If the plan has several groups of ranks, the sequence lives in the
// first. `logits` and `selfcheck` are built on it.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "model/config.h"
#include "model/step_batch.h"
#include "runtime/model_ranks.h"

namespace fathom {

struct EvalOptions {
  ComputePlan compute;         // of one sequence; `context` is its greatest length
  std::vector<int32_t> pages;  // page table, a permutation; empty: in order
  OpsWrapper wrap;             // an observer around the ops (of several ranks, the first)
  RankWrapper wrap_others;     // observers around the other ranks' ops, those of this process
  bool record_ranks = false;   // keep what each rank chooses; without observers
};

class Evaluator {
 public:
  // Receives the logits of one position.
  using RowSink = std::function<void(int64_t position, std::span<const float> logits)>;

  // Weights must lie on the plan's device. Throws Error for a plan without a context.
  Evaluator(const Config& config, const RankWeights& weights, const EvalOptions& options);

  void reset() { position_ = 0; }
  int64_t position() const { return position_; }
  Ops& ops() { return ranks_.first().ops(); }
  ThreadPool& pool() { return ranks_.pool(); }  // for loops of the caller, between ops
  std::string describe() const { return ranks_.describe(); }

  // With record_ranks: of every rank, in all processes.
  std::vector<RankRecord> rank_records() { return ranks_.records(); }

  // Continues the sequence. `rows`: ascending positions whose logits go to `sink`. With `decode`
  // every token is a step of its own and takes the decode form of attention.
  void feed(std::span<const int32_t> ids, std::span<const int64_t> rows, const RowSink& sink,
            bool decode = false);

  // As feed, from a residual stream [T, hidden] in front of layer `first`.
  void feed_hidden(int first, Tensor hidden, std::span<const int64_t> rows, const RowSink& sink);

  // Sets where the MTP block's logits go (ComputePlan::mtp). Its row at position p predicts token p
  // + 2.
  void set_mtp_sink(RowSink sink) { mtp_sink_ = std::move(sink); }
  // Runs the MTP block again over the tokens of the last step; its logits go to the sink. The
  // block's first run has overwritten the states that it starts from, so an observer must put them
  // back.
  void run_mtp_again();

 private:
  void step(std::span<const int32_t> ids, int32_t next_id, int first_layer, Tensor hidden,
            bool decode, std::span<const int64_t> rows, const RowSink& sink);
  void deliver(Tensor logits, const RowSink& sink);

  const Config& config_;
  ModelRanks ranks_;
  StepBatch batch_;
  std::vector<int32_t> pages_;
  std::vector<int64_t> wanted_;    // of the last step: positions whose logits are asked for,
  std::vector<int32_t> next_ids_;  // and what the MTP block is told
  std::vector<float> host_logits_;
  int64_t position_ = 0;
  RowSink mtp_sink_;
};

}  // namespace fathom
