// Measurements on GPUs, and the planner's predictions for them.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"

namespace fathom::plan {

struct Comparison {
  std::string what;                    // "MoE layer, decode, 16 sequences at 32768"
  std::string where;                   // "H200"
  double measured = 0, predicted = 0;  // microseconds
  bool fitted = false;                 // constants of the prediction were fitted to this figure

  double error() const { return predicted / measured - 1; }
};

// `real`: the sizes of DeepSeek-V3.2.
std::vector<Comparison> compare_with_measured(const Config& real);

std::string text_of(const std::vector<Comparison>& rows);

}  // namespace fathom::plan
