// Ops by plain loops with float64 sums. All other implementations are compared with it, and it runs
// models whose dims the fast kernels are not built for. Threads only divide tokens or outputs.
#pragma once

#include <functional>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/ops.h"

namespace fathom {

class ReferenceOps : public Ops {
 public:
  ReferenceOps(Numerics numerics, const Workload& workload, ThreadPool& pool);

  void embed(Tensor hidden, const int32_t* ids, const QWeight& table) override;
  void rms_norm(Tensor out, Tensor x, const float* gain, float eps) override;
  void add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                    float eps) override;
  void project(std::span<const Projection> projections, Tensor x) override;
  void rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) override;
  void append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                     const BatchView& batch, const RopeTable& rope) override;
  void append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                        const BatchView& batch, const RopeTable& rope) override;
  void index_query(Tensor out, Tensor head_weight, Tensor q, const BatchView& batch,
                   const RopeTable& rope) override;
  void index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                  const BatchView& batch) override;
  void index_scores(Tensor scores, std::span<const int32_t> tokens, Tensor index_q,
                    Tensor head_weight, const KvView& kv, const BatchView& batch) override;
  void attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override;
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override;
  void route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate, const float* bias,
             const RouterShape& shape) override;
  void mlp(Tensor out, Tensor x, const MlpWeights& w) override;
  void moe(Tensor out, Tensor x, Tensor ids, Tensor weights, std::span<const MlpWeights> experts,
           const MlpWeights* shared) override;
  void gather_rows(Tensor out, Tensor x, std::span<const int32_t> rows) override;
  void logits(Tensor out, Tensor hidden, const QWeight& head) override;
  std::string describe() const override;

 protected:
  const Numerics numerics_;
  const Workload workload_;
  ThreadPool& pool_;
};

}  // namespace fathom
