#include "bench/gpu_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <random>

#include "base/error.h"
#include "base/thread_pool.h"
#include "base/units.h"
#include "bench/timing.h"
#include "cache/kv_pool.h"
#include "kernels/gpu.h"
#include "runtime/first_layers.h"
#include "runtime/ranked_runner.h"
#include "runtime/remote_runner.h"
#include "runtime/step_runner.h"
#include "runtime/thread_team.h"

namespace fathom {
namespace {

using Clock = BenchClock;

double ms_since(Clock::time_point begin) { return 1e3 * seconds_since(begin); }

// What a figure measures.
struct Key {
  AttentionMode attention;
  bool decode;
  int64_t context;
  int batch;
  auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): compares with 0
};
using Times = std::map<Key, double>;

// The first layers of a model, or the first of them twice, and its MTP block where that runs.
struct Cut {
  int layers;
  bool first_twice = false;
  auto operator<=>(const Cut&) const = default;  // NOLINT(modernize-use-nullptr): compares with 0

  Config config_of(const Config& whole, const ComputePlan& plan) const {
    return first_layers(whole, layers, first_twice ? layers : std::min(whole.dense_layers, layers),
                        plan.mtp);
  }
};
constexpr Cut kOne = {1}, kTwo = {2}, kFirstTwice = {2, true};

// The runners of all groups of ranks, which take their steps together.
class GroupRunners {
 public:
  // `setup` is the whole model's.
  GroupRunners(const RunnerSetup& setup, const RankWeights& weights, ThreadPool& pool)
      : runners_(static_cast<size_t>(setup.compute.layout.data)), drawn_(runners_.size()) {
    const ComputePlan& compute = setup.compute;
    const RankLayout& layout = compute.layout;
    if (layout.ranks() == 1) {
      runners_[0] = make_step_runner(setup, pool);
      return;
    }
    if (layout.data > 1) {
      world_ = std::make_unique<World>(compute);
      team_ = std::make_unique<ThreadTeam>(layout.data, /*with_caller=*/false);
      open_groups(*setup.config, compute);
      for (int g = 0; compute.link && g < layout.data; ++g)
        channels_.push_back(std::make_unique<GroupChannel>(*compute.link, layout, g));
    }
    on_all([&](int g) { runners_[static_cast<size_t>(g)] = make_runner(g, setup, weights); });
  }

  int groups() const { return static_cast<int>(runners_.size()); }
  StepRunner& first() { return *runners_[0]; }
  // One batch a group, with the same draws.
  void run(std::vector<StepBatch>& batches, std::span<const Draw> draws) {
    on_all([&](int g) {
      const auto i = static_cast<size_t>(g);
      runners_[i]->run(batches[i], draws, drawn_[i]);
    });
  }
  void copy_pages(int from, int to, int count) {
    on_all([&](int g) { runners_[static_cast<size_t>(g)]->copy_pages(from, to, count); });
  }

 private:
  std::unique_ptr<StepRunner> make_runner(int group, const RunnerSetup& setup,
                                          const RankWeights& weights) const {
    const RankLayout& layout = setup.compute.layout;
    RunnerSetup own = setup;
    own.compute.layout = layout.at(group * layout.tensor);
    if (world_) own.links.all = world_->group.get();
    if (!channels_.empty()) own.orders = channels_[static_cast<size_t>(group)]->link();
    if (!layout.has_group(group)) return std::make_unique<RemoteRunner>(own);
    return std::make_unique<RankedRunner>(
        own, weights.part(layout.in_group(group).place_here(), layout.group_ranks_here()));
  }

  template <class Body>
  void on_all(const Body& body) {
    if (!team_) return body(0);
    team_->run([&](int g) {
      try {
        body(g);
      } catch (const std::exception& e) {
        std::lock_guard lock(mutex_);
        if (cause_.empty()) cause_ = e.what();
        world_->group->abort(cause_);
      }
    });
    if (!cause_.empty()) throw Error(cause_);
  }

  std::unique_ptr<World> world_;                         // where there are several groups
  std::vector<std::unique_ptr<GroupChannel>> channels_;  // and several processes
  std::vector<std::unique_ptr<StepRunner>> runners_;
  std::vector<std::vector<Result<int32_t>>> drawn_;
  std::mutex mutex_;
  std::string cause_;  // of the first failure
  std::unique_ptr<ThreadTeam> team_;
};

class Run {
 public:
  Run(const Config& whole, const Cut& cut, const RankWeights& weights, const GpuBenchOptions& o)
      : config_(cut.config_of(whole, o.compute)),
        rank_config_(config_of_rank(config_, o.compute.layout)),
        options_(o),
        shape_(kv_shape(config_, o.compute)),
        first_layers_(weights, whole.dense_layers, config_),
        weights_(first_layers_.ranks()) {
    longest_ = *std::max_element(o.contexts.begin(), o.contexts.end()) + kBenchSlack;
    pages_each_ = static_cast<int>(pages_for(longest_));
    most_ = *std::max_element(o.batches.begin(), o.batches.end());
    plan_cache();
  }

  // How many sequences of `context` tokens each fit into the cache.
  int room(int64_t context) const {
    return static_cast<int>(pages_ / pages_for(context + kBenchSlack));
  }

  void measure(Times& times) {
    for (AttentionMode mode : options_.attention) {
      GroupRunners runners(setup(mode), weights_, pool_);
      forms_ = form_policy(config_, setup(mode).compute);
      prefill(runners, mode, times);
      for (int64_t context : options_.contexts)
        for (int batch : options_.batches)
          if (batch <= room(context)) decode(runners, mode, context, batch, times);
    }
  }

 private:
  RunnerSetup setup(AttentionMode mode) {
    RunnerSetup s;
    s.config = &config_;
    s.weights = &weights_[0];
    s.compute = options_.compute;
    s.compute.attention = mode;
    s.compute.context = longest_;
    s.compute.sequences = most_;
    s.compute.logit_rows = most_ * (1 + drafts());
    s.compute.cache_pages = pages_;
    for (const auto& cache : caches_) s.shared_caches.push_back(cache.get());
    return s;
  }

  void plan_cache() {
    RunnerSetup s = setup(AttentionMode::sparse);
    s.config = &rank_config_;
    const int ranks = weights_.size();
    const int64_t free =
        std::min(find_gpu(ranks).free, options_.free_elsewhere.value_or(INT64_MAX)) -
        runner_bytes(s);
    const int64_t fitting = free * 95 / 100 / shape_.bytes_per_page();
    pages_ = static_cast<int>(std::min<int64_t>(fitting, int64_t{most_} * pages_each_));
    if (pages_ < pages_each_)
      fail("a cache of {} tokens needs {}, {} are left on the GPU", longest_,
           bytes_text(pages_each_ * shape_.bytes_per_page()),
           bytes_text(std::max<int64_t>(0, free)));
    for (int rank = 0; rank < ranks; ++rank) {
      use_gpu(rank);
      caches_.push_back(std::make_unique<KvPool>(shape_, pages_ + 1, MemoryKind::device));
    }
    use_gpu(0);
  }

  int drafts() const { return options_.compute.speculative_tokens; }

  std::vector<int32_t> page_table(int sequence, int64_t context) const {
    const int each = static_cast<int>(pages_for(context + kBenchSlack));
    std::vector<int32_t> table(static_cast<size_t>(each));
    for (int i = 0; i < each; ++i) table[static_cast<size_t>(i)] = sequence * each + i;
    return table;
  }

  int32_t random_id() {
    return static_cast<int32_t>(random_() % static_cast<uint64_t>(config_.vocab));
  }

  // The first mode runs the whole prompt, so that the cache holds what a prompt leaves there; the
  // second only the chunks that are asked for, on the same rows, or where another process has its
  // own, on whatever lies there.
  void prefill(GroupRunners& runners, AttentionMode mode, Times& times) {
    const std::vector<int32_t> table = page_table(0, longest_ - kBenchSlack);
    std::vector<StepBatch> batches(
        static_cast<size_t>(runners.groups()),
        StepBatch(options_.compute.step_tokens, 2, static_cast<int>(table.size())));
    auto chunk_until = [&](int64_t end) {
      const int64_t begin = std::max<int64_t>(0, end - options_.compute.step_tokens);
      std::vector<int32_t> ids(static_cast<size_t>(end - begin));
      for (StepBatch& batch : batches) {  // each group has a text of its own
        for (int32_t& id : ids) id = random_id();
        batch.clear();
        batch.add(ids, begin, table, false, forms_);
      }
      const auto start = Clock::now();
      runners.run(batches, {});
      if (drafts() > 0) {  // the block's rows of the chunk
        std::vector<int32_t> none;
        DraftRun run;
        run.position = begin;
        run.next_ids = ids;
        run.pages = table;
        run.drafts = &none;
        runners.first().draft({&run, 1});
      }
      return ms_since(start);
    };
    const int64_t first = *std::min_element(options_.contexts.begin(), options_.contexts.end());
    chunk_until(first);  // kernels are loaded here
    if (mode == options_.attention.front())
      for (int64_t end = options_.compute.step_tokens; end <= longest_ - kBenchSlack;
           end += options_.compute.step_tokens)
        chunk_until(end);
    for (int64_t context : options_.contexts) {
      const int tokens = static_cast<int>(std::min<int64_t>(context, options_.compute.step_tokens));
      std::vector<double> each{chunk_until(context)};
      // A dense chunk behind a long context takes seconds: once is enough.
      for (int i = 0; i < 2 && each[0] < 500; ++i) each.push_back(chunk_until(context));
      times[{mode, false, context, tokens}] = median(each);
    }
  }

  // Copies the cache of the prompt to the sequences' own pages, then decodes.
  void decode(GroupRunners& runners, AttentionMode mode, int64_t context, int sequences,
              Times& times) {
    const int64_t each = pages_for(context + kBenchSlack);
    for (int s = 1; s < sequences; ++s)
      runners.copy_pages(0, static_cast<int>(s * each), static_cast<int>(each));
    std::vector<StepBatch> batches(static_cast<size_t>(runners.groups()),
                                   StepBatch(options_.compute.step_tokens, 2 * sequences + 1,
                                             static_cast<int>(pages_for(longest_))));
    std::vector<std::vector<int32_t>> tables, ids(static_cast<size_t>(sequences)), drafted = ids;
    for (int s = 0; s < sequences; ++s) tables.push_back(page_table(s, context));
    std::vector<Draw> draws;
    std::vector<DraftRun> runs;
    std::vector<double> each_ms;
    for (int step = 0; step < options_.decode_steps + kBenchWarmup; ++step) {
      // A run of all drafts, and the drafts made behind it, fit into the slack.
      const int64_t position = context + step % (kBenchSlack - 1 - 2 * drafts());
      for (StepBatch& batch : batches) {
        batch.clear();
        draws.clear();
        runs.clear();
        for (int s = 0; s < sequences; ++s) {
          const auto i = static_cast<size_t>(s);
          ids[i].resize(static_cast<size_t>(drafts()) + 1);
          for (int32_t& id : ids[i]) id = random_id();
          const int first = batch.tokens();
          batch.add(ids[i], position, tables[i], true, forms_);
          for (int t = 0; t <= drafts(); ++t) {
            batch.want_logits(first + t);
            draws.emplace_back().params.temperature = 0;
            draws.back().position = position + t + 1;
          }
          if (drafts() > 0)
            runs.push_back(accepted_run(first, position, ids[i], tables[i], drafted[i]));
        }
      }
      const auto start = Clock::now();
      runners.run(batches, draws);
      if (drafts() > 0) runners.first().draft(runs);
      if (step >= kBenchWarmup) each_ms.push_back(ms_since(start));
    }
    times[{mode, true, context, sequences}] = median(each_ms);
  }

  // What the block is given after a step: the tokens whose drafts are taken as accepted.
  DraftRun accepted_run(int first, int64_t position, std::span<const int32_t> ids,
                        std::span<const int32_t> table, std::vector<int32_t>& drafted) {
    std::bernoulli_distribution accepts(options_.acceptance);
    size_t tokens = 1;
    while (tokens < ids.size() && accepts(random_)) ++tokens;
    drafted.clear();
    DraftRun run;
    run.first = first;
    run.position = position;
    run.next_ids = ids.first(tokens);
    run.pages = table;
    run.decode = true;
    run.wanted = drafts();
    run.params.temperature = 0;
    run.drafts = &drafted;
    return run;
  }

  Config config_, rank_config_;
  GpuBenchOptions options_;
  KvShape shape_;
  const FirstLayers first_layers_;
  const RankWeights weights_;  // by rank
  int64_t longest_ = 0;
  int pages_each_ = 0, pages_ = 0, most_ = 1;
  std::vector<std::unique_ptr<KvPool>> caches_;  // by rank
  ThreadPool pool_{1};
  FormPolicy forms_;
  std::mt19937_64 random_{1};
};

// What a step gives on the average: the drafts up to the first one that is rejected, and one more.
double tokens_per_run(const GpuBenchOptions& o) {
  double tokens = 1, chance = 1;
  for (int i = 0; i < o.compute.speculative_tokens; ++i) tokens += chance *= o.acceptance;
  return tokens;
}

}  // namespace

std::vector<GpuBenchRow> bench_gpu(const Config& config, const RankWeights& weights,
                                   const GpuBenchOptions& o,
                                   const std::function<void(const std::string&)>& progress) {
  const bool extrapolate = o.whole_layers > 0 && config.layers >= 3 && config.dense_layers == 1;
  const Cut all = {config.layers};
  std::map<Cut, Times> times;
  std::map<int64_t, int> rooms;
  for (const Cut& cut :
       extrapolate ? std::vector<Cut>{all, kTwo, kOne, kFirstTwice} : std::vector<Cut>{all}) {
    if (progress)
      progress(fmt::format("running {} layers{}", cut.layers,
                           cut.first_twice ? ", the first one twice" : ""));
    Run run(config, cut, weights, o);
    if (cut == all)
      for (int64_t context : o.contexts) rooms[context] = run.room(context);
    run.measure(times[cut]);
  }

  std::vector<GpuBenchRow> rows;
  auto add = [&](const Key& key) {
    GpuBenchRow row;
    row.attention = key.attention;
    row.decode = key.decode;
    row.context = key.context;
    row.batch = key.batch;
    row.groups = o.compute.layout.data;
    if (key.decode) row.tokens_per_run = tokens_per_run(o);
    auto it = times[all].find(key);
    if (it == times[all].end()) {
      row.skipped = fmt::format("the cache has room for {} sequences", rooms[key.context]);
    } else {
      row.ms = it->second;
      if (extrapolate) {
        const double one = times[kOne].at(key);
        row.layer_ms = (row.ms - times[kTwo].at(key)) / (config.layers - 2);
        row.whole_ms = one + (times[kFirstTwice].at(key) - one) * (o.whole_dense - 1) +
                       row.layer_ms * (o.whole_layers - o.whole_dense);
      }
    }
    rows.push_back(row);
  };
  for (AttentionMode mode : o.attention) {
    for (int64_t context : o.contexts)
      add({mode, false, context,
           static_cast<int>(std::min<int64_t>(context, o.compute.step_tokens))});
    for (int64_t context : o.contexts)
      for (int batch : o.batches) add({mode, true, context, batch});
  }
  return rows;
}

}  // namespace fathom
