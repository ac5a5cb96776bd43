// FP8 products of prefill: the dense projections of DeepSeek-V3.2 and its routed experts.
#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <vector>

#include "bench/cuda/kernel_bench.h"
#include "kernels/cuda/gemm/fp8_many.h"
#include "tensor/buffer.h"

namespace fathom::cuda {
namespace {

struct DenseShape {
  const char* name;
  int n, k;
  double anchor[3];  // microseconds at the rows of kRows (docs/performance.md)
};
constexpr int kRows[3] = {256, 512, 4096};
constexpr DenseShape kDense[] = {
    {"qkv_a", 2112, 7168, {11.8, 14.5, 94.6}},
    {"q_b", 24576, 1536, {23.2, 35.8, 254.8}},
    {"kv_b", 32768, 512, {13.7, 23.0, 136.2}},
    {"o_proj", 7168, 16384, {64.0, 130.5, 667.8}},
    {"index wq_b", 8192, 1536, {8.6, 13.0, 83.3}},
    {"shared gate_up", 4096, 7168, {19.7, 24.5, 170.2}},
    {"shared down", 7168, 2048, {10.9, 17.7, 102.3}},
    {"dense gate_up", 36864, 7168, {124.4, 260.2, 1599.9}},
    {"dense down", 7168, 18432, {71.2, 164.4, 832.6}},
};

struct ExpertShape {
  int experts, tokens, n, k;
  double anchor;
};
constexpr ExpertShape kExperts[] = {
    {256, 4096, 4096, 7168, 3956}, {256, 8192, 4096, 7168, 4368}, {32, 4096, 4096, 7168, 414},
    {32, 8192, 4096, 7168, 556},   {32, 32768, 4096, 7168, 1647}, {256, 4096, 7168, 2048, 1816},
    {256, 8192, 7168, 2048, 2401}, {32, 4096, 7168, 2048, 216},   {32, 8192, 7168, 2048, 381},
    {32, 32768, 7168, 2048, 1006},
};

// Activations shared by all sets (a real layer finds them in L2), weights of each set, outputs.
struct Operands {
  Operands(int64_t rows, int k, int64_t weight_rows, int sets, int64_t out_elements,
           cudaStream_t stream)
      : row_stride((rows + 3) / 4 * 4),
        codes(static_cast<size_t>(rows * k), MemoryKind::device),
        scales(static_cast<size_t>(row_stride * (k / 128) * 4), MemoryKind::device),
        weights(static_cast<size_t>(sets * weight_rows * k), MemoryKind::device),
        weight_scales(static_cast<size_t>((weight_rows / 128 + 1) * (k / 128) * 4 * sets),
                      MemoryKind::device),
        out(static_cast<size_t>(out_elements * 2), MemoryKind::device) {
    fill_fp8(bytes(codes), static_cast<int64_t>(codes.size()), 1, stream);
    fill_fp8(bytes(weights), static_cast<int64_t>(weights.size()), 2, stream);
    fill_f32(floats(scales), static_cast<int64_t>(scales.size() / 4), 0.01f, 3, stream);
    fill_f32(floats(weight_scales), static_cast<int64_t>(weight_scales.size() / 4), 0.01f, 4,
             stream);
    FATHOM_CUDA(cudaStreamSynchronize(stream));
  }
  static uint8_t* bytes(const Buffer& b) { return reinterpret_cast<uint8_t*>(b.data()); }
  static float* floats(const Buffer& b) { return reinterpret_cast<float*>(b.data()); }

  int64_t row_stride;
  Buffer codes, scales, weights, weight_scales, out;
};

void bench_dense(BenchContext& bench, const DenseShape& s, int rows, double anchor) {
  const std::string name = fmt::format("{} {},{} M={}", s.name, s.n, s.k, rows);
  if (!bench.wanted("fp8 gemm", name)) return;
  const double weight_bytes = 1.0 * s.n * s.k;
  const double bytes = weight_bytes + 1.0 * rows * s.k + 2.0 * rows * s.n;
  const int sets = bench.sets_for(weight_bytes);
  const Operands o(rows, s.k, s.n, sets, int64_t{rows} * s.n, bench.launch().stream);
  const double us = bench.time(sets, [&](const Launch& l, int set) {
    Fp8GemmParams p;
    p.a = {Operands::bytes(o.codes), Operands::floats(o.scales), rows, s.k, o.row_stride};
    p.b = {Operands::bytes(o.weights) + set * int64_t{s.n} * s.k, Operands::floats(o.weight_scales),
           s.n, s.k, s.k / 128};
    p.out[0] = {o.out.data(), s.n, 0, s.n, false};
    p.segments = 1;
    fp8_gemm_many(p, l);
  });
  bench.report("fp8 gemm", name, us, 2.0 * rows * s.n * s.k, BenchContext::Math::fp8, bytes,
               anchor);
}

// Rows of the first `experts` of 256, when every token chooses 8 of them at random.
std::vector<int32_t> route_evenly(int tokens, int experts) {
  std::mt19937 generator(7);
  std::vector<int32_t> all(256), counts(256);
  for (int e = 0; e < 256; ++e) all[static_cast<size_t>(e)] = e;
  for (int t = 0; t < tokens; ++t)
    for (size_t i = 0; i < 8; ++i) {
      std::swap(all[i], all[i + generator() % (256 - i)]);
      ++counts[static_cast<size_t>(all[i])];
    }
  std::vector<int32_t> offsets{0};
  for (int e = 0; e < experts; ++e)
    offsets.push_back(offsets.back() + counts[static_cast<size_t>(e)]);
  return offsets;
}

void bench_experts(BenchContext& bench, const ExpertShape& s) {
  const std::string name =
      fmt::format("{} of 256 experts {},{} T={}", s.experts, s.n, s.k, s.tokens);
  if (!bench.wanted("fp8 grouped", name)) return;
  const std::vector<int32_t> offsets = route_evenly(s.tokens, s.experts);
  const int rows = offsets.back();
  const double weight_bytes = 1.0 * s.experts * s.n * s.k;
  const double bytes = weight_bytes + 1.0 * rows * s.k + 2.0 * rows * s.n;
  const int sets = bench.sets_for(weight_bytes);
  const Operands o(rows, s.k, int64_t{s.experts} * s.n, sets, int64_t{rows} * s.n,
                   bench.launch().stream);
  const Buffer device_offsets(offsets.size() * 4, MemoryKind::device);
  FATHOM_CUDA(cudaMemcpy(device_offsets.data(), offsets.data(), offsets.size() * 4,
                         cudaMemcpyHostToDevice));
  const double us = bench.time(sets, [&](const Launch& l, int set) {
    Fp8GroupedParams p;
    p.a = {Operands::bytes(o.codes), Operands::floats(o.scales), rows, s.k, o.row_stride};
    p.codes = Operands::bytes(o.weights) + set * int64_t{s.experts} * s.n * s.k;
    p.scales = Operands::floats(o.weight_scales);
    p.experts = s.experts;
    p.n = s.n;
    p.k = s.k;
    p.offsets = reinterpret_cast<const int32_t*>(device_offsets.data());
    p.out = reinterpret_cast<Bf16*>(o.out.data());
    p.out_stride = s.n;
    p.tokens = s.tokens;
    fp8_grouped_many(p, l);
  });
  bench.report("fp8 grouped", name, us, 2.0 * rows * s.n * s.k, BenchContext::Math::fp8, bytes,
               s.anchor);
}

}  // namespace

void bench_fp8_many(BenchContext& bench) {
  for (const DenseShape& s : kDense)
    for (int i = 0; i < 3; ++i) bench_dense(bench, s, kRows[i], s.anchor[i]);
  for (const ExpertShape& s : kExperts) bench_experts(bench, s);
}

}  // namespace fathom::cuda
