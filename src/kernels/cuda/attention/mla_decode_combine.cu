// Adds the splits of one (token, head) up, each weighted by its share of the softmax.
//
// Numerics: float32 throughout, splits in ascending order, one rounding to bf16 at the end.
#include <cuda_bf16.h>

#include "kernels/cuda/attention/mla_decode_args.h"
#include "kernels/cuda/attention/mla_decode_plan.h"

namespace fathom::cuda::decode {
namespace {

constexpr int kLatent = KernelDims::kLatent;
constexpr int kLanes = kLatent / 4;     // threads of a row: four columns each
constexpr int kAtOnce = kSplitsAtOnce;  // of a group

__device__ __forceinline__ float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}
__device__ __forceinline__ float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// kGroups sets of splits are added up side by side.
template <int kGroups>
__global__ void __launch_bounds__(kGroups* kLanes) combine_kernel(Args a, bool interleaved) {
  __shared__ float share[kMaxSplits];
  __shared__ float4 sums[kGroups][kLanes];
  const int head = blockIdx.x, token = blockIdx.y, heads = a.p.heads;
  const int warp_lane = threadIdx.x % 32, lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  pdl_wait();
  pdl_trigger();

  // phase 1: issue the first loads, so that they are in flight while the shares are computed. For a
  // split without keys this reads stale memory, whose share is 0 and which is not used.
  const int64_t first = int64_t{token} * a.splits * heads + head;
  const float4* rows = reinterpret_cast<const float4*>(a.partial) + first * kLanes + lane;
  const int64_t step = int64_t{heads} * kLanes;
  float4 x[kAtOnce];
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    const int s = group + i * kGroups;
    x[i] = s < a.splits ? rows[s * step] : float4{0, 0, 0, 0};
  }

  // phase 2: each split's share, by the first warp.
  if (threadIdx.x < 32) {
    float top = -INFINITY, sum = 0;
    for (int s = warp_lane; s < a.splits; s += 32) top = fmaxf(top, a.stats[first + s * heads].top);
    top = warp_max(top);
    for (int s = warp_lane; s < a.splits; s += 32) {
      SplitStats t = a.stats[first + s * heads];
      float weight = t.top == -INFINITY ? 0.f : exp2f(t.top - top);
      share[s] = weight;
      if (weight > 0) sum += weight * t.sum;
    }
    sum = warp_sum(sum);
    for (int s = warp_lane; s < a.splits; s += 32) share[s] /= sum;
  }
  __syncthreads();

  // phase 3: group g adds splits g, g + kGroups, ...; the groups follow in order.
  float4 total = {0, 0, 0, 0};
  for (int s = group; s < a.splits; s += kGroups * kAtOnce) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = s + i * kGroups;
      const float w = at < a.splits ? share[at] : 0.f;
      if (w > 0) {
        total.x += w * x[i].x;
        total.y += w * x[i].y;
        total.z += w * x[i].z;
        total.w += w * x[i].w;
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = s + (i + kAtOnce) * kGroups;
      if (at < a.splits && share[at] > 0) x[i] = rows[at * step];
    }
  }
  sums[group][lane] = total;
  __syncthreads();
  if (group != 0) return;
#pragma unroll
  for (int g = 1; g < kGroups; ++g) {
    total.x += sums[g][lane].x;
    total.y += sums[g][lane].y;
    total.z += sums[g][lane].z;
    total.w += sums[g][lane].w;
  }

  // phase 4: back to natural column order.
  if (interleaved) {
    float y = total.y;
    total.y = total.z;
    total.z = y;
  }
  __nv_bfloat162 low = __floats2bfloat162_rn(total.x, total.y);
  __nv_bfloat162 high = __floats2bfloat162_rn(total.z, total.w);
  uint2 packed = {*reinterpret_cast<uint32_t*>(&low), *reinterpret_cast<uint32_t*>(&high)};
  Bf16* out = a.p.out + (int64_t{a.first_token + token} * heads + head) * kLatent;
  reinterpret_cast<uint2*>(out)[lane] = packed;
}

}  // namespace

void launch_combine(const Args& a, int tokens, const Launch& l) {
  dim3 grid(static_cast<unsigned>(a.p.heads), static_cast<unsigned>(tokens));
  // The kernel is chosen by the number of splits alone, so that the order of the sum does not
  // depend on the batch.
  if (a.splits >= kManySplits)
    launch_kernel(l, combine_kernel<kManyAtOnce / kAtOnce>, grid,
                  dim3(kManyAtOnce / kAtOnce * kLanes), 0, 1, a, a.p.cache.fp8);
  else
    launch_kernel(l, combine_kernel<1>, grid, dim3(kLanes), 0, 1, a, a.p.cache.fp8);
}

}  // namespace fathom::cuda::decode
