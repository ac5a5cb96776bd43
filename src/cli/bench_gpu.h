// `fathom bench` on a GPU.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/compute_plan.h"

namespace fathom::cli {

struct GpuBenchFlags {
  std::string path, random, config;  // a checkpoint folder, or a preset of random weights
  uint64_t seed = 1;
  std::vector<int64_t> contexts;
  std::vector<int> batches;
  std::optional<int> decode_steps;
  double dollars_per_hour = 2.0, acceptance = 0.8;
  std::optional<AttentionMode> attention;  // none: both
  bool json = false;
};

int bench_on_gpu(const GpuBenchFlags& flags, const ComputePlan& compute);

}  // namespace fathom::cli
