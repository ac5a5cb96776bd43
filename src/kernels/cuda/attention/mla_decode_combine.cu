// Adds the splits of one (token, head) up, each weighted by its share of the softmax.
//
// Numerics: float32 throughout, splits in ascending order, one rounding to bf16 at the end.
#include <cuda_bf16.h>

#include "kernels/cuda/attention/mla_decode_args.h"
#include "kernels/cuda/attention/mla_decode_plan.h"

namespace fathom::cuda::decode {
namespace {

constexpr int kThreads = 128, kLatent = KernelDims::kLatent;
constexpr int kAtOnce = 8;  // splits whose loads are in flight together

__device__ __forceinline__ float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}
__device__ __forceinline__ float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

__global__ void __launch_bounds__(kThreads) combine_kernel(Args a, bool interleaved) {
  __shared__ float share[kMaxSplits + kAtOnce];
  const int head = blockIdx.x, token = blockIdx.y, heads = a.p.heads;
  const int lane = threadIdx.x % 32;
  pdl_wait();
  pdl_trigger();

  // phase 1: each split's share. Every warp works it out; the first writes it down.
  const int64_t first = int64_t{token} * a.splits * heads + head;
  float top = -INFINITY;
  for (int s = lane; s < a.splits; s += 32) top = fmaxf(top, a.stats[first + s * heads].top);
  top = warp_max(top);
  float sum = 0;
  for (int s = lane; s < a.splits; s += 32) {
    SplitStats x = a.stats[first + s * heads];
    sum += x.top == -INFINITY ? 0.f : exp2f(x.top - top) * x.sum;
  }
  sum = warp_sum(sum);
  if (threadIdx.x < 32) {
    for (int s = lane; s < a.splits + kAtOnce; s += 32) {
      float t = s < a.splits ? a.stats[first + s * heads].top : -INFINITY;
      share[s] = t == -INFINITY ? 0.f : exp2f(t - top) / sum;
    }
  }
  __syncthreads();

  // phase 2: four columns a thread. Splits without keys hold nothing and are not read.
  const float4* rows = reinterpret_cast<const float4*>(a.partial) + first * (kLatent / 4);
  const int64_t step = int64_t{heads} * (kLatent / 4);
  float4 total = {0, 0, 0, 0};
  for (int s = 0; s < a.splits; s += kAtOnce) {
    float4 x[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      x[i] = share[s + i] > 0 ? rows[(s + i) * step + threadIdx.x] : float4{0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      float w = share[s + i];
      total.x += w * x[i].x;
      total.y += w * x[i].y;
      total.z += w * x[i].z;
      total.w += w * x[i].w;
    }
  }

  // phase 3: back to natural column order.
  if (interleaved) {
    float y = total.y;
    total.y = total.z;
    total.z = y;
  }
  __nv_bfloat162 low = __floats2bfloat162_rn(total.x, total.y);
  __nv_bfloat162 high = __floats2bfloat162_rn(total.z, total.w);
  uint2 packed = {*reinterpret_cast<uint32_t*>(&low), *reinterpret_cast<uint32_t*>(&high)};
  Bf16* out = a.p.out + (int64_t{a.first_token + token} * heads + head) * kLatent;
  reinterpret_cast<uint2*>(out)[threadIdx.x] = packed;
}

}  // namespace

void launch_combine(const Args& a, int tokens, const Launch& l) {
  dim3 grid(static_cast<unsigned>(a.p.heads), static_cast<unsigned>(tokens));
  launch_kernel(l, combine_kernel, grid, dim3(kThreads), 0, 1, a, a.p.cache.fp8);
}

}  // namespace fathom::cuda::decode
