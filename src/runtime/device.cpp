#include "runtime/device.h"

#include <fmt/format.h>

#include <chrono>

#include "base/error.h"
#include "base/units.h"

namespace fathom {

DeviceChoice choose_device(std::string_view asked) {
  DeviceChoice choice;
  if (asked == "cpu") return choice;
  const GpuInfo gpu = find_gpu();
  if (gpu.usable) {
    choice.device = DeviceKind::cuda;
    return choice;
  }
  if (asked == "cuda") fail("--device cuda: {}", gpu.why_not);
  // A machine without a GPU needs no explanation; one whose GPU is not used does.
  if (!gpu.name.empty()) choice.note = fmt::format("not using the GPU: {}", gpu.why_not);
  return choice;
}

DeviceWeights::DeviceWeights(const Config& config, const Weights& host, const ComputePlan& plan,
                             bool progress)
    : host_(&host) {
  if (plan.device == DeviceKind::cpu) return;
  const auto begin = std::chrono::steady_clock::now();
  placed_ = PlacedWeights::copy_to_gpu(config, host, plan.numerics,
                                       plan.observed ? MemoryKind::shared : MemoryKind::device);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (progress)
    fmt::print(stderr, "weights: {} to the GPU in {:.1f} s, {}\n", bytes_text(placed_->bytes()),
               seconds, rate_text(static_cast<double>(placed_->bytes()) / seconds));
}

DeviceWeights::DeviceWeights(PlacedWeights placed) : placed_(std::move(placed)) {}

}  // namespace fathom
