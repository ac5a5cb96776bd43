// CudaOps: everything made of matrix products with weights.
#include <utility>

#include "base/error.h"
#include "kernels/cuda/cuda_ops_impl.h"
#include "kernels/cuda/gemm/bf16_gemm.h"
#include "kernels/cuda/gemm/fp8_gemm.h"
#include "kernels/cuda/moe/moe.h"

namespace fathom::cuda {
namespace {

// With fewer tokens a CTA a token takes longer than several for the sum, and then the norm.
constexpr int64_t kCombineWithNorm = 128;

OutSegment segment(const Tensor& out, int64_t begin, int64_t columns) {
  FATHOM_CHECK(out.dtype == DType::bf16 || out.dtype == DType::f32, "product written as {}",
               name_of(out.dtype));
  return {out.data, out.row_stride, static_cast<int>(begin), static_cast<int>(begin + columns),
          out.dtype == DType::f32};
}

OutSegment segment(Bf16* out, int64_t stride, int64_t columns) {
  return {out, stride, 0, static_cast<int>(columns), false};
}

}  // namespace

Fp8Rows CudaOpsImpl::quantised(const Tensor& x) {
  const int64_t rows = x.rows(), n = x.row_size();
  FATHOM_CHECK(rows <= workload_.step_tokens && n <= widest_input(workload_),
               "[{}, {}] quantised, at most [{}, {}] planned", rows, n, workload_.step_tokens,
               widest_input(workload_));
  if (!is_coded(x)) {
    coded_ = {x.data, rows, n, x.row_stride};
    scales_ = reinterpret_cast<float*>(codes_ + round_up(rows * n, kScratchAlign));
    quantise_rows({.x = bf16_of(x),
                   .codes = {codes_, scales_, scale_stride_of(rows), workload_.ue8m0},
                   .rows = static_cast<int>(rows),
                   .n = static_cast<int>(n),
                   .x_stride = x.row_stride},
                  launch_);
  }
  return {codes_, scales_, static_cast<int>(rows), static_cast<int>(n), scale_stride_of(rows)};
}

bool CudaOpsImpl::is_coded(const Tensor& x) const {
  return coded_.rows_of == x.data && coded_.rows == x.rows() && coded_.n == x.row_size() &&
         coded_.stride == x.row_stride;
}

void CudaOpsImpl::fp8_product(const Fp8Rows& x, const QWeight& w, std::span<const OutSegment> out) {
  FATHOM_CHECK(w.row_offset == 0 && w.cols == x.k, "weight [{}, {}] from row {} of a block, k {}",
               w.rows, w.cols, w.row_offset, x.k);
  Fp8GemmParams p;
  p.a = x;
  p.b = {static_cast<const uint8_t*>(w.data), w.scale, static_cast<int>(w.rows),
         static_cast<int>(w.cols), w.scale_stride};
  for (const OutSegment& s : out) p.out[p.segments++] = s;
  fp8_gemm(p, next_launch());
}

void CudaOpsImpl::bf16_product(const Bf16* x, int64_t stride, int64_t rows, const QWeight& w,
                               std::span<const OutSegment> out) {
  Bf16GemmParams p;
  p.a = x;
  p.a_stride = stride;
  p.rows = static_cast<int>(rows);
  p.b = static_cast<const Bf16*>(w.data);
  p.n = static_cast<int>(w.rows);
  p.k = static_cast<int>(w.cols);
  p.segments = 0;
  for (const OutSegment& s : out) p.out[p.segments++] = s;
  bf16_gemm(p, next_launch());
}

void CudaOpsImpl::product(const Tensor& x, const QWeight& w, std::span<const OutSegment> out) {
  FATHOM_CHECK(w.cols == x.row_size(), "weight [{}, {}] for inputs of {}", w.rows, w.cols,
               x.row_size());
  if (w.is_fp8() && numerics_ == Numerics::fp8) return fp8_product(quantised(x), w, out);
  FATHOM_CHECK(w.dtype == DType::bf16, "weight of {} under {} numerics on the GPU",
               name_of(w.dtype), name_of(numerics_));
  FATHOM_CHECK(!coded_.alone || coded_.rows_of != x.data,
               "rows that exist as codes alone, for weights of {}", name_of(w.dtype));
  bf16_product(bf16_of(x), x.row_stride, x.rows(), w, out);
}

void CudaOpsImpl::project(std::span<const Projection> projections, Tensor x) {
  begin_op();
  ProjectionGroup groups[16];
  const int count = group_projections(projections, groups);
  for (int g = 0; g < count; ++g) {
    OutSegment out[kMaxMerged];
    int64_t column = 0;
    for (int i = 0; i < groups[g].count; ++i) {
      const Projection& p = *groups[g].parts[i];
      FATHOM_CHECK(p.out.row_size() == p.weight.rows && p.out.rows() == x.rows(),
                   "weight [{}, {}] between {} inputs and outputs [{}, {}]", p.weight.rows,
                   p.weight.cols, x.rows(), p.out.rows(), p.out.row_size());
      out[i] = segment(p.out, column, p.weight.rows);
      column += p.weight.rows;
    }
    product(x, groups[g].weight, {out, static_cast<size_t>(groups[g].count)});
  }
  for (const Projection& p : projections) written(p.out);
}

void CudaOpsImpl::logits(Tensor out, Tensor hidden, const QWeight& head) {
  begin_op();
  const OutSegment all = segment(out, 0, head.rows);
  product(hidden, head, {&all, 1});
  written(out);
}

// Computes gate and up side by side, the activation, then down.
void CudaOpsImpl::mlp_product(Tensor out, Tensor x, const MlpWeights& w, Scratch& scratch) {
  const int64_t rows = x.rows(), inter = w.gate.rows;
  FATHOM_CHECK(w.up.rows == inter && w.down.cols == inter && w.down.rows == out.row_size(),
               "MLP of gate {}, up {}, down [{}, {}]", inter, w.up.rows, w.down.rows, w.down.cols);
  Bf16* gate_up = scratch.take<Bf16>(rows * 2 * inter);
  if (stacked(w)) {
    QWeight both = w.gate;
    both.rows *= 2;
    const OutSegment all = segment(gate_up, 2 * inter, 2 * inter);
    product(x, both, {&all, 1});
  } else {
    const OutSegment gate = segment(gate_up, 2 * inter, inter),
                     up = segment(gate_up + inter, 2 * inter, inter);
    product(x, w.gate, {&gate, 1});
    product(x, w.up, {&up, 1});
  }
  SiluMulParams act;
  act.gate_up = gate_up;
  act.intermediate = static_cast<int>(inter);
  act.max_rows = static_cast<int>(rows);
  act.ue8m0 = workload_.ue8m0;
  const OutSegment result = segment(out, 0, w.down.rows);
  if (w.down.is_fp8()) {
    act.scale_stride = scale_stride_of(rows);
    act.codes = scratch.take<uint8_t>(rows * inter);
    act.scales = scratch.take<float>(inter / kFp8Block * act.scale_stride);
    silu_mul(act, launch_);
    Fp8Rows middle{act.codes, act.scales, static_cast<int>(rows), static_cast<int>(inter),
                   act.scale_stride};
    fp8_product(middle, w.down, {&result, 1});
  } else {
    act.out = scratch.take<Bf16>(rows * inter);
    silu_mul(act, launch_);
    bf16_product(act.out, inter, rows, w.down, {&result, 1});
  }
}

void CudaOpsImpl::mlp(Tensor out, Tensor x, const MlpWeights& w) {
  Scratch scratch = begin_op();
  if (w.empty())
    FATHOM_CUDA(cudaMemset2DAsync(out.data, static_cast<size_t>(out.row_stride) * sizeof(Bf16), 0,
                                  static_cast<size_t>(out.row_size()) * sizeof(Bf16),
                                  static_cast<size_t>(out.rows()), launch_.stream));
  else
    mlp_product(out, x, w, scratch);
  written(out);
}

void CudaOpsImpl::route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate,
                        const float* bias, const RouterShape& shape) {
  Scratch scratch = begin_op();
  const int64_t tokens = x.rows(), k = shape.per_token;
  FATHOM_CHECK(gate.rows == shape.experts && shape.experts == workload_.experts &&
                   ids.row_stride == k && weights.row_stride == k,
               "router of {} experts and rows of {} and {} for {} experts, {} a token", gate.rows,
               ids.row_stride, weights.row_stride, shape.experts, k);
  if (may_branch(tokens) && is_coded(x)) fork(x);
  float* scores = scratch.take<float>(tokens * shape.experts);
  const OutSegment all = {scores, shape.experts, 0, shape.experts, true};
  product(x, gate, {&all, 1});

  RouteParams r;
  r.logits = scores;
  r.bias = bias;
  r.tokens = static_cast<int>(tokens);
  // Padding tokens of the step are routed to no expert: reading its weights would cost time.
  if (tokens == step_.batch.tokens)
    r.live_tokens = reinterpret_cast<const int32_t*>(inputs_ + plan_.live);
  r.shape = shape;
  r.ids = ids.row<int32_t>(0);
  r.weights = weights.row<float>(0);
  // Where experts get the rows of all groups, those are permuted.
  if (own_experts() == 0 || workload_.groups > 1) return cuda::route(r, launch_);
  route_and_permute(r, permutation(r.ids, tokens, k), launch_);
  permuted_ids_ = r.ids;
}

PermuteParams CudaOpsImpl::permutation(const int32_t* ids, int64_t tokens, int64_t per_token) {
  FATHOM_CHECK(tokens <= workload_.step_tokens && per_token <= workload_.experts_per_token,
               "{} tokens of {} experts each permuted", tokens, per_token);
  PermuteParams p;
  p.ids = ids;
  p.tokens = static_cast<int>(tokens);
  p.per_token = static_cast<int>(per_token);
  p.first = workload_.first_expert;
  p.experts = own_experts();
  p.offsets = offsets_;
  p.row_of = row_of_;
  p.token_of = token_of_;
  return p;
}

int CudaOpsImpl::own_experts() const {
  return workload_.own_experts < 0 ? workload_.experts : workload_.own_experts;
}

// Of this rank's experts. Checked once a layer; the weights do not move.
const ExpertArrays& CudaOpsImpl::arrays_of(std::span<const MlpWeights> experts) {
  auto it = experts_.find(experts.data());
  if (it != experts_.end()) return it->second;
  const auto first = static_cast<size_t>(workload_.first_expert);
  const auto count = static_cast<size_t>(own_experts());
  for (size_t e = 0; e < experts.size(); ++e)
    FATHOM_CHECK(experts[e].empty() == (e < first || e >= first + count),
                 "expert {} of a rank that has {} from {} on", e, count, first);
  return experts_.emplace(experts.data(), expert_arrays(experts.subspan(first, count)))
      .first->second;
}

// What other ranks have sent is coded already.
CudaOpsImpl::ExpertCodes CudaOpsImpl::codes_for_experts(const Tensor& x) {
  const auto* at = static_cast<const std::byte*>(x.data);
  const int64_t row_bytes = 2 * gathered_.n;
  if (!gathered_.rows_of || at < gathered_.rows_of ||
      at >= gathered_.rows_of + gathered_.rows * row_bytes) {
    const Fp8Rows own = quantised(x);
    return {own.codes, own.scales, own.scale_stride, 1};
  }
  const int64_t first = (at - gathered_.rows_of) / row_bytes, groups = gathered_.n / kFp8Block;
  FATHOM_CHECK(x.row_size() == gathered_.n && first + x.rows() <= gathered_.rows,
               "[{}, {}] of {} rows of {} that were gathered", x.rows(), x.row_size(),
               gathered_.rows, gathered_.n);
  const auto* scales = reinterpret_cast<const float*>(gathered_.rows_of + gathered_.scales_at);
  return {reinterpret_cast<const uint8_t*>(gathered_.rows_of) + first * gathered_.n,
          scales + first * groups, 1, groups};
}

// Computes the results of the experts, ragged [rows, D]. Inputs share a buffer with activations,
// and gate|up with results, since the two of a pair are never needed at the same time.
Bf16* CudaOpsImpl::run_experts(const ExpertArrays& e, const Tensor& x, int64_t rows,
                               Scratch& scratch) {
  const int64_t tokens = x.rows(), hidden = e.hidden, inter = e.intermediate;
  const int32_t* live_rows = offsets_ + e.experts;
  const int max_rows = static_cast<int>(rows);
  SiluMulParams act;
  act.intermediate = e.intermediate;
  act.max_rows = max_rows;
  act.live_rows = live_rows;
  act.ue8m0 = workload_.ue8m0;
  if (!e.fp8) {
    Bf16* in = scratch.take<Bf16>(rows * std::max(hidden, inter));
    Bf16* out = scratch.take<Bf16>(rows * std::max(2 * inter, hidden));
    FATHOM_CHECK(x.row_stride == hidden, "experts' inputs with gaps: {} for {}", x.row_stride,
                 hidden);
    gather_bf16({.rows = bf16_of(x),
                 .n = e.hidden,
                 .tokens = static_cast<int>(tokens),
                 .per_token = static_cast<int>(rows / tokens),
                 .row_of = row_of_,
                 .out = in},
                launch_);
    Bf16GroupedParams p;
    p.offsets = offsets_;
    p.experts = e.experts;
    p.max_rows = max_rows;
    p.tokens = static_cast<int>(tokens);
    p.a = in;
    p.a_stride = hidden;
    p.b = static_cast<const Bf16*>(e.up);
    p.out = out;
    p.out_stride = 2 * inter;
    p.n = 2 * e.intermediate;
    p.k = e.hidden;
    bf16_grouped_gemm(p, launch_);
    act.gate_up = out;
    act.out = in;
    silu_mul(act, launch_);
    p.a_stride = inter;
    p.b = static_cast<const Bf16*>(e.down);
    p.out_stride = hidden;
    p.n = e.hidden;
    p.k = e.intermediate;
    bf16_grouped_gemm(p, launch_);
    return out;
  }

  const int64_t stride = scale_stride_of(rows);
  uint8_t* in =
      scratch.take<uint8_t>(std::max(coded_bytes(rows, hidden), coded_bytes(rows, inter)));
  Bf16* out = scratch.take<Bf16>(rows * std::max(2 * inter, hidden));
  auto scales_behind = [&](int64_t n) {
    return reinterpret_cast<float*>(in + round_up(rows * n, kScratchAlign));
  };
  const ExpertCodes coded = codes_for_experts(x);
  gather_quantised({.codes = coded.codes,
                    .scales = coded.scales,
                    .scale_stride = coded.stride,
                    .scale_row = coded.row,
                    .k = e.hidden,
                    .tokens = static_cast<int>(tokens),
                    .per_token = static_cast<int>(rows / tokens),
                    .row_of = row_of_,
                    .token_of = token_of_,
                    .live_rows = live_rows,
                    .out_codes = in,
                    .out_scales = scales_behind(hidden),
                    .out_scale_stride = stride},
                   launch_);
  Fp8GroupedParams p;
  p.experts = e.experts;
  p.offsets = offsets_;
  p.tokens = static_cast<int>(tokens);
  p.a = {in, scales_behind(hidden), max_rows, e.hidden, stride};
  p.codes = static_cast<const uint8_t*>(e.up);
  p.scales = e.up_scales;
  p.n = 2 * e.intermediate;
  p.k = e.hidden;
  p.out = out;
  p.out_stride = 2 * inter;
  fp8_grouped_gemm(p, launch_);
  act.gate_up = out;
  act.codes = in;
  act.scales = scales_behind(inter);
  act.scale_stride = stride;
  silu_mul(act, launch_);
  p.a = {in, act.scales, max_rows, e.intermediate, stride};
  p.codes = static_cast<const uint8_t*>(e.down);
  p.scales = e.down_scales;
  p.n = e.hidden;
  p.k = e.intermediate;
  p.out_stride = hidden;
  fp8_grouped_gemm(p, launch_);
  return out;
}

bool CudaOpsImpl::may_branch(int64_t tokens) const {
  return tokens <= kBranchTokens && settings_.fuse && capturing();
}

void CudaOpsImpl::fork(const Tensor& x) {
  FATHOM_CUDA(cudaEventRecord(forked_, launch_.stream));
  forked_rows_ = x.data;
}

template <class Work>
void CudaOpsImpl::on_branch(const Work& work) {
  FATHOM_CUDA(cudaStreamWaitEvent(branch_, forked_));
  std::swap(launch_.stream, branch_);
  const bool outside = std::exchange(waits_fully_, true);
  work();
  waits_fully_ = outside;
  std::swap(launch_.stream, branch_);
}

void CudaOpsImpl::join() {
  FATHOM_CUDA(cudaEventRecord(joined_, branch_));
  FATHOM_CUDA(cudaStreamWaitEvent(launch_.stream, joined_));
  waits_fully_ = true;
}

Launch CudaOpsImpl::next_launch() {
  Launch l = launch_;
  l.pdl = l.pdl && !std::exchange(waits_fully_, false);
  return l;
}

void CudaOpsImpl::moe(Tensor out, Tensor x, Tensor ids, Tensor weights,
                      std::span<const MlpWeights> experts, const MlpWeights* shared) {
  Scratch scratch = begin_op();
  const int64_t tokens = x.rows(), k = ids.row_size(), hidden = x.row_size();
  const bool branch = shared && may_branch(tokens) && forked_rows_ == x.data && is_coded(x);
  FATHOM_CHECK(static_cast<int>(experts.size()) == workload_.experts && ids.row_stride == k &&
                   weights.row_stride == k && out.row_stride == hidden,
               "{} experts, {} a token, for a workload of {}", experts.size(), k,
               workload_.experts);
  const int32_t* chosen = ids.row<int32_t>(0);
  CombineParams c;
  if (shared) {
    if (branch) scratch.take<float>(tokens * workload_.experts);  // routing still reads its scores
    Tensor common(scratch.take<Bf16>(tokens * hidden), DType::bf16, {tokens, hidden});
    const int64_t mark = scratch.mark();
    if (branch) {
      on_branch([&] { mlp_product(common, x, *shared, scratch); });
    } else {
      mlp_product(common, x, *shared, scratch);
      scratch.release(mark);
    }
    c.shared = static_cast<const Bf16*>(common.data);
  }
  c.tokens = static_cast<int>(tokens);
  if (own_experts() > 0) {
    if (permuted_ids_ != chosen) permute(permutation(chosen, tokens, k), launch_);
    permuted_ids_ = chosen;
    c.rows = run_experts(arrays_of(experts), x, tokens * k, scratch);
    c.row_of = row_of_;
    c.weights = weights.row<float>(0);
    c.per_token = static_cast<int>(k);
  }
  c.n = static_cast<int>(hidden);
  c.out = bf16_of(out);
  if (branch) join();
  written(out);
  combine_ = c;
  if (!settings_.fuse || tokens < kCombineWithNorm) flush_combine();
}

}  // namespace fathom::cuda
