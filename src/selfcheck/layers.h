// Compares two correct ways to compute the same tokens, layer by layer and from equal inputs.
//
// Two ways that round at different places give different logits, and how different depends on the
// weights: a model may amplify one rounding until the logits have nothing in common. So each
// layer's updates of the residual stream are compared by themselves, with what the run itself shows
// one rounding to cost: the same updates where the layer's input has been moved by one unit in the
// last place of bf16, or by the bound of a float32 sum's error.
#pragma once

#include <span>
#include <string>

#include "selfcheck/checks.h"

namespace fathom {

struct LayerComparison {
  double worst = 0;  // error of an update, in units of what one rounding costs
  std::string where;
  LogitDistance logits;  // from equal states after the last layer

  bool passed() const;
  std::string figure() const;
  static std::string limit();
};

// The rows `rows` of `ids` as `one` computes them in a single prefill step and as `other` does when
// it decodes from `decode_from` on.
LayerComparison compare_layers(const CheckContext& c, const EvalOptions& one,
                               const EvalOptions& other, std::span<const int32_t> ids,
                               int64_t decode_from, std::span<const int64_t> rows);

// How far apart the logits of `rows` are if the input of every attention and feed-forward layer is
// moved as much, and nothing is put right behind it.
LogitDistance shaken_logits(const CheckContext& c, const EvalOptions& e,
                            std::span<const int32_t> ids, std::span<const int64_t> rows);

}  // namespace fathom
