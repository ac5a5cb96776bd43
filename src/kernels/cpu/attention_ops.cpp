#include "kernels/cpu/attention_ops.h"

#include <algorithm>

namespace fathom {
namespace {

using K = KernelDims;

// Hands out 64-byte aligned pieces of a block of memory. The same calls run twice, with no memory
// to add up the size and then with it, so that each size is written in one place.
class Carver {
 public:
  explicit Carver(std::byte* memory) : memory_(memory) {}
  template <class T>
  void take(T*& pointer, int64_t count) {
    pointer = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }
  size_t used() const { return used_; }

 private:
  std::byte* memory_;
  size_t used_ = 0;
};

}  // namespace

AttentionOps::AttentionOps(Numerics numerics, const Workload& workload, ThreadPool& pool,
                           const GemmKernels& gemm, const AttentionKernels& kernels)
    : LinearOps(numerics, workload, pool, gemm),
      attention_(kernels),
      exact_(numerics == Numerics::exact),
      wide_(exact_ || !kernels.pairs),
      dims_ok_(workload.latent == K::kLatent && workload.rope == K::kRope &&
               workload.nope == K::kNope && workload.value == K::kValue),
      index_ok_(workload.index_heads > 0 && workload.index_dim == K::kIndex) {
  plan_groups();
  plan_scratch();
  plan_shared();
}

// How much of a step is worked on at a time.
void AttentionOps::plan_groups() {
  if (!dims_ok_) return;
  const int64_t heads = workload_.heads, tokens = workload_.step_tokens;
  // About 4096 query rows (tokens x heads) a tile: a head's weights are dequantised once per tile
  // of tokens.
  token_tile_ =
      static_cast<int>(std::clamp<int64_t>(4096 / heads, 16, std::max<int64_t>(tokens, 16)));
  head_group_ =
      static_cast<int>(std::min<int64_t>(heads, std::clamp(pool_.size(), 4, kMaxHeadGroup)));
  query_tile_ = static_cast<int>(std::min<int64_t>(tokens, 2048));
  tile_group_ = std::min<int64_t>((workload_.context + kPanelWidth - 1) / kPanelWidth, 32);
}

void AttentionOps::plan_scratch() {
  const int64_t head_block = std::min(workload_.heads, kMaxHeadBlock);
  const int64_t rows = std::max<int64_t>(head_block, kQueryBlock);
  const int64_t context = index_ok_ ? workload_.context + 16 : 0;
  // Sized for the longest context, which a dense run needs. Memory is touched only as far as a
  // token sees keys (with picks: top-k of them).
  const int64_t tiles = (workload_.context + kPanelWidth - 1) / kPanelWidth;
  scratch_.resize(static_cast<size_t>(pool_.size()));
  kept_rows_ = std::min<int64_t>(workload_.index_topk, tiles * kPanelWidth);
  // Room for a block of tokens of one head, too.
  const int64_t queries =
      wide_ && !exact_ ? std::max<int64_t>(head_group_ * kQueryBlock, kTokenBlock) : 0;
  auto carve = [&](Carver& c) {
    for (Scratch& s : scratch_) {
      c.take(s.rows, words(kPanelWidth * K::kRow));
      c.take(s.kept, words(kept_rows_ * K::kRow));
      c.take(s.queries, queries * K::kQuery);
      c.take(s.lanes, words(kPanelWidth * K::kRow));
      c.take(s.weights, words(K::kNope * K::kLatent));
      c.take(s.panel, words(K::kNope * K::kLatent));
      c.take(s.product, 128 * kPanelWidth);
      c.take(s.scores, rows * kPanelWidth);
      c.take(s.head_scores, tiles * head_block * kPanelWidth);
      c.take(s.shares, words(rows * kPanelWidth));
      c.take(s.mixed, head_block * K::kLatent);
      c.take(s.top, rows);
      c.take(s.sum, rows);
      c.take(s.carry, rows);
      c.take(s.masks, rows);
      c.take(s.keys, context);
      c.take(s.active, context);
    }
  };
  Carver plan(nullptr);
  carve(plan);
  scratch_memory_ = Buffer(plan.used());
  Carver real(scratch_memory_.data());
  carve(real);
}

void AttentionOps::plan_shared() {
  const int64_t heads = workload_.heads, tokens = workload_.step_tokens;
  const int64_t latent_row = K::kRow, query_row = K::kQuery;
  const int64_t panels = tile_group_ * head_group_;
  // A row of scores for one token of the longest context must fit, whatever the budget.
  const int64_t row = (workload_.context + kPanelWidth - 1) / kPanelWidth * kPanelWidth;
  score_floats_ =
      index_ok_ ? std::clamp<int64_t>(workload_.index_budget / 4, row, row * tokens) : 0;
  const bool other_index = index_ok_ && !exact_ && (wide_ || numerics_ == Numerics::fp8);
  auto carve = [&](Carver& c) {
    c.take(zero_row_, latent_row);
    c.take(q_latent_, words(token_tile_ * heads * latent_row));
    c.take(o_latent_, words(token_tile_ * heads * K::kLatent));
    c.take(key_weights_, words(int64_t{head_group_} * K::kNope * K::kLatent));
    c.take(value_weights_, words(int64_t{head_group_} * K::kValue * K::kLatent));
    c.take(key_panels_, words(panels * query_row * kPanelWidth));
    c.take(value_panels_, words(panels * K::kValue * kPanelWidth));
    c.take(state_out_, int64_t{head_group_} * query_tile_ * K::kValue);
    c.take(state_top_, int64_t{head_group_} * query_tile_);
    c.take(state_sum_, int64_t{head_group_} * query_tile_);
    c.take(scores_, score_floats_);
    c.take(index_q_, other_index ? words(tokens * workload_.index_heads * K::kIndex) : 0);
  };
  Carver plan(nullptr);
  carve(plan);
  shared_memory_ = Buffer(plan.used());
  Carver real(shared_memory_.data());
  carve(real);
  score_list_.reserve(static_cast<size_t>(tokens));
}

bool AttentionOps::fits(const KvUpWeights& up, const KvView& kv) const {
  return dims_ok_ && up.latent == K::kLatent && up.nope == K::kNope && up.value == K::kValue &&
         kv.latent_dim == K::kLatent && kv.rope_dim == K::kRope && up.kv_b.cols == K::kLatent &&
         up.heads <= workload_.heads;
}

}  // namespace fathom
