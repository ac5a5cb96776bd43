// GPUs that a model may be planned for: their memory and rates. docs/parallel.md says where each
// figure comes from.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace fathom::plan {

struct GpuModel {
  std::string_view name;   // as --gpu takes it
  std::string_view title;  // "H200 (141 GB)"
  std::string_view found;  // part of the driver's name of this GPU; empty: never matched
  int64_t memory = 0;      // bytes that a program finds free
  double read_rate = 0;    // bytes/s of plain reads
  double fp8_rate = 0;     // FLOP/s of dense products as the maker states them; 0: no FP8
  double bf16_rate = 0;
  double link_rate = 0;  // bytes/s to the other GPUs of a node, each way, as the maker states it
  bool has_kernels = false;  // compute capability 9.0: the one that fathom's kernels are built for

  bool has_fp8() const { return fp8_rate > 0; }
};

std::span<const GpuModel> gpu_models();

// Throws UsageError that lists the names if there is no such model.
const GpuModel& gpu_model(std::string_view name);

// Returns the model of a driver's name, e.g. "NVIDIA H100 80GB HBM3"; null if it is not in the
// table.
const GpuModel* gpu_model_of_driver(std::string_view driver_name);

}  // namespace fathom::plan
