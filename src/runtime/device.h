// Which device a model runs on, and what has to lie there.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kernels/gpu.h"
#include "model/config.h"
#include "model/placed_weights.h"
#include "runtime/compute_plan.h"

namespace fathom {

// How a request for a device came out.
struct DeviceChoice {
  DeviceKind device = DeviceKind::cpu;
  std::string note;  // for the user, when a GPU is there and is not used
};

// `asked`: auto, cpu or cuda. Throws Error when cuda is asked for and cannot be had.
DeviceChoice choose_device(std::string_view asked);

// The weights of a model where the device reads them: the host's own, or a copy.
class DeviceWeights {
 public:
  // Of the plan device, numerics and `observed` count. `host` must outlive this object on a CPU.
  // With `progress` a line on standard error says how fast the copy went.
  DeviceWeights(const Config& config, const Weights& host, const ComputePlan& plan,
                bool progress = false);
  explicit DeviceWeights(PlacedWeights placed);

  const Weights& get() const { return placed_ ? placed_->weights() : *host_; }
  int64_t bytes_on_gpu() const { return placed_ ? placed_->bytes() : 0; }

 private:
  const Weights* host_ = nullptr;
  std::optional<PlacedWeights> placed_;
};

}  // namespace fathom
