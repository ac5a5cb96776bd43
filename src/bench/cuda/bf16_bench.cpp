#include "bench/cuda/bf16_bench.h"

#include <fmt/format.h>

#include <numeric>
#include <vector>

#include "kernels/cuda/gemm/bf16_gemm.h"

namespace fathom::cuda {
namespace {

// One product of the model. Times to compare with are those of cuBLAS on one H100
// (docs/performance.md).
struct Product {
  const char* name;
  int n, k, batch = 1;
  bool f32 = false;
  int head_width = 0;  // > 0: the batches are heads, this many elements apart in a row of `a`
  struct Row {
    int tokens;
    double anchor_us = 0;
  };
  std::vector<Row> rows;
};

const Product kProducts[] = {
    {"absorb",
     512,
     128,
     128,
     false,
     192,
     {{1, 7.8}, {16, 8.2}, {64, 9.6}, {128, 12.8}, {4096, 257.6}}},
    {"value up",
     128,
     512,
     128,
     false,
     512,
     {{1, 8.0}, {16, 8.1}, {64, 8.4}, {128, 11.9}, {4096, 245.9}}},
    {"router", 256, 7168, 1, true, 0, {{1, 7.4}, {16, 7.6}, {64, 7.8}, {128, 8.0}, {4096, 30.5}}},
    {"index weights",
     64,
     7168,
     1,
     true,
     0,
     {{1, 6.5}, {16, 6.6}, {64, 6.9}, {128, 6.9}, {4096, 28.1}}},
    {"index key",
     128,
     7168,
     1,
     false,
     0,
     {{1, 7.2}, {16, 7.4}, {64, 7.5}, {128, 7.6}, {4096, 24.6}}},
    {"output head", 129280, 7168, 1, true, 0, {{1}, {64}, {128}}},
    {"qkv_a", 2112, 7168, 1, false, 0, {{1}, {64}, {128}, {512}, {4096}}},
    {"q_b", 24576, 1536, 1, false, 0, {{1}, {128}, {4096}}},
    {"o_proj", 7168, 16384, 1, false, 0, {{1}, {128}, {512}, {4096}}},
    {"shared gate up", 4096, 7168, 1, false, 0, {{1}, {128}, {512}, {4096}}},
    {"shared down", 7168, 2048, 1, false, 0, {{1}, {128}, {4096}}},
};

void bench_product(BenchContext& bench, const Product& p, Product::Row row) {
  const std::string shape =
      fmt::format("{} {}x{}{} M={}", p.name, p.n, p.k,
                  p.batch > 1 ? fmt::format(" x{}", p.batch) : "", row.tokens);
  if (!bench.wanted("bf16", shape)) return;
  const int64_t weights = int64_t{p.batch} * p.n * p.k;
  const int64_t width = p.head_width > 0 ? int64_t{p.batch} * p.head_width : p.k;
  const int64_t out_width = int64_t{p.batch} * p.n;
  const int sets = bench.sets_for(2.0 * static_cast<double>(weights));
  Buffer b(static_cast<size_t>(sets * weights) * 2, MemoryKind::device);
  Buffer a(static_cast<size_t>(row.tokens * width) * 2, MemoryKind::device);
  Buffer out(static_cast<size_t>(row.tokens * out_width) * 4, MemoryKind::device);
  fill_bf16(b.data(), sets * weights, 1.0f, 1, bench.launch().stream);
  fill_bf16(a.data(), row.tokens * width, 1.0f, 2, bench.launch().stream);
  const double us = bench.time(sets, [&](const Launch& l, int set) {
    Bf16GemmParams g;
    g.a = reinterpret_cast<const Bf16*>(a.data());
    g.a_stride = width;
    g.a_batch_stride = p.head_width;
    g.rows = row.tokens;
    g.b = reinterpret_cast<const Bf16*>(b.data()) + set * weights;
    g.b_batch_stride = int64_t{p.n} * p.k;
    g.n = p.n;
    g.k = p.k;
    g.batch = p.batch;
    g.out[0] = {out.data(), out_width, 0, p.n, p.f32};
    g.out_batch_stride = p.n;
    bf16_gemm(g, l);
  });
  const double tokens = row.tokens;
  const double flop = 2.0 * tokens * static_cast<double>(weights);
  const double bytes =
      2.0 * static_cast<double>(weights) +
      tokens * static_cast<double>(2 * int64_t{p.batch} * p.k + (p.f32 ? 4 : 2) * out_width);
  bench.report("bf16", shape, us, flop, BenchContext::Math::bf16, bytes, row.anchor_us);
}

// Experts with even shares of tokens * 8 rows, as a well-trained router deals them.
void bench_grouped(BenchContext& bench, const char* name, int n, int k, int tokens) {
  constexpr int kExperts = 64, kChosen = 2;  // a quarter of the real layer: weights fit many times
  const std::string shape = fmt::format("{} {}x{} experts {} M={}", name, n, k, kExperts, tokens);
  if (!bench.wanted("bf16 grouped", shape)) return;
  const int rows = tokens * kChosen;
  std::vector<int32_t> offsets = {0};
  for (int e = 0; e < kExperts; ++e)
    offsets.push_back(static_cast<int32_t>(int64_t{rows} * (e + 1) / kExperts));
  int live = 0;
  for (int e = 0; e < kExperts; ++e) live += offsets[e + 1] > offsets[e];
  const int64_t weights = int64_t{kExperts} * n * k;
  Buffer b(static_cast<size_t>(weights) * 2, MemoryKind::device);
  Buffer a(static_cast<size_t>(rows) * k * 2, MemoryKind::device);
  Buffer out(static_cast<size_t>(rows) * n * 2, MemoryKind::device);
  Buffer device_offsets(offsets.size() * 4, MemoryKind::device);
  fill_bf16(b.data(), weights, 1.0f, 1, bench.launch().stream);
  fill_bf16(a.data(), int64_t{rows} * k, 1.0f, 2, bench.launch().stream);
  FATHOM_CUDA(cudaMemcpy(device_offsets.data(), offsets.data(), offsets.size() * 4,
                         cudaMemcpyHostToDevice));
  const double us = bench.time(1, [&](const Launch& l, int) {
    bf16_grouped_gemm({.a = reinterpret_cast<const Bf16*>(a.data()),
                       .a_stride = k,
                       .b = reinterpret_cast<const Bf16*>(b.data()),
                       .offsets = reinterpret_cast<const int32_t*>(device_offsets.data()),
                       .out = out.data(),
                       .out_stride = n,
                       .experts = kExperts,
                       .n = n,
                       .k = k,
                       .max_rows = rows,
                       .tokens = tokens},
                      l);
  });
  const double flop = 2.0 * rows * n * k;
  const double bytes = 2.0 * (static_cast<double>(live) * n * k + 1.0 * rows * (n + k));
  bench.report("bf16 grouped", shape, us, flop, BenchContext::Math::bf16, bytes);
}

}  // namespace

void bench_bf16(BenchContext& bench) {
  for (const Product& p : kProducts)
    for (const Product::Row& row : p.rows) bench_product(bench, p, row);
  for (int tokens : {16, 128, 4096}) {
    bench_grouped(bench, "gate up", 4096, 7168, tokens);
    bench_grouped(bench, "down", 7168, 2048, tokens);
  }
}

}  // namespace fathom::cuda
