#include "bench/cuda/fp8_few_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/cuda/gemm/fp8_gemm.h"
#include "tensor/buffer.h"

namespace fathom::cuda {
namespace {

// Times to compare with are those of public kernels on one H100 (docs/performance.md).
constexpr int kRows[] = {1, 8, 16, 32, 64, 128};
struct Product {
  const char* name;
  int n, k;
  double anchor_us[6];  // at kRows
};
constexpr Product kProducts[] = {
    {"qkv_a", 2112, 7168, {13.8, 10.3, 10.3, 10.3, 9.3, 10.1}},
    {"q_b", 24576, 1536, {17.0, 17.3, 17.5, 17.7, 17.0, 18.7}},
    {"kv_b", 32768, 512, {8.6, 8.6, 8.5, 8.7, 8.9, 10.2}},
    {"o_proj", 7168, 16384, {43.5, 44.0, 43.6, 44.7, 44.7, 45.7}},
    {"index wq_b", 8192, 1536, {6.9, 6.9, 6.9, 6.9, 6.8, 7.3}},
    {"shared gate_up", 4096, 7168, {14.5, 13.2, 13.1, 13.3, 13.0, 13.1}},
    {"shared down", 7168, 2048, {7.8, 7.8, 7.8, 7.8, 7.5, 8.6}},
    {"dense gate_up", 36864, 7168, {90.6, 91.3, 92.2, 92.7, 93.5, 97.9}},
    {"dense down", 7168, 18432, {48.9, 49.1, 48.0, 49.7, 49.9, 50.8}},
};

constexpr int kBatches[] = {1, 16, 64, 128};
constexpr int kExperts = 256, kChosen = 8;
struct ExpertProduct {
  const char* name;
  int n, k;
  double anchor_us[4];  // at kBatches
};
constexpr ExpertProduct kExpertProducts[] = {
    {"experts gate_up", 4096, 7168, {94.0, 1045.2, 2327.7, 2621.9}},
    {"experts down", 7168, 2048, {57.7, 546.1, 1206.0, 1348.3}},
};

uint8_t* bytes(const Buffer& b) { return reinterpret_cast<uint8_t*>(b.data()); }
float* floats(const Buffer& b) { return reinterpret_cast<float*>(b.data()); }

Buffer random_codes(int64_t count, cudaStream_t stream) {
  Buffer b(static_cast<size_t>(count), MemoryKind::device);
  fill_fp8(bytes(b), count, 1, stream);
  return b;
}

Buffer random_scales(int64_t count, cudaStream_t stream) {
  Buffer b(static_cast<size_t>(count) * sizeof(float), MemoryKind::device);
  fill_f32(floats(b), count, 0.01f, 2, stream);
  return b;
}

// Activations are small and shared by all sets: in a layer, too, they come from the L2 cache.
struct Rows {
  Rows(int rows, int k, cudaStream_t stream)
      : stride((rows + 3) / 4 * 4),
        codes(random_codes(int64_t{rows} * k, stream)),
        scales(random_scales(stride * (k / 128), stream)),
        fp8{bytes(codes), floats(scales), rows, k, stride} {}
  int64_t stride;
  Buffer codes, scales;
  Fp8Rows fp8;
};

void bench_product(BenchContext& bench, const Product& s, int rows, double anchor_us) {
  const std::string shape = fmt::format("{} {},{} M={}", s.name, s.n, s.k, rows);
  if (!bench.wanted("fp8 gemm", shape)) return;
  const cudaStream_t stream = bench.launch().stream;
  const int64_t weights = int64_t{s.n} * s.k;
  const int sets = bench.sets_for(static_cast<double>(weights));
  const Rows a(rows, s.k, stream);
  const Buffer codes = random_codes(sets * weights, stream);
  const Buffer scales = random_scales(int64_t{s.n + 127} / 128 * (s.k / 128), stream);
  const Buffer out(static_cast<size_t>(rows) * s.n * 2, MemoryKind::device);
  const double us = bench.time(sets, [&](const Launch& l, int set) {
    Fp8GemmParams p;
    p.a = a.fp8;
    p.b = {bytes(codes) + set * weights, floats(scales), s.n, s.k, s.k / 128};
    p.out[0] = {out.data(), s.n, 0, s.n, false};
    p.segments = 1;
    fp8_gemm(p, l);
  });
  bench.report(
      "fp8 gemm", shape, us, 2.0 * rows * static_cast<double>(weights), BenchContext::Math::fp8,
      static_cast<double>(weights) + static_cast<double>(rows) * (s.k + 2.0 * s.n), anchor_us);
}

// Uniform top-8 of 256 a token; offsets of the experts.
std::vector<int32_t> route(int batch, std::mt19937& random) {
  std::vector<int> counts(kExperts, 0), order(kExperts);
  for (int e = 0; e < kExperts; ++e) order[static_cast<size_t>(e)] = e;
  for (int t = 0; t < batch; ++t) {
    std::shuffle(order.begin(), order.end(), random);
    for (int i = 0; i < kChosen; ++i) ++counts[static_cast<size_t>(order[static_cast<size_t>(i)])];
  }
  std::vector<int32_t> offsets = {0};
  for (int c : counts) offsets.push_back(offsets.back() + c);
  return offsets;
}

// All experts of a layer are in memory, and the tokens of each set choose others.
void bench_experts(BenchContext& bench, const ExpertProduct& s, int batch, double anchor_us) {
  const std::string shape = fmt::format("{} {},{} batch {}", s.name, s.n, s.k, batch);
  if (!bench.wanted("fp8 grouped", shape)) return;
  const cudaStream_t stream = bench.launch().stream;
  const int rows = batch * kChosen, sets = batch == 1 ? 16 : 2;
  const int64_t weights = int64_t{s.n} * s.k;
  std::mt19937 random(static_cast<uint32_t>(batch));
  std::vector<int32_t> offsets;
  double active = 0;
  for (int set = 0; set < sets; ++set) {
    const std::vector<int32_t> one = route(batch, random);
    for (size_t e = 0; e < kExperts; ++e) active += one[e + 1] > one[e] ? 1.0 / sets : 0.0;
    offsets.insert(offsets.end(), one.begin(), one.end());
  }
  const Rows a(rows, s.k, stream);
  const Buffer codes = random_codes(kExperts * weights, stream);
  const Buffer scales = random_scales(kExperts * (weights / 128 / 128), stream);
  const Buffer out(static_cast<size_t>(rows) * s.n * 2, MemoryKind::device);
  const Buffer device_offsets(offsets.size() * sizeof(int32_t), MemoryKind::device);
  FATHOM_CUDA(cudaMemcpy(device_offsets.data(), offsets.data(), device_offsets.size(),
                         cudaMemcpyHostToDevice));
  const double us = bench.time(sets, [&](const Launch& l, int set) {
    Fp8GroupedParams p;
    p.a = a.fp8;
    p.codes = bytes(codes);
    p.scales = floats(scales);
    p.experts = kExperts;
    p.n = s.n;
    p.k = s.k;
    p.offsets = reinterpret_cast<const int32_t*>(device_offsets.data()) + set * (kExperts + 1);
    p.out = reinterpret_cast<Bf16*>(out.data());
    p.out_stride = s.n;
    p.tokens = batch;
    fp8_grouped_gemm(p, l);
  });
  bench.report(
      "fp8 grouped", shape, us, 2.0 * rows * static_cast<double>(weights), BenchContext::Math::fp8,
      active * static_cast<double>(weights) + static_cast<double>(rows) * (s.k + 2.0 * s.n),
      anchor_us);
}

}  // namespace

void bench_fp8_few(BenchContext& bench) {
  for (const Product& s : kProducts)
    for (size_t i = 0; i < std::size(kRows); ++i) bench_product(bench, s, kRows[i], s.anchor_us[i]);
  for (const ExpertProduct& s : kExpertProducts)
    for (size_t i = 0; i < std::size(kBatches); ++i)
      bench_experts(bench, s, kBatches[i], s.anchor_us[i]);
}

}  // namespace fathom::cuda
