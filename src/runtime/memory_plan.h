// How the machine's memory is divided, decided before any of it is allocated.
#pragma once

#include <cstdint>
#include <string>

#include "cache/kv_pool.h"
#include "model/config.h"

namespace fathom {

struct MemoryNeeds {
  int64_t weights = 0;    // mapped or still to be read; the plan counts all of it as in memory
  int64_t workspace = 0;  // activations, scores, logits
  KvShape cache;
  int cache_copies = 1;       // one for each rank that keeps the whole cache in this memory
  int64_t max_positions = 0;  // the model's longest context
  int64_t context = 0;        // what is asked for; 0: as much as fits, up to max_positions
  int sequences = 1;
  double keep_free = 0.1;  // share of the available memory that is left to other programs
  // Tokens that are asked for, of all sequences together. 0: as many as all sequences may need, but
  // at most `cache_share` of the memory that is left (or what one sequence alone needs, if that is
  // more).
  int64_t cache_tokens = 0;
  double cache_share = 1;
  bool fill = false;  // take that share even if less is needed; the rest is for kept prompts
};

struct MemoryPlan {
  int64_t context = 0;
  int sequences = 1;
  int pages = 0;
  int64_t weights = 0, workspace = 0, cache = 0;  // bytes
  int64_t available = 0;
  int64_t total = 0;  // bytes, if every page of the cache is used

  std::string describe() const;       // one line for the user
  std::string describe_load() const;  // another line: how many requests of which length fit at once
};

// Fits the cache into the memory that weights and workspace leave. What the user asked for is never
// reduced: if it does not fit, throws Error that shows the plan and what would fit.
MemoryPlan plan_memory(const MemoryNeeds& needs, int64_t available);

// Returns the memory of one step without weights and cache, as an upper bound.
int64_t workspace_bytes(const Config& config, int step_tokens, int sequences, int64_t index_budget);

}  // namespace fathom
