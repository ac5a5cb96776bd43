// Chooses the device that a model runs on, and places its weights there.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/gpu.h"
#include "model/config.h"
#include "model/placed_weights.h"
#include "runtime/compute_plan.h"
#include "tensor/buffer.h"

namespace fathom {

// The chosen device.
struct DeviceChoice {
  DeviceKind device = DeviceKind::cpu;
  std::string note;  // for the user, when a GPU is there and is not used
};

// `asked`: auto, cpu or cuda. Throws Error when cuda is asked for and cannot be used, and when
// there are GPUs but fewer than the layout has ranks.
DeviceChoice choose_device(std::string_view asked, const RankLayout& layout = {});

// The weights of a model's ranks where their devices read them: a copy of each rank's on its GPU,
// or on a CPU the host's own, copied into huge pages if the model is small, and with words where
// the kernels read them (model/host_weights.h).
class DeviceWeights {
 public:
  // Uses the plan's device, kernels, numerics, layout, link and `observed`. The plan's other
  // processes do the same at the same time. `host` must outlive this object on a CPU. With
  // `progress` a line on standard error says how fast the copies of all ranks went.
  DeviceWeights(const Config& config, const RankWeights& host, const ComputePlan& plan,
                bool progress = false);
  // Random weights of the config's shapes of the plan's ranks here, on their GPUs, the same for the
  // same seed. No file is read. Throws Error, which begins with `what`, when a GPU has no room for
  // them.
  static DeviceWeights random(const Config& config, const ComputePlan& plan, uint64_t seed,
                              const std::string& what);

  const Weights& get() const { return placed_.empty() ? host_[0] : placed_[0].weights(); }
  RankWeights ranks() const;
  int64_t bytes_on_gpu() const;  // of the rank that has most

 private:
  // What a CPU reads instead of a rank's mapped weights: views of these buffers, and of the files.
  struct HostCopy {
    explicit HostCopy(const Weights& from) : weights(from) {}
    Weights weights;
    Buffer matrices, words;
  };
  void place_on_cpu(const ComputePlan& plan);
  void place_on_gpus(const Config& config, const ComputePlan& plan, bool progress);
  explicit DeviceWeights(std::vector<PlacedWeights> placed);  // by rank

  RankWeights host_;
  std::vector<std::unique_ptr<HostCopy>> copies_;  // by rank; null: none
  std::vector<PlacedWeights> placed_;              // by rank; empty on a CPU
};

}  // namespace fathom
