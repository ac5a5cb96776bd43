#include "bench/cuda/topk_bench.h"

#include <fmt/format.h>

#include "kernels/cuda/indexer/topk.h"

namespace fathom::cuda {
namespace {

constexpr int kTopk = 2048;

// Rows of a decode step have `context` candidates each; those of a chunk are its last positions.
void bench_rows(BenchContext& bench, int rows, int64_t context, double anchor_us) {
  const std::string shape = fmt::format("{} rows x {}K", rows, context / 1024);
  if (!bench.wanted("topk", shape)) return;
  const bool chunk = rows == 4096;
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  double candidates = 0;
  for (int r = 0; r < rows; ++r) {
    positions[r] = static_cast<int32_t>(chunk ? context - rows + r : context - 1);
    candidates += positions[r] < kTopk ? 0 : positions[r] + 1;
  }
  const double bytes = 4.0 * static_cast<double>(rows) * static_cast<double>(context);
  const int sets = bench.sets_for(bytes);
  const int64_t floats = rows * context;
  Buffer scores(static_cast<size_t>(sets) * static_cast<size_t>(bytes), MemoryKind::device);
  Buffer device_positions(positions.size() * 4, MemoryKind::device);
  Buffer picked(static_cast<size_t>(rows) * kTopk * 4, MemoryKind::device);
  cudaStream_t stream = bench.launch().stream;
  fill_f32(reinterpret_cast<float*>(scores.data()), sets * floats, 1.0f, 1, stream);
  FATHOM_CUDA(cudaMemcpyAsync(device_positions.data(), positions.data(), positions.size() * 4,
                              cudaMemcpyHostToDevice, stream));
  FATHOM_CUDA(cudaStreamSynchronize(stream));
  double us = bench.time(sets, [&](const Launch& l, int set) {
    TopkParams p;
    p.scores = reinterpret_cast<const float*>(scores.data()) + set * floats;
    p.stride = p.max_context = context;
    p.positions = reinterpret_cast<const int32_t*>(device_positions.data());
    p.rows = rows;
    p.topk = kTopk;
    p.picked = reinterpret_cast<int32_t*>(picked.data());
    index_topk(p, l);
  });
  bench.report("topk", shape, us, 0, BenchContext::Math::bf16, 4 * candidates + 4.0 * rows * kTopk,
               anchor_us);
}

}  // namespace

void bench_topk(BenchContext& bench) {
  struct Case {
    int rows;
    int64_t context_k;
    double anchor_us;
  };
  for (Case c :
       {Case{1, 2, 1.2},      Case{1, 8, 8.7},      Case{1, 32, 14.0},   Case{1, 128, 17.5},
        Case{16, 2, 1.4},     Case{16, 8, 9.9},     Case{16, 32, 17.2},  Case{16, 128, 22.3},
        Case{64, 2, 1.5},     Case{64, 8, 10.4},    Case{64, 32, 21.6},  Case{64, 128, 49.3},
        Case{128, 2, 1.7},    Case{128, 8, 11.1},   Case{128, 32, 23.2}, Case{128, 128, 59.3},
        Case{4096, 4, 117.3}, Case{4096, 8, 260.4}, Case{4096, 32, 643}, Case{4096, 128, 2037}})
    bench_rows(bench, c.rows, c.context_k * 1024, c.anchor_us);
}

}  // namespace fathom::cuda
