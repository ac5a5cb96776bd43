// TraceOps: a decorator of Ops. Observation (dumps, timing, golden comparison) hangs here, never in
// the model. Every method passes on to the inner Ops; a subclass overrides what it wants to see.
#pragma once

#include "kernels/ops.h"

namespace fathom {

class TraceOps : public Ops {
 public:
  explicit TraceOps(Ops& inner) : inner_(inner) {}

  MemoryKind memory() const override { return inner_.memory(); }
  void upload(void* to, const void* from, size_t bytes) override { inner_.upload(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override {
    inner_.download(to, from, bytes);
  }
  StepInputs begin_step(const StepInputs& inputs) override { return inner_.begin_step(inputs); }
  void enter_layer(int layer) override { inner_.enter_layer(layer); }
  void embed(Tensor hidden, const int32_t* ids, const QWeight& table) override {
    inner_.embed(hidden, ids, table);
  }
  void rms_norm(Tensor out, Tensor x, const float* gain, float eps) override {
    inner_.rms_norm(out, x, gain, eps);
  }
  void add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                    float eps) override {
    inner_.add_rms_norm(normed, residual, update, gain, eps);
  }
  void project(std::span<const Projection> projections, Tensor x) override {
    inner_.project(projections, x);
  }
  void rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) override {
    inner_.rope_query(q, batch, rope);
  }
  void append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                     const BatchView& batch, const RopeTable& rope) override {
    inner_.append_latent(kv, kv_a, gain, eps, batch, rope);
  }
  void append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                        const BatchView& batch, const RopeTable& rope) override {
    inner_.append_index_key(kv, k, norm, batch, rope);
  }
  void index_query(Tensor out, Tensor head_weight, Tensor q, const BatchView& batch,
                   const RopeTable& rope) override {
    inner_.index_query(out, head_weight, q, batch, rope);
  }
  void index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                  const BatchView& batch) override {
    inner_.index_topk(picked, index_q, head_weight, kv, batch);
  }
  void index_scores(Tensor scores, std::span<const int32_t> tokens, Tensor index_q,
                    Tensor head_weight, const KvView& kv, const BatchView& batch) override {
    inner_.index_scores(scores, tokens, index_q, head_weight, kv, batch);
  }
  void attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override {
    inner_.attend_expanded(out, q, up, picked, kv, batch, scale);
  }
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override {
    inner_.attend_absorbed(out, q, up, picked, kv, batch, scale);
  }
  void route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate, const float* bias,
             const RouterShape& shape) override {
    inner_.route(ids, weights, x, gate, bias, shape);
  }
  void mlp(Tensor out, Tensor x, const MlpWeights& w) override { inner_.mlp(out, x, w); }
  void moe(Tensor out, Tensor x, Tensor ids, Tensor weights, std::span<const MlpWeights> experts,
           const MlpWeights* shared) override {
    inner_.moe(out, x, ids, weights, experts, shared);
  }
  void gather_rows(Tensor out, Tensor x, std::span<const int32_t> rows) override {
    inner_.gather_rows(out, x, rows);
  }
  void logits(Tensor out, Tensor hidden, const QWeight& head) override {
    inner_.logits(out, hidden, head);
  }
  std::string describe() const override { return inner_.describe(); }

 protected:
  Ops& inner_;
};

}  // namespace fathom
