// What the engine is asked and what it answers: token ids in, token ids out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "numerics/sampling.h"

namespace fathom {

using RequestId = uint64_t;

enum class Finish : uint8_t {
  none,       // goes on
  stop,       // one of the stop ids
  length,     // max_new_tokens, or the end of the context
  cancelled,  // by cancel()
  error,      // see TokenEvent::error
};

constexpr const char* name_of(Finish f) {
  switch (f) {
    case Finish::none:
      return "none";
    case Finish::stop:
      return "stop";
    case Finish::length:
      return "length";
    case Finish::cancelled:
      return "cancelled";
    case Finish::error:
      return "error";
  }
  return "?";
}

struct RequestStats {
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;     // of the prompt, found in the cache
  int64_t generated_tokens = 0;  // the stop token included
  int preemptions = 0;
  double first_token_seconds = 0;  // from submit to the first token
  double decode_seconds = 0;       // from the first token to the last
};

// Called on the engine thread; `error` and `stats` are good for the time of the call.
struct TokenEvent {
  RequestId id = 0;
  int32_t token = -1;            // -1: only the end is announced (cancelled, error)
  Finish finish = Finish::none;  // anything else: the last event of this request
  std::string error;
  const RequestStats* stats = nullptr;
};

struct Request {
  std::vector<int32_t> ids;
  int64_t max_new_tokens = 200;
  SamplingParams sampling;
  std::vector<int32_t> stop_ids;
  // Must not block and must not throw. It may call submit() and cancel().
  std::function<void(const TokenEvent&)> sink;
};

}  // namespace fathom
