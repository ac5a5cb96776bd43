// The engine's state of one request.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "cache/prefixes.h"
#include "runtime/draft_regulator.h"
#include "runtime/logit_rules.h"
#include "runtime/request.h"
#include "runtime/scheduler.h"

namespace fathom {

struct Sequence {
  using Clock = std::chrono::steady_clock;

  RequestId id = 0;
  Request request;
  std::vector<int32_t> ids;    // prompt, then what was generated
  std::vector<int32_t> pages;  // page i holds the rows of positions [64 i, 64 i + 64)
  int64_t prompt = 0;          // tokens of the prompt
  int64_t cached = 0;          // positions with rows in the cache, or in a step in flight
  PrefixState prefix;          // what is known about the kept pages of this text
  bool cancelled = false;      // cancel() was called
  bool ended = false;          // its last event was delivered; the engine will drop it
  SeenTokens seen;             // for penalties; empty if there are none
  // Of the prompt's tokens from request.prompt_logprobs_from on, as they are computed.
  std::vector<TokenLogprobs> prompt_logprobs;
  RequestStats stats;
  Clock::time_point submitted, first_token;

  // The number of steps in flight that read or write its pages, and the token that the last of them
  // draws.
  int in_flight = 0;
  int pending = 0;       // 1: a token is being drawn and its id is not known yet
  int pending_row = -1;  // its logit row in that step

  // With speculation: drafts of the tokens after the last known one. The next step verifies them,
  // or the step in flight if it has been launched.
  std::vector<int32_t> drafts;
  AcceptanceRate acceptance;
  int64_t last_drafts = 0;  // EngineStats::steps when it last had some
  int wanted_drafts = 0;    // how many the next step should verify
  int forbidden_draft = 0;  // 1: the one behind `drafts` is forbidden by the answer's form
  int64_t block_rows = 0;   // positions below this have rows of the MTP block in the cache
  // What it takes over from kept pages when it is admitted, and whether it will have drafts:
  // decided by the plan.
  struct Reuse {
    int64_t rows = 0, block_rows = 0;
    bool drafts = false;
  };
  Reuse reuse;
  // Positions from `cached` to this one are computed a second time, for the block's rows.
  int64_t again_until = 0;
  // No drafts are made, and tokens at positions from block_until on get no rows of the block.
  bool without_drafts = false;
  int64_t block_until = 0;

  int64_t known() const { return static_cast<int64_t>(ids.size()); }
  int64_t generated() const { return known() - prompt; }
  // Whether the token being drawn is the last one, whatever its id.
  bool last_pending(int64_t context) const {
    return pending > 0 &&
           (generated() + pending >= request.max_new_tokens || known() + pending >= context);
  }
  // Whether tokens of the prompt need logit rows, for their log-probabilities.
  bool wants_prompt_rows() const { return request.prompt_logprobs && generated() == 0; }
  // The first position that needs one: the one before the first token whose log-probability is
  // wanted.
  int64_t first_prompt_row() const { return request.prompt_logprobs_from - 1; }
  bool has_penalties() const {
    const LogitRules& r = request.rules;
    return r.repetition_penalty != 1 || r.frequency_penalty != 0 || r.presence_penalty != 0;
  }
  // The order of service: priority, then arrival.
  std::pair<int, RequestId> rank() const { return {request.priority, id}; }
};

}  // namespace fathom
