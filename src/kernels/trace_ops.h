// TraceOps: a decorator of Ops. Observers (taps, comparison, counting, waiting for a device) and
// the faults of tests are subclasses of it; the model contains nothing of them. Every op is passed
// on to the inner Ops; then after() is called. A subclass that only looks at results overrides
// after(). One that needs an op's arguments overrides that op.
//
// A new op needs an OpKind and a method in TraceOps; subclasses need no change.
#pragma once

#include <array>

#include "kernels/ops.h"

namespace fathom {

enum class OpKind : uint8_t {
  embed,
  rms_norm,
  add_rms_norm,
  project,
  rope_query,
  append_latent,
  append_index_key,
  index_query,
  index_topk,
  index_scores,
  attend_expanded,
  attend_absorbed,
  route,
  mlp,
  moe,
  gather_rows,
  logits,
};
inline constexpr std::array<std::string_view, 17> kOpNames = {"embed",
                                                              "rms_norm",
                                                              "add_rms_norm",
                                                              "project",
                                                              "rope_query",
                                                              "append_latent",
                                                              "append_index_key",
                                                              "index_query",
                                                              "index_topk",
                                                              "index_scores",
                                                              "attend_expanded",
                                                              "attend_absorbed",
                                                              "route",
                                                              "mlp",
                                                              "moe",
                                                              "gather_rows",
                                                              "logits"};
inline constexpr int kOpKinds = static_cast<int>(kOpNames.size());
constexpr std::string_view name_of(OpKind k) { return kOpNames[static_cast<size_t>(k)]; }

class TraceOps : public Ops {
 public:
  explicit TraceOps(Ops& inner) : inner_(inner) {}

  MemoryKind memory() const override { return inner_.memory(); }
  void upload(void* to, const void* from, size_t bytes) override { inner_.upload(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override {
    inner_.download(to, from, bytes);
  }
  void* stream() const override { return inner_.stream(); }
  StepInputs begin_step(const StepInputs& inputs) override { return inner_.begin_step(inputs); }
  void enter_layer(int layer) override {
    layer_ = layer;
    inner_.enter_layer(layer);
  }
  void embed(Tensor hidden, const int32_t* ids, const QWeight& table) override {
    inner_.embed(hidden, ids, table);
    done(OpKind::embed, hidden);
  }
  void rms_norm(Tensor out, Tensor x, const float* gain, float eps) override {
    inner_.rms_norm(out, x, gain, eps);
    done(OpKind::rms_norm, out);
  }
  void add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                    float eps) override {
    inner_.add_rms_norm(normed, residual, update, gain, eps);
    done(OpKind::add_rms_norm, normed, residual);
  }
  void project(std::span<const Projection> projections, Tensor x) override {
    inner_.project(projections, x);
    results_.clear();
    for (const Projection& p : projections) results_.push_back(p.out);
    after(OpKind::project, results_);
  }
  void rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) override {
    inner_.rope_query(q, batch, rope);
    done(OpKind::rope_query, q);
  }
  void append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                     const BatchView& batch, const RopeTable& rope) override {
    inner_.append_latent(kv, kv_a, gain, eps, batch, rope);
    done(OpKind::append_latent);
  }
  void append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                        const BatchView& batch, const RopeTable& rope) override {
    inner_.append_index_key(kv, k, norm, batch, rope);
    done(OpKind::append_index_key);
  }
  void index_query(Tensor out, Tensor head_weight, Tensor q, const BatchView& batch,
                   const RopeTable& rope) override {
    inner_.index_query(out, head_weight, q, batch, rope);
    done(OpKind::index_query, out, head_weight);
  }
  void index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                  const BatchView& batch) override {
    inner_.index_topk(picked, index_q, head_weight, kv, batch);
    done(OpKind::index_topk, picked);
  }
  void index_scores(Tensor scores, std::span<const int32_t> tokens, Tensor index_q,
                    Tensor head_weight, const KvView& kv, const BatchView& batch) override {
    inner_.index_scores(scores, tokens, index_q, head_weight, kv, batch);
    done(OpKind::index_scores, scores);
  }
  void attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override {
    inner_.attend_expanded(out, q, up, picked, kv, batch, scale);
    done(OpKind::attend_expanded, out);
  }
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override {
    inner_.attend_absorbed(out, q, up, picked, kv, batch, scale);
    done(OpKind::attend_absorbed, out);
  }
  void route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate, const float* bias,
             const RouterShape& shape) override {
    inner_.route(ids, weights, x, gate, bias, shape);
    done(OpKind::route, ids, weights);
  }
  void mlp(Tensor out, Tensor x, const MlpWeights& w) override {
    inner_.mlp(out, x, w);
    done(OpKind::mlp, out);
  }
  void moe(Tensor out, Tensor x, Tensor ids, Tensor weights, std::span<const MlpWeights> experts,
           const MlpWeights* shared) override {
    inner_.moe(out, x, ids, weights, experts, shared);
    done(OpKind::moe, out);
  }
  void gather_rows(Tensor out, Tensor x, std::span<const int32_t> rows) override {
    inner_.gather_rows(out, x, rows);
    done(OpKind::gather_rows, out);
  }
  void logits(Tensor out, Tensor hidden, const QWeight& head) override {
    inner_.logits(out, hidden, head);
    done(OpKind::logits, out);
  }
  std::string describe() const override { return inner_.describe(); }

 protected:
  // Called after every op that is passed on. `results`: the tensors that the op has written, in the
  // order of its parameters (none for the appends, which write to the cache). A subclass that
  // overrides an op calls TraceOps::op(...) in it, so that after() is called.
  virtual void after(OpKind kind, std::span<const Tensor> results) {
    (void)kind;
    (void)results;
  }
  // The layer entered last; -1 before the first.
  int layer() const { return layer_; }

  Ops& inner_;

 private:
  template <class... Tensors>
  void done(OpKind kind, const Tensors&... results) {
    const std::array<Tensor, sizeof...(results)> all{results...};
    after(kind, all);
  }

  int layer_ = -1;
  std::vector<Tensor> results_;  // of project()
};

}  // namespace fathom
