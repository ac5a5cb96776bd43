// One step of the engine on a device: the forward pass over a batch, and the next token of every
// sequence whose known tokens are all computed. The engine knows no tensor, no graph and no device
// beyond this interface.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "cache/kv_pool.h"
#include "cache/page_rows.h"
#include "model/step_batch.h"
#include "model/weights.h"
#include "numerics/sampling.h"
#include "runtime/model_instance.h"

namespace fathom {

// How one logit row becomes a token.
struct Draw {
  SamplingParams params;
  int64_t position = 0;  // of the token that is drawn
  // At least 0: the row's token is a draft, and the row before belongs to the token in front of it.
  // What this row draws counts only if that row drew the draft. A runner may leave it out if not.
  int32_t draft = -1;
  bool by_host = false;         // the runner draws nothing: the caller does
  bool logits = false;          // the caller reads the row's logits
  bool keep_selection = false;  // the caller reads what the indexer picked for the row's token
};

// A token of the batch whose id is drawn by logit row `row` of the step launched before. The device
// has the id; the host has not seen it yet.
struct CarriedId {
  int token = 0;
  int row = 0;
};

// Consecutive tokens of one sequence in the step just finished, for the MTP block.
struct DraftRun {
  int first = 0;         // its first token in that step's batch,
  int64_t position = 0;  // and the position of that
  // Of each token the one that follows it in the text. Rejected drafts of the step are left out.
  std::span<const int32_t> next_ids;
  std::span<const int32_t> pages;  // cover position + next_ids.size() + drafts - 1 positions
  bool decode = false;
  int drafts = 0;  // how many tokens behind the last of next_ids are to be guessed
  SamplingParams params;
  std::vector<int32_t>* guessed = nullptr;  // they are appended here; fewer if the block is broken
};

struct RunnerSetup {
  const Config* config = nullptr;    // the rank's
  const Weights* weights = nullptr;  // the rank's, where the device reads them
  ComputePlan compute;               // its context and pages are settled
  RankLinks links = {};              // of a plan with several ranks
  bool keep_selection = false;       // Draw::keep_selection will be asked for
  // By rank, used instead of caches of the runner's own, so that a measurement can compare two
  // runners on the same rows: of `compute.cache_pages` pages and one more (GPU).
  std::vector<KvPool*> shared_caches;
  KvPool* shared_cache() const {  // of the setup's own rank
    return shared_caches.empty() ? nullptr
                                 : shared_caches[static_cast<size_t>(compute.layout.rank)];
  }
  // Goes around the ops of a rank of a CPU, in place of what keeps selections. For tests.
  std::function<std::unique_ptr<Ops>(Ops&, int rank)> wrap;
};

class StepRunner : public PageRows {
 public:
  // Starts a step on `batch`; draws[i] says what to do with logit row i. On a GPU it returns before
  // the step has run; the arguments need not outlive the call. Throws Error when the device fails,
  // here or in finish().
  virtual void launch(StepBatch& batch, std::span<const Draw> draws,
                      std::span<const CarriedId> carried) = 0;
  // Waits for the oldest step in flight. tokens[row] is the token that its row drew, or -1 where
  // the host draws; a failure there concerns that row's request alone.
  virtual void finish(std::vector<Result<int32_t>>& tokens) = 0;
  // Runs the MTP block over tokens of the step finished last, so that its cache rows are complete,
  // and lets it guess the tokens that come next. Comes before the next launch(), and after the
  // caller has read what it wants of the step's logits: they are lost. Only with
  // ComputePlan::speculative_tokens.
  virtual void draft(std::span<const DraftRun> runs);
  // Steps that may be in flight at once. If above 1, ids may be carried from one to the next.
  virtual int steps_at_once() const { return 1; }

  // What a Draw of the step finished last asked for. Valid until the next step is finished or two
  // more are launched. The engine launches no step before one whose logits it reads is finished.
  // The logits of a row, [vocab]:
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

// The number of tokens that a step of `tokens` decodes is padded to: so few sizes that a graph can
// be recorded for each.
int padded_tokens(int tokens);

// The setup's plan with what a runner adds on a GPU: logit rows for padding tokens, and a page of
// cache for them.
ComputePlan runner_plan(const RunnerSetup& setup);

// Memory of a runner beside weights and the plan's pages of cache: an estimate from above.
int64_t runner_bytes(const RunnerSetup& setup);

// Of one rank; several are a RankedRunner.
std::unique_ptr<StepRunner> make_step_runner(const RunnerSetup& setup, ThreadPool& pool);
// The GPU's (graph_runner.cpp).
std::unique_ptr<StepRunner> make_graph_runner(const RunnerSetup& setup, ThreadPool& pool);

}  // namespace fathom
