// Rates of the linear layers at the shapes of both models, beside oneDNN's bf16 product and a plain
// read of the same weights: the yardsticks of docs/performance.md.
//
//   gemm_bench [threads]        default: every processor of this process
#include <benchmark/benchmark.h>
#include <omp.h>

#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu_ops.h"
#include "oneapi/dnnl/dnnl.hpp"
#include "tensor/buffer.h"

namespace fathom {
namespace {

// Neither infinite, NaN nor subnormal, as bytes of bf16 as little as as FP8 codes.
Buffer random_bytes(size_t bytes) {
  constexpr size_t kPattern = 1 << 20;
  Buffer b(bytes);
  std::mt19937_64 rng(1);
  for (size_t i = 0; i < std::min(kPattern, bytes) / 8; ++i)
    reinterpret_cast<uint64_t*>(b.data())[i] = (rng() & 0xBFBFBFBFBFBFBFBF) | 0x2020202020202020;
  for (size_t at = kPattern; at < bytes; at += kPattern)
    std::memcpy(b.data() + at, b.data(), std::min(kPattern, bytes - at));
  return b;
}

// FP8 weights of `count` matrices one behind another, as in a mapped file.
struct Fp8Weights {
  Fp8Weights(int64_t count, int64_t rows, int64_t cols)
      : codes(random_bytes(static_cast<size_t>(count * rows * cols))),
        scales(static_cast<size_t>((rows + 127) / 128 * ((cols + 127) / 128)), 0.03125f) {
    for (int64_t i = 0; i < count; ++i)
      weights.push_back({.data = codes.data() + i * rows * cols,
                         .dtype = DType::fp8_e4m3,
                         .rows = rows,
                         .cols = cols,
                         .scale = scales.data(),
                         .scale_stride = (cols + 127) / 128,
                         .pow2_scale = true});
  }
  Buffer codes;
  std::vector<float> scales;
  std::vector<QWeight> weights;
};

struct Bench {
  explicit Bench(int threads) : pool(threads) {
    workload.step_tokens = 512;
    workload.hidden = 7168;
    workload.max_intermediate = 18432;
    workload.heads = 128;
    workload.value = 128;
    workload.q_rank = 1536;
    workload.latent = 512;
    workload.experts = 256;
    workload.experts_per_token = 8;
    workload.vocab = 129280;
  }
  std::unique_ptr<Ops> ops(Numerics n, std::string_view kernels) {
    return pick_cpu_kernels(kernels).make(n, workload, pool);
  }
  ThreadPool pool;
  Workload workload;
};

void set_flops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void set_bytes(benchmark::State& state, double bytes) {
  state.counters["B/s"] = benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate);
}

// One projection, M x K by N x K, FP8 weights.
void project(benchmark::State& state, Bench* b, Numerics numerics, std::string_view kernels) {
  int64_t m = state.range(0), k = state.range(1), n = state.range(2);
  std::unique_ptr<Ops> ops = b->ops(numerics, kernels);
  Fp8Weights w(1, n, k);
  DType type = numerics == Numerics::exact ? DType::f32 : DType::bf16;
  Buffer in = random_bytes(static_cast<size_t>(m * k * 4)), out(static_cast<size_t>(m * n * 4));
  Tensor x(in.data(), type, {m, k}), y(out.data(), type, {m, n});
  for (auto _ : state) ops->linear(y, x, w.weights[0]);
  set_flops(state, 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k));
}

// The same by oneDNN, weights already in bf16 and in the layout it likes best.
void onednn(benchmark::State& state, int threads) {
  using namespace dnnl;
  int64_t m = state.range(0), k = state.range(1), n = state.range(2);
  omp_set_num_threads(threads);
  engine cpu(engine::kind::cpu, 0);
  stream s(cpu);
  using Type = memory::data_type;
  using Tag = memory::format_tag;
  matmul::primitive_desc plan(
      matmul::desc({{m, k}, Type::bf16, Tag::ab}, {{k, n}, Type::bf16, Tag::any},
                   {{m, n}, Type::bf16, Tag::ab}),
      cpu);
  memory a(plan.src_desc(), cpu), w(plan.weights_desc(), cpu), y(plan.dst_desc(), cpu);
  Buffer bits = random_bytes(a.get_desc().get_size());
  std::memcpy(a.get_data_handle(), bits.data(), bits.size());
  bits = random_bytes(w.get_desc().get_size());
  std::memcpy(w.get_data_handle(), bits.data(), bits.size());
  matmul product(plan);
  for (auto _ : state) {
    product.execute(s, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}});
    s.wait();
  }
  set_flops(state, 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k));
}

// Batch 1 over a gigabyte of weights: what decoding is made of.
void stream_weights(benchmark::State& state, Bench* b, Numerics numerics,
                    std::string_view kernels) {
  int64_t m = state.range(0), k = state.range(1), n = state.range(2);
  std::unique_ptr<Ops> ops = b->ops(numerics, kernels);
  int64_t count = (int64_t{1} << 30) / (n * k);
  Fp8Weights w(count, n, k);
  DType type = numerics == Numerics::exact ? DType::f32 : DType::bf16;
  Buffer in = random_bytes(static_cast<size_t>(m * k * 4)), out(static_cast<size_t>(m * n * 4));
  Tensor x(in.data(), type, {m, k}), y(out.data(), type, {m, n});
  for (auto _ : state)
    for (const QWeight& one : w.weights) ops->linear(y, x, one);
  set_bytes(state, static_cast<double>(count * n * k));
}

// A plain read of a gigabyte by all threads: the limit of the above.
void read_memory(benchmark::State& state, Bench* b) {
  Buffer data = random_bytes(1 << 30);
  std::vector<uint64_t> sums(static_cast<size_t>(b->pool.size()) * 8);
  for (auto _ : state) {
    b->pool.parallel_for(1 << 14, 1, [&](int64_t begin, int64_t end, int thread) {
      const uint64_t* p = reinterpret_cast<const uint64_t*>(data.data());
      uint64_t sum[8] = {};
      for (int64_t i = begin << 13; i < end << 13; i += 8)
        for (int j = 0; j < 8; ++j) sum[j] += p[i + j];
      sums[static_cast<size_t>(thread) * 8] = std::accumulate(sum, sum + 8, uint64_t{0});
    });
    benchmark::DoNotOptimize(sums.data());
  }
  set_bytes(state, 1 << 30);
}

// One layer's mixture: `experts` of 2048 x 7168, 8 for each token, and the shared one.
void mixture(benchmark::State& state, Bench* b, Numerics numerics) {
  int64_t tokens = state.range(0), experts = state.range(1), hidden = state.range(2),
          inter = state.range(3), chosen = state.range(4);
  std::unique_ptr<Ops> ops = b->ops(numerics, "");
  Fp8Weights in(2 * experts + 2, inter, hidden), back(experts + 1, hidden, inter);
  std::vector<MlpWeights> all;
  for (int64_t e = 0; e <= experts; ++e)
    all.push_back({in.weights[2 * e], in.weights[2 * e + 1], back.weights[e]});
  Buffer x_bits = random_bytes(static_cast<size_t>(tokens * hidden * 2)),
         y_bits(static_cast<size_t>(tokens * hidden * 2));
  Tensor x(x_bits.data(), DType::bf16, {tokens, hidden}),
      y(y_bits.data(), DType::bf16, {tokens, hidden});
  std::vector<int32_t> ids;
  std::vector<float> share(static_cast<size_t>(tokens * chosen), 0.1f);
  std::mt19937 rng(1);
  int64_t next = 0, used = std::min(experts, tokens * chosen) + 1;
  for (int64_t i = 0; i < tokens * chosen; ++i)
    ids.push_back(static_cast<int32_t>(next++ % experts));
  Tensor picked(ids.data(), DType::i32, {tokens, chosen}),
      weights(share.data(), DType::f32, {tokens, chosen});
  std::span<const MlpWeights> routed(all.data(), static_cast<size_t>(experts));
  // At batch 1 each round meets experts that the caches have forgotten.
  int64_t round = 0;
  for (auto _ : state) {
    if (tokens * chosen < experts)
      for (int32_t& id : ids) id = static_cast<int32_t>((id + tokens * chosen) % experts);
    ops->moe(y, x, picked, weights, routed, &all.back());
    ++round;
  }
  double rows = static_cast<double>(tokens * (chosen + 1));
  set_flops(state, 6.0 * rows * static_cast<double>(hidden * inter));
  set_bytes(state, 3.0 * static_cast<double>(used * hidden * inter));
}

void parallel_region(benchmark::State& state, Bench* b) {
  std::vector<int64_t> sink(64 * 8);
  for (auto _ : state)
    b->pool.parallel_for(b->pool.size(), 1, [&](int64_t begin, int64_t, int thread) {
      sink[static_cast<size_t>(thread) * 8] += begin;
    });
}

void register_all(Bench* b) {
  auto add = [](const std::string& name, auto run) {
    return benchmark::RegisterBenchmark(name.c_str(), run)
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  };
  add("region", [=](benchmark::State& s) { parallel_region(s, b); });
  add("read/1GiB", [=](benchmark::State& s) { read_memory(s, b); });
  struct Row {
    std::string_view kernels;
    Numerics numerics;
  };
  std::vector<Row> rows;
  for (const CpuKernels& k : cpu_kernels())
    for (Numerics n : {Numerics::bf16, Numerics::fp8, Numerics::exact})
      if (k.usable() && k.name != "reference") rows.push_back({k.name, n});
  for (Row k : rows) {
    std::string suffix = fmt::format("{}/{}", k.kernels, name_of(k.numerics));
    for (int64_t m : {1, 2, 4})
      add("stream/" + suffix, [=](benchmark::State& s) {
        stream_weights(s, b, k.numerics, k.kernels);
      })->Args({m, 7168, 2048});
    add("stream/" + suffix,
        [=](benchmark::State& s) { stream_weights(s, b, k.numerics, k.kernels); })
        ->Args({1, 1536, 24576})
        ->Args({1, 2048, 7168});
    for (int64_t m : {1, 8, 16, 128, 512})
      add("project/" + suffix, [=](benchmark::State& s) { project(s, b, k.numerics, k.kernels); })
          ->Args({m, 7168, 2048})
          ->Args({m, 384, 1024})
          ->Args({m, 128, 384});
  }
  for (int64_t m : {16, 128, 512})
    add("onednn", [=](benchmark::State& s) { onednn(s, b->pool.size()); })
        ->Args({m, 7168, 2048})
        ->Args({m, 384, 1024})
        ->Args({m, 128, 384});
  for (Numerics n : {Numerics::bf16, Numerics::fp8}) {
    std::string suffix(name_of(n));
    add("moe/" + suffix, [=](benchmark::State& s) { mixture(s, b, n); })
        ->ArgNames({"T", "experts", "hidden", "inter", "k"})
        ->Args({1, 64, 7168, 2048, 8})
        ->Args({64, 32, 7168, 2048, 8})
        ->Args({1, 16, 384, 128, 4})
        ->Args({512, 16, 384, 128, 4});
  }
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  fathom::Bench bench(argc > 1 ? std::atoi(argv[1]) : 0);
  fathom::register_all(&bench);
  benchmark::RunSpecifiedBenchmarks();
}
