// Which experts a token goes to and with what weight (DeepSeek-V3 report, section 2.1.2).
//
// Experts are chosen by their score plus the correction bias; their weights are the scores without
// the bias. Ties go to the lower index. Any expert and group counts; no bit masks, no powers of
// two.
#pragma once

#include <cmath>
#include <cstdint>

#include "numerics/host_device.h"

namespace fathom {

struct RouterShape {
  int experts, groups, kept_groups, per_token;
  float scale;     // routed_scaling_factor
  bool normalise;  // norm_topk_prob
  bool sigmoid;    // scoring_func; false: softmax
};

inline constexpr int kMaxGroups = 256;

// logits [experts] in, overwritten by scores; bias [experts] or null; scratch [experts].
// ids and weights [per_token], in order of preference.
FATHOM_HD inline void route_token(const RouterShape& s, float* logits, const float* bias,
                                  float* scratch, int32_t* ids, float* weights) {
  if (s.sigmoid) {
    for (int e = 0; e < s.experts; ++e) logits[e] = 1.0f / (1.0f + expf(-logits[e]));
  } else {
    float top = -INFINITY, sum = 0;
    for (int e = 0; e < s.experts; ++e) top = logits[e] > top ? logits[e] : top;
    for (int e = 0; e < s.experts; ++e) sum += (logits[e] = expf(logits[e] - top));
    for (int e = 0; e < s.experts; ++e) logits[e] /= sum;
  }
  for (int e = 0; e < s.experts; ++e) scratch[e] = logits[e] + (bias ? bias[e] : 0.0f);

  if (s.groups > 1) {
    // A group's score is the sum of its two best; groups that are not kept count as -inf.
    int size = s.experts / s.groups;
    float group[kMaxGroups];
    for (int g = 0; g < s.groups; ++g) {
      float first = -INFINITY, second = -INFINITY;
      for (int e = g * size; e < (g + 1) * size; ++e) {
        float v = scratch[e];
        if (v > first) {
          second = first;
          first = v;
        } else if (v > second) {
          second = v;
        }
      }
      group[g] = size > 1 ? first + second : first;
    }
    for (int g = 0; g < s.groups; ++g) {
      int better = 0;  // groups preferred to g
      for (int o = 0; o < s.groups; ++o)
        better += group[o] > group[g] || (group[o] == group[g] && o < g);
      if (better >= s.kept_groups)
        for (int e = g * size; e < (g + 1) * size; ++e) scratch[e] = -INFINITY;
    }
  }

  float sum = 0;
  for (int k = 0; k < s.per_token; ++k) {
    int best = -1;
    for (int e = 0; e < s.experts; ++e)
      if (scratch[e] == scratch[e] && (best < 0 || scratch[e] > scratch[best])) best = e;
    if (best < 0) best = k;  // all NaN: any valid expert; the NaN travels on in the weight
    ids[k] = best;
    weights[k] = logits[best];
    sum += logits[best];
    scratch[best] = NAN;  // taken: unequal to itself
  }
  for (int k = 0; k < s.per_token; ++k)
    weights[k] = (s.normalise ? weights[k] / sum : weights[k]) * s.scale;
}

}  // namespace fathom
