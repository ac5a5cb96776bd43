// Construction, the step's inputs, and the ops that are one kernel each.
#include "kernels/cuda/cuda_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/units.h"
#include "kernels/cuda/attention/mha.h"
#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/attention/mla_prefill.h"
#include "kernels/cuda/cuda_ops_impl.h"
#include "kernels/cuda/gemm/fp8_gemm.h"
#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/norm/rows.h"
#include "kernels/cuda/sample/sample.h"

namespace fathom::cuda {

CudaOpsImpl::CudaOpsImpl(Numerics numerics, const Workload& workload, const CudaSettings& settings)
    : numerics_(numerics), workload_(workload), settings_(settings) {
  check_workload(numerics, workload);
  int device = 0;
  cudaDeviceProp p{};
  FATHOM_CUDA(cudaGetDevice(&device));
  FATHOM_CUDA(cudaGetDeviceProperties(&p, device));
  if (p.major != 9 || p.minor != 0)
    fail("{} has compute capability {}.{}; the kernels need 9.0 (H100, H200)", p.name, p.major,
         p.minor);
  name_ = fmt::format("{}, {} SMs, {}", p.name, p.multiProcessorCount,
                      bytes_text(static_cast<int64_t>(p.totalGlobalMem)));
  const OpsMemory plan = plan_memory(numerics, workload, p.multiProcessorCount);
  memory_ = Buffer(static_cast<size_t>(plan.total()), memory());
  staging_ = Buffer(2 * static_cast<size_t>(plan.inputs), MemoryKind::pinned);

  std::byte* at = memory_.data();
  auto carve = [&](int64_t bytes) {
    std::byte* begin = at;
    at += bytes;
    return begin;
  };
  inputs_ = carve(plan.inputs);
  codes_ = reinterpret_cast<uint8_t*>(carve(plan.coded));
  Scratch permutation(carve(plan.permutation), plan.permutation);
  const int64_t rows = int64_t{workload.step_tokens} * std::max(workload.experts_per_token, 1);
  offsets_ = permutation.take<int32_t>(workload.experts + 1);
  row_of_ = permutation.take<int32_t>(rows);
  token_of_ = permutation.take<int32_t>(rows);
  launch_.workspace = carve(plan.workspace);
  launch_.workspace_bytes = static_cast<size_t>(plan.workspace);
  scratch_ = Scratch(carve(plan.scratch), plan.scratch);
  launch_.sms = p.multiProcessorCount;
  launch_.pdl = settings.dependent_launch;
  launch_.batch_invariant = workload.batch_invariant;
  FATHOM_CUDA(cudaStreamCreateWithFlags(&launch_.stream, cudaStreamNonBlocking));
  FATHOM_CUDA(cudaStreamCreateWithFlags(&branch_, cudaStreamNonBlocking));
  for (cudaEvent_t* e : {&copied_[0], &copied_[1], &forked_, &joined_})
    FATHOM_CUDA(cudaEventCreateWithFlags(e, cudaEventDisableTiming));
}

CudaOpsImpl::~CudaOpsImpl() {
  // After an error of the device these calls fail too, and a destructor cannot report that.
  for (cudaEvent_t e : {copied_[0], copied_[1], forked_, joined_})
    if (e) cudaEventDestroy(e);
  for (cudaStream_t s : {launch_.stream, branch_})
    if (s) cudaStreamDestroy(s);
}

std::string CudaOpsImpl::describe() const { return fmt::format("cuda: {}", name_); }

int64_t CudaOpsImpl::context_limit(int64_t context) const {
  return cuda::context_limit(context, workload_.index_topk, round_up(workload_.context, kPageRows));
}

void CudaOpsImpl::synchronize() {
  flush_pending();
  FATHOM_CUDA(cudaStreamSynchronize(launch_.stream));
}

void CudaOpsImpl::upload(void* to, const void* from, size_t bytes) {
  flush_pending();
  coded_ = {};
  permuted_ids_ = nullptr;
  FATHOM_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, launch_.stream));
  FATHOM_CUDA(cudaStreamSynchronize(launch_.stream));
}

void CudaOpsImpl::download(void* to, const void* from, size_t bytes) {
  flush_pending();
  FATHOM_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, launch_.stream));
  FATHOM_CUDA(cudaStreamSynchronize(launch_.stream));
}

bool CudaOpsImpl::capturing() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  FATHOM_CUDA(cudaStreamIsCapturing(launch_.stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

// Copies the inputs to the pinned buffer; the host's later decisions read them there.
void CudaOpsImpl::stage(const StepInputs& in, const StagingPlan& plan) {
  const BatchView& b = in.batch;
  std::byte* to = staged();
  auto put = [&](int64_t at, const int32_t* from, size_t count) {
    if (count > 0) std::memcpy(to + at, from, count * sizeof(int32_t));
  };
  const size_t tokens = static_cast<size_t>(b.tokens);
  for (int t = 0; t < b.tokens; ++t) {
    FATHOM_CHECK(in.ids[t] >= 0 && in.ids[t] < workload_.vocab, "token {} of a vocabulary of {}",
                 in.ids[t], workload_.vocab);
    FATHOM_CHECK(b.positions[t] >= 0 && b.positions[t] < workload_.context &&
                     b.positions[t] < int64_t{b.max_pages} * kPageRows,
                 "position {} in a context of {}, {} pages", b.positions[t], workload_.context,
                 b.max_pages);
  }
  const int32_t live = in.live;
  put(plan.live, &live, 1);
  put(plan.ids, in.ids, tokens);
  put(plan.positions, b.positions, tokens);
  put(plan.sequence_of, b.sequence_of, tokens);
  put(plan.logit_rows, in.logit_rows.data(), in.logit_rows.size());
  FATHOM_CHECK(carried_.size() <= tokens, "{} ids carried to {} tokens", carried_.size(), tokens);
  carried_.resize(tokens, -1);
  put(plan.carried, carried_.data(), tokens);
  put(plan.page_tables, b.page_tables, static_cast<size_t>(b.sequences) * b.max_pages);
}

StepInputs CudaOpsImpl::begin_step(const StepInputs& in) {
  flush_pending();
  coded_ = {};
  gathered_ = {};
  permuted_ids_ = forked_rows_ = nullptr;
  const BatchView& b = in.batch;
  FATHOM_CHECK(b.tokens > 0 && b.tokens <= workload_.step_tokens &&
                   static_cast<int64_t>(in.logit_rows.size()) <= b.tokens,
               "a step of {} tokens and {} logit rows, at most {} planned", b.tokens,
               in.logit_rows.size(), workload_.step_tokens);
  // A recorded step must have room for the page tables of as many sequences as any replay brings.
  const bool recorded = capturing();
  const int tables = recorded ? std::min(b.tokens, step_sequences(workload_)) : b.sequences;
  plan_ = plan_staging(b.tokens, tables, b.max_pages);
  FATHOM_CHECK(b.sequences <= tables && plan_.bytes <= static_cast<int64_t>(staging_.size() / 2),
               "{} page tables of {} pages exceed the {} bytes planned for a step's inputs",
               b.sequences, b.max_pages, staging_.size() / 2);
  if (recorded)
    stage(in, plan_);  // the host decides by positions; restage() queues the copy
  else
    bring(in, plan_);
  carried_.clear();
  if (drawn_)
    carry_drawn_ids(reinterpret_cast<int32_t*>(inputs_ + plan_.ids),
                    reinterpret_cast<const int32_t*>(inputs_ + plan_.carried), drawn_, b.tokens,
                    launch_);

  auto at = [&](int64_t offset) { return reinterpret_cast<const int32_t*>(inputs_ + offset); };
  step_ = in;
  step_.ids = at(plan_.ids);
  step_.logit_rows = {at(plan_.logit_rows), in.logit_rows.size()};
  step_.batch.positions = at(plan_.positions);
  step_.batch.sequence_of = at(plan_.sequence_of);
  step_.batch.page_tables = at(plan_.page_tables);
  longest_ = context_limit(int64_t{*std::max_element(b.positions, b.positions + b.tokens)} + 1);
  longest_ = std::min(longest_, int64_t{b.max_pages} * kPageRows);
  absorbed_runs_ = attention_runs(b.spans, AttentionForm::absorbed, workload_.batch_invariant);
  return step_;
}

void CudaOpsImpl::restage(const StepInputs& in) {
  const BatchView& b = in.batch;
  const StagingPlan plan = plan_staging(b.tokens, b.sequences, b.max_pages);
  FATHOM_CHECK(b.tokens > 0 && b.tokens <= workload_.step_tokens && b.sequences <= b.tokens &&
                   plan.bytes <= static_cast<int64_t>(staging_.size() / 2),
               "{} tokens of {} sequences with {} pages replayed, at most {} tokens planned",
               b.tokens, b.sequences, b.max_pages, workload_.step_tokens);
  bring(in, plan);
  carried_.clear();
}

// Uses the half of the staging buffer that the step before last used: it waits at most until that
// step's inputs have been copied from it.
void CudaOpsImpl::bring(const StepInputs& in, const StagingPlan& plan) {
  half_ ^= 1;
  FATHOM_CUDA(cudaEventSynchronize(copied_[half_]));
  stage(in, plan);
  FATHOM_CUDA(cudaMemcpyAsync(inputs_, staged(), static_cast<size_t>(plan.bytes),
                              cudaMemcpyHostToDevice, launch_.stream));
  FATHOM_CUDA(cudaEventRecord(copied_[half_], launch_.stream));
}

void CudaOpsImpl::check_batch(const BatchView& batch, const Tensor& t) const {
  FATHOM_CHECK(batch.positions == step_.batch.positions && t.rows() == batch.tokens,
               "{} rows for a batch of {} tokens that begin_step has not brought", t.rows(),
               batch.tokens);
}

Scratch CudaOpsImpl::begin_op() {
  flush_pending();
  return scratch_;
}

void CudaOpsImpl::flush_pending() {
  flush_combine();
  flush_positions();
}

void CudaOpsImpl::flush_combine() {
  if (!combine_.out) return;
  combine(std::exchange(combine_, {}), next_launch());
}

void CudaOpsImpl::written(const Tensor& t) {
  if (t.data == permuted_ids_) permuted_ids_ = nullptr;
  if (t.data == forked_rows_) forked_rows_ = nullptr;
  if (coded_.rows_of == nullptr || t.rows() == 0) return;
  const char* begin = static_cast<const char*>(t.data);
  const char* end = begin + ((t.rows() - 1) * t.row_stride + t.row_size()) *
                                static_cast<int64_t>(size_of(t.dtype));
  const char* coded = static_cast<const char*>(coded_.rows_of);
  const char* coded_end = coded + 2 * ((coded_.rows - 1) * coded_.stride + coded_.n);
  if (begin < coded_end && coded < end) coded_ = {};
}

void CudaOpsImpl::embed(Tensor hidden, const int32_t* ids, const QWeight& table) {
  begin_op();
  FATHOM_CHECK(table.cols == hidden.row_size() && (table.is_fp8() || table.dtype == DType::bf16) &&
                   table.row_offset == 0,
               "table of {}, width {}, for rows of {}", name_of(table.dtype), table.cols,
               hidden.row_size());
  embed_rows({.ids = ids,
              .table = table.data,
              .scales = table.is_fp8() ? table.scale : nullptr,
              .out = bf16_of(hidden),
              .rows = static_cast<int>(hidden.rows()),
              .n = static_cast<int>(table.cols),
              .scale_stride = table.scale_stride,
              .out_stride = hidden.row_stride},
             launch_);
  written(hidden);
}

// The result of a norm is usually an input of an FP8 product, so it is also written as codes.
CodesOut CudaOpsImpl::codes_of(const Tensor& out) {
  const int64_t n = out.row_size();
  if (numerics_ != Numerics::fp8 || n % kFp8Block != 0 || n > widest_input(workload_) ||
      out.row_stride != n || out.rows() > workload_.step_tokens)
    return {};
  coded_ = {out.data, out.rows(), n, out.row_stride};
  scales_ = reinterpret_cast<float*>(codes_ + round_up(out.rows() * n, kScratchAlign));
  return {codes_, scales_, scale_stride_of(out.rows()), workload_.ue8m0};
}

void CudaOpsImpl::rms_norm(Tensor out, Tensor x, const float* gain, float eps) {
  begin_op();
  FATHOM_CHECK(out.rows() == x.rows() && out.row_size() == x.row_size(),
               "[{}, {}] normed to [{}, {}]", x.rows(), x.row_size(), out.rows(), out.row_size());
  RmsNormParams p;
  p.x = bf16_of(x);
  p.out = bf16_of(out);
  p.gain = gain;
  p.rows = static_cast<int>(x.rows());
  p.n = static_cast<int>(x.row_size());
  p.x_stride = x.row_stride;
  p.out_stride = out.row_stride;
  p.eps = eps;
  written(out);
  p.codes = codes_of(out);
  cuda::rms_norm(p, launch_);
}

// Both tensors that are written count as written from here on.
RmsNormParams CudaOpsImpl::add_norm_params(const Tensor& normed, const Tensor& residual,
                                           const Tensor& update, const float* gain, float eps) {
  FATHOM_CHECK(normed.rows() == update.rows() && residual.rows() == update.rows() &&
                   normed.row_size() == update.row_size() &&
                   residual.row_size() == update.row_size(),
               "[{}, {}] added to [{}, {}]", update.rows(), update.row_size(), residual.rows(),
               residual.row_size());
  RmsNormParams p;
  p.x = bf16_of(update);
  p.residual = bf16_of(residual);
  p.out = bf16_of(normed);
  p.gain = gain;
  p.rows = static_cast<int>(update.rows());
  p.n = static_cast<int>(update.row_size());
  p.x_stride = update.row_stride;
  p.residual_stride = residual.row_stride;
  p.out_stride = normed.row_stride;
  p.eps = eps;
  written(residual);
  written(normed);
  p.codes = codes_of(normed);
  return p;
}

void CudaOpsImpl::add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                               float eps) {
  const bool combined = combine_.out && combine_.out == update.data &&
                        update.row_stride == combine_.n && update.rows() == combine_.tokens;
  const CombineParams sum = combined ? std::exchange(combine_, {}) : CombineParams{};
  begin_op();
  const RmsNormParams norm = add_norm_params(normed, residual, update, gain, eps);
  if (combined)
    combine_rms_norm(sum, norm, next_launch());
  else
    cuda::rms_norm(norm, launch_);
}

void CudaOpsImpl::gather_rows(Tensor out, Tensor x, std::span<const int32_t> rows) {
  begin_op();
  FATHOM_CHECK(out.rows() == static_cast<int64_t>(rows.size()) && out.row_size() == x.row_size(),
               "{} rows of {} gathered as {} of {}", rows.size(), x.row_size(), out.rows(),
               out.row_size());
  cuda::gather_rows({.x = bf16_of(x),
                     .rows_of = rows.data(),
                     .out = bf16_of(out),
                     .rows = static_cast<int>(out.rows()),
                     .n = static_cast<int>(x.row_size()),
                     .x_stride = x.row_stride,
                     .out_stride = out.row_stride},
                    launch_);
  written(out);
}

}  // namespace fathom::cuda

namespace fathom {

std::unique_ptr<CudaOps> make_cuda_ops(Numerics numerics, const Workload& workload,
                                       const CudaSettings& settings) {
  return std::make_unique<cuda::CudaOpsImpl>(numerics, workload, settings);
}

}  // namespace fathom
