// Ops: everything that the model asks of a device. A method stands for one operation of the model,
// not for one kernel: a CPU composes loops inside a method, a GPU may launch several or fused
// kernels.
//
// Activations are float32 in `exact` numerics and bf16 otherwise; every op rounds its result once,
// to the dtype of its output tensor (docs/numerics.md). T is the number of tokens of the step.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/batch_view.h"
#include "kernels/qweight.h"
#include "numerics/modes.h"
#include "numerics/routing.h"
#include "tensor/buffer.h"
#include "tensor/tensor.h"

namespace fathom {

// One of several projections of the same input. A float32 output is not rounded.
struct Projection {
  Tensor out;  // [T, weight.rows], may be a column slice
  QWeight weight;
};

struct LayerNormWeights {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

// Sizes that bound every step. An implementation allocates its workspace from them once.
struct Workload {
  int step_tokens = 0;                   // tokens of one step
  int64_t context = 0;                   // positions of one sequence
  int sequences = 0;                     // most sequences in one step; 0: as many as tokens
  int hidden = 0, max_intermediate = 0;  // widest of dense MLP and expert
  int expert_intermediate = 0;           // of one routed expert
  int heads = 0, nope = 0, rope = 0, value = 0, latent = 0;
  int q_rank = 0;
  int index_heads = 0, index_dim = 0, index_topk = 0;
  int experts = 0, experts_per_token = 0;
  int first_expert = 0, own_experts = -1;  // experts whose weights this rank has; -1: all
  int ranks = 1;                           // ranks that share the rows of index_topk
  int groups = 1;                          // groups of ranks whose rows the experts get together
  int64_t vocab = 0;
  int64_t index_budget = 64 << 20;  // bytes of index scores held at once
  bool ue8m0 = true;                // scale format of quantised activations
  // True: a token's bits must not depend on what else is in its step (on a CPU they never do).
  bool batch_invariant = false;
};

class Ops {
 public:
  virtual ~Ops() = default;

  // Where all tensors, weights, caches and tables that are passed to the ops must lie.
  virtual MemoryKind memory() const { return MemoryKind::host; }
  // Copies between the host's memory and memory(), after the ops called before. Complete on return.
  virtual void upload(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
  virtual void download(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

  // The stream on which the ops are queued (cudaStream_t); null on a CPU.
  virtual void* stream() const { return nullptr; }

  // Called before each step: copies its inputs to memory(). The ops of the step are called with the
  // inputs that it returns.
  virtual StepInputs begin_step(const StepInputs& inputs) { return inputs; }

  // For observers: the ops that follow belong to this layer (the MTP block is layer `layers`).
  virtual void enter_layer(int layer) { (void)layer; }

  // hidden[t] = table[ids[t]]                                              hidden [T, D]
  virtual void embed(Tensor hidden, const int32_t* ids, const QWeight& table) = 0;

  // out[t] = gain * x[t] / rms(x[t]); out may be a column slice.           [T, n]
  virtual void rms_norm(Tensor out, Tensor x, const float* gain, float eps) = 0;

  // residual += update, rounded; normed = rms_norm(residual)               [T, D] each
  virtual void add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                            float eps) = 0;

  // out_i = x W_i^T for weights that share their input. In fp8 numerics FP8 weights are multiplied
  // with x quantised in groups of 128; the other weights with x as it is.
  virtual void project(std::span<const Projection> projections, Tensor x) = 0;
  void linear(Tensor out, Tensor x, const QWeight& w) {
    Projection p{out, w};
    project({&p, 1}, x);
  }

  // Rotates the last rope.dim values of each head in place, interleaved pairs. q [T, H, nope +
  // rope]
  virtual void rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) = 0;

  // Cache entry of each token: rms_norm of the first latent_dim values, interleaved rope of the
  // rest, stored in the cache's format.                                    kv_a [T, latent + rope]
  virtual void append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                             const BatchView& batch, const RopeTable& rope) = 0;

  // Indexer key of each token: layer_norm (eps 1e-6), split-half rope of the first rope.dim values,
  // and in fp8 numerics Hadamard rotation and quantisation.                k [T, index_dim]
  virtual void append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                                const BatchView& batch, const RopeTable& rope) = 0;

  // Indexer query: rope (and in fp8 numerics rotation and quantisation) as for the keys. q [T, IH,
  // index_dim] in activation dtype -> out in the same dtype (exact, bf16) or as fp8_e4m3 codes
  // (fp8). head_weight [T, IH] f32 holds the projection; it is multiplied by IH^-0.5 *
  // index_dim^-0.5 and, in fp8, by the query's scale.
  virtual void index_query(Tensor out, Tensor head_weight, Tensor q, const BatchView& batch,
                           const RopeTable& rope) = 0;

  // score[s] = k_scale[s] * sum_h relu(q_h . k_s) * head_weight_h for s <= position; picked[t] =
  // the positions of the `topk` greatest (ties: lower position), ascending, then -1. Rows with at
  // most topk candidates pick all of them without scoring. Rows outside batch.index_rows need not
  // be written.                                                               picked [T, topk] i32
  virtual void index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                          const BatchView& batch) = 0;

  // The index scores, for observers: scores[i, s] of batch token tokens[i], for s <= its position.
  // The rest of the row is not written.                                    scores [n, >= context]
  virtual void index_scores(Tensor scores, std::span<const int32_t> tokens, Tensor index_q,
                            Tensor head_weight, const KvView& kv, const BatchView& batch) = 0;

  // Attention over the picked positions (all earlier ones when `picked` is empty), for the spans of
  // the batch that have the respective form. Other rows of `out` are not written.
  //   expanded  keys and values per head from the latent rows            q [T, H, nope + rope]
  //   absorbed  query times the key part of kv_b, attention in latent space, value part last
  //                                                                      out [T, H * value]
  virtual void attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                               const KvView& kv, const BatchView& batch, float scale) = 0;
  virtual void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                               const KvView& kv, const BatchView& batch, float scale) = 0;

  // Routing: router logits in float32.          ids [T, k] i32, weights [T, k] f32, x [T, D]
  virtual void route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate, const float* bias,
                     const RouterShape& shape) = 0;

  // out = down(silu(gate x) * up x); intermediate results are rounded to the activation dtype.
  // Writes zeros if the weights are empty (another rank's).
  virtual void mlp(Tensor out, Tensor x, const MlpWeights& w) = 0;

  // out[t] = sum over the token's experts, in ascending expert id, of weight * expert(x[t]), plus
  // shared(x[t]): summed in float32, rounded once. `shared` may be null. Experts with empty weights
  // belong to other ranks and add nothing; the others have consecutive ids.
  virtual void moe(Tensor out, Tensor x, Tensor ids, Tensor weights,
                   std::span<const MlpWeights> experts, const MlpWeights* shared) = 0;

  // out[i] = x[rows[i]]
  virtual void gather_rows(Tensor out, Tensor x, std::span<const int32_t> rows) = 0;

  // float32 logits.                                          out [R, V] f32, hidden [R, D]
  virtual void logits(Tensor out, Tensor hidden, const QWeight& head) = 0;

  // Returns one line for the user: which kernels and device are used.
  virtual std::string describe() const = 0;
};

}  // namespace fathom
