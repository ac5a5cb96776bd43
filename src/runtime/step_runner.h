// StepRunner: runs the engine's steps on a device. A step is the forward pass over a batch, and the
// next token of every sequence whose known tokens are all computed. The engine knows no tensors,
// CUDA graphs or devices, only this interface.
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
  // At least 0: the row's token is this draft, and the row before it belongs to the token before
  // it. This row's draw counts only if the row before has drawn the draft; otherwise a runner may
  // skip it.
  int32_t draft = -1;
  bool by_host = false;         // the caller draws, not the runner
  bool logits = false;          // the caller reads the row's logits
  bool keep_selection = false;  // the caller reads what the indexer picked for the row's token
};

// A token of the batch whose id is drawn by logit row `row` of the previous step, which is still in
// flight. The device has the id before the host does.
struct CarriedId {
  int token = 0;
  int row = 0;
};

// Consecutive tokens of one sequence in the step just finished, for the MTP block.
struct DraftRun {
  int first = 0;         // its first token in that step's batch,
  int64_t position = 0;  // and the position of that
  // For each token the one that follows it in the text. Rejected drafts of the step are left out.
  std::span<const int32_t> next_ids;
  std::span<const int32_t> pages;  // cover position + next_ids.size() + wanted - 1 positions
  bool decode = false;
  int wanted = 0;  // how many drafts are to be made, of the tokens after the last of next_ids
  SamplingParams params;
  // To which they are appended, fewer if logits are not numbers. Never null.
  std::vector<int32_t>* drafts = nullptr;
};

struct RunnerSetup {
  const Config* config = nullptr;    // the rank's
  const Weights* weights = nullptr;  // the rank's, where the device reads them
  ComputePlan compute;               // with context and pages chosen
  RankLinks links = {};              // for a plan with several ranks
  // Leads to the group's ranks in other processes, for their orders; null: the plan's link does.
  ProcessLink* orders = nullptr;
  bool keep_selection = false;  // Draw::keep_selection will be used
  // Caches by rank of this process, used instead of the runner's own, so that a benchmark can run
  // two runners on the same rows. Each has `compute.cache_pages` pages (and one more on a GPU).
  std::vector<KvPool*> shared_caches;
  KvPool* shared_cache() const {  // that of the setup's rank
    return shared_caches.empty() ? nullptr
                                 : shared_caches[static_cast<size_t>(compute.layout.place_here())];
  }
  // Wraps the ops of a rank on a CPU, in place of the SelectionTap. For tests.
  std::function<std::unique_ptr<Ops>(Ops&, int rank)> wrap;
};

class StepRunner : public PageRows {
 public:
  // Starts a step on `batch`; draws[i] says how logit row i is used. On a GPU it returns before the
  // step has run; the arguments need not outlive the call. Throws Error when the device fails, here
  // or in finish().
  virtual void launch(StepBatch& batch, std::span<const Draw> draws,
                      std::span<const CarriedId> carried) = 0;
  // Waits for the oldest step in flight. tokens[row] is the token that its row drew, or -1 if the
  // host draws. A Failure there concerns that row's request alone.
  virtual void finish(std::vector<Result<int32_t>>& tokens) = 0;
  // Runs the MTP block over tokens of the step finished last: that completes the block's cache rows
  // and makes the drafts. Called before the next launch(), and after the caller has read the
  // step's logits, which it overwrites. Only with ComputePlan::speculative_tokens.
  virtual void draft(std::span<const DraftRun> runs);
  // Whether the launch() or draft() called last takes as long whenever it comes again. It does not
  // where a GPU loads kernels or records its work for the first time.
  virtual bool took_usual_time() const { return true; }
  // Copies pages [from, from + count) of the cache to those from `to` on; no step is in flight. For
  // benchmarks on GPUs.
  virtual void copy_pages(int from, int to, int count);
  // How many steps may be in flight at once. If above 1, launch() may be given carried ids.
  virtual int steps_at_once() const { return 1; }

  // The next two return what the Draws of the step finished last asked for. Valid until the next
  // step is finished or two more are launched. The engine finishes a step whose logits it reads
  // before it launches the next one.
  // The logits of a row, [vocab]:
  virtual std::span<const float> logits(int row) const = 0;
  // The positions that a layer's indexer picked for the row's token, ascending:
  virtual std::span<const int32_t> picked(int row, int layer) const = 0;

  void run(StepBatch& batch, std::span<const Draw> draws, std::vector<Result<int32_t>>& tokens) {
    launch(batch, draws, {});
    finish(tokens);
  }
  virtual std::string describe() const = 0;
  virtual int64_t cache_bytes() const = 0;
};

// Returns the number of tokens to which a step of `tokens` decodes is padded. There are so few
// sizes that a graph can be recorded for each.
int padded_tokens(int tokens);

// Returns the setup's plan with the additions of a runner on a GPU: logit rows for padding tokens,
// and a page of cache for them.
ComputePlan runner_plan(const RunnerSetup& setup);

// Returns the memory of a runner without weights and the plan's pages of cache, as an upper bound.
int64_t runner_bytes(const RunnerSetup& setup);

// Makes the runner of one rank. Several ranks are run by a RankedRunner.
std::unique_ptr<StepRunner> make_step_runner(const RunnerSetup& setup, ThreadPool& pool);
// The same on a GPU (graph_runner.cpp).
std::unique_ptr<StepRunner> make_graph_runner(const RunnerSetup& setup, ThreadPool& pool);

}  // namespace fathom
