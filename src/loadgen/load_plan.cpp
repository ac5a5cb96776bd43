#include "loadgen/load_plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <string_view>

namespace fathom::loadgen {
namespace {

// Common words: most tokenizers have each of them as one token or two.
constexpr std::array<std::string_view, 64> kWords = {
    "the",   "river", "old",   "house", "was",   "small", "and",   "her",    "father", "went",
    "to",    "town",  "with",  "a",     "horse", "when",  "night", "came",   "they",   "saw",
    "light", "in",    "every", "room",  "but",   "no",    "one",   "spoke",  "about",  "it",
    "after", "long",  "years", "he",    "found", "key",   "under", "stone",  "where",  "water",
    "ran",   "cold",  "over",  "green", "hills", "some",  "men",   "said",   "that",   "winter",
    "would", "be",    "hard",  "so",    "she",   "bread", "from",  "market", "before", "morning",
    "at",    "last",  "all",   "slept"};

double seconds_between(const LoadOptions& o, std::mt19937_64& random) {
  if (o.rate <= 0) return 0;
  // A gamma distribution of shape 1 is the exponential one: a Poisson process.
  std::gamma_distribution<double> gap(o.burstiness, 1.0 / (o.rate * o.burstiness));
  return gap(random);
}

int spread(int length, double ratio, std::mt19937_64& random) {
  std::uniform_real_distribution<double> factor(1 - ratio, 1 + ratio);
  return std::max(1, static_cast<int>(std::lround(length * factor(random))));
}

int words_for(int tokens, double tokens_per_word) {
  return std::max(1, static_cast<int>(std::lround(tokens / tokens_per_word)));
}

}  // namespace

std::string random_words(int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text;
  for (int i = 0; i < count; ++i) {
    if (i > 0) text += i % 12 == 0 ? ". " : " ";
    text += kWords[random() % kWords.size()];
  }
  return text;
}

std::vector<PlannedRequest> plan_load(const LoadOptions& o, double tokens_per_word) {
  std::mt19937_64 random(o.seed);
  const std::string prefix =
      o.shared_prefix > 0 ? random_words(words_for(o.shared_prefix, tokens_per_word), o.seed) + ". "
                          : "";
  std::vector<PlannedRequest> plan;
  double at = 0;
  for (int i = 0; i < o.requests; ++i) {
    PlannedRequest r;
    r.at = at;
    at += seconds_between(o, random);
    const int input =
        spread(o.input_tokens[random() % o.input_tokens.size()], o.range_ratio, random);
    const int own = std::max(1, input - o.shared_prefix);
    r.prompt = prefix + random_words(words_for(own, tokens_per_word), random());
    r.output_tokens = spread(o.output_tokens, o.range_ratio, random);
    plan.push_back(std::move(r));
  }
  return plan;
}

}  // namespace fathom::loadgen
