// CudaOps: positions, caches, the lightning indexer and attention.
#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/attention/mha.h"
#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/attention/mla_prefill.h"
#include "kernels/cuda/cuda_ops_impl.h"
#include "kernels/cuda/gemm/bf16_gemm.h"
#include "kernels/cuda/indexer/index_scores.h"
#include "kernels/cuda/indexer/index_scores_plan.h"
#include "kernels/cuda/indexer/topk.h"

namespace fathom::cuda {
namespace {

constexpr int kLatent = KernelDims::kLatent, kNope = KernelDims::kNope;
constexpr int kHead = kNope + KernelDims::kRope, kValue = KernelDims::kValue;

// The runtime guarantees that page numbers are valid; the tensor map only needs some upper bound.
constexpr int64_t kMostPages = 1 << 24;

void check_formats(const KvView& kv) {
  FATHOM_CHECK(kv.latent_format != KvFormat::f32 && kv.index_format != KvFormat::f32 &&
                   kv.latent_dim == KernelDims::kLatent && kv.rope_dim == KernelDims::kRope,
               "cache rows of {} + {} values in a format the GPU does not read", kv.latent_dim,
               kv.rope_dim);
}

// The latent rows as the attention kernels see them, for batch tokens from `begin` on.
LatentCache cache_of(const KvView& kv, const BatchView& batch, int begin) {
  return {.rows = kv.latent,
          .fp8 = kv.latent_format == KvFormat::fp8,
          .page_tables = batch.page_tables,
          .max_pages = batch.max_pages,
          .sequence_of = batch.sequence_of + begin,
          .positions = batch.positions + begin};
}

// Copies the blocks of rows that are this rank's, `bytes` a row, out of an array of all tokens to
// where they lie one after another, or back.
void copy_own_blocks(void* all, void* own, int64_t bytes, const BatchView& batch, bool back,
                     cudaStream_t stream) {
  const RowShare& share = batch.index_rows;
  const int64_t block = bytes * RowShare::kBlock, pitch = block * share.parts;
  const int count = share.count(batch.tokens), whole = count / RowShare::kBlock;
  std::byte* first = static_cast<std::byte*>(all) + share.part * block;
  auto copy = [&](int64_t at, int64_t width, int64_t height) {
    std::byte* far = first + at * pitch;
    std::byte* near = static_cast<std::byte*>(own) + at * block;
    if (height > 0 && width > 0)
      FATHOM_CUDA(cudaMemcpy2DAsync(back ? far : near, static_cast<size_t>(back ? pitch : block),
                                    back ? near : far, static_cast<size_t>(back ? block : pitch),
                                    static_cast<size_t>(width), static_cast<size_t>(height),
                                    cudaMemcpyDeviceToDevice, stream));
  };
  copy(0, block, whole);
  copy(whole, bytes * (count % RowShare::kBlock), 1);
}

}  // namespace

PositionParams& CudaOpsImpl::positions(const BatchView& batch, const RopeTable& rope) {
  flush_combine();
  if (has_pending_ && (pending_.cos != rope.cos || pending_.positions != batch.positions))
    flush_positions();
  FATHOM_CHECK(rope.dim == KernelDims::kRope, "rope of {} values", rope.dim);
  has_pending_ = true;
  pending_.tokens = batch.tokens;
  pending_.positions = batch.positions;
  pending_.sequence_of = batch.sequence_of;
  pending_.page_tables = batch.page_tables;
  pending_.max_pages = batch.max_pages;
  pending_.cos = rope.cos;
  pending_.sin = rope.sin;
  return pending_;
}

void CudaOpsImpl::position_part_done() {
  if (!settings_.fuse) flush_positions();
}

void CudaOpsImpl::flush_positions() {
  if (!has_pending_) return;
  has_pending_ = false;
  const PositionParams p = pending_;
  pending_ = {};
  run_position(p, launch_);
}

void CudaOpsImpl::rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) {
  if (pending_.rope_query.q) flush_positions();
  check_batch(batch, q);
  positions(batch, rope).rope_query = {bf16_of(q), static_cast<int>(q.dims[1]),
                                       static_cast<int>(q.dims[2]), q.row_stride};
  written(q);
  position_part_done();
}

void CudaOpsImpl::append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                                const BatchView& batch, const RopeTable& rope) {
  if (pending_.latent.kv_a) flush_positions();
  check_batch(batch, kv_a);
  check_formats(kv);
  positions(batch, rope).latent = {.kv_a = bf16_of(kv_a),
                                   .stride = kv_a.row_stride,
                                   .gain = gain,
                                   .eps = eps,
                                   .cache = kv.latent,
                                   .fp8 = kv.latent_format == KvFormat::fp8,
                                   .ue8m0 = kv.ue8m0};
  position_part_done();
}

void CudaOpsImpl::append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                                   const BatchView& batch, const RopeTable& rope) {
  if (pending_.index_key.k) flush_positions();
  check_batch(batch, k);
  check_formats(kv);
  FATHOM_CHECK(kv.index_dim == KernelDims::kIndex, "index keys of {} values", kv.index_dim);
  positions(batch, rope).index_key = {.k = bf16_of(k),
                                      .stride = k.row_stride,
                                      .weight = norm.weight,
                                      .bias = norm.bias,
                                      .cache = kv.index,
                                      .fp8 = kv.index_format == KvFormat::fp8,
                                      .ue8m0 = kv.ue8m0};
  position_part_done();
}

void CudaOpsImpl::index_query(Tensor out, Tensor head_weight, Tensor q, const BatchView& batch,
                              const RopeTable& rope) {
  if (pending_.index_query.q) flush_positions();
  check_batch(batch, q);
  FATHOM_CHECK(q.dims[2] == KernelDims::kIndex && out.rows() == q.rows() &&
                   (out.dtype == DType::fp8_e4m3 || out.dtype == DType::bf16),
               "index queries of {} values to {}", q.dims[2], name_of(out.dtype));
  positions(batch, rope).index_query = {.q = bf16_of(q),
                                        .stride = q.row_stride,
                                        .out = out.data,
                                        .out_stride = out.row_stride,
                                        .head_weight = head_weight.row<float>(0),
                                        .weight_stride = head_weight.row_stride,
                                        .heads = static_cast<int>(q.dims[1]),
                                        .fp8 = out.dtype == DType::fp8_e4m3,
                                        .ue8m0 = workload_.ue8m0};
  written(out);
  position_part_done();
}

// Scores of batch tokens from `begin` on; row 0 is that token's.
IndexScoresParams CudaOpsImpl::index_params(const Tensor& index_q, const Tensor& head_weight,
                                            const KvView& kv, const BatchView& batch, int begin,
                                            int tokens) const {
  const bool fp8 = index_q.dtype == DType::fp8_e4m3;
  FATHOM_CHECK(fp8 == (kv.index_format == KvFormat::fp8) &&
                   index_q.row_stride == index_q.row_size() &&
                   head_weight.row_stride == head_weight.row_size(),
               "index queries of {} with stride {} against keys of the other format",
               name_of(index_q.dtype), index_q.row_stride);
  IndexScoresParams p;
  p.q = static_cast<const std::byte*>(index_q.data) +
        begin * index_q.row_stride * static_cast<int64_t>(size_of(index_q.dtype));
  p.fp8 = fp8;
  p.head_weight = head_weight.row<float>(begin);
  p.tokens = tokens;
  p.index_heads = static_cast<int>(index_q.dims[1]);
  p.pages = kv.index;
  p.page_count = kMostPages;
  p.page_tables = batch.page_tables;
  p.max_pages = batch.max_pages;
  p.sequence_of = batch.sequence_of + begin;
  p.positions = batch.positions + begin;
  p.max_context = longest_;
  return p;
}

void CudaOpsImpl::index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                             const BatchView& batch) {
  Scratch scratch = begin_op();
  check_batch(batch, index_q);
  check_formats(kv);
  FATHOM_CHECK(picked.row_stride == picked.row_size() && picked.rows() == batch.tokens,
               "picks [{}, {}] of {} tokens", picked.rows(), picked.row_size(), batch.tokens);
  // Where every token picks all of its candidates there is nothing to share.
  if (batch.index_rows.parts > 1 && longest_ > picked.row_size())
    pick_own_rows(picked, index_q, head_weight, kv, batch, scratch);
  else
    pick_rows(picked, index_q, head_weight, kv, batch, scratch);
  written(picked);
}

// The rows of batch.index_rows. Their queries are brought together first, and the picks go back:
// so a kernel works on as many rows as the scratch has room for, and not on 64.
void CudaOpsImpl::pick_own_rows(const Tensor& picked, const Tensor& index_q,
                                const Tensor& head_weight, const KvView& kv, const BatchView& batch,
                                Scratch& scratch) {
  const RowShare& share = batch.index_rows;
  FATHOM_CHECK(share.parts <= workload_.ranks, "rows shared by {} ranks, {} are planned",
               share.parts, workload_.ranks);
  const int count = share.count(batch.tokens);
  if (count == 0) return;
  auto gathered = [&](const void* all, int64_t bytes) {
    std::byte* own = scratch.take<std::byte>(count * bytes);
    copy_own_blocks(const_cast<void*>(all), own, bytes, batch, false, launch_.stream);
    return own;
  };
  const int64_t q_bytes = index_q.row_size() * static_cast<int64_t>(size_of(index_q.dtype));
  Tensor q = index_q, weight = head_weight, picks = picked;
  q.data = gathered(index_q.data, q_bytes);
  weight.data = gathered(head_weight.data, head_weight.row_size() * 4);
  q.dims[0] = weight.dims[0] = picks.dims[0] = count;
  const int64_t pick_bytes = picked.row_size() * 4;
  picks.data = scratch.take<std::byte>(count * pick_bytes);

  BatchView own = batch;
  own.tokens = count;
  own.positions = reinterpret_cast<const int32_t*>(gathered(batch.positions, 4));
  own.sequence_of = reinterpret_cast<const int32_t*>(gathered(batch.sequence_of, 4));
  own_spans_.clear();
  for (int begin = 0; begin < count; begin += RowShare::kBlock) {
    const int end = std::min(begin + RowShare::kBlock, count);
    const int moved = share.token(begin) - begin;
    for (const AttentionSpan& s : batch.spans) {
      const int from = std::max(s.begin - moved, begin), to = std::min(s.end - moved, end);
      if (from < to) own_spans_.push_back({from, to, s.sequence, s.form});
    }
  }
  own.spans = own_spans_;
  pick_rows(picks, q, weight, kv, own, scratch);
  copy_own_blocks(picked.data, picks.data, pick_bytes, batch, true, launch_.stream);
}

// All rows of `batch`: the step's, or those of batch.index_rows alone.
void CudaOpsImpl::pick_rows(const Tensor& picked, const Tensor& index_q, const Tensor& head_weight,
                            const KvView& kv, const BatchView& batch, Scratch& scratch) {
  const int64_t topk = picked.row_size(), stride = round_up(longest_, kPageRows);
  const bool all = longest_ <= topk;  // every token picks all of its candidates
  const int tile = all ? batch.tokens : score_tile(workload_.index_budget, longest_, batch.tokens);
  float* scores = scratch.take<float>(all ? 4 : tile * stride);
  const bool recorded = capturing();
  // A recording serves other divisions into runs, too: which rows are neighbours is found out in
  // each replay. Reading keys in pairs pays where there are such rows.
  const bool runs = std::any_of(batch.spans.begin(), batch.spans.end(),
                                [](const AttentionSpan& s) { return s.end - s.begin > 1; });
  for (int begin = 0; begin < batch.tokens; begin += tile) {
    const int end = std::min(begin + tile, batch.tokens);
    if (!all) {
      IndexScoresParams p = index_params(index_q, head_weight, kv, batch, begin, end - begin);
      p.scores = scores;
      p.stride = stride;
      if (recorded)
        index_scores_decode(p, 0, end - begin, launch_, runs);
      else
        cuda::index_scores(p, scored_spans(batch, begin, end, topk), launch_);
    }
    TopkParams t;
    t.scores = scores;
    t.stride = stride;
    t.positions = batch.positions + begin;
    t.rows = end - begin;
    t.max_context = longest_;
    t.topk = static_cast<int>(topk);
    t.picked = picked.row<int32_t>(begin);
    cuda::index_topk(t, launch_);
  }
}

// Positions up to and with that of a batch token, as the host staged them.
int64_t CudaOpsImpl::context_at(int token) const {
  return int64_t{reinterpret_cast<const int32_t*>(staged() + plan_.positions)[token]} + 1;
}

// The parts that need scores of the batch's spans within [begin, end), counted from `begin`.
std::span<const IndexSpan> CudaOpsImpl::scored_spans(const BatchView& batch, int begin, int end,
                                                     int64_t topk) {
  index_spans_.clear();
  for (const AttentionSpan& s : batch.spans) {
    int from = std::max(s.begin, begin), to = std::min(s.end, end);
    if (from >= to) continue;
    const IndexSpan part = scored_part(
        {from - begin, to - begin, s.sequence, context_at(batch.index_rows.token(to - 1))}, topk);
    if (part.begin < part.end) index_spans_.push_back(part);
  }
  return index_spans_;
}

void CudaOpsImpl::index_scores(Tensor scores, std::span<const int32_t> tokens, Tensor index_q,
                               Tensor head_weight, const KvView& kv, const BatchView& batch) {
  begin_op();
  check_batch(batch, index_q);
  check_formats(kv);
  for (size_t i = 0; i < tokens.size(); ++i) {
    IndexScoresParams p = index_params(index_q, head_weight, kv, batch, tokens[i], 1);
    p.scores = scores.row<float>(static_cast<int64_t>(i));
    p.stride = round_up(longest_, kPageRows);
    index_scores_decode(p, 0, 1, launch_);
  }
}

void CudaOpsImpl::check_attention(const Tensor& q, const KvUpWeights& up, const Tensor& picked,
                                  const KvView& kv, const BatchView& batch) const {
  check_batch(batch, q);
  check_formats(kv);
  FATHOM_CHECK(up.absorb && up.value_up && up.heads == q.dims[1] && q.dims[2] == kHead,
               "kv_b of {} heads, not prepared for the GPU or unlike queries of {} x {}", up.heads,
               q.dims[1], q.dims[2]);
  FATHOM_CHECK(picked.empty() || picked.row_stride == picked.row_size(),
               "picks of {} with stride {}", picked.row_size(), picked.row_stride);
}

void CudaOpsImpl::attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                                  const KvView& kv, const BatchView& batch, float scale) {
  begin_op();
  prefill_spans_.clear();
  for (const AttentionSpan& s : batch.spans)
    if (s.form == AttentionForm::expanded)
      prefill_spans_.push_back({s.begin, s.end, s.sequence, context_at(s.end - 1)});
  if (prefill_spans_.empty()) return;
  check_attention(q, up, picked, kv, batch);
  MhaParams p;
  p.q = bf16_of(q);
  p.q_token_stride = q.row_stride;
  p.q_head_stride = kHead;
  p.cache = cache_of(kv, batch, 0);
  p.absorb = up.absorb;
  p.value_up = up.value_up;
  if (!picked.empty()) {
    p.picked = picked.row<int32_t>(0);
    p.topk = static_cast<int>(picked.row_size());
  }
  p.tokens = batch.tokens;
  p.heads = up.heads;
  p.scale = scale;
  p.out = bf16_of(out);
  p.out_token_stride = out.row_stride;
  // All scratch is free here. The more of it, the more heads are expanded at a time.
  Launch l = launch_;
  l.workspace = scratch_.base();
  l.workspace_bytes = static_cast<size_t>(scratch_.size());
  mha_prefill(p, prefill_spans_, l);
  written(out);
}

void CudaOpsImpl::attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                                  const KvView& kv, const BatchView& batch, float scale) {
  begin_op();
  if (absorbed_runs_.empty()) return;
  check_attention(q, up, picked, kv, batch);
  written(out);
  // Where the last product can, it leaves the FP8 form that the output projection reads.
  int tokens = 0;
  bool coded = true;
  for (const AttentionRun& run : absorbed_runs_) {
    tokens += run.end - run.begin;
    coded = coded && bf16_writes_codes(value_product(out, up, run), launch_);
  }
  const CodesOut codes = coded && tokens == batch.tokens ? codes_of(out) : CodesOut{};
  coded_.alone = codes.codes && up.kv_b.is_fp8() && settings_.fuse;
  for (const AttentionRun& run : absorbed_runs_)
    attend_run(out, q, up, picked, kv, batch, scale, run, codes);
}

// Of a run, back from latent space; its input is still missing.
Bf16GemmParams CudaOpsImpl::value_product(const Tensor& out, const KvUpWeights& up,
                                          const AttentionRun& run) {
  Bf16GemmParams value;
  value.a_stride = int64_t{up.heads} * kLatent;
  value.a_batch_stride = kLatent;
  value.rows = run.end - run.begin;
  value.b = up.value_up;
  value.b_batch_stride = int64_t{kValue} * kLatent;
  value.n = kValue;
  value.k = kLatent;
  value.batch = up.heads;
  value.out[0] = {bf16_of(out) + run.begin * out.row_stride, out.row_stride, 0, kValue, false};
  value.out_batch_stride = kValue;
  return value;
}

// The batch's spans within a run, counted from its first token.
std::span<const PrefillSpan> CudaOpsImpl::prefill_spans(const BatchView& batch,
                                                        const AttentionRun& run) {
  prefill_spans_.clear();
  for (const AttentionSpan& s : batch.spans) {
    int from = std::max(s.begin, run.begin), to = std::min(s.end, run.end);
    if (from < to)
      prefill_spans_.push_back({from - run.begin, to - run.begin, s.sequence, context_at(to - 1)});
  }
  return prefill_spans_;
}

// One run: queries into latent space, attention there, and back through the value part.
void CudaOpsImpl::attend_run(const Tensor& out, const Tensor& q, const KvUpWeights& up,
                             const Tensor& picked, const KvView& kv, const BatchView& batch,
                             float scale, const AttentionRun& run, const CodesOut& codes) {
  const int tokens = run.end - run.begin, heads = up.heads;
  Scratch scratch = scratch_;
  Bf16* q_latent = scratch.take<Bf16>(int64_t{tokens} * heads * kLatent);
  Bf16* mixed = scratch.take<Bf16>(int64_t{tokens} * heads * kLatent);
  const Bf16* queries = bf16_of(q) + run.begin * q.row_stride;

  Bf16GemmParams absorb;
  absorb.a = queries;
  absorb.a_stride = q.row_stride;
  absorb.a_batch_stride = kHead;
  absorb.rows = tokens;
  absorb.b = up.absorb;
  absorb.b_batch_stride = int64_t{kLatent} * kNope;
  absorb.n = kLatent;
  absorb.k = kNope;
  absorb.batch = heads;
  absorb.out[0] = {q_latent, int64_t{heads} * kLatent, 0, kLatent, false};
  absorb.out_batch_stride = kLatent;
  bf16_gemm(absorb, launch_);

  MlaParams p;
  p.q_latent = q_latent;
  p.q_rope = queries + kNope;
  p.q_rope_token_stride = q.row_stride;
  p.q_rope_head_stride = kHead;
  p.cache = cache_of(kv, batch, run.begin);
  if (!picked.empty()) {
    p.picked = picked.row<int32_t>(run.begin);
    p.topk = static_cast<int>(picked.row_size());
  }
  p.tokens = tokens;
  p.heads = heads;
  p.scale = scale;
  p.out = mixed;
  p.max_context = longest_;
  if (run.decode)
    mla_decode(p, launch_);
  else
    mla_prefill(p, prefill_spans(batch, run), launch_);

  Bf16GemmParams value = value_product(out, up, run);
  value.a = mixed;
  if (codes.codes) {
    const int64_t width = out.row_size();
    value.coded = {codes.codes + run.begin * width, codes.scales + run.begin, width,
                   codes.scale_stride, codes.ue8m0};
    if (coded_.alone) value.segments = 0;
  }
  bf16_gemm(value, launch_);
}

}  // namespace fathom::cuda
