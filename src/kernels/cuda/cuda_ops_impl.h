// CudaOps over the kernel families. Each method checks its tensors, picks kernels and launches;
// nothing here allocates, waits or copies once the object stands.
#pragma once

#include <map>
#include <vector>

#include "kernels/cuda/attention/mla_prefill.h"
#include "kernels/cuda/comm/peer_groups.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_ops_plan.h"
#include "kernels/cuda/gemm/bf16_gemm.h"
#include "kernels/cuda/gemm/operands.h"
#include "kernels/cuda/indexer/index_scores.h"
#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/norm/position.h"
#include "kernels/cuda/prim/launch.h"
#include "tensor/buffer.h"

namespace fathom::cuda {

inline Bf16* bf16_of(const Tensor& t) {
  FATHOM_CHECK(t.dtype == DType::bf16, "tensor of {} where the GPU works on BF16",
               name_of(t.dtype));
  return static_cast<Bf16*>(t.data);
}

// Bump allocator over the memory that belongs to the op that is running.
class Scratch {
 public:
  Scratch() = default;
  Scratch(std::byte* memory, int64_t bytes) : memory_(memory), bytes_(bytes) {}
  template <class T>
  T* take(int64_t count) {
    FATHOM_CHECK(used_ + round_up(count * int64_t{sizeof(T)}, kScratchAlign) <= bytes_,
                 "op needs {} more bytes of scratch, {} of {} are used", count * sizeof(T), used_,
                 bytes_);
    T* p = reinterpret_cast<T*>(memory_ + used_);
    used_ += round_up(count * int64_t{sizeof(T)}, kScratchAlign);
    return p;
  }
  std::byte* base() const { return memory_; }
  int64_t size() const { return bytes_; }
  int64_t mark() const { return used_; }
  void release(int64_t to) { used_ = to; }

 private:
  std::byte* memory_ = nullptr;
  int64_t bytes_ = 0, used_ = 0;
};

class CudaOpsImpl final : public CudaOps {
 public:
  CudaOpsImpl(Numerics numerics, const Workload& workload, const CudaSettings& settings);
  ~CudaOpsImpl() override;
  CudaOpsImpl(const CudaOpsImpl&) = delete;
  CudaOpsImpl& operator=(const CudaOpsImpl&) = delete;

  MemoryKind memory() const override {
    return settings_.shared_memory ? MemoryKind::shared : MemoryKind::device;
  }
  void upload(void* to, const void* from, size_t bytes) override;
  void download(void* to, const void* from, size_t bytes) override;
  StepInputs begin_step(const StepInputs& inputs) override;

  void* stream() const override { return launch_.stream; }
  void restage(const StepInputs& inputs) override;
  int64_t context_limit(int64_t context) const override;
  void carry_from(const int32_t* drawn) override { drawn_ = drawn; }
  void carry_ids(std::span<const int32_t> rows) override {
    carried_.assign(rows.begin(), rows.end());
  }
  void all_reduce(const PeerView& peers, Tensor x) override;
  void all_reduce_add_rms_norm(const PeerView& peers, Tensor normed, Tensor residual, Tensor update,
                               const float* gain, float eps) override;
  void all_gather_columns(const PeerView& peers, Tensor x) override;
  void all_gather_rows(const PeerView& peers, Tensor x, int block) override;
  void exchange(Tensor x, const std::function<void(const Launch&)>& body) override;
  void gather_expert_rows(const PeerView& peers, const ExpertRows& all, const ExpertRows& own,
                          const ExpertSpread& spread, std::span<const int64_t> offsets) override;
  void sum_expert_rows(const PeerView& peers, Tensor sum, Tensor parts, Tensor ids,
                       const ExpertSpread& spread, std::span<const int64_t> offsets) override;
  ExpertPlanes place_expert_rows(int rank, int ranks, const ExpertRows& all, const ExpertRows& own,
                                 const ExpertSpread& spread,
                                 std::span<const int64_t> offsets) override;
  void synchronize() override;
  size_t bytes() const override { return memory_.size(); }

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

 private:
  // The FP8 form of the rows that were quantised last: by the norm that wrote them, or for their
  // first product. Several products share it.
  struct Coded {
    const void* rows_of = nullptr;  // the bf16 rows, null: none
    int64_t rows = 0, n = 0, stride = 0;
    bool alone = false;  // the bf16 rows were not written
  };
  // Rows that other ranks have sent as codes lie where the bf16 rows would, scales behind them.
  struct Gathered {
    const std::byte* rows_of = nullptr;  // where bf16 row 0 would be; null: none
    int64_t rows = 0, n = 0, scales_at = 0;
  };
  struct ExpertCodes {
    const uint8_t* codes = nullptr;
    const float* scales = nullptr;  // of group g of row r at [g * stride + r * row]
    int64_t stride = 0, row = 1;
  };

  // Every op begins with this: what waited is launched, scratch is free again.
  Scratch begin_op();
  void flush_pending();
  void flush_positions();
  void flush_combine();
  // In a recording the shared expert of few tokens runs on a branch beside their routing and the
  // experts. fork(): what the stream holds is all that the branch depends on.
  bool may_branch(int64_t tokens) const;
  void fork(const Tensor& x);
  template <class Work>
  void on_branch(const Work& work);
  void join();
  // For a kernel that may be the first behind a fork or a join: that one starts when all before it
  // has ended, since it waits for kernels of both streams.
  Launch next_launch();
  // The op writes `t`: what was derived from that memory is stale.
  void written(const Tensor& t);
  bool capturing() const;
  void stage(const StepInputs& inputs, const StagingPlan& plan);
  void bring(const StepInputs& inputs, const StagingPlan& plan);
  std::byte* staged() const { return staging_.data() + half_ * (staging_.size() / 2); }
  void check_batch(const BatchView& batch, const Tensor& t) const;

  CodesOut codes_of(const Tensor& out);  // where a norm puts them; empty when none are due
  bool is_coded(const Tensor& x) const;  // its FP8 form is at hand
  Fp8Rows quantised(const Tensor& x);
  ExpertCodes codes_for_experts(const Tensor& x);
  void product(const Tensor& x, const QWeight& w, std::span<const OutSegment> out);
  void fp8_product(const Fp8Rows& x, const QWeight& w, std::span<const OutSegment> out);
  void bf16_product(const Bf16* x, int64_t stride, int64_t rows, const QWeight& w,
                    std::span<const OutSegment> out);
  void mlp_product(Tensor out, Tensor x, const MlpWeights& w, Scratch& scratch);
  PermuteParams permutation(const int32_t* ids, int64_t tokens, int64_t per_token);
  Bf16* run_experts(const ExpertArrays& e, const Tensor& x, int64_t rows, Scratch& scratch);
  const ExpertArrays& arrays_of(std::span<const MlpWeights> experts);
  int own_experts() const;

  GroupGatherParams expert_rows_of(int rank, int ranks, const ExpertRows& all,
                                   const ExpertRows& own, const ExpertSpread& spread,
                                   std::span<const int64_t> offsets);
  RmsNormParams add_norm_params(const Tensor& normed, const Tensor& residual, const Tensor& update,
                                const float* gain, float eps);

  // The pending positions of this batch; launches them first when they belong to another.
  PositionParams& positions(const BatchView& batch, const RopeTable& rope);
  void position_part_done();
  IndexScoresParams index_params(const Tensor& index_q, const Tensor& head_weight, const KvView& kv,
                                 const BatchView& batch, int begin, int tokens) const;
  void pick_rows(const Tensor& picked, const Tensor& index_q, const Tensor& head_weight,
                 const KvView& kv, const BatchView& batch, Scratch& scratch);
  void pick_own_rows(const Tensor& picked, const Tensor& index_q, const Tensor& head_weight,
                     const KvView& kv, const BatchView& batch, Scratch& scratch);
  int64_t context_at(int token) const;
  std::span<const PrefillSpan> prefill_spans(const BatchView& batch, const AttentionRun& run);
  std::span<const IndexSpan> scored_spans(const BatchView& batch, int begin, int end, int64_t topk);
  void check_attention(const Tensor& q, const KvUpWeights& up, const Tensor& picked,
                       const KvView& kv, const BatchView& batch) const;
  void attend_run(const Tensor& out, const Tensor& q, const KvUpWeights& up, const Tensor& picked,
                  const KvView& kv, const BatchView& batch, float scale, const AttentionRun& run,
                  const CodesOut& codes);
  static Bf16GemmParams value_product(const Tensor& out, const KvUpWeights& up,
                                      const AttentionRun& run);

  const Numerics numerics_;
  const Workload workload_;
  const CudaSettings settings_;
  Launch launch_;
  bool waits_fully_ = false;  // see next_launch()
  cudaStream_t branch_ = nullptr;
  cudaEvent_t forked_ = nullptr, joined_ = nullptr;
  const void* forked_rows_ = nullptr;  // whose codes were at hand when the stream forked
  std::string name_;
  // Inputs of two steps, one after the other, so that a step can be staged while the one before is
  // still to be copied.
  int half_ = 0;                    // of the step staged last
  cudaEvent_t copied_[2] = {};      // what was staged in that half has left it
  const int32_t* drawn_ = nullptr;  // see carry_from
  std::vector<int32_t> carried_;    // of the step to come

  // One allocation, carved below.
  Buffer memory_;
  Buffer staging_;  // pinned
  std::byte* inputs_ = nullptr;
  Scratch scratch_;
  uint8_t* codes_ = nullptr;
  float* scales_ = nullptr;
  int32_t *offsets_ = nullptr, *row_of_ = nullptr, *token_of_ = nullptr;

  // The step that is running.
  StagingPlan plan_;
  StepInputs step_;      // as handed out
  int64_t longest_ = 0;  // context_limit of the step's longest context
  std::vector<AttentionRun> absorbed_runs_;
  std::vector<IndexSpan> index_spans_;
  std::vector<AttentionSpan> own_spans_;
  std::vector<PrefillSpan> prefill_spans_;
  Coded coded_;
  Gathered gathered_;
  PositionParams pending_;
  bool has_pending_ = false;
  CombineParams combine_;               // waits for the norm of its result; out is null: none does
  const void* permuted_ids_ = nullptr;  // what offsets_, row_of_ and token_of_ were made from
  std::map<const MlpWeights*, ExpertArrays> experts_;
};

}  // namespace fathom::cuda
