// The engine as server and command line see it. Requests and answers are tokens (request.h): no
// tensor, page or device is in sight there. Options and statistics do speak of the device, the
// cache and its folder, for whoever sets an engine up or watches one; a test may bring a device of
// its own (StepRunner).
//
// What a request gets is a function of the request and the engine's options alone: not of what else
// is in the batch, how its prompt was cut into chunks, or whether it was preempted on the way.
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
  // A context of 0: the model's, or what fits. The engine settles pages and logit rows itself.
  ComputePlan compute;
  int max_prompt_rows = 64;    // tokens of a step with log-probabilities of a prompt to tell
  int64_t cache_tokens = 0;    // of all requests; 0: enough for compute.sequences, or what fits
  bool keep_prefixes = false;  // pages nobody uses are kept for requests that begin alike
  std::string cache_dir;       // kept pages go to this folder too, and come back; empty: none
  int64_t cache_dir_bytes = int64_t{16} << 30;  // of that folder at most
  int64_t cache_dir_staging = 64 << 20;  // of pages on their way there, and on their way back
  // A request waits so long for the next page from there, and then computes what is missing.
  std::chrono::milliseconds cache_dir_patience{200};
  PageKey checkpoint;  // checkpoint_digest(); cache_dir needs it
  // Of that folder; on other threads.
  std::function<void(const std::string&)> on_cache_problem;
  int max_waiting = 0;  // requests that wait at once; the next one is refused. 0: any number
  bool keep_selection = false;  // requests may ask what the indexer selected
  // Where the device works on its own, the host prepares a step and delivers another meanwhile.
  bool overlap = true;
  std::function<void(const StepReport&)> on_step;  // on the engine thread; must not block
  int64_t weight_bytes = 0;  // memory the weights will come to occupy (mapped, not yet touched)
  std::optional<int64_t> available_bytes;  // none: what the machine says
};

// Logit rows of one step beside each sequence's last: of prompts whose log-probabilities are told.
constexpr int prompt_rows(const EngineOptions& o) {
  return std::min(o.compute.step_tokens, o.max_prompt_rows);
}

// What an engine with these options will take, before anything is taken. Throws Error when it does
// not fit.
MemoryPlan plan_engine(const Config& config, const EngineOptions& options);

struct EngineStats {
  int64_t steps = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;    // computed as such; recomputed ones again
  double prompt_seconds = 0, generation_seconds = 0;  // a mixed step's time is split by tokens
  int64_t preemptions = 0;
  int64_t reused_tokens = 0;    // found among kept pages on admission
  int64_t pages_looked_up = 0;  // of waiting requests, to plan for them
  int pages = 0, free_pages = 0;
  int running = 0, waiting = 0;
};

class Engine final : public TokenEngine {
 public:
  // Plans memory, then takes all of it. Config and weights must outlive the engine. Throws Error
  // when the machine cannot.
  Engine(const Config& config, const Weights& weights, const EngineOptions& options);
  // On a device of the caller's, for tests: `plan` says what its cache holds.
  Engine(const Config& config, std::unique_ptr<StepRunner> runner, const MemoryPlan& plan,
         const EngineOptions& options);
  ~Engine() override;

  // A failure: 400 for what can never be served (empty or too long prompt, id outside the
  // vocabulary, parameter out of range), 429 when max_waiting requests wait already beside those
  // for which there are places, 503 once the engine has failed.
  Result<RequestId> submit(Request request) override;
  void cancel(RequestId id) override;
  EngineSnapshot snapshot() const override;
  int64_t max_context() const override;
  const MemoryPlan& memory() const;          // what was taken
  PrefixStoreStats cache_dir_stats() const;  // from any thread; all zero without such a folder

  // One step further: plans and starts the next, delivers what has come out. False when there was
  // nothing to do. Always from the same thread. Throws Error when the device fails, after every
  // request has been told; the engine then refuses whatever is submitted.
  bool step();
  // Steps until asked to stop, asleep while there is nothing to do.
  void run(const std::stop_token& stop);

  // What was chosen, for the user, one line.
  std::string describe() const;
  EngineStats stats() const;  // from the thread that steps
  // Stops the program unless every page is accounted for; from the thread that steps.
  void check_integrity() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
