// The card's own limits.
#include <algorithm>
#include <vector>

#include "bench/cuda/kernel_bench.h"
#include "kernels/cuda/prim/random_fill.h"
#include "kernels/cuda/prim/wgmma.h"

namespace fathom::cuda {
namespace {

constexpr int kThreads = 512;

// Sums what it reads, so that the compiler keeps every load. The sum is stored only if it has a
// value that random data does not give.
__global__ void __launch_bounds__(kThreads)
    read_kernel(const uint4* from, int64_t count, uint32_t* out) {
  uint32_t sum = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = __ldcs(from + i + j * stride);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 0xDEADBEEF) *out = sum;
}

__global__ void __launch_bounds__(kThreads)
    copy_kernel(const uint4* from, uint4* to, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = __ldcs(from + i + j * stride);
#pragma unroll
    for (int j = 0; j < 4; ++j) __stcs(to + i + j * stride, v[j]);
  }
}

constexpr int kMathLoops = 512;  // of four wgmmas each, per warpgroup

// Two warpgroups a CTA on operands that stay in shared memory: the rate of the tensor cores alone.
// `loops` is an argument, since ptxas would unroll a constant one and take a minute for it.
template <bool kFp8>
__global__ void __launch_bounds__(256) math_kernel(const uint4* random, int loops, float* out) {
  extern __shared__ __align__(1024) uint4 tile[];
  for (int i = threadIdx.x; i < 3072; i += blockDim.x) tile[i] = random[i];
  fence_async_shared();
  __syncthreads();
  const uint64_t a = k_major_descriptor(tile, (threadIdx.x / 128) * 8192);
  const uint64_t b = k_major_descriptor(tile, 16384);
  float d[128] = {};
  for (int i = 0; i < loops; ++i) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if constexpr (kFp8)
        wgmma_fp8<256>(d, a + k * 2, b + k * 2, 1);
      else
        wgmma_bf16<256>(d, a + k * 2, b + k * 2, 1);
    }
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 128; ++i) sum += d[i];
  if (sum == 12345.678f) *out = sum;
}

// Median milliseconds of five runs.
template <class Run>
double median_ms(cudaStream_t stream, const Run& run) {
  cudaEvent_t begin, end;
  FATHOM_CUDA(cudaEventCreate(&begin));
  FATHOM_CUDA(cudaEventCreate(&end));
  std::vector<float> times;
  run();
  for (int i = 0; i < 5; ++i) {
    FATHOM_CUDA(cudaEventRecord(begin, stream));
    run();
    FATHOM_CUDA(cudaEventRecord(end, stream));
    FATHOM_CUDA(cudaEventSynchronize(end));
    float ms = 0;
    FATHOM_CUDA(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[2];
}

}  // namespace

Ceilings measure_ceilings(const Launch& l) {
  constexpr int64_t kBytes = int64_t{2} << 30;
  Buffer from(kBytes, MemoryKind::device), to(kBytes, MemoryKind::device);
  fill_bf16(from.data(), kBytes / 2, 1.0f, 1, l.stream);
  const auto* source = reinterpret_cast<const uint4*>(from.data());
  const unsigned blocks = static_cast<unsigned>(l.sms * 4);
  Ceilings c;
  double ms = median_ms(l.stream, [&] {
    read_kernel<<<blocks, kThreads, 0, l.stream>>>(source, kBytes / 16,
                                                   reinterpret_cast<uint32_t*>(to.data()));
  });
  c.read_gbs = kBytes / ms / 1e6;
  ms = median_ms(l.stream, [&] {
    copy_kernel<<<blocks, kThreads, 0, l.stream>>>(source, reinterpret_cast<uint4*>(to.data()),
                                                   kBytes / 16);
  });
  c.copy_gbs = 2.0 * kBytes / ms / 1e6;
  auto* out = reinterpret_cast<float*>(to.data());
  const double flop = 2.0 * 64 * 256 * 4 * kMathLoops * 2 * l.sms;
  constexpr size_t kShared = 49152;
  FATHOM_CUDA(cudaFuncSetAttribute(math_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   kShared));
  FATHOM_CUDA(cudaFuncSetAttribute(math_kernel<false>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   kShared));
  const auto grid = static_cast<unsigned>(l.sms);
  ms = median_ms(l.stream, [&] {
    math_kernel<false><<<grid, 256, kShared, l.stream>>>(source, kMathLoops, out);
  });
  c.bf16_tflops = flop * 16 / ms / 1e9;
  fill_fp8(reinterpret_cast<uint8_t*>(from.data()), 1 << 20, 2, l.stream);
  ms = median_ms(l.stream, [&] {
    math_kernel<true><<<grid, 256, kShared, l.stream>>>(source, kMathLoops, out);
  });
  c.fp8_tflops = flop * 32 / ms / 1e9;
  FATHOM_CUDA(cudaGetLastError());
  return c;
}

}  // namespace fathom::cuda
