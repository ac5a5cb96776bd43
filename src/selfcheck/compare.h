// CompareOps: runs every op on the kernels under test and, for chosen tokens, a second time on the
// reference with the same inputs. It keeps the error divided by a bound that follows from the
// number formats alone, so 1 is the limit for every op, format and size.
//
// An op added to Ops needs its comparison here; without one its check fails.
#pragma once

#include <array>
#include <set>
#include <string_view>
#include <vector>

#include "kernels/trace_ops.h"

namespace fathom {

// The results of all comparisons of one op.
struct OpTally {
  double worst = 0;              // greatest error as a share of its bound
  int64_t values = 0;            // compared
  int64_t codes = 0, moved = 0;  // e4m3 codes compared, and those that differ by one step

  void add(double error, double bound);
  void exact(bool equal) { add(equal ? 0 : 1, 0); }
  double ratio() const;
};

struct CompareLimits {
  std::set<int64_t> positions;        // tokens to compare
  std::set<int> layers;               // empty: all
  size_t heavy_tokens = SIZE_MAX;     // tokens of one step that are compared in MLPs and experts
  int64_t weight_budget = INT64_MAX;  // weights of one projection that are compared
  bool tensor_cores = false;          // see product_error
};

class CompareOps final : public TraceOps {
 public:
  CompareOps(Ops& tested, Numerics numerics, CompareLimits limits);

  // Called once before the first step. The reference must outlive this object.
  void set_reference(Ops& reference) { reference_ = &reference; }

  const OpTally& tally(OpKind kind) const { return tallies_[static_cast<size_t>(kind)]; }

  StepInputs begin_step(const StepInputs& inputs) override;
  void enter_layer(int layer) override;
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

 private:
  void after(OpKind kind, std::span<const Tensor> results) override;
  OpTally& at(OpKind kind) { return tallies_[static_cast<size_t>(kind)]; }
  bool watching() const { return watched_layer_ && !tokens_.empty(); }
  std::span<const int32_t> heavy() const;
  double product_error(int64_t n, bool fp8) const;
  void compare_product(OpTally& tally, Tensor tested, const QWeight& w, Tensor x);
  void compare_rows(OpTally& tally, Tensor tested, Tensor reference);
  void compare_rotated(OpTally& tally, Tensor tested, Tensor reference, int64_t head_dim);
  void compare_codes(OpTally& tally, const uint8_t* tested, const uint8_t* reference, int64_t n);
  void compare_norm(OpTally& tally, Tensor tested, Tensor reference);
  void compare_latent_row(const std::byte* tested, const std::byte* reference, const KvView& kv);
  void compare_index_row(const std::byte* tested, const std::byte* reference, const KvView& kv);
  void compare_scores(int32_t token, Tensor picked, Tensor index_q, Tensor head_weight,
                      const KvView& kv, const BatchView& batch);
  void attend(OpKind kind, Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
              const KvView& kv, const BatchView& batch, float scale);

  Ops* reference_ = nullptr;
  Numerics numerics_;
  CompareLimits limits_;
  std::vector<int32_t> tokens_;  // of the current step
  bool watched_layer_ = true;
  std::array<OpTally, kOpKinds> tallies_;
};

// The positions of the `topk` greatest of `scores`, found by sorting: higher score first, then the
// lower position, both zeros equal. Ascending.
std::vector<int32_t> plain_selection(std::span<const float> scores, int64_t topk);

}  // namespace fathom
