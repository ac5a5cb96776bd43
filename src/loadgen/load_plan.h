// What a load test sends and when, as values: the same seed plans the same load.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::loadgen {

struct LoadOptions {
  int requests = 100;
  double rate = 0;        // arrivals a second, Poisson; 0: all at the start
  double burstiness = 1;  // 1: Poisson; below: in bursts, above: evenly (gamma-distributed gaps)
  std::vector<int> input_tokens = {512};  // each request takes one of these lengths,
  int output_tokens = 128;
  double range_ratio = 0;  // both spread evenly by up to this share either way
  int shared_prefix = 0;   // tokens that all prompts begin with
  uint64_t seed = 0;
};

struct PlannedRequest {
  double at = 0;  // seconds after the start
  std::string prompt;
  int output_tokens = 0;
};

// `tokens_per_word`: of the words that prompts are made of, for the server's tokenizer.
std::vector<PlannedRequest> plan_load(const LoadOptions& options, double tokens_per_word);

// `count` words of plain English text, the same for the same seed: what tokens_per_word is measured
// with.
std::string random_words(int count, uint64_t seed);

}  // namespace fathom::loadgen
