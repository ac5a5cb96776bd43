#include "runtime/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/numa.h"
#include "base/progress.h"
#include "base/units.h"
#include "io/machine.h"
#include "kernels/cpu_ops.h"
#include "model/host_weights.h"
#include "runtime/load_progress.h"
#include "runtime/orders.h"
#include "runtime/rank_team.h"

namespace fathom {

DeviceChoice choose_device(std::string_view asked, const RankLayout& layout) {
  DeviceChoice choice;
  if (asked == "cpu") return choice;
  const int ranks = layout.ranks_here();
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
  if (plan.device == DeviceKind::cpu)
    place_on_cpu(plan);
  else
    place_on_gpus(config, plan, progress);
}

void DeviceWeights::place_on_cpu(const ComputePlan& plan) {
  const bool reads_words = pick_cpu_kernels(plan.kernels).reads_words;
  const int ranks = host_.size();
  std::vector<std::unique_ptr<HostCopy>> copies(static_cast<size_t>(ranks));
  const auto copy = [&](int rank) {
    const Weights& from = host_[rank];
    // Ranks share matrices, and may each have memory of their own near them: theirs stay mapped.
    const bool matrices = ranks == 1 && copy_pays(from, available_memory());
    // The ranks of a process see the same free memory, and each takes a part of it.
    const bool words = reads_words && words_pay(from, available_memory() / ranks);
    if (!matrices && !words) return;
    auto& to = copies[static_cast<size_t>(rank)] = std::make_unique<HostCopy>(from);
    if (matrices) to->matrices = copy_matrices(to->weights);
    if (!words) return;
    ThreadPool pool(threads_of_rank(plan));
    to->words = add_words(to->weights, pool);
  };
  if (ranks == 1) {
    copy(0);
  } else {
    std::vector<std::future<void>> done;
    done.reserve(static_cast<size_t>(ranks));
    for (int rank = 0; rank < ranks; ++rank)
      done.push_back(std::async(std::launch::async, [&, rank] {
        bind_thread_to_node(rank, ranks);  // as the rank's own threads
        copy(rank);
      }));
    for (std::future<void>& d : done) d.get();
  }
  copies_ = std::move(copies);
  std::vector<const Weights*> all;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto& own = copies_[static_cast<size_t>(rank)];
    all.push_back(own ? &own->weights : &host_[rank]);
  }
  host_ = RankWeights(std::move(all));
}

void DeviceWeights::place_on_gpus(const Config& config, const ComputePlan& plan, bool progress) {
  const auto begin = std::chrono::steady_clock::now();
  placed_.resize(static_cast<size_t>(host_.size()));
  int64_t bytes = 0;
  for (int rank = 0; rank < host_.size(); ++rank)
    bytes += PlacedWeights::bytes_of_copy(config, host_[rank], plan.numerics);
  std::optional<Progress> bar;
  LoadProgress loading(plan.link, bytes, [&](const Loaded& l) {
    if (!progress) return;
    if (!bar) bar.emplace("weights", l.total, l.done);
    bar->update(static_cast<uint64_t>(l.done));
  });
  // The ranks of all groups load alike.
  ComputePlan all = plan;
  all.layout.tensor = plan.layout.ranks();
  all.layout.data = 1;
  all.layout.rank = 0;
  RankTeam team(all);
  team.run([&](int rank) {
    placed_[static_cast<size_t>(rank)] = PlacedWeights::copy_to_gpu(
        config, host_[rank], plan.numerics, plan.observed ? MemoryKind::shared : MemoryKind::device,
        [&](int64_t copied) { loading.add(copied); });
  });
  bytes = loading.finish().total;
  bar.reset();
  if (!progress) return;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const int gpus = plan.layout.ranks();
  fmt::print(stderr, "weights: {} to {} in {:.1f} s, {}\n", bytes_text(bytes),
             gpus == 1 ? "the GPU" : fmt::format("{} GPUs", gpus), seconds,
             rate_text(static_cast<double>(bytes) / seconds));
}

DeviceWeights::DeviceWeights(std::vector<PlacedWeights> placed) : placed_(std::move(placed)) {}

DeviceWeights DeviceWeights::random(const Config& config, const ComputePlan& plan, uint64_t seed,
                                    const std::string& what) {
  const RankLayout& layout = plan.layout;
  const GpuInfo gpu = find_gpu(layout.ranks_here());
  const int64_t bytes = PlacedWeights::bytes_on_gpu(config, plan.numerics, layout);
  if (bytes > gpu.free)
    fail("{}: {} of weights in {} numerics, {} are free on {}", what, bytes_text(bytes),
         name_of(plan.numerics), bytes_text(gpu.free), gpu.name);
  std::vector<PlacedWeights> placed;
  for (int i = 0; i < layout.ranks_here(); ++i) {
    use_gpu(i);
    placed.push_back(
        PlacedWeights::random(config, plan.numerics, seed, layout.at(layout.first_here() + i)));
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
