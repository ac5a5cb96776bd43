// Sends a planned load to a server with OpenAI's protocol, and records when each part of the
// answers arrives.
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
  int max_concurrency = 0;       // requests in flight; later ones wait in the client; 0: no limit
  double request_seconds = 600;  // a request that takes longer counts as failed
};

// Throws UsageError unless `base_url` is http://HOST[:PORT][/PATH]. The path may end in /v1.
LoadTarget parse_target(const std::string& base_url);

struct LoadResult {
  double planned = 0, sent = 0;  // seconds after the start
  std::vector<double> events;    // when each event that carried text arrived
  double end = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;  // as the server counts
  bool events_counted = false;  // the server does not count: output_tokens is events with text
  int status = 0;               // 0: no answer
  std::string error;            // empty: all went well
};

// Returns the tokens per word of random_words, by the server's /tokenize; 1.3 if the server has
// none. Throws Error when nothing answers at the address within request_seconds.
double measure_tokens_per_word(const LoadTarget& target);

// Runs the whole plan. Calls `progress` after each request, with the number of requests that have
// ended.
std::vector<LoadResult> run_load(const LoadTarget& target, const std::vector<PlannedRequest>& plan,
                                 const std::function<void(int)>& progress);

}  // namespace fathom::loadgen
