#include <fmt/format.h>

#include "cache/kv_pool.h"
#include "runtime/logit_rules.h"
#include "runtime/request_check.h"

namespace fathom {
namespace {

std::optional<Failure> check_prompt(const Request& r, const RequestLimits& limits) {
  const int64_t n = static_cast<int64_t>(r.ids.size());
  if (n == 0) return Failure{400, "the prompt is empty"};
  if (n >= limits.context)
    return Failure{400, fmt::format("the prompt has {} tokens: with a context of {} it may have "
                                    "at most {}",
                                    n, limits.context, limits.context - 1)};
  if (pages_for(n + 1) > limits.pages)
    return Failure{400, fmt::format("the prompt has {} tokens: the cache holds {}, answer included",
                                    n, limits.pages * kPageRows)};
  for (int64_t i = 0; i < n; ++i)
    if (const int32_t id = r.ids[static_cast<size_t>(i)]; id < 0 || id >= limits.vocab)
      return Failure{400, fmt::format("token {} of the prompt is id {}: the vocabulary has ids 0 "
                                      "to {}",
                                      i, id, limits.vocab - 1)};
  return std::nullopt;
}

}  // namespace

std::optional<Failure> check_request(const Request& r, const RequestLimits& limits) {
  if (std::optional<Failure> wrong = check_prompt(r, limits)) return wrong;
  if (r.max_new_tokens < 1)
    return Failure{400,
                   fmt::format("max_new_tokens is {}: at least 1 is accepted", r.max_new_tokens)};
  if (Result<SamplingParams> p = checked(r.sampling); !p.ok()) return p.failure();
  if (Result<LogitRules> p = checked(r.rules, limits.vocab, r.max_new_tokens); !p.ok())
    return p.failure();
  if (r.logprobs < -1 || r.logprobs > kMaxTopLogprobs)
    return Failure{400, fmt::format("logprobs is {}: 0 to {} alternatives, or -1 for none, are "
                                    "accepted",
                                    r.logprobs, kMaxTopLogprobs)};
  if (r.prompt_logprobs && r.logprobs < 0)
    return Failure{400, fmt::format("log-probabilities of the prompt are asked for with logprobs "
                                    "{}: 0 to {} go with them",
                                    r.logprobs, kMaxTopLogprobs)};
  if (const auto n = static_cast<int64_t>(r.ids.size());
      r.prompt_logprobs && (r.prompt_logprobs_from < 1 || r.prompt_logprobs_from > n))
    return Failure{400, fmt::format("log-probabilities are asked for from token {} of the prompt "
                                    "on: 1 to its {} tokens are accepted",
                                    r.prompt_logprobs_from, n)};
  if (r.keep_selection && !limits.keep_selection)
    return Failure{400,
                   "the indexer's selection is asked for, which this engine was not started to "
                   "keep: see --keep-selection"};
  return std::nullopt;
}

}  // namespace fathom
