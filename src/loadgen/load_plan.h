// The plan of a load test: what is sent when. The same seed gives the same plan.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::loadgen {

struct LoadOptions {
  int requests = 100;
  double rate = 0;        // arrivals per second, Poisson; 0: all at the start
  double burstiness = 1;  // 1: Poisson; below: in bursts, above: evenly (gamma-distributed gaps)
  std::vector<int> input_tokens = {512};  // one of these for each request
  int output_tokens = 128;
  double range_ratio = 0;  // lengths vary uniformly by up to this share up and down
  int shared_prefix = 0;   // tokens that all prompts begin with
  uint64_t seed = 0;
};

struct PlannedRequest {
  double at = 0;  // seconds after the start
  std::string prompt;
  int output_tokens = 0;
};

// `tokens_per_word`: how many tokens the server's tokenizer makes of a prompt's word, on average.
std::vector<PlannedRequest> plan_load(const LoadOptions& options, double tokens_per_word);

// Returns `count` words of plain English text, the same for the same seed. tokens_per_word is
// measured with them.
std::string random_words(int count, uint64_t seed);

}  // namespace fathom::loadgen
