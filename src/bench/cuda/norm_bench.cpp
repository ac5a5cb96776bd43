// The ops around the matrix products of a layer, at V3.2's real sizes. Small batches measure
// launches, 4096 tokens measure memory.
#include "bench/cuda/norm_bench.h"

#include <fmt/format.h>

#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/norm/position.h"

namespace fathom::cuda {
namespace {

constexpr int kHidden = 7168, kQRank = 1536, kHeads = 128, kIndexHeads = 64, kKvA = 576;
constexpr int64_t kContext = 8192;

struct Sets {
  Sets(BenchContext& bench, double bytes_each)
      : count(bench.sets_for(bytes_each)),
        stride((static_cast<int64_t>(bytes_each) + 255) / 256 * 256),
        memory(static_cast<size_t>(count) * stride, MemoryKind::device) {
    fill_bf16(memory.data(), static_cast<int64_t>(memory.size() / 2), 1.0f, 1,
              bench.launch().stream);
  }
  std::byte* at(int set) const { return memory.data() + set * stride; }
  int count;
  int64_t stride;
  Buffer memory;
};

void bench_norms(BenchContext& bench, int tokens, int n, bool add, bool coded) {
  std::string shape = fmt::format("{} {}x{}{}", add ? "add_rms_norm" : "rms_norm", tokens, n,
                                  coded ? " + codes" : "");
  if (!bench.wanted("norm", shape)) return;
  double row = 2.0 * n, codes = coded ? n * (1 + 4.0 / 128) : 0;
  int64_t elements = int64_t{tokens} * n;
  Sets sets(bench, elements * 8);  // x, residual, out, codes
  Buffer gain(n * sizeof(float), MemoryKind::device);
  Buffer scales(static_cast<size_t>(n / 128 * 4) * (tokens + 3), MemoryKind::device);
  fill_f32(reinterpret_cast<float*>(gain.data()), n, 1.0f, 2, bench.launch().stream);
  double us = bench.time(sets.count, [&](const Launch& l, int set) {
    RmsNormParams p;
    p.x = reinterpret_cast<const Bf16*>(sets.at(set));
    p.residual = add ? reinterpret_cast<Bf16*>(sets.at(set) + elements * 2) : nullptr;
    p.out = reinterpret_cast<Bf16*>(sets.at(set) + elements * 4);
    p.gain = reinterpret_cast<const float*>(gain.data());
    if (coded)
      p.codes = {reinterpret_cast<uint8_t*>(sets.at(set) + elements * 6),
                 reinterpret_cast<float*>(scales.data()), (tokens + 3) / 4 * 4, true};
    p.rows = tokens;
    p.n = n;
    p.x_stride = p.residual_stride = p.out_stride = n;
    p.eps = 1e-6f;
    rms_norm(p, l);
  });
  bench.report("norm", shape, us, 0, BenchContext::Math::bf16,
               tokens * (row * (add ? 4 : 2) + codes));
}

void bench_quantise(BenchContext& bench, int tokens, int n) {
  std::string shape = fmt::format("quantise {}x{}", tokens, n);
  if (!bench.wanted("norm", shape)) return;
  int64_t elements = int64_t{tokens} * n;
  Sets sets(bench, elements * 3);
  Buffer scales(static_cast<size_t>(n / 128 * 4) * (tokens + 3), MemoryKind::device);
  double us = bench.time(sets.count, [&](const Launch& l, int set) {
    QuantiseParams p{reinterpret_cast<const Bf16*>(sets.at(set)),
                     {reinterpret_cast<uint8_t*>(sets.at(set) + elements * 2),
                      reinterpret_cast<float*>(scales.data()), (tokens + 3) / 4 * 4, true},
                     tokens,
                     n,
                     n};
    quantise_rows(p, l);
  });
  bench.report("norm", shape, us, 0, BenchContext::Math::bf16, elements * (3 + 4.0 / 128));
}

// Bits of the four parts of position.h.
enum Parts { kRope = 1, kLatent = 2, kIndexKey = 4, kIndexQuery = 8 };

void bench_position(BenchContext& bench, int tokens, int parts, const char* name) {
  std::string shape = fmt::format("{} {}", name, tokens);
  if (!bench.wanted("norm", shape)) return;
  int64_t q = int64_t{tokens} * kHeads * 192 * 2, kv = int64_t{tokens} * kKvA * 2,
          k = int64_t{tokens} * 256, iq = int64_t{tokens} * kIndexHeads * 256;
  Sets sets(bench, (parts & kRope ? q : 0) + kv + k + 2 * iq);
  int64_t pages = kContext / kPageRows;
  Buffer cache(static_cast<size_t>(kContext) * 656, MemoryKind::device),
      index(static_cast<size_t>(pages * sizeof(IndexPageFp8)), MemoryKind::device),
      angles(static_cast<size_t>(kContext) * 256, MemoryKind::device),
      gain(4096, MemoryKind::device),
      weights(static_cast<size_t>(tokens) * kIndexHeads * 4, MemoryKind::device),
      batch((pages + 2 * tokens) * sizeof(int32_t), MemoryKind::device);
  std::vector<int32_t> host;
  for (int i = 0; i < pages; ++i) host.push_back(static_cast<int32_t>(pages - 1 - i));
  for (int t = 0; t < tokens; ++t) host.push_back(1000 + t);
  host.resize(host.size() + tokens, 0);
  FATHOM_CUDA(cudaMemcpy(batch.data(), host.data(), host.size() * 4, cudaMemcpyHostToDevice));
  const int32_t* ints = reinterpret_cast<const int32_t*>(batch.data());
  double us = bench.time(sets.count, [&](const Launch& l, int set) {
    PositionParams p;
    p.tokens = tokens;
    p.page_tables = ints;
    p.positions = ints + pages;
    p.sequence_of = p.positions + tokens;
    p.max_pages = static_cast<int>(pages);
    p.cos = reinterpret_cast<const float*>(angles.data());
    p.sin = p.cos + kContext * 32;
    const float* norm = reinterpret_cast<const float*>(gain.data());
    Bf16* at = reinterpret_cast<Bf16*>(sets.at(set));
    if (parts & kLatent) p.latent = {at, kKvA, norm, 1e-6f, cache.data(), true, true};
    at += kv / 2;
    if (parts & kIndexKey) p.index_key = {at, 128, norm, norm + 128, index.data(), true, true};
    at += k / 2;
    if (parts & kIndexQuery)
      p.index_query = {at,
                       kIndexHeads * 128,
                       at + iq / 2,
                       kIndexHeads * 128,
                       reinterpret_cast<float*>(weights.data()),
                       kIndexHeads,
                       kIndexHeads,
                       true,
                       true};
    at += iq;
    if (parts & kRope) p.rope_query = {at, kHeads, 192, kHeads * 192};
    run_position(p, l);
  });
  double bytes = 0;
  if (parts & kRope) bytes += tokens * (kHeads * 64 * 4.0);
  if (parts & kLatent) bytes += kv + tokens * 656.0;
  if (parts & kIndexKey) bytes += k + tokens * 132.0;
  if (parts & kIndexQuery) bytes += iq * 1.5 + tokens * kIndexHeads * 8.0;
  bench.report("norm", shape, us, 0, BenchContext::Math::bf16, bytes);
}

}  // namespace

void bench_norm(BenchContext& bench) {
  for (int tokens : {1, 64, 4096}) {
    bench_norms(bench, tokens, kHidden, true, true);
    bench_norms(bench, tokens, kQRank, false, true);
    bench_quantise(bench, tokens, 16384);
    bench_position(bench, tokens, kRope | kLatent | kIndexKey | kIndexQuery, "all of position");
    bench_position(bench, tokens, kRope, "rope_query");
    bench_position(bench, tokens, kIndexQuery, "index_query");
    bench_position(bench, tokens, kLatent, "append_latent");
    bench_position(bench, tokens, kIndexKey, "append_index_key");
  }
}

}  // namespace fathom::cuda
