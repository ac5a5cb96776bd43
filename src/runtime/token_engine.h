// What a server needs of an engine, so that it can be tested with one that follows a script.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "runtime/request.h"

namespace fathom {

// The state behind the last step, for metrics and health; totals count from the start.
struct EngineSnapshot {
  int64_t steps = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;  // computed as such; recomputed ones again
  int64_t preemptions = 0;
  int64_t prefix_queries = 0, prefix_hits = 0;  // tokens of prompts looked up, and found
  int running = 0, waiting = 0;
  int64_t pages = 0, free_pages = 0;  // kept prefixes count as free: they go when room is needed
  bool failed = false;                // the device or the machine gave up; nothing will be served
};

// One step as it went, reported on the engine thread.
struct StepReport {
  int tokens = 0;           // computed
  int decodes = 0;          // of these, one a sequence that continues its answer
  int sequences = 0;        // in the step
  double seconds = 0;       // of model and sampling
  double host_seconds = 0;  // planning, book-keeping and delivery around it
};

class TokenEngine {
 public:
  virtual ~TokenEngine() = default;

  // From any thread. A failure is final and says the HTTP status that fits: 400 for a request that
  // can never be served, 429 when too many wait already. The sink is not called then.
  virtual Result<RequestId> submit(Request request) = 0;
  // From any thread. The sink hears of it within one step, unless the request has ended by then.
  virtual void cancel(RequestId id) = 0;
  // From any thread.
  virtual EngineSnapshot snapshot() const = 0;
  // Tokens of prompt and answer together that one request may have.
  virtual int64_t max_context() const = 0;
};

}  // namespace fathom
