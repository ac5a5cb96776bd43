#include "runtime/step_runner.h"

#include "base/error.h"
#include "runtime/memory_plan.h"
#include "runtime/sampler.h"

namespace fathom {
namespace {

// The CPU's: logits stay where they are computed.
class HostRunner final : public StepRunner {
 public:
  HostRunner(const RunnerSetup& s, ThreadPool& pool)
      : vocab_(s.config->vocab),
        ops_(make_ops(s.ops, s.forward.numerics, workload_of(s), pool)),
        comm_(make_solo_comm()),
        cache_(s.cache, s.pages),
        forward_(*s.config, *s.weights, *ops_, *comm_, s.forward),
        logits_(static_cast<size_t>(s.max_seqs) * static_cast<size_t>(vocab_)),
        sampler_(vocab_) {}

  void run(StepBatch& batch, std::span<const Draw> draws,
           std::vector<Result<int32_t>>& tokens) override {
    const int64_t rows = static_cast<int64_t>(draws.size());
    Tensor logits(logits_.data(), DType::f32, {std::max<int64_t>(1, rows), vocab_});
    {
      NoAlloc guard("a step of the engine");
      forward_.step(batch, cache_.layers(), logits);
    }
    tokens.clear();
    for (int64_t row = 0; row < rows; ++row) {
      const Draw& d = draws[static_cast<size_t>(row)];
      tokens.push_back(sampler_.sample({logits.row<float>(row), static_cast<size_t>(vocab_)},
                                       d.params, d.position));
    }
  }
  std::string describe() const override { return ops_->describe(); }
  int64_t cache_bytes() const override { return cache_.bytes(); }

 private:
  const int64_t vocab_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Comm> comm_;
  KvPool cache_;
  Forward forward_;
  std::vector<float> logits_;
  Sampler sampler_;
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

int64_t runner_bytes(const RunnerSetup& s) {
  if (s.ops.device == DeviceKind::cpu)
    return workspace_bytes(*s.config, s.forward.max_tokens, s.max_seqs, s.index_budget);
  // One page more than the plan's: where padding lies.
  return gpu_workspace_bytes(s.forward.numerics, workload_of(s), s.ops.gpu) +
         activation_bytes(*s.config, s.forward) + s.cache.bytes_per_page() +
         4LL * s.config->vocab * padded_tokens(s.max_seqs) +
         (s.forward.max_context + 1) * s.config->rope * 4;
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
