#include "runtime/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/units.h"
#include "io/machine.h"
#include "model/host_weights.h"
#include "runtime/orders.h"
#include "runtime/rank_team.h"

namespace fathom {

DeviceChoice choose_device(std::string_view asked, const RankLayout& layout) {
  DeviceChoice choice;
  if (asked == "cpu") return choice;
  const int ranks = layout.ranks();
  const GpuInfo gpu = find_gpu(ranks);
  if (gpu.usable) {
    choice.device = DeviceKind::cuda;
    return choice;
  }
  if (asked == "cuda") fail("--device cuda: {}", gpu.why_not);
  if (ranks > 1 && find_gpu().usable)
    fail("{}: {}; with --device cpu a rank is a part of the processors",
         layout.data == 1     ? fmt::format("--tensor-parallel-size {}", layout.tensor)
         : layout.tensor == 1 ? fmt::format("--data-parallel-size {}", layout.data)
                              : fmt::format("{} groups of {} ranks", layout.data, layout.tensor),
         gpu.why_not);
  // A machine without a GPU needs no explanation; one whose GPU is not used does.
  if (!gpu.name.empty()) choice.note = fmt::format("not using the GPU: {}", gpu.why_not);
  return choice;
}

DeviceWeights::DeviceWeights(const Config& config, const RankWeights& host, const ComputePlan& plan,
                             bool progress)
    : host_(host) {
  place_followers(config, plan);
  if (plan.device == DeviceKind::cpu) {
    // Ranks share matrices, and may each have memory of their own near them: theirs stay mapped.
    if (host.size() != 1 || !copy_pays(host[0], available_memory())) return;
    copied_ = std::make_unique<Weights>(host[0]);
    matrices_ = copy_matrices(*copied_);
    host_ = *copied_;
    return;
  }
  const auto begin = std::chrono::steady_clock::now();
  placed_.resize(static_cast<size_t>(host.size()));
  // The ranks of all groups load alike.
  ComputePlan all = plan;
  all.layout.tensor = plan.layout.ranks();
  all.layout.data = 1;
  all.layout.rank = 0;
  RankTeam team(all);
  team.run([&](int rank) {
    placed_[static_cast<size_t>(rank)] = PlacedWeights::copy_to_gpu(
        config, host[rank], plan.numerics, plan.observed ? MemoryKind::shared : MemoryKind::device);
  });
  if (!progress) return;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  int64_t bytes = 0;
  for (const PlacedWeights& p : placed_) bytes += p.bytes();
  fmt::print(stderr, "weights: {} to {} in {:.1f} s, {}\n", bytes_text(bytes),
             placed_.size() == 1 ? "the GPU" : fmt::format("{} GPUs", placed_.size()), seconds,
             rate_text(static_cast<double>(bytes) / seconds));
}

DeviceWeights::DeviceWeights(std::vector<PlacedWeights> placed) : placed_(std::move(placed)) {}

DeviceWeights DeviceWeights::random(const Config& config, const ComputePlan& plan, uint64_t seed,
                                    const std::string& what) {
  const RankLayout& layout = plan.layout;
  const GpuInfo gpu = find_gpu(layout.ranks());
  const int64_t bytes = PlacedWeights::bytes_on_gpu(config, plan.numerics, layout);
  if (bytes > gpu.free)
    fail("{}: {} of weights in {} numerics, {} are free on {}", what, bytes_text(bytes),
         name_of(plan.numerics), bytes_text(gpu.free), gpu.name);
  std::vector<PlacedWeights> placed;
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    use_gpu(rank);
    placed.push_back(PlacedWeights::random(config, plan.numerics, seed, layout.at(rank)));
  }
  use_gpu(0);
  return DeviceWeights(std::move(placed));
}

RankWeights DeviceWeights::ranks() const {
  if (placed_.empty()) return host_;
  std::vector<const Weights*> all;
  for (const PlacedWeights& p : placed_) all.push_back(&p.weights());
  return RankWeights(std::move(all));
}

int64_t DeviceWeights::bytes_on_gpu() const {
  int64_t most = 0;
  for (const PlacedWeights& p : placed_) most = std::max(most, p.bytes());
  return most;
}

}  // namespace fathom
