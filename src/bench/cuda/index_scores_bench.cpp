// Indexer scores at V3.2's sizes. Decode reads a pool of pages in random order, larger than any
// cache; a prefill chunk finds its keys in L2 after the first queries, as it does in a model.
#include "bench/cuda/index_scores_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/indexer/index_scores.h"
#include "numerics/cache_rows.h"

namespace fathom::cuda {
namespace {

constexpr int kHeads = 64, kDim = KernelDims::kIndex;
constexpr int64_t kPageBytes = sizeof(IndexPageFp8);
constexpr int64_t kPoolPages = 128 * 2048;  // 128 sequences of 128K
constexpr int kMaxTokens = 4096;

std::string decode_shape(int batch, int each, int64_t context) {
  return fmt::format("decode {}x{} of {}", batch, each, context);
}
std::string prefill_shape(int tokens, int64_t context) {
  return fmt::format("prefill {} of {}", tokens, context);
}

// One pool, one random order of its pages, queries and weights: each case takes slices.
class IndexBench {
 public:
  explicit IndexBench(BenchContext& bench)
      : bench_(bench),
        pages_(kPoolPages * kPageBytes, MemoryKind::device),
        order_(kPoolPages * sizeof(int32_t), MemoryKind::device),
        q_(size_t{2} * kMaxTokens * kHeads * kDim, MemoryKind::device),
        weight_(size_t{kMaxTokens} * kHeads * sizeof(float), MemoryKind::device),
        tokens_(size_t{2} * kMaxTokens * sizeof(int32_t), MemoryKind::device) {
    cudaStream_t stream = bench.launch().stream;
    fill_fp8(reinterpret_cast<uint8_t*>(pages_.data()), kPoolPages * kPageBytes, 1, stream);
    Buffer scales(kPoolPages * kPageRows * sizeof(float), MemoryKind::device);
    fill_f32(reinterpret_cast<float*>(scales.data()), kPoolPages * kPageRows, 1.0f, 2, stream);
    const size_t width = kPageRows * sizeof(float);
    FATHOM_CUDA(cudaMemcpy2DAsync(pages_.data() + kPageRows * kDim, kPageBytes, scales.data(),
                                  width, width, kPoolPages, cudaMemcpyDeviceToDevice, stream));
    fill_fp8(reinterpret_cast<uint8_t*>(q_.data()), static_cast<int64_t>(q_.size()), 3, stream);
    fill_f32(reinterpret_cast<float*>(weight_.data()), kMaxTokens * kHeads, 0.1f, 4, stream);
    std::vector<int32_t> order(kPoolPages);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(5));
    FATHOM_CUDA(cudaStreamSynchronize(stream));
    FATHOM_CUDA(cudaMemcpy(order_.data(), order.data(), order_.size(), cudaMemcpyHostToDevice));
  }

  // `batch` sequences of `context` tokens each, the last `each` of them scored.
  void decode(int batch, int each, int64_t context, double anchor) {
    const std::string shape = decode_shape(batch, each, context);
    if (!bench_.wanted("index_scores", shape)) return;
    const int tokens = batch * each;
    set_tokens(
        tokens, [&](int t) { return t / each; }, [&](int t) { return context - each + t % each; });
    const int64_t sequence_pages = (context + kPageRows - 1) / kPageRows;
    const double bytes = double(batch) * context * (kDim + 4) + double(tokens) * context * 4 +
                         double(tokens) * kHeads * (kDim + 4);
    const int sets = static_cast<int>(
        std::min<int64_t>(bench_.sets_for(bytes), kPoolPages / (sequence_pages * batch)));
    Buffer scores(static_cast<size_t>(tokens * context) * sizeof(float), MemoryKind::device);
    const double us = bench_.time(sets, [&](const Launch& l, int set) {
      IndexScoresParams p = params(tokens, context, scores);
      p.page_tables += set * batch * sequence_pages;
      index_scores_decode(p, 0, tokens, l, each == 2);
    });
    bench_.report("index_scores", shape, us, 2.0 * tokens * context * kHeads * kDim,
                  BenchContext::Math::fp8, bytes, anchor);
  }

  // One chunk of `tokens` tokens that ends at `context`.
  void prefill(int tokens, int64_t context, double anchor) {
    const std::string shape = prefill_shape(tokens, context);
    if (!bench_.wanted("index_scores", shape)) return;
    set_tokens(
        tokens, [](int) { return 0; }, [&](int t) { return context - tokens + t; });
    Buffer scores(static_cast<size_t>(tokens * context) * sizeof(float), MemoryKind::device);
    const IndexSpan span{0, tokens, 0, context};
    const double us = bench_.time(2, [&](const Launch& l, int set) {
      IndexScoresParams p = params(tokens, context, scores);
      p.q = static_cast<const std::byte*>(p.q) + int64_t{set} * kMaxTokens * kHeads * kDim;
      index_scores_prefill(p, {&span, 1}, l);
    });
    const double pairs = double(tokens) * (double(context) - (tokens - 1) / 2.0);
    bench_.report("index_scores", shape, us, 2.0 * pairs * kHeads * kDim, BenchContext::Math::fp8,
                  context * (kDim + 4.0) + tokens * kHeads * (kDim + 4.0) + pairs * 4, anchor);
  }

 private:
  template <class Sequence, class Position>
  void set_tokens(int tokens, const Sequence& sequence, const Position& position) {
    std::vector<int32_t> host(size_t{2} * kMaxTokens);
    for (int t = 0; t < tokens; ++t) {
      host[t] = static_cast<int32_t>(sequence(t));
      host[kMaxTokens + t] = static_cast<int32_t>(position(t));
    }
    FATHOM_CUDA(cudaMemcpy(tokens_.data(), host.data(), tokens_.size(), cudaMemcpyHostToDevice));
  }
  IndexScoresParams params(int tokens, int64_t context, const Buffer& scores) const {
    IndexScoresParams p;
    p.q = q_.data();
    p.head_weight = reinterpret_cast<const float*>(weight_.data());
    p.tokens = tokens;
    p.index_heads = kHeads;
    p.pages = pages_.data();
    p.page_count = kPoolPages;
    p.page_tables = reinterpret_cast<const int32_t*>(order_.data());
    p.max_pages = static_cast<int>((context + kPageRows - 1) / kPageRows);
    p.sequence_of = reinterpret_cast<const int32_t*>(tokens_.data());
    p.positions = p.sequence_of + kMaxTokens;
    p.scores = reinterpret_cast<float*>(scores.data());
    p.stride = context;
    p.max_context = context;
    return p;
  }

  BenchContext& bench_;
  Buffer pages_, order_, q_, weight_, tokens_;
};

struct DecodeCase {
  int batch, each;
  int64_t context;
  double anchor;
};
constexpr DecodeCase kDecode[] = {
    {1, 1, 2048, 2.9},      {1, 1, 32768, 4.5},     {1, 1, 131072, 8.9},    {16, 1, 2048, 4.6},
    {16, 1, 32768, 28.1},   {16, 1, 131072, 100.3}, {64, 1, 2048, 9.0},     {64, 1, 32768, 100.5},
    {64, 1, 131072, 390.0}, {128, 1, 2048, 15.6},   {128, 1, 32768, 196.5}, {128, 1, 131072, 773.9},
    {1, 2, 32768, 5.0},     {16, 2, 32768, 29.9},   {64, 2, 32768, 105.3},  {128, 2, 131072, 795.5},
};
struct PrefillCase {
  int tokens;
  int64_t context;
  double anchor;
};
constexpr PrefillCase kPrefill[] = {
    {4096, 4096, 142.4}, {4096, 8192, 417.6}, {4096, 32768, 2060.6}, {4096, 131072, 8539.6}};

}  // namespace

void bench_index_scores(BenchContext& bench) {
  // The pool is large: it is filled only if a row that needs it is wanted.
  const bool any =
      std::any_of(std::begin(kDecode), std::end(kDecode),
                  [&](const DecodeCase& c) {
                    return bench.wanted("index_scores", decode_shape(c.batch, c.each, c.context));
                  }) ||
      std::any_of(std::begin(kPrefill), std::end(kPrefill), [&](const PrefillCase& c) {
        return bench.wanted("index_scores", prefill_shape(c.tokens, c.context));
      });
  if (!any) return;
  IndexBench cases(bench);
  for (const DecodeCase& c : kDecode) cases.decode(c.batch, c.each, c.context, c.anchor);
  for (const PrefillCase& c : kPrefill) cases.prefill(c.tokens, c.context, c.anchor);
}

}  // namespace fathom::cuda
