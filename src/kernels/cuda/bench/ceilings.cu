// The card's own limits, and random inputs.
#include <algorithm>
#include <vector>

#include "kernels/cuda/bench/kernel_bench.h"
#include "kernels/cuda/prim/wgmma.h"
#include "numerics/fp8.h"

namespace fathom::cuda {
namespace {

constexpr int kThreads = 512;

// Sums what it reads, so that no load can be left out; the sum is stored only if it is a value that
// random data does not give.
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
template <bool kFp8>
__global__ void __launch_bounds__(256) math_kernel(const uint4* random, float* out) {
  extern __shared__ __align__(1024) uint4 tile[];
  for (int i = threadIdx.x; i < 3072; i += blockDim.x) tile[i] = random[i];
  fence_async_shared();
  __syncthreads();
  const uint64_t a = k_major_descriptor(tile, (threadIdx.x / 128) * 8192);
  const uint64_t b = k_major_descriptor(tile, 16384);
  float d[128] = {};
  wgmma_fence();
  for (int i = 0; i < kMathLoops; ++i) {
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

__device__ uint32_t mix(uint64_t x) {  // splitmix64's finaliser
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return static_cast<uint32_t>(x >> 32);
}

// Roughly normal with unit variance: the sum of four uniform bytes' halves, scaled.
__device__ float normal(uint64_t seed, int64_t i) {
  uint32_t r = mix(seed * 0x9E3779B97F4A7C15ull + static_cast<uint64_t>(i));
  int sum = static_cast<int>(r & 255) + static_cast<int>(r >> 8 & 255) +
            static_cast<int>(r >> 16 & 255) + static_cast<int>(r >> 24) - 510;
  return static_cast<float>(sum) * (1.0f / 147.8f);
}

template <class T, class Convert>
__global__ void fill_kernel(T* to, int64_t count, uint64_t seed, Convert convert) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    to[i] = convert(normal(seed, i));
}

struct ToBf16 {
  float scale;
  __device__ Bf16 operator()(float x) const { return to_bf16(x * scale); }
};
struct ToF32 {
  float scale;
  __device__ float operator()(float x) const { return x * scale; }
};
struct ToFp8 {
  __device__ uint8_t operator()(float x) const { return float_to_fp8(x * 64.0f); }
};

template <class T, class Convert>
void fill(T* to, int64_t count, uint64_t seed, Convert convert, cudaStream_t stream) {
  const int64_t blocks = std::min<int64_t>((count + 255) / 256, 132 * 16);
  fill_kernel<<<static_cast<unsigned>(std::max<int64_t>(1, blocks)), 256, 0, stream>>>(
      to, count, seed, convert);
  FATHOM_CUDA(cudaGetLastError());
}

}  // namespace

void fill_bf16(void* to, int64_t count, float scale, uint64_t seed, cudaStream_t stream) {
  fill(static_cast<Bf16*>(to), count, seed, ToBf16{scale}, stream);
}
void fill_f32(float* to, int64_t count, float scale, uint64_t seed, cudaStream_t stream) {
  fill(to, count, seed, ToF32{scale}, stream);
}
void fill_fp8(uint8_t* to, int64_t count, uint64_t seed, cudaStream_t stream) {
  fill(to, count, seed, ToFp8{}, stream);
}

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
  ms = median_ms(l.stream,
                 [&] { math_kernel<false><<<grid, 256, kShared, l.stream>>>(source, out); });
  c.bf16_tflops = flop * 16 / ms / 1e9;
  fill_fp8(reinterpret_cast<uint8_t*>(from.data()), 1 << 20, 2, l.stream);
  ms = median_ms(l.stream,
                 [&] { math_kernel<true><<<grid, 256, kShared, l.stream>>>(source, out); });
  c.fp8_tflops = flop * 32 / ms / 1e9;
  FATHOM_CUDA(cudaGetLastError());
  return c;
}

}  // namespace fathom::cuda
