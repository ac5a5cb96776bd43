#include "runtime/step_runner.h"

#include <algorithm>

#include "base/error.h"
#include "runtime/memory_plan.h"
#include "runtime/sampler.h"
#include "runtime/selection_tap.h"

namespace fathom {
namespace {

int logit_rows(const RunnerSetup& s) { return s.logit_rows > 0 ? s.logit_rows : s.max_seqs; }

// The CPU's: logits stay where they are computed, and a step is over when launch() returns.
class HostRunner final : public StepRunner {
 public:
  HostRunner(const RunnerSetup& s, ThreadPool& pool)
      : vocab_(s.config->vocab),
        pool_(pool),
        ops_(make_ops(s.ops, s.forward.numerics, workload_of(s), pool)),
        tap_(s.keep_selection ? std::make_unique<SelectionTap>(*ops_, s.config->layers,
                                                               logit_rows(s), s.config->index_topk)
                              : nullptr),
        comm_(make_solo_comm()),
        cache_(s.cache, s.pages),
        forward_(*s.config, *s.weights, tap_ ? *tap_ : *ops_, *comm_, s.forward),
        logits_(static_cast<size_t>(logit_rows(s)) * static_cast<size_t>(vocab_)) {
    for (int t = 0; t < pool.size(); ++t) samplers_.emplace_back(vocab_);
    draws_.reserve(static_cast<size_t>(logit_rows(s)));
  }

  void launch(StepBatch& batch, std::span<const Draw> draws,
              std::span<const CarriedId> carried) override {
    FATHOM_CHECK(carried.empty(), "{} ids carried over on the CPU", carried.size());
    const int64_t rows = static_cast<int64_t>(draws.size());
    draws_.assign(draws.begin(), draws.end());
    if (tap_) tap_->watch(batch.logit_rows(), draws);
    Tensor logits(logits_.data(), DType::f32, {std::max<int64_t>(1, rows), vocab_});
    NoAlloc guard("a step of the engine");
    forward_.step(batch, cache_.layers(), logits);
  }
  void finish(std::vector<Result<int32_t>>& tokens) override {
    tokens.assign(draws_.size(), Result<int32_t>(-1));
    auto draw = [&](int64_t begin, int64_t end, int thread) {
      Sampler& sampler = samplers_[static_cast<size_t>(thread)];
      for (int64_t row = begin; row < end; ++row) {
        const Draw& d = draws_[static_cast<size_t>(row)];
        if (!d.by_host)
          tokens[static_cast<size_t>(row)] =
              sampler.sample(logits(static_cast<int>(row)), d.params, d.position);
      }
    };
    pool_.parallel_dynamic(static_cast<int64_t>(draws_.size()), 1, draw);
  }
  std::span<const float> logits(int row) const override {
    return std::span(logits_).subspan(static_cast<size_t>(row) * static_cast<size_t>(vocab_),
                                      static_cast<size_t>(vocab_));
  }
  std::span<const int32_t> picked(int row, int layer) const override {
    FATHOM_CHECK(tap_, "picks asked of a runner that keeps none");
    return tap_->picked(row, layer);
  }
  std::string describe() const override { return ops_->describe(); }
  int64_t cache_bytes() const override { return cache_.bytes(); }
  void read_page(int32_t page, std::byte* to) override { cache_.read_page(page, to); }
  void write_page(int32_t page, const std::byte* from) override { cache_.write_page(page, from); }

 private:
  const int64_t vocab_;
  ThreadPool& pool_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<SelectionTap> tap_;
  std::unique_ptr<Comm> comm_;
  KvPool cache_;
  Forward forward_;
  std::vector<float> logits_;
  std::vector<Draw> draws_;
  std::vector<Sampler> samplers_;  // one a thread
};

}  // namespace

Workload workload_of(const RunnerSetup& s) {
  Workload w = workload_of(*s.config, s.forward);
  w.index_budget = s.index_budget;
  return w;
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

static int64_t selection_bytes(const RunnerSetup& s) {
  return s.keep_selection ? 4LL * s.config->layers * logit_rows(s) * s.config->index_topk : 0;
}

int64_t runner_bytes(const RunnerSetup& s) {
  if (s.ops.device == DeviceKind::cpu)
    return workspace_bytes(*s.config, s.forward.max_tokens, logit_rows(s), s.index_budget) +
           selection_bytes(s);
  // One page more than the plan's: where padding lies.
  return gpu_workspace_bytes(s.forward.numerics, workload_of(s), s.ops.gpu) +
         activation_bytes(*s.config, s.forward) + s.cache.bytes_per_page() +
         4LL * s.config->vocab * std::max(padded_tokens(s.max_seqs), logit_rows(s)) +
         selection_bytes(s) + (s.forward.max_context + 1) * s.config->rope * 4;
}

std::unique_ptr<StepRunner> make_step_runner(const RunnerSetup& setup, ThreadPool& pool) {
  if (setup.ops.device == DeviceKind::cuda) return make_graph_runner(setup, pool);
  return std::make_unique<HostRunner>(setup, pool);
}

#if !defined(FATHOM_WITH_CUDA)
std::unique_ptr<StepRunner> make_graph_runner(const RunnerSetup&, ThreadPool&) {
  fail("this build of fathom has no CUDA");
}
#endif

}  // namespace fathom
