#include "runtime/step_runner.h"

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "base/error.h"
#include "runtime/drafter.h"
#include "runtime/model_instance.h"
#include "runtime/sampler.h"
#include "runtime/selection_tap.h"

namespace fathom {
namespace {

// The CPU's runner: logits stay where they are computed, and a step is finished when launch()
// returns.
class HostRunner final : public StepRunner {
 public:
  HostRunner(const RunnerSetup& s, ThreadPool& pool)
      : vocab_(s.config->vocab),
        pool_(pool),
        instance_(
            *s.config, *s.weights, runner_plan(s), pool, [&](Ops& ops) { return observer(s, ops); },
            nullptr, s.links) {
    for (int t = 0; t < pool.size(); ++t) samplers_.emplace_back(vocab_);
    draws_.reserve(static_cast<size_t>(instance_.plan().logit_rows));
    if (instance_.plan().speculative_tokens > 0) drafter_.emplace(instance_.plan());
  }

  void launch(StepBatch& batch, std::span<const Draw> draws,
              std::span<const CarriedId> carried) override {
    FATHOM_CHECK(carried.empty(), "{} ids carried over on the CPU", carried.size());
    draws_.assign(draws.begin(), draws.end());
    if (tap_) tap_->watch(batch.logit_rows(), draws);
    NoAlloc guard("a step of the engine");
    logits_ = instance_.step(batch);
  }
  void finish(std::vector<Result<int32_t>>& tokens) override {
    tokens.assign(draws_.size(), Result<int32_t>(-1));
    if (instance_.plan().layout.place() != 0) return;  // the first rank draws for its group
    auto draw = [&](int64_t begin, int64_t end, int thread) {
      Sampler& sampler = samplers_[static_cast<size_t>(thread)];
      for (int64_t row = begin; row < end; ++row)
        if (draws_[static_cast<size_t>(row)].draft < 0) draw_run(row, sampler, tokens);
    };
    pool_.parallel_dynamic(static_cast<int64_t>(draws_.size()), 1, draw);
  }
  void draft(std::span<const DraftRun> runs) override {
    FATHOM_CHECK(drafter_, "drafts asked of a runner without speculation");
    drafter_->run(instance_, runs, [&](Tensor rows, std::span<Drafter::Asked> asked) {
      auto draw = [&](int64_t begin, int64_t end, int thread) {
        Sampler& sampler = samplers_[static_cast<size_t>(thread)];
        for (int64_t i = begin; i < end; ++i) {
          Drafter::Asked& a = asked[static_cast<size_t>(i)];
          const DraftRun& run = runs[a.run];
          const Result<int32_t> token = sampler.sample(
              {rows.row<float>(i), static_cast<size_t>(vocab_)}, run.params, draft_position(run));
          if (token.ok()) a.draft = token.value();
        }
      };
      pool_.parallel_dynamic(static_cast<int64_t>(asked.size()), 1, draw);
    });
  }
  std::span<const float> logits(int row) const override {
    return {logits_.row<float>(row), static_cast<size_t>(vocab_)};
  }
  std::span<const int32_t> picked(int row, int layer) const override {
    FATHOM_CHECK(tap_, "picks asked of a runner that keeps none");
    return tap_->picked(row, layer);
  }
  std::string describe() const override { return instance_.describe(); }
  int64_t cache_bytes() const override { return instance_.cache().bytes(); }
  void read_page(int32_t page, std::byte* to) override { instance_.cache().read_page(page, to); }
  void write_page(int32_t page, const std::byte* from) override {
    instance_.cache().write_page(page, from);
  }

 private:
  // Draws row after row of one run, as long as each draws the draft of the next.
  void draw_run(int64_t row, Sampler& sampler, std::vector<Result<int32_t>>& tokens) {
    for (;; ++row) {
      const Draw& d = draws_[static_cast<size_t>(row)];
      if (d.by_host) return;
      Result<int32_t>& token = tokens[static_cast<size_t>(row)];
      token = sampler.sample(logits(static_cast<int>(row)), d.params, d.position);
      const size_t next = static_cast<size_t>(row) + 1;
      if (!token.ok() || next == draws_.size() || draws_[next].draft < 0 ||
          draws_[next].draft != token.value())
        return;
    }
  }

  std::unique_ptr<Ops> observer(const RunnerSetup& s, Ops& ops) {
    if (s.wrap) return s.wrap(ops, s.compute.layout.rank);
    if (!s.keep_selection) return nullptr;
    auto tap = std::make_unique<SelectionTap>(ops, s.config->layers, runner_plan(s).logit_rows,
                                              s.config->index_topk);
    tap_ = tap.get();
    return tap;
  }

  const int64_t vocab_;
  ThreadPool& pool_;
  SelectionTap* tap_ = nullptr;  // the instance's, where selections are kept
  ModelInstance instance_;
  Tensor logits_;  // of the step launched last
  std::vector<Draw> draws_;
  std::vector<Sampler> samplers_;   // one a thread
  std::optional<Drafter> drafter_;  // with speculation
};

}  // namespace

void StepRunner::draft(std::span<const DraftRun>) {
  FATHOM_CHECK(false, "drafts asked of a runner that makes none: {}", describe());
}

void StepRunner::copy_pages(int from, int to, int count) {
  FATHOM_CHECK(false, "pages {} to {} copied to {} by {}", from, from + count, to, describe());
}

ComputePlan runner_plan(const RunnerSetup& s) {
  ComputePlan p = s.compute;
  if (p.logit_rows == 0) p.logit_rows = p.sequences;
  if (p.device == DeviceKind::cpu) return p;
  p.logit_rows = std::max(p.logit_rows, padded_tokens(p.sequences * (1 + p.speculative_tokens)));
  ++p.cache_pages;  // where padding lies
  return p;
}

int padded_tokens(int tokens) {
  if (tokens <= 8) {
    int n = 1;
    while (n < tokens) n *= 2;
    return n;
  }
  const int step = tokens <= 64 ? 8 : tokens <= 128 ? 16 : 32;
  return (tokens + step - 1) / step * step;
}

int64_t runner_bytes(const RunnerSetup& s) {
  const ComputePlan plan = runner_plan(s);
  const int64_t picks =
      s.keep_selection ? 4LL * s.config->layers * plan.logit_rows * s.config->index_topk : 0;
  const int64_t more_pages = plan.cache_pages - s.compute.cache_pages;
  return instance_bytes(*s.config, plan) + picks +
         more_pages * kv_shape(*s.config, plan).bytes_per_page();
}

std::unique_ptr<StepRunner> make_step_runner(const RunnerSetup& setup, ThreadPool& pool) {
  if (setup.compute.device == DeviceKind::cuda) return make_graph_runner(setup, pool);
  return std::make_unique<HostRunner>(setup, pool);
}

#if !defined(FATHOM_WITH_CUDA)
std::unique_ptr<StepRunner> make_graph_runner(const RunnerSetup&, ThreadPool&) {
  fail("this build of fathom has no CUDA");
}
#endif

}  // namespace fathom
