#include "bench/cuda/sample_bench.h"

#include <fmt/format.h>

#include "kernels/cuda/sample/sample.h"

namespace fathom::cuda {
namespace {

constexpr int64_t kVocab = 129280;

void bench_rows(BenchContext& bench, int rows, const char* name, const SamplingParams& params) {
  const std::string shape = fmt::format("{}, {} rows", name, rows);
  if (!bench.wanted("sample", shape)) return;
  const int64_t floats = rows * kVocab;
  const int sets = bench.sets_for(4.0 * static_cast<double>(floats));
  Buffer logits(static_cast<size_t>(sets * floats) * 4, MemoryKind::device);
  Buffer device_rows(sizeof(SampleRow) * rows, MemoryKind::device);
  Buffer ids(static_cast<size_t>(rows) * 4, MemoryKind::device);
  std::vector<SampleRow> host_rows(rows, SampleRow{params, 1});
  for (int r = 0; r < rows; ++r) host_rows[r].position = static_cast<uint64_t>(r);
  fill_f32(reinterpret_cast<float*>(logits.data()), sets * floats, 3.0f, 1, bench.launch().stream);
  FATHOM_CUDA(cudaMemcpyAsync(device_rows.data(), host_rows.data(), device_rows.size(),
                              cudaMemcpyHostToDevice, bench.launch().stream));
  FATHOM_CUDA(cudaStreamSynchronize(bench.launch().stream));
  double us = bench.time(sets, [&](const Launch& l, int set) {
    sample_tokens(reinterpret_cast<const float*>(logits.data()) + set * floats, kVocab, rows,
                  kVocab, reinterpret_cast<const SampleRow*>(device_rows.data()),
                  reinterpret_cast<int32_t*>(ids.data()), l);
  });
  bench.report("sample", shape, us, 0, BenchContext::Math::bf16, 4.0 * static_cast<double>(floats));
}

}  // namespace

void bench_sample(BenchContext& bench) {
  for (int rows : {1, 64}) {
    bench_rows(bench, rows, "greedy", {.temperature = 0.0f});
    bench_rows(bench, rows, "temperature", {.temperature = 0.6f});
    bench_rows(bench, rows, "top-p", {.temperature = 0.6f, .top_p = 0.95f});
    bench_rows(bench, rows, "all filters",
               {.temperature = 0.6f, .top_k = 50, .top_p = 0.95f, .min_p = 0.05f});
  }
}

}  // namespace fathom::cuda
