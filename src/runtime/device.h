// Which device a model runs on, and what has to lie there.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/thread_pool.h"
#include "kernels/gpu.h"
#include "model/config.h"
#include "model/forward.h"
#include "model/placed_weights.h"

namespace fathom {

enum class DeviceKind : uint8_t { cpu, cuda };

constexpr std::string_view name_of(DeviceKind d) { return d == DeviceKind::cpu ? "cpu" : "cuda"; }

// Tokens of a prefill step that keep the device busy, and bytes of index scores held at once.
constexpr int default_chunk(DeviceKind d) { return d == DeviceKind::cpu ? 512 : 4096; }
inline constexpr int64_t kGpuIndexBudget = int64_t{512} << 20;

// How a request for a device came out.
struct DeviceChoice {
  DeviceKind device = DeviceKind::cpu;
  std::string note;  // for the user, when a GPU is there and is not used
};

// `asked`: auto, cpu or cuda. Throws Error when cuda is asked for and cannot be had.
DeviceChoice choose_device(std::string_view asked);

// What make_ops needs beside the workload.
struct OpsOptions {
  DeviceKind device = DeviceKind::cpu;
  std::string kernels;  // of the CPU; empty: the best usable
  GpuOptions gpu;
};
std::unique_ptr<Ops> make_ops(const OpsOptions& options, Numerics numerics,
                              const Workload& workload, ThreadPool& pool);

// The weights of a model where the device reads them: the host's own, or a copy.
class DeviceWeights {
 public:
  // `host` must outlive this object on a CPU. `observed`: see GpuOptions. With `progress` a line on
  // standard error says how fast the copy went.
  DeviceWeights(const Config& config, const Weights& host, DeviceKind device, Numerics numerics,
                bool observed = false, bool progress = false);
  explicit DeviceWeights(PlacedWeights placed);

  const Weights& get() const { return placed_ ? placed_->weights() : *host_; }
  int64_t bytes_on_gpu() const { return placed_ ? placed_->bytes() : 0; }

 private:
  const Weights* host_ = nullptr;
  std::optional<PlacedWeights> placed_;
};

}  // namespace fathom
