#include "runtime/model_instance.h"

#include "base/check.h"
#include "base/error.h"
#include "kernels/cpu_ops.h"
#include "kernels/gpu.h"
#include "kernels/nccl.h"
#include "model/rank_ops.h"
#include "runtime/memory_plan.h"

namespace fathom {
namespace {

int logit_rows(const ComputePlan& p) { return p.logit_rows > 0 ? p.logit_rows : p.sequences; }

std::unique_ptr<Ops> make_ops(const Config& config, const ComputePlan& p, ThreadPool& pool) {
  const Workload workload = workload_of(config, p);
  if (p.device == DeviceKind::cuda) return make_gpu_ops(p.numerics, workload, p.observed);
  return pick_cpu_kernels(p.kernels).make(p.numerics, workload, pool);
}

std::unique_ptr<Comm> link(const ComputePlan& p, CommGroup* group, Ops& ops) {
  if (p.layout.tensor == 1) return make_solo_comm();
  FATHOM_CHECK(group, "rank {} of {} computes alone", p.layout.rank, p.layout.ranks());
  return group->join(p.layout.place(), &ops);
}

std::unique_ptr<Comm> link_all(const ComputePlan& p, CommGroup* all, Ops& ops) {
  if (p.layout.data == 1) return nullptr;
  FATHOM_CHECK(all, "group {} of {} computes alone", p.layout.group(), p.layout.data);
  return all->join(p.layout.rank, &ops);
}

// Ranks of GPUs that share experts in fp8 numerics send each other rows as FP8 codes.
void check_coded(const Config& config, const Weights& weights, const ComputePlan& p) {
  if (p.layout.data == 1 || p.numerics != Numerics::fp8 || !config.fp8) return;
  for (size_t l = 0; l < weights.layers.size(); ++l)
    for (const MlpWeights& e : weights.layers[l].moe.experts)
      if (!e.empty() && !e.gate.is_fp8())
        fail(
            "layer {} of this FP8 checkpoint has experts of {}: --data-parallel-size on GPUs needs "
            "--numerics bf16 for it",
            l, name_of(e.gate.dtype));
}

}  // namespace

ModelInstance::ModelInstance(const Config& config, const Weights& weights, const ComputePlan& plan,
                             ThreadPool& pool, const OpsWrapper& wrap, KvPool* cache,
                             const RankLinks& ranks)
    : config_(config),
      plan_(plan),
      device_ops_(make_ops(config, plan, pool)),
      comm_(link(plan, ranks.group, *device_ops_)),
      all_(link_all(plan, ranks.all, *device_ops_)),
      rank_ops_(comm_->size() > 1 ? std::make_unique<RankOps>(*device_ops_, *comm_) : nullptr),
      wrapped_(wrap ? wrap(whole_ops()) : nullptr),
      own_cache_(cache ? nullptr
                       : std::make_unique<KvPool>(kv_shape(config, plan), plan.cache_pages,
                                                  device_ops_->memory())),
      cache_(cache ? cache : own_cache_.get()),
      forward_(config, weights, ops(), *comm_, all_.get(), forward_options(plan)),
      forms_(form_policy(config, plan)) {
  if (plan.device == DeviceKind::cuda) check_coded(config, weights, plan);
  if (plan.mtp && !weights.mtp) fail("this checkpoint has no MTP layer");
  if (plan.mtp && all_)
    fail("the MTP block runs in one group of ranks, not in {} that share experts",
         plan.layout.data);
  logits(logit_rows(plan));
}

std::string ModelInstance::describe() const {
  return fmt::format("{}; {}", device_ops_->describe(), fathom::describe(config_, plan_));
}

Tensor ModelInstance::logits(int64_t rows) {
  const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(config_.vocab) * 4;
  if (logits_.size() < bytes) logits_ = Buffer(bytes, device_ops_->memory());
  return Tensor(logits_.data(), DType::f32, {rows, config_.vocab});
}

Tensor ModelInstance::step(const StepBatch& batch) {
  Tensor out = logits(static_cast<int64_t>(batch.logit_rows().size()));
  forward_.step(batch, cache_->layers(), out);
  return out;
}

Tensor ModelInstance::step_from(int first_layer, Tensor hidden, const StepBatch& batch) {
  Tensor out = logits(static_cast<int64_t>(batch.logit_rows().size()));
  forward_.step_from(first_layer, hidden, batch, cache_->layers(), out);
  return out;
}

Tensor ModelInstance::mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
                          std::span<const int32_t> from) {
  Tensor out = logits(static_cast<int64_t>(batch.logit_rows().size()));
  forward_.mtp(batch, next_ids, cache_->layers(), out, from);
  return out;
}

Tensor ModelInstance::mtp_again(const StepBatch& batch, std::span<const int32_t> next_ids) {
  Tensor out = logits(static_cast<int64_t>(batch.logit_rows().size()));
  forward_.mtp_again(batch, next_ids, cache_->layers(), out);
  return out;
}

int64_t instance_bytes(const Config& config, const ComputePlan& p) {
  const int64_t rope = 4 * (p.context + 1) * config.rope;
  if (p.device == DeviceKind::cpu)
    return workspace_bytes(config, p.step_tokens, logit_rows(p), p.index_budget) + rope +
           (p.mtp ? 4LL * (2LL * config.hidden + 1) * p.step_tokens : 0);
  // Of ranks that lie in so many processes.
  const auto exchange_of = [&](int ranks, int processes) {
    return ranks == 1                                         ? 0
           : processes > 1 || p.exchange == GpuExchange::nccl ? nccl_exchange_bytes()
                                                              : gpu_exchange_bytes(ranks);
  };
  const int64_t exchange = exchange_of(p.layout.tensor, p.layout.group_processes());
  const int64_t of_groups =
      p.layout.data > 1 ? exchange_of(p.layout.ranks(), p.layout.processes) : 0;
  return gpu_workspace_bytes(p.numerics, workload_of(config, p)) + exchange + of_groups +
         activation_bytes(config, forward_options(p)) + 4LL * config.vocab * logit_rows(p) + rope;
}

}  // namespace fathom
