// How long a step takes on processors: the time to read its bytes from memory or the time of its
// products, whichever is longer. A rank is one NUMA node; the rates are those of one node. Times
// are microseconds; 0: the rate that is needed is not known.
#pragma once

#include "model/config.h"
#include "model/rank_layout.h"
#include "plan/rank_volume.h"

namespace fathom::plan {

class CpuTimes {
 public:
  CpuTimes(const Config& config, const RankLayout& layout, const RankVolume& volume,
           double read_rate, double product_rate)
      : config_(config),
        layout_(layout),
        volume_(volume),
        read_rate_(read_rate),
        product_rate_(product_rate) {}

  double decode_step(int sequences, int64_t context) const;
  double prompt(int64_t context, int step_tokens) const;

 private:
  double expert_share(double tokens) const;
  double flops(double tokens, double pairs, double scored_pairs) const;

  Config config_;
  RankLayout layout_;
  RankVolume volume_;
  double read_rate_, product_rate_;
};

}  // namespace fathom::plan
