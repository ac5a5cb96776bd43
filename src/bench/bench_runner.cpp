#include "bench/bench_runner.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <utility>

#include "base/error.h"
#include "base/units.h"
#include "bench/timing.h"
#include "io/machine.h"
#include "kernels/cpu_ops.h"
#include "kernels/trace_ops.h"
#include "model/tensor_list.h"
#include "runtime/drafter.h"
#include "runtime/model_ranks.h"
#include "runtime/sampler.h"

namespace fathom {
namespace {

using Clock = BenchClock;

// Counts the experts that steps are routed to, of all groups of ranks: each rank gets the choices
// of all tokens.
class RouteCounter : public TraceOps {
 public:
  RouteCounter(Ops& inner, int experts) : TraceOps(inner), seen_(static_cast<size_t>(experts)) {}

  // Distinct (layer, expert) pairs of the steps since the last call.
  int64_t take() { return std::exchange(distinct_, 0); }

  void moe(Tensor out, Tensor x, Tensor ids, Tensor weights, std::span<const MlpWeights> experts,
           const MlpWeights* shared) override {
    count(ids);
    TraceOps::moe(out, x, ids, weights, experts, shared);
  }

 private:
  void count(const Tensor& ids) {
    std::fill(seen_.begin(), seen_.end(), 0);
    for (int64_t t = 0; t < ids.rows(); ++t)
      for (int64_t i = 0; i < ids.row_size(); ++i) {
        uint8_t& seen = seen_[static_cast<size_t>(ids.row<int32_t>(t)[i])];
        distinct_ += !seen;
        seen = 1;
      }
  }

  std::vector<uint8_t> seen_;
  int64_t distinct_ = 0;
};

// Reads a byte of every memory page of the weights, so that no figure includes the disk.
void touch(const Config& config, const Weights& weights, ThreadPool& pool) {
  constexpr int64_t kPage = 4096;
  std::atomic<uint8_t> sink{0};  // keeps the compiler from dropping the reads
  Weights views = weights;
  for_each_tensor(config, views, [&](const TensorSpec&, WeightSlot slot) {
    // for_each_tensor adds an empty MTP block to the copy; it does not run here.
    if (!slot.matrix || slot.matrix->empty()) return;
    const QWeight& w = *slot.matrix;
    const auto* bytes = static_cast<const uint8_t*>(w.data);
    const int64_t size = w.rows * w.cols * static_cast<int64_t>(size_of(w.dtype));
    pool.parallel_for(size, 64 * kPage, [&](int64_t begin, int64_t end, int) {
      uint8_t sum = 0;
      for (int64_t at = begin; at < end; at += kPage) sum ^= bytes[at];
      sink.fetch_xor(sum);
    });
  });
}

// Positions behind the prompt that one run of decode steps may use.
int64_t most_decoded(const BenchOptions& o) {
  const int64_t drafts = o.compute.speculative_tokens;
  return o.decode_tokens * (1 + drafts) + drafts;  // the last step's drafts, too
}

// The options' plan with sizes for the largest rows. The caller adds the pages.
ComputePlan plan_of(const BenchOptions& o) {
  ComputePlan p = o.compute;
  p.sequences = *std::max_element(o.batches.begin(), o.batches.end());
  p.logit_rows = p.sequences * (1 + p.speculative_tokens);
  p.step_tokens = std::max(p.step_tokens, p.logit_rows);
  p.context = *std::max_element(o.contexts.begin(), o.contexts.end()) + most_decoded(o);
  return p;
}

}  // namespace

class BenchRunner::Machine {
 public:
  // With a cache of `pages` pages.
  Machine(const Config& config, const RankWeights& weights, const BenchOptions& o, int pages)
      : config_(config),
        options_(o),
        model_(config, weights, with_pages(plan_of(o), pages),
               [&](Ops& ops, int rank) { return rank == 0 ? counter_around(ops) : nullptr; }),
        batches_(static_cast<size_t>(groups()),
                 StepBatch(model_.first().plan().step_tokens, model_.first().plan().sequences,
                           static_cast<int>(pages_for(model_.first().plan().context)))),
        drafter_(model_.first().plan()) {}

  const FormPolicy& forms() const { return model_.first().forms(); }
  std::string describe() {
    const std::string one = model_.first().device_ops().describe();
    const RankLayout& layout = model_.first().plan().layout;
    return layout.ranks() == 1 ? one : fmt::format("{}: {}", layout.describe(), one);
  }

  // Each has a cache and sequences of its own; what follows is for each of them.
  int groups() const { return model_.first().plan().layout.data; }
  // Gives `sequences` sequences their pages, for `context` tokens and what is decoded after them.
  void begin_context(int64_t context, int sequences);
  // Runs the first `tokens` of the prompt of sequence `s`; returns seconds, as decode does.
  double prefill(int s, int64_t tokens);
  void copy_cache(int from, int to);
  // Decodes `steps` tokens of each of the sequences [0, batch), always the first ones after the
  // prompt: a repetition overwrites their cache rows.
  double decode(int batch, int steps);
  // The same with drafts: `tokens` is what the sequences got together.
  double speculate(int batch, int steps, int64_t& tokens);
  int64_t take_expert_reads() { return counter_->take(); }
  // The costs of these steps, given the number of experts read.
  StepCost prefill_cost(const CostModel& model, double expert_reads) const;
  StepCost decode_cost(const CostModel& model, int batch, double expert_reads) const;

 private:
  static ComputePlan with_pages(ComputePlan plan, int pages) {
    plan.cache_pages = pages;
    return plan;
  }
  std::unique_ptr<Ops> counter_around(Ops& ops) {
    auto counter = std::make_unique<RouteCounter>(ops, config_.experts);
    counter_ = counter.get();
    return counter;
  }
  // Runs a step in which add(group) fills the batch of each group.
  template <class Add>
  void step(const Add& add) {
    for (int g = 0; g < groups(); ++g) {
      batches_[static_cast<size_t>(g)].clear();
      add(g);
    }
    model_.step(batches_);
  }
  std::span<const int32_t> ids_of(int group, int s) const {
    return ids_[static_cast<size_t>(group) * sequences_ + static_cast<size_t>(s)];
  }
  StepCost of_all_groups(const CostModel& model, std::span<const SequenceRun> runs, int rows,
                         double expert_reads) const;
  std::span<const int32_t> pages_of(int s) const {
    return std::span(pages_).subspan(static_cast<size_t>(s) * pages_each_, pages_each_);
  }

  const Config& config_;
  const BenchOptions& options_;
  RouteCounter* counter_ = nullptr;  // around the first rank: all are routed alike
  ModelRanks model_;
  std::vector<StepBatch> batches_;  // by group
  Drafter drafter_;
  int64_t context_ = 0;
  size_t pages_each_ = 0, sequences_ = 0;
  std::vector<int32_t> pages_;
  // Of each sequence of each group: prompt and what is decoded after it.
  std::vector<std::vector<int32_t>> ids_;
};

void BenchRunner::Machine::begin_context(int64_t context, int sequences) {
  context_ = context;
  const int64_t tokens = context + most_decoded(options_);
  pages_each_ = static_cast<size_t>(pages_for(tokens));
  const int pages = static_cast<int>(pages_each_) * sequences;
  FATHOM_CHECK(pages <= model_.first().cache().pages(), "{} pages of {}", pages,
               model_.first().cache().pages());
  pages_.resize(static_cast<size_t>(pages));
  for (int p = 0; p < pages; ++p) pages_[static_cast<size_t>(p)] = p;
  sequences_ = static_cast<size_t>(sequences);
  ids_.assign(static_cast<size_t>(groups()) * sequences_, {});
  for (size_t s = 0; s < ids_.size(); ++s) {
    std::mt19937_64 random(1 + s);  // the same tokens in every run of the program
    for (int64_t t = 0; t < tokens; ++t)
      ids_[s].push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(config_.vocab)));
  }
}

double BenchRunner::Machine::prefill(int s, int64_t tokens) {
  const int64_t chunk = options_.compute.step_tokens;
  auto start = Clock::now();
  for (int64_t at = 0; at < tokens; at += chunk) {
    const int64_t n = std::min(chunk, tokens - at);
    step([&](int g) {
      StepBatch& batch = batches_[static_cast<size_t>(g)];
      batch.add(ids_of(g, s).subspan(static_cast<size_t>(at), static_cast<size_t>(n)), at,
                pages_of(s), false, forms());
      if (at + n == tokens) batch.want_logits(static_cast<int>(n) - 1);
    });
    if (model_.first().plan().mtp)  // the block's rows of the prompt
      model_.mtp(batches_[0],
                 ids_of(0, s).subspan(static_cast<size_t>(at) + 1, static_cast<size_t>(n)));
  }
  return seconds_since(start);
}

void BenchRunner::Machine::copy_cache(int from, int to) {
  const int pages = static_cast<int>(pages_each_);
  model_.copy_pages(from * pages, to * pages, pages);
}

double BenchRunner::Machine::decode(int batch, int steps) {
  auto start = Clock::now();
  for (int64_t at = context_; at < context_ + steps; ++at)
    step([&](int g) {
      StepBatch& rows = batches_[static_cast<size_t>(g)];
      for (int s = 0; s < batch; ++s) {
        rows.add(ids_of(g, s).subspan(static_cast<size_t>(at), 1), at, pages_of(s), true, forms());
        rows.want_logits(s);
      }
    });
  return seconds_since(start);
}

// Each step as the engine does it: a run of the last token and its drafts, then the block over what
// was accepted, and makes the next drafts. Which drafts count as accepted is drawn at random.
double BenchRunner::Machine::speculate(int batch, int steps, int64_t& tokens) {
  const int drafts = model_.first().plan().speculative_tokens;
  std::mt19937_64 random(7);
  std::bernoulli_distribution accepts(options_.acceptance);
  std::vector<int64_t> at(static_cast<size_t>(batch), context_);
  std::vector<std::vector<int32_t>> drafted(static_cast<size_t>(batch));
  std::vector<DraftRun> runs(static_cast<size_t>(batch));
  tokens = 0;
  auto start = Clock::now();
  for (int step = 0; step < steps; ++step) {
    StepBatch& rows = batches_[0];  // drafts are made in one group
    rows.clear();
    for (int s = 0; s < batch; ++s) {
      const auto i = static_cast<size_t>(s);
      std::span<const int32_t> ids(ids_[i]);
      DraftRun& r = runs[i];
      r.first = rows.tokens();
      r.position = at[i];
      int accepted = 0;
      while (accepted < drafts && accepts(random)) ++accepted;
      r.next_ids = ids.subspan(static_cast<size_t>(at[i]) + 1, static_cast<size_t>(accepted) + 1);
      r.pages = pages_of(s);
      r.decode = true;
      r.wanted = drafts;
      drafted[i].clear();
      r.drafts = &drafted[i];
      rows.add(ids.subspan(static_cast<size_t>(at[i]), static_cast<size_t>(drafts) + 1), at[i],
               r.pages, true, forms());
      for (int t = 0; t <= drafts; ++t) rows.want_logits(r.first + t);
      at[i] += accepted + 1;
      tokens += accepted + 1;
    }
    model_.step(rows);
    drafter_.run(model_.first(), runs, [&](Tensor logits, std::span<Drafter::Asked> asked) {
      for (size_t row = 0; row < asked.size(); ++row)
        asked[row].draft = greedy({logits.row<float>(static_cast<int64_t>(row)),
                                   static_cast<size_t>(config_.vocab)})
                               .value();
    });
  }
  return seconds_since(start);
}

// Groups share the experts, and read everything else each for itself.
StepCost BenchRunner::Machine::of_all_groups(const CostModel& model,
                                             std::span<const SequenceRun> runs, int rows,
                                             double expert_reads) const {
  StepCost cost = model.step(runs, rows, expert_reads);
  for (int g = 1; g < groups(); ++g) cost += model.step(runs, rows, 0);
  return cost;
}

StepCost BenchRunner::Machine::prefill_cost(const CostModel& model, double expert_reads) const {
  StepCost cost;
  const int64_t chunk = options_.compute.step_tokens;
  const int64_t steps = (context_ + chunk - 1) / chunk;
  const double chunks = static_cast<double>(steps);
  for (int64_t at = 0; at < context_; at += chunk) {
    const int n = static_cast<int>(std::min(chunk, context_ - at));
    SequenceRun run{at, n, false};
    cost += of_all_groups(model, {&run, 1}, at + n == context_ ? 1 : 0, expert_reads / chunks);
  }
  return cost;
}

// The cost of a step in the middle of the timed ones.
StepCost BenchRunner::Machine::decode_cost(const CostModel& model, int batch,
                                           double expert_reads) const {
  std::vector<SequenceRun> runs(
      static_cast<size_t>(batch),
      {context_ + options_.decode_tokens / 2, 1 + options_.compute.speculative_tokens, true});
  return of_all_groups(model, runs, batch * (1 + options_.compute.speculative_tokens),
                       expert_reads);
}

BenchRunner::BenchRunner(const Config& config, const Weights& weights,
                         const RankWeights& rank_weights, const BenchOptions& options)
    : config_(config), weights_(weights), options_(options) {
  check_options();
  setup_.volumes = volumes_of(config, weights);
  setup_.cache = kv_shape(config, options.compute);
  plan_memory();
  machine_ = std::make_unique<Machine>(config_, rank_weights, options_, most_pages());
  model_ = std::make_unique<CostModel>(config_, setup_.volumes, setup_.cache,
                                       options.compute.attention, machine_->forms());
  setup_.kernels = machine_->describe();
  setup_.moe_layers = model_->moe_layers();
  ThreadPool pool(options.compute.threads);
  setup_.limits = measure_limits(options.compute.numerics, pool, options.limits_buffer);
  if (setup_.limits.load > 0.5 * usable_processors())
    notes_.push_back(
        fmt::format("this machine was busy before the run (load {:.1f}): limits and figures were "
                    "measured beside other work and may be too low by any factor",
                    setup_.limits.load));
  if (weights_stay_) touch(config_, weights_, pool);
}

BenchRunner::~BenchRunner() = default;

void BenchRunner::check_options() const {
  const BenchOptions& o = options_;
  if (o.contexts.empty() || o.batches.empty())
    throw UsageError("bench needs a context and a batch");
  if (o.decode_tokens < 1 || o.repeat < 1)
    throw UsageError(
        fmt::format("bench decodes and repeats at least once: {} tokens, {} times asked for",
                    o.decode_tokens, o.repeat));
  for (int batch : o.batches)
    if (batch < 1 || batch > kMaxBatch)
      throw UsageError(
          fmt::format("a batch of {} is asked for: 1 to {} are possible", batch, kMaxBatch));
  for (int64_t context : o.contexts) {
    if (context < 1)
      throw UsageError(
          fmt::format("a context of {} is asked for: at least 1 is expected", context));
    if (context + most_decoded(o) > config_.max_positions)
      throw UsageError(fmt::format(
          "a context of {} and {} tokens decoded after it pass the model's {} positions", context,
          most_decoded(o), config_.max_positions));
  }
}

// Decides how much memory the caches may take, before any of it is allocated.
void BenchRunner::plan_memory() {
  const ComputePlan plan = plan_of(options_);
  int64_t available =
      options_.available_memory >= 0 ? options_.available_memory : available_memory();
  if (available == 0 && options_.available_memory < 0) available = INT64_MAX;  // it does not say
  workspace_ = ranks() * instance_bytes(config_, plan);
  budget_ = available - available / 10 - workspace_;  // a tenth is left to the system
  if (budget_ < 0)
    fail(
        "not enough memory: steps of {} tokens need a workspace of {}; of {} available a tenth is "
        "left to the system",
        plan.step_tokens, bytes_text(workspace_), bytes_text(available));
  // Available memory includes pages of the mapped weights, but the weights must stay in memory: the
  // cache gets what is left beside them.
  const int64_t weights = setup_.volumes.bytes();
  weights_stay_ = weights <= budget_;
  if (weights_stay_)
    budget_ -= weights;
  else
    notes_.push_back(
        fmt::format("the weights ({}) do not fit in memory ({} available): the figures are those "
                    "of the disk they are read from",
                    bytes_text(weights), bytes_text(available)));
}

int64_t BenchRunner::pages_of(int64_t context, int batch) const {
  return batch * pages_for(context + most_decoded(options_));
}

// The pages of the largest row that fits.
int BenchRunner::most_pages() const {
  int64_t most = 0;
  for (int64_t context : options_.contexts)
    for (int batch : options_.batches)
      if (misfit(context, batch).empty()) most = std::max(most, pages_of(context, batch));
  return static_cast<int>(most);
}

// Why this row cannot be run; empty when it can.
std::string BenchRunner::misfit(int64_t context, int batch) const {
  const int64_t pages = pages_of(context, batch);
  const int64_t bytes = ranks() * pages * setup_.cache.bytes_per_page();  // whole on each
  if (bytes <= budget_ && pages <= INT32_MAX) return {};
  return fmt::format("needs {} of cache in {}, {} fit beside weights and workspace",
                     bytes_text(bytes), name_of(setup_.cache.latent_format), bytes_text(budget_));
}

void BenchRunner::run(const std::function<void(const BenchRow&)>& on_row) {
  bool warm = false;
  bool in_cache = false;
  for (int64_t context : options_.contexts) {
    int largest = 0;
    for (int batch : options_.batches)
      if (misfit(context, batch).empty()) largest = std::max(largest, batch);
    std::optional<BenchFigure> prefill;
    if (largest > 0) {
      machine_->begin_context(context, largest);
      // One chunk runs untimed, to wake the threads and touch the workspaces.
      if (!std::exchange(warm, true))
        machine_->prefill(0, std::min<int64_t>(context, options_.compute.step_tokens));
      prefill = time_prefill(context, largest);
    }
    for (int batch : options_.batches) {
      BenchRow row{context, batch, misfit(context, batch), std::nullopt, std::nullopt};
      if (row.skipped.empty()) {
        row.prefill = std::exchange(prefill, std::nullopt);
        row.decode = time_decode(batch);
        in_cache |=
            row.decode->cost.bytes.total() < static_cast<double>(setup_.limits.last_level_cache);
      }
      on_row(row);
    }
  }
  if (in_cache)
    notes_.push_back(
        fmt::format("what some of these decode steps read fits the last-level cache ({}): their "
                    "share of the memory's rate may pass 100 %",
                    bytes_text(setup_.limits.last_level_cache)));
}

// Leaves the caches of all `sequences` filled.
BenchFigure BenchRunner::time_prefill(int64_t context, int sequences) {
  machine_->take_expert_reads();
  std::vector<double> seconds;
  double total = 0;
  // Each run fills another sequence, so that repetitions also prepare the decode measurement.
  for (int run = 0; run < options_.repeat && total < options_.patience; ++run) {
    seconds.push_back(machine_->prefill(run % sequences, context));
    total += seconds.back();
  }
  const int runs = static_cast<int>(seconds.size());
  const double reads = static_cast<double>(machine_->take_expert_reads()) / runs;
  BenchFigure figure;
  figure.seconds = median(seconds);
  figure.runs = runs;
  figure.tokens = context * machine_->groups();
  figure.cost = machine_->prefill_cost(*model_, reads);
  const int64_t chunks =
      (context + options_.compute.step_tokens - 1) / options_.compute.step_tokens;
  figure.experts_per_layer =
      reads / static_cast<double>(std::max<int64_t>(1, chunks * setup_.moe_layers));

  const int filled = std::min(runs, sequences);
  const bool copy = (sequences - filled) * context > options_.prefilled_tokens;
  for (int s = filled; s < sequences; ++s) {
    if (copy)
      machine_->copy_cache(s % filled, s);
    else
      machine_->prefill(s, context);
  }
  if (copy)
    notes_.push_back(
        fmt::format("context {}: the caches of sequences {} to {} are copies of the first {}",
                    context, filled + 1, sequences, filled));
  return figure;
}

BenchFigure BenchRunner::time_decode(int batch) {
  const int steps = options_.decode_tokens;
  const bool drafts = options_.compute.speculative_tokens > 0;
  int64_t tokens = 0;
  auto decode = [&](int n) {
    return drafts ? machine_->speculate(batch, n, tokens) : machine_->decode(batch, n);
  };
  decode(1);  // untimed: another shape of step than the one before
  machine_->take_expert_reads();
  std::vector<double> seconds;
  double total = 0;
  for (int run = 0; run < options_.repeat && total < options_.patience; ++run) {
    const double run_seconds = decode(steps);
    total += run_seconds;
    seconds.push_back(run_seconds / steps);
  }
  const int runs = static_cast<int>(seconds.size());
  const double reads = static_cast<double>(machine_->take_expert_reads()) / (runs * steps);
  BenchFigure figure;
  figure.seconds = median(seconds);
  figure.runs = runs;
  figure.tokens = int64_t{batch} * machine_->groups();
  if (drafts) figure.tokens_per_run = static_cast<double>(tokens) / (batch * steps);
  figure.cost = machine_->decode_cost(*model_, batch, reads);
  figure.experts_per_layer = reads / std::max(1, setup_.moe_layers);
  return figure;
}

}  // namespace fathom
