#include "bench/cuda/prefill_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "kernels/cuda/attention/mha.h"
#include "kernels/cuda/attention/mla_prefill.h"
#include "numerics/cache_rows.h"

namespace fathom::cuda {
namespace {

constexpr int kTokens = 4096, kTopk = 2048;
constexpr int kLatent = KernelDims::kLatent, kRope = KernelDims::kRope;
constexpr int kNope = KernelDims::kNope, kValue = KernelDims::kValue;
constexpr float kScale = 0.05f;

// Distinct positions of equal chance for each token, ascending: neighbouring tokens share no more
// than chance gives them, which is the hardest case for the L2 cache.
std::vector<int32_t> pick(int64_t context) {
  std::vector<int32_t> picked(size_t{kTokens} * kTopk, -1);
  auto row = [&](int t) {
    const int64_t candidates = context - kTokens + t + 1;
    int32_t* to = picked.data() + size_t{kTopk} * t;
    if (candidates <= kTopk) {
      for (int32_t p = 0; p < candidates; ++p) to[p] = p;
      return;
    }
    uint64_t state = 0x9E3779B97F4A7C15ull * (t + 1);
    std::vector<bool> taken(static_cast<size_t>(candidates));
    for (int n = 0; n < kTopk;) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      size_t p = static_cast<size_t>((state >> 33) % static_cast<uint64_t>(candidates));
      if (!taken[p]) ++n;
      taken[p] = true;
    }
    for (size_t p = 0; p < taken.size(); ++p)
      if (taken[p]) *to++ = static_cast<int32_t>(p);
  };
  const int workers = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> threads;
  for (int w = 0; w < workers; ++w)
    threads.emplace_back([&, w] {
      for (int t = w; t < kTokens; t += workers) row(t);
    });
  for (std::thread& t : threads) t.join();
  return picked;
}

// One sequence in consecutive pages, its last 4096 tokens, and what they picked.
struct Chunk {
  int64_t context;
  bool fp8;
  Buffer rows, tables, sequence_of, positions, picked;
  double keys = 0;   // in all, of the picked positions
  double pairs = 0;  // of the causal ones

  Chunk(BenchContext& bench, int64_t length, bool fp8_rows) : context(length), fp8(fp8_rows) {
    cudaStream_t stream = bench.launch().stream;
    const int64_t row_bytes =
        latent_row_bytes(fp8 ? KvFormat::fp8 : KvFormat::bf16, kLatent, kRope);
    rows = device(context * row_bytes);
    if (fp8) {
      fill_fp8(reinterpret_cast<uint8_t*>(rows.data()), context * row_bytes, 1, stream);
      // Scales and rotary part get small equal values, since random codes would not be sensible
      // floats.
      FATHOM_CUDA(cudaMemset2DAsync(rows.data() + kLatent, static_cast<size_t>(row_bytes), 0x3C,
                                    static_cast<size_t>(row_bytes - kLatent),
                                    static_cast<size_t>(context), stream));
    } else {
      fill_bf16(rows.data(), context * row_bytes / 2, 1.0f, 1, stream);
    }
    std::vector<int32_t> table(static_cast<size_t>(context / kPageRows)), position(kTokens),
        sequence(kTokens);
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    for (int t = 0; t < kTokens; ++t) {
      position[t] = static_cast<int32_t>(context - kTokens + t);
      keys += std::min(kTopk, position[t] + 1);
      pairs += position[t] + 1;
    }
    tables = upload(table);
    positions = upload(position);
    sequence_of = upload(sequence);
    picked = upload(pick(context));
    FATHOM_CUDA(cudaStreamSynchronize(stream));
  }

  static Buffer device(int64_t bytes) {
    return Buffer(static_cast<size_t>(bytes), MemoryKind::device);
  }
  static Buffer upload(const std::vector<int32_t>& v) {
    Buffer b = device(static_cast<int64_t>(v.size()) * 4);
    FATHOM_CUDA(cudaMemcpy(b.data(), v.data(), b.size(), cudaMemcpyHostToDevice));
    return b;
  }
  static Buffer random_bf16(BenchContext& bench, int64_t count, float scale) {
    Buffer b = device(count * 2);
    fill_bf16(b.data(), count, scale, 2, bench.launch().stream);
    return b;
  }
  static const int32_t* ints(const Buffer& b) { return reinterpret_cast<const int32_t*>(b.data()); }
  LatentCache cache() const {
    LatentCache c;
    c.rows = reinterpret_cast<const std::byte*>(rows.data());
    c.fp8 = fp8;
    c.page_tables = ints(tables);
    c.max_pages = static_cast<int>(context / kPageRows);
    c.sequence_of = ints(sequence_of);
    c.positions = ints(positions);
    return c;
  }
};

Bf16* bf16(const Buffer& b) { return reinterpret_cast<Bf16*>(const_cast<std::byte*>(b.data())); }

// The queries alone (0.6 GB at 128 heads) exceed the L2 cache: one set is cold.
void bench_absorbed(BenchContext& bench, int heads, int64_t context, bool fp8, double anchor_us) {
  const std::string shape =
      fmt::format("{} heads, 4096 at {}K, {}", heads, context / 1024, fp8 ? "fp8" : "bf16");
  if (!bench.wanted("mla prefill", shape)) return;
  Chunk chunk(bench, context, fp8);
  const int64_t rows = int64_t{kTokens} * heads;
  Buffer q = Chunk::random_bf16(bench, rows * kLatent, 1),
         rope = Chunk::random_bf16(bench, rows * kRope, 1);
  Buffer out = Chunk::device(rows * kLatent * 2);
  Buffer work = Chunk::device(static_cast<int64_t>(mla_prefill_workspace(context, fp8)) + 16);
  MlaParams p;
  p.q_latent = bf16(q);
  p.q_rope = bf16(rope);
  p.q_rope_token_stride = int64_t{heads} * kRope;
  p.q_rope_head_stride = kRope;
  p.cache = chunk.cache();
  p.picked = Chunk::ints(chunk.picked);
  p.topk = kTopk;
  p.tokens = kTokens;
  p.heads = heads;
  p.scale = kScale;
  p.out = bf16(out);
  p.max_context = context;
  const PrefillSpan span{0, kTokens, 0, context};
  double us = bench.time(1, [&](const Launch& l, int) {
    Launch own = l;
    own.workspace = work.data();
    own.workspace_bytes = work.size();
    mla_prefill(p, {&span, 1}, own);
  });
  const double row_bytes = fp8 ? sizeof(LatentRowFp8) : 2.0 * (kLatent + kRope);
  bench.report("mla prefill", shape, us, 2.0 * heads * chunk.keys * (2 * kLatent + kRope),
               BenchContext::Math::bf16,
               static_cast<double>(rows) * 2 * (2 * kLatent + kRope) +
                   static_cast<double>(context) * row_bytes + 4.0 * kTokens * kTopk,
               anchor_us);
}

// Everything from latent rows to output: gather, mask, expansion of keys and values, attention.
void bench_expanded(BenchContext& bench, int heads, int64_t context, bool masked) {
  const std::string shape =
      fmt::format("{} heads, 4096 at {}K, {}", heads, context / 1024, masked ? "masked" : "causal");
  if (!bench.wanted("mha prefill", shape)) return;
  Chunk chunk(bench, context, false);
  Buffer q = Chunk::random_bf16(bench, int64_t{kTokens} * heads * (kNope + kRope), 1);
  Buffer weights = Chunk::random_bf16(bench, int64_t{heads} * kLatent * kNope, 0.05f);
  Buffer out = Chunk::device(int64_t{kTokens} * heads * kValue * 2);
  Buffer work = Chunk::device(static_cast<int64_t>(mha_prefill_workspace(kTokens, context, heads)));
  MhaParams p;
  p.q = bf16(q);
  p.q_token_stride = int64_t{heads} * (kNope + kRope);
  p.q_head_stride = kNope + kRope;
  p.cache = chunk.cache();
  p.absorb = p.value_up = bf16(weights);
  p.picked = masked ? Chunk::ints(chunk.picked) : nullptr;
  p.topk = kTopk;
  p.tokens = kTokens;
  p.heads = heads;
  p.scale = kScale;
  p.out = bf16(out);
  p.out_token_stride = int64_t{heads} * kValue;
  const PrefillSpan span{0, kTokens, 0, context};
  double us = bench.time(1, [&](const Launch& l, int) {
    Launch own = l;
    own.workspace = work.data();
    own.workspace_bytes = work.size();
    mha_prefill(p, {&span, 1}, own);
  });
  bench.report("mha prefill", shape, us,
               2.0 * heads * chunk.pairs * (kNope + kRope + kValue) +
                   2.0 * heads * static_cast<double>(context) * kLatent * (kNope + kValue),
               BenchContext::Math::bf16,
               2.0 * kTokens * heads * (kNope + kRope + kValue) +
                   static_cast<double>(context) * 2 * (kLatent + kRope));
}

}  // namespace

void bench_prefill(BenchContext& bench) {
  bench_absorbed(bench, 128, 4096, false, 3043);
  bench_absorbed(bench, 128, 8192, false, 3849);
  bench_absorbed(bench, 128, 32768, false, 4138);
  bench_absorbed(bench, 128, 131072, false, 4223);  // ascending positions
  bench_absorbed(bench, 64, 32768, false, 2124);
  bench_absorbed(bench, 16, 32768, false, 0);
  bench_absorbed(bench, 128, 4096, true, 3043);
  bench_absorbed(bench, 128, 131072, true, 4223);
  for (int64_t context : {4096, 8192, 12288})
    for (bool masked : {false, true}) bench_expanded(bench, 128, context, masked);
}

}  // namespace fathom::cuda
