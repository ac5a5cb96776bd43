// The engine as server and command line see it. Requests and answers are token ids (request.h) and
// know nothing of tensors, pages or devices. Options and statistics do name the device, the cache
// and its folder, for the code that sets an engine up or reports on it. Tests may pass a device of
// their own (StepRunner).
//
// The answer to a request depends on the request and the engine's options alone. It does not depend
// on what else is in the batch, how the prompt is cut into chunks, or on preemption.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "cache/page_key.h"
#include "cache/prefix_store.h"
#include "model/config.h"
#include "model/weights.h"
#include "runtime/compute_plan.h"
#include "runtime/memory_plan.h"
#include "runtime/request.h"
#include "runtime/step_runner.h"
#include "runtime/token_engine.h"

namespace fathom {

struct EngineOptions {
  // A context of 0: the model's, or what fits. The engine chooses cache_pages and logit_rows
  // itself.
  ComputePlan compute;
  int max_prompt_rows = 64;    // prompt tokens of a step whose log-probabilities are reported
  int64_t cache_tokens = 0;    // of all requests; 0: enough for compute.sequences, or what fits
  bool keep_prefixes = false;  // keep pages of prompts for requests with the same beginning
  std::string cache_dir;       // stores kept pages and finds them after a restart; empty: none
  int64_t cache_dir_bytes = int64_t{16} << 30;  // of that folder at most
  int64_t cache_dir_staging = 64 << 20;         // bytes of buffers, for each direction
  // A request waits no longer than this for its next page from there, then it is computed.
  std::chrono::milliseconds cache_dir_patience{200};
  PageKey checkpoint;  // checkpoint_digest(); cache_dir needs it
  // Called on other threads with problems of that folder.
  std::function<void(const std::string&)> on_cache_problem;
  int max_waiting = 0;          // requests that may wait; further ones are refused. 0: any number
  bool keep_selection = false;  // requests may ask what the indexer selected
  // True: no drafts where they cost more time than they save. False: each request always gets
  // compute.speculative_tokens drafts.
  bool regulate_drafts = true;
  // On a GPU: the host plans the next step and delivers the last one while the device computes.
  bool overlap = true;
  std::function<void(const StepReport&)> on_step;  // on the engine thread; must not block
  int64_t weight_bytes = 0;                        // memory of the weights, all of them read
  std::optional<int64_t> available_bytes;          // none: what the machine says
  // Wraps the ops of each rank on a CPU. For tests.
  std::function<std::unique_ptr<Ops>(Ops&, int rank)> wrap;
  // For one of several groups (GroupedEngine): the link of all ranks, and the ids of its requests:
  // first_id + id_step, first_id + 2 id_step, ...
  std::shared_ptr<CommGroup> world;
  ProcessLink* orders = nullptr;  // RunnerSetup::orders
  RequestId first_id = 0, id_step = 1;
};

// Logit rows of one step for prompts whose log-probabilities are reported, besides one row per
// sequence.
constexpr int prompt_rows(const EngineOptions& o) {
  return std::min(o.compute.step_tokens, o.max_prompt_rows);
}

// Plans the memory of an engine with these options. Throws Error when it does not fit.
MemoryPlan plan_engine(const Config& config, const EngineOptions& options);

struct EngineStats {
  int64_t steps = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;    // computed; a recomputed token counts again
  double prompt_seconds = 0, generation_seconds = 0;  // a mixed step's time is split by tokens
  int64_t preemptions = 0;
  int64_t reused_tokens = 0;    // found in kept pages at admission
  int64_t pages_looked_up = 0;  // of waiting requests, to plan for them
  SpeculationStats speculation;
  int pages = 0, free_pages = 0;
  int running = 0, waiting = 0;

  // Of two engines that compute at the same time: their seconds are not added up.
  EngineStats& operator+=(const EngineStats& o) {
    steps += o.steps;
    prompt_tokens += o.prompt_tokens;
    generated_tokens += o.generated_tokens;
    prompt_seconds = std::max(prompt_seconds, o.prompt_seconds);
    generation_seconds = std::max(generation_seconds, o.generation_seconds);
    preemptions += o.preemptions;
    reused_tokens += o.reused_tokens;
    pages_looked_up += o.pages_looked_up;
    speculation += o.speculation;
    pages += o.pages;
    free_pages += o.free_pages;
    running += o.running;
    waiting += o.waiting;
    return *this;
  }
};

// An engine whose owner calls step() or run(). Engine is one; GroupedEngine is several that step
// together.
class ModelEngine : public TokenEngine {
 public:
  virtual const MemoryPlan& memory() const = 0;          // what was allocated
  virtual PrefixStoreStats cache_dir_stats() const = 0;  // from any thread; zero without a folder
  // Plans and starts the next step and delivers the results of the one before. Returns false when
  // there was nothing to do. Always called from the same thread. Throws Error when the device
  // fails, after every request has got its last event; the engine then refuses new requests.
  virtual bool step() = 0;
  // Steps until asked to stop; sleeps while there is nothing to do.
  virtual void run(const std::stop_token& stop) = 0;
  virtual std::string describe() const = 0;  // one line for the user: what was chosen
  virtual EngineStats stats() const = 0;     // from the thread that steps
  // Stops the program unless every page is accounted for; from the thread that steps.
  virtual void check_integrity() const = 0;
};

class Engine final : public ModelEngine {
 public:
  // Plans memory, then allocates all of it. Config and weights must outlive the engine. Throws
  // Error when the machine does not have it.
  Engine(const Config& config, const RankWeights& weights, const EngineOptions& options);
  // For tests: runs on `runner`, whose cache has the size that `plan` says.
  Engine(const Config& config, std::unique_ptr<StepRunner> runner, const MemoryPlan& plan,
         const EngineOptions& options);
  ~Engine() override;

  // Fails with 400 for a request that can never be served (empty or too long prompt, id outside the
  // vocabulary, parameter out of range), with 429 when max_waiting requests wait already (not
  // counting those that the next step admits), and with 503 once the engine has failed.
  Result<RequestId> submit(Request request) override;
  void cancel(RequestId id) override;
  EngineSnapshot snapshot() const override;
  int64_t context() const override;
  const MemoryPlan& memory() const override;
  PrefixStoreStats cache_dir_stats() const override;
  bool step() override;
  void run(const std::stop_token& stop) override;
  std::string describe() const override;
  EngineStats stats() const override;
  void check_integrity() const override;

  // For one of several groups. Called after every step(). If that launched nothing, launches a step
  // without tokens, in which this group's ranks compute their experts for the others.
  void take_part();
  // Ends every request with this error, and refuses new ones.
  void fail(const std::string& why);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
