// A request on its way through the engine.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "cache/prefixes.h"
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
  int64_t cached = 0;          // positions with rows in the cache, or in a step under way
  PrefixState prefix;          // what is known of pages kept of this text
  bool cancelled = false;      // asked to end
  bool ended = false;          // its last event is out; to be taken off the engine's lists
  SeenTokens seen;             // for penalties; empty without
  // Of the prompt's tokens from request.prompt_logprobs_from on, as they are computed.
  std::vector<TokenLogprobs> prompt_logprobs;
  RequestStats stats;
  Clock::time_point submitted, first_token;

  // Steps under way that read or write its pages, and the token the last of them will draw.
  int in_flight = 0;
  int pending = 0;       // 1: a token is being drawn, its id not known yet
  int pending_row = -1;  // its logit row in that step

  int64_t known() const { return static_cast<int64_t>(ids.size()); }
  int64_t generated() const { return known() - prompt; }
  // The token being drawn will be its last, whatever it is.
  bool last_pending(int64_t context) const {
    return pending > 0 &&
           (generated() + pending >= request.max_new_tokens || known() + pending >= context);
  }
  // Tokens of the prompt need logit rows, as the log-probabilities behind them are to be told:
  bool wants_prompt_rows() const { return request.prompt_logprobs && generated() == 0; }
  // each from this position on, which is in front of the first token asked for.
  int64_t first_prompt_row() const { return request.prompt_logprobs_from - 1; }
  bool has_penalties() const {
    const LogitRules& r = request.rules;
    return r.repetition_penalty != 1 || r.frequency_penalty != 0 || r.presence_penalty != 0;
  }
  // Who is served first: priority, then arrival.
  std::pair<int, RequestId> rank() const { return {request.priority, id}; }
};

}  // namespace fathom
