#include "runtime/logit_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "numerics/selection.h"

namespace fathom {
namespace {

// Rules that name tokens, in the order of request.h.
void apply_rules(std::span<float> row, const LogitRules& rules, const SeenTokens* seen) {
  for (const auto& [id, bias] : rules.bias) row[static_cast<size_t>(id)] += bias;
  if (rules.repetition_penalty != 1)
    for (const SeenTokens::Seen& s : seen->all()) {
      float& logit = row[static_cast<size_t>(s.id)];
      logit = logit > 0 ? logit / rules.repetition_penalty : logit * rules.repetition_penalty;
    }
  if (rules.frequency_penalty == 0 && rules.presence_penalty == 0) return;
  for (const SeenTokens::Seen& s : seen->all()) {
    if (s.in_answer == 0) continue;
    float& logit = row[static_cast<size_t>(s.id)];
    logit -= rules.frequency_penalty * static_cast<float>(s.in_answer);
    logit -= rules.presence_penalty;
  }
}

// Word by word: most words of a mask are all ones or all zeros. Returns whether a token is left
// that the model gives any weight.
bool apply_mask(std::span<float> row, std::span<const uint64_t> allowed) {
  bool left = false;
  for (size_t begin = 0; begin < row.size(); begin += 64) {
    const size_t end = std::min(begin + 64, row.size());
    const uint64_t word = begin / 64 < allowed.size() ? allowed[begin / 64] : 0;
    if (word == 0) {
      std::fill(row.begin() + static_cast<int64_t>(begin), row.begin() + static_cast<int64_t>(end),
                -INFINITY);
      continue;
    }
    for (size_t i = begin; i < end; ++i) {
      if (!(word >> (i % 64) & 1)) row[i] = -INFINITY;
      left |= row[i] > -INFINITY;
    }
  }
  return left;
}

bool any_token(std::span<const uint64_t> allowed, size_t vocab) {
  for (size_t w = 0; w < allowed.size() && w * 64 < vocab; ++w) {
    const size_t bits = std::min<size_t>(64, vocab - w * 64);
    if (allowed[w] & (bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1)) return true;
  }
  return false;
}

}  // namespace

Result<LogitRules> checked(const LogitRules& r, int64_t vocab, int64_t max_new_tokens) {
  auto wrong = [](const std::string& name, auto value, const std::string& accepted) {
    return Failure{400, fmt::format("{} is {}: {}", name, value, accepted)};
  };
  for (const auto& [id, bias] : r.bias) {
    if (id < 0 || id >= vocab)
      return Failure{400, fmt::format("a bias is for token {}: the vocabulary has ids 0 to {}", id,
                                      vocab - 1)};
    if (!(bias >= -100 && bias <= 100))
      return wrong(fmt::format("the bias of token {}", id), bias,
                   "a number from -100 to 100 is accepted");
  }
  if (!(r.repetition_penalty > 0 && std::isfinite(r.repetition_penalty)))
    return wrong("repetition_penalty", r.repetition_penalty, "a number above 0 is accepted");
  if (!(r.frequency_penalty >= -2 && r.frequency_penalty <= 2))
    return wrong("frequency_penalty", r.frequency_penalty, "a number from -2 to 2 is accepted");
  if (!(r.presence_penalty >= -2 && r.presence_penalty <= 2))
    return wrong("presence_penalty", r.presence_penalty, "a number from -2 to 2 is accepted");
  if (r.min_new_tokens < 0 || r.min_new_tokens > max_new_tokens)
    return wrong("min_new_tokens", r.min_new_tokens,
                 fmt::format("a count up to max_new_tokens, {}, is accepted", max_new_tokens));
  return r;
}

SeenTokens::Seen& SeenTokens::at(int32_t id) {
  auto [it, fresh] = place_.try_emplace(id, seen_.size());
  if (fresh) seen_.push_back({id, 0});
  return seen_[it->second];
}

void SeenTokens::add_prompt(std::span<const int32_t> ids) {
  for (int32_t id : ids) at(id);
}

void SeenTokens::add_answer(int32_t id) { ++at(id).in_answer; }

RuledSampler::RuledSampler(int64_t vocab) : sampler_(vocab) {
  row_.reserve(static_cast<size_t>(vocab));
}

Result<int32_t> RuledSampler::draw(std::span<const float> logits, const RuledDraw& d) {
  const Request& r = *d.request;
  if (!r.rules.any() && !r.constraint) return sampler_.sample(logits, r.sampling, d.position);

  // A mask could hide that the model's output is broken.
  if (Result<int32_t> top = greedy(logits); !top.ok()) return top;
  row_.assign(logits.begin(), logits.end());
  apply_rules(row_, r.rules, d.seen);
  if (!r.constraint) {
    if (d.generated < r.rules.min_new_tokens)
      for (int32_t id : r.stop_ids)
        if (id >= 0 && static_cast<size_t>(id) < row_.size())
          row_[static_cast<size_t>(id)] = -INFINITY;
    return sampler_.sample(row_, r.sampling, d.position);
  }
  return draw_masked(d, r.constraint->allowed());
}

Result<int32_t> RuledSampler::draw_masked(const RuledDraw& d, std::span<const uint64_t> allowed) {
  const Request& r = *d.request;
  if (!allowed.empty()) {
    if (!any_token(allowed, row_.size()))
      return Failure{500, "the form the answer must have allows no next token"};
    if (!apply_mask(row_, allowed))
      return Failure{500, "the model gives no weight to any token the answer's form allows"};
  }
  if (d.generated >= r.rules.min_new_tokens) return sampler_.sample(row_, r.sampling, d.position);

  std::vector<float> held;  // a few stop ids
  for (int32_t id : r.stop_ids) {
    const bool known = id >= 0 && static_cast<size_t>(id) < row_.size();
    held.push_back(known ? std::exchange(row_[static_cast<size_t>(id)], -INFINITY) : -INFINITY);
  }
  if (!greedy(row_).ok())
    for (size_t i = r.stop_ids.size(); i-- > 0;)  // an id named twice gets its logit back
      if (held[i] > -INFINITY) row_[static_cast<size_t>(r.stop_ids[i])] = held[i];
  return sampler_.sample(row_, r.sampling, d.position);
}

TokenLogprobs logprobs_of(std::span<const float> logits, int32_t token, int top) {
  float greatest = -INFINITY;
  for (float logit : logits) greatest = std::max(greatest, logit);
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - greatest);
  const double log_sum = static_cast<double>(greatest) + std::log(sum);
  auto logprob = [&](float logit) { return static_cast<float>(logit - log_sum); };

  TokenLogprobs p;
  p.token = token;
  p.logprob = logprob(logits[static_cast<size_t>(token)]);
  // A short sorted list: nearly every token falls below its end.
  std::vector<std::pair<int32_t, float>>& best = p.top;
  const size_t most = std::min(static_cast<size_t>(std::max(0, top)), logits.size());
  best.reserve(most + 1);
  for (size_t i = 0; i < logits.size() && most > 0; ++i) {
    const int32_t id = static_cast<int32_t>(i);
    if (best.size() == most && !preferred(logits[i], id, best.back().second, best.back().first))
      continue;
    auto at = std::find_if(best.begin(), best.end(), [&](const auto& b) {
      return preferred(logits[i], id, b.second, b.first);
    });
    best.insert(at, {id, logits[i]});
    if (best.size() > most) best.pop_back();
  }
  for (auto& [id, value] : best) value = logprob(value);
  return p;
}

}  // namespace fathom
