// Which of the two forms of attention a token uses (AttentionForm). It depends on the token's
// position and on whether it is decoded or prefilled. It does not depend on how a prompt is cut
// into chunks, so chunking changes no bit.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "numerics/modes.h"

namespace fathom {

struct FormPolicy {
  // Prompt tokens at positions below this use the expanded form.
  int64_t expanded_below = 0;
  // Every token takes the absorbed form, so that decode and prefill agree bit for bit.
  bool one_form = false;

  AttentionForm form(int64_t position, bool decode) const {
    if (one_form || decode || position >= expanded_below) return AttentionForm::absorbed;
    return AttentionForm::expanded;
  }
};

// A (query, key) pair costs 2 heads (latent + rope + latent) FLOP absorbed and 2 heads (nope + rope
// + value) expanded, but the absorbed form reads at most top-k keys. By FLOP they break even where
// the number of earlier keys is top-k times the ratio of the two costs. The expanded form also
// expands every earlier key once per step: with steps of 512 tokens that adds 2 (nope + value)
// latent / 512 FLOP a head to each pair, which moves the break-even point to 0.56 of that. The
// measured break-even point is at about a half (docs/performance.md). Dense attention is always
// expanded.
inline constexpr double kExpandedShare = 0.5;

// fp8 numerics rounds where the reference rounds, which is where the absorbed form does. Expanded
// keys would be rounded at other points: each layer would differ from the reference by 1.2 to 1.4
// times as much as another order of summation does (docs/numerics.md).
inline FormPolicy form_policy(const Config& c, AttentionMode mode, Numerics numerics,
                              bool batch_invariant) {
  FormPolicy policy;
  policy.one_form = batch_invariant || numerics == Numerics::fp8;
  if (mode == AttentionMode::dense || !c.has_indexer()) {
    policy.expanded_below = INT64_MAX;
  } else {
    double absorbed = 2.0 * c.latent + c.rope, expanded = c.nope + c.rope + c.value;
    policy.expanded_below =
        static_cast<int64_t>(c.index_topk * absorbed / expanded * kExpandedShare);
  }
  return policy;
}

}  // namespace fathom
