#include "runtime/grouped_engine.h"

#include <algorithm>
#include <atomic>

#include "base/error.h"
#include "io/machine.h"
#include "kernels/gpu.h"

namespace fathom {

int GroupChoice::known(std::span<const PageKey> keys) const {
  std::lock_guard lock(mutex_);
  for (size_t page = keys.size(); page-- > 0;)
    for (const auto* map : {&newer_, &older_})
      if (auto it = map->find(keys[page]); it != map->end()) return it->second;
  return -1;
}

void GroupChoice::note(std::span<const PageKey> keys, int group) {
  std::lock_guard lock(mutex_);
  for (const PageKey& key : keys) {
    if (newer_.size() >= kMost) {
      older_ = std::move(newer_);
      newer_.clear();
    }
    newer_[key] = group;
  }
}

GroupedEngine::GroupedEngine(const Config& config, const RankWeights& weights,
                             const EngineOptions& options)
    : options_(options),
      world_((check_plan(config, options.compute), options.compute)),
      threads_(options.compute.layout.data, /*with_caller=*/false) {
  const RankLayout& layout = options.compute.layout;
  FATHOM_CHECK(weights.size() == layout.ranks_here(), "weights of {} ranks for {}", weights.size(),
               layout.ranks_here());
  const bool gpus = options.compute.device == DeviceKind::cuda && !options.compute.observed;
  if (options.compute.link) {
    open_groups(config, options.compute);
    for (int g = 0; g < layout.data; ++g)
      channels_.push_back(std::make_unique<GroupChannel>(*options.compute.link, layout, g));
  }
  engines_.resize(static_cast<size_t>(layout.data));
  const int64_t available = options.available_bytes ? *options.available_bytes
                            : gpus                  ? find_gpu(layout.ranks_here()).free
                                                    : available_memory();
  threads_.run([&](int g) {
    try {
      engines_[static_cast<size_t>(g)] =
          std::make_unique<Engine>(config, weights_of(g, weights), options_of(g, available));
    } catch (const std::exception& e) {
      std::lock_guard lock(mutex_);
      if (cause_.empty()) cause_ = e.what();
    }
  });
  if (!cause_.empty()) throw Error(cause_);
  memory_ = engines_[0]->memory();
  memory_.pages *= layout.data;
  memory_.sequences *= layout.data;
}

GroupedEngine::~GroupedEngine() = default;

// A group that lies in other processes has none here.
RankWeights GroupedEngine::weights_of(int group, const RankWeights& weights) const {
  const RankLayout& layout = options_.compute.layout;
  if (!layout.has_group(group)) return {};
  return weights.part(layout.in_group(group).place_here(), layout.group_ranks_here());
}

EngineOptions GroupedEngine::options_of(int group, int64_t available) {
  EngineOptions o = options_;
  const int groups = o.compute.layout.data;
  o.compute.layout = o.compute.layout.at(group * o.compute.layout.tensor);
  o.world = world_.group;
  if (!channels_.empty()) o.orders = channels_[static_cast<size_t>(group)]->link();
  o.available_bytes = available;
  o.first_id = group;
  o.id_step = groups;
  o.max_waiting = (o.max_waiting + groups - 1) / groups;
  o.cache_tokens = (o.cache_tokens + groups - 1) / groups;
  o.cache_dir_bytes /= groups;  // one folder: what one group stored another finds
  if (options_.on_step)
    o.on_step = [this](const StepReport& report) {
      std::lock_guard lock(report_mutex_);
      options_.on_step(report);
    };
  return o;
}

// A group that knows the text is chosen only while it has a free place; else the least loaded one.
int GroupedEngine::choose(std::span<const PageKey> keys) const {
  std::vector<int> load;
  for (const auto& engine : engines_) {
    const EngineSnapshot s = engine->snapshot();
    load.push_back(s.running + s.waiting);
  }
  const int known = choice_.known(keys);
  if (known >= 0 && load[static_cast<size_t>(known)] < options_.compute.sequences) return known;
  return static_cast<int>(std::min_element(load.begin(), load.end()) - load.begin());
}

Result<RequestId> GroupedEngine::submit(Request request) {
  std::vector<PageKey> keys;
  extend_keys(keys, {}, request.ids);
  // One request after the other: each counts in the choice for the next.
  std::unique_lock lock(mutex_);
  if (!cause_.empty()) return Failure{503, "the engine has failed and serves nothing any more"};
  const int group = choose(keys);
  Result<RequestId> id = engines_[static_cast<size_t>(group)]->submit(std::move(request));
  if (id.ok() && options_.keep_prefixes) choice_.note(keys, group);
  news_ = true;
  lock.unlock();
  wakes_.notify_one();
  return id;
}

void GroupedEngine::cancel(RequestId id) {
  engines_[static_cast<size_t>(id % groups())]->cancel(id);
  wake();
}

void GroupedEngine::wake() {
  {
    std::lock_guard lock(mutex_);
    news_ = true;
  }
  wakes_.notify_one();
}

bool GroupedEngine::step() {
  std::atomic<bool> busy = false;
  threads_.run([&](int g) {
    if (step_group(g)) busy = true;
  });
  std::lock_guard lock(mutex_);
  if (!cause_.empty()) throw Error(cause_);
  return busy;
}

// Every group launches one step in a round, so that no exchange waits for a group that has nothing
// to do.
bool GroupedEngine::step_group(int group) {
  Engine& engine = *engines_[static_cast<size_t>(group)];
  try {
    const bool busy = engine.step();
    engine.take_part();
    return busy;
  } catch (const std::exception& e) {
    fail(group, e.what());
    return false;
  }
}

void GroupedEngine::fail(int group, const std::string& why) {
  std::string cause;
  {
    std::lock_guard lock(mutex_);
    if (cause_.empty()) cause_ = why;
    cause = cause_;
  }
  world_.group->abort(cause);
  if (options_.compute.link) options_.compute.link->fail(cause);
  engines_[static_cast<size_t>(group)]->fail(cause);
}

void GroupedEngine::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    {
      std::lock_guard lock(mutex_);
      news_ = false;  // what comes from now on is not missed
    }
    if (step()) continue;
    std::unique_lock lock(mutex_);
    wakes_.wait(lock, stop, [&] { return news_; });
  }
}

EngineSnapshot GroupedEngine::snapshot() const {
  EngineSnapshot all;
  for (const auto& engine : engines_) all += engine->snapshot();
  return all;
}

std::vector<EngineSnapshot> GroupedEngine::group_snapshots() const {
  std::vector<EngineSnapshot> each;
  for (const auto& engine : engines_) each.push_back(engine->snapshot());
  return each;
}

PrefixStoreStats GroupedEngine::cache_dir_stats() const {
  PrefixStoreStats all;
  for (const auto& engine : engines_) all += engine->cache_dir_stats();
  return all;
}

std::string GroupedEngine::describe() const { return engines_[0]->describe() + " a group"; }

EngineStats GroupedEngine::stats() const {
  EngineStats all;
  for (const auto& engine : engines_) all += engine->stats();
  return all;
}

void GroupedEngine::check_integrity() const {
  for (const auto& engine : engines_) engine->check_integrity();
}

std::unique_ptr<ModelEngine> make_engine(const Config& config, const RankWeights& weights,
                                         const EngineOptions& options) {
  if (options.compute.layout.data > 1)
    return std::make_unique<GroupedEngine>(config, weights, options);
  return std::make_unique<Engine>(config, weights, options);
}

}  // namespace fathom
