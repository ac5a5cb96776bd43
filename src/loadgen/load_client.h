// Sends a planned load to a server that speaks OpenAI's protocol, and notes when what came back.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "loadgen/load_plan.h"

namespace fathom::loadgen {

struct LoadTarget {
  std::string host;
  int port = 80;
  std::string prefix;   // in front of /v1/..., "" or "/some/where"
  std::string api_key;  // empty: none is sent
  std::string model;    // empty: none is named
  bool chat = true;     // /v1/chat/completions, else /v1/completions
  bool ignore_eos = true;
  int max_concurrency = 0;       // requests at once, later ones wait on this side; 0: no limit
  double request_seconds = 600;  // a request that takes longer counts as failed
};

// Throws Error for what is not http://HOST[:PORT][/PATH]. A path that ends in /v1 may be given.
LoadTarget parse_target(const std::string& base_url);

struct LoadResult {
  double planned = 0, sent = 0;  // seconds after the start
  std::vector<double> events;    // when each event that carried text arrived
  double end = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;  // as the server counts
  bool events_counted = false;  // it does not: output_tokens is the number of events with text
  int status = 0;               // 0: no answer
  std::string error;            // empty: all went well
};

// Tokens a word of random_words, by the server's /tokenize; servers without one are taken to have
// 1.3. Throws Error when nothing answers at the address within request_seconds.
double measure_tokens_per_word(const LoadTarget& target);

// Runs the plan to its end. `progress` is called after each request, with the number that have
// ended.
std::vector<LoadResult> run_load(const LoadTarget& target, const std::vector<PlannedRequest>& plan,
                                 const std::function<void(int)>& progress);

}  // namespace fathom::loadgen
