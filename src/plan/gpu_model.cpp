#include "plan/gpu_model.h"

#include <array>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/units.h"

namespace fathom::plan {
namespace {

constexpr int64_t gib(double n) { return static_cast<int64_t>(n * kGiB); }

// Read rates of H200 and H100 are measured; of the others they are nine tenths of what the makers
// state, the share that was measured on those two.
constexpr std::array kGpus = {
    GpuModel{"h200", "H200 (141 GB)", "H200", gib(139), 4.30e12, 1979e12, 989e12, 450e9, true},
    GpuModel{"h100", "H100 SXM (80 GB)", "H100 80GB HBM3", gib(78.7), 3.10e12, 1979e12, 989e12,
             450e9, true},
    GpuModel{"h800", "H800 (80 GB)", "H800", gib(78.7), 3.10e12, 1979e12, 989e12, 200e9, true},
    GpuModel{"h20", "H20 (96 GB)", "H20", gib(95), 3.6e12, 296e12, 148e12, 450e9, true},
    GpuModel{"a100-80", "A100 SXM (80 GB)", "A100-SXM4-80GB", gib(78.7), 1.83e12, 0, 312e12, 300e9,
             false},
    GpuModel{"a100-40", "A100 SXM (40 GB)", "A100-SXM4-40GB", gib(39), 1.4e12, 0, 312e12, 300e9,
             false},
    GpuModel{"b200", "B200 (180 GB)", "B200", gib(177), 6.9e12, 4500e12, 2250e12, 900e9, false},
};

}  // namespace

std::span<const GpuModel> gpu_models() { return kGpus; }

const GpuModel& gpu_model(std::string_view name) {
  std::vector<std::string_view> names;
  for (const GpuModel& gpu : kGpus) {
    if (gpu.name == name) return gpu;
    names.push_back(gpu.name);
  }
  throw UsageError(
      fmt::format("--gpu {}: expected one of {}", std::string(name), fmt::join(names, ", ")));
}

const GpuModel* gpu_model_of_driver(std::string_view driver_name) {
  // "H20" is part of "H200": the longest match counts.
  const GpuModel* best = nullptr;
  for (const GpuModel& gpu : kGpus)
    if (driver_name.find(gpu.found) != std::string_view::npos &&
        (!best || gpu.found.size() > best->found.size()))
      best = &gpu;
  return best;
}

}  // namespace fathom::plan
