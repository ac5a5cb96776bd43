// The interface that a server needs of an engine. Tests of the server use an engine that follows a
// script instead of the real one.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "runtime/request.h"
#include "runtime/speculation.h"

namespace fathom {

// The state after the last step, for metrics and health checks. Totals count from the start.
struct EngineSnapshot {
  int64_t steps = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;  // computed; a token computed again counts again
  int64_t preemptions = 0;
  int64_t prefix_queries = 0, prefix_hits = 0;  // prompt tokens looked up, and those found
  SpeculationStats speculation;
  int running = 0, waiting = 0;
  int64_t pages = 0, free_pages = 0;  // idle kept pages count as free: they can be evicted
  bool failed = false;  // the device or the machine failed; no request is served any more

  // Of two engines together.
  EngineSnapshot& operator+=(const EngineSnapshot& o) {
    steps += o.steps;
    prompt_tokens += o.prompt_tokens;
    generated_tokens += o.generated_tokens;
    preemptions += o.preemptions;
    prefix_queries += o.prefix_queries;
    prefix_hits += o.prefix_hits;
    speculation += o.speculation;
    running += o.running;
    waiting += o.waiting;
    pages += o.pages;
    free_pages += o.free_pages;
    failed |= o.failed;
    return *this;
  }
};

// What one step did; reported on the engine thread.
struct StepReport {
  int tokens = 0;           // computed
  int decodes = 0;          // of these, the decoded ones, with their drafts
  int sequences = 0;        // in the step
  double seconds = 0;       // of model, sampling and drafting
  double host_seconds = 0;  // planning, book-keeping and delivery around it
};

class TokenEngine {
 public:
  virtual ~TokenEngine() = default;

  // From any thread. A failure carries the HTTP status that fits: 400 for a request that can never
  // be served, 429 when too many requests wait already. The sink is not called in that case.
  virtual Result<RequestId> submit(Request request) = 0;
  // From any thread. The sink gets its last event within one step, unless the request has already
  // ended.
  virtual void cancel(RequestId id) = 0;
  // From any thread.
  virtual EngineSnapshot snapshot() const = 0;
  // The same of each group of ranks that has requests of its own. From any thread.
  virtual std::vector<EngineSnapshot> group_snapshots() const { return {snapshot()}; }
  // Tokens of prompt and answer together that one request may have.
  virtual int64_t context() const = 0;
};

}  // namespace fathom
