#include "kernels/cuda/norm/rows.h"

#include "kernels/cuda/norm/lanes.cuh"

namespace fathom::cuda {
namespace {

constexpr int kThreads = 256;

// One row a CTA, 16 bytes a thread and turn.
__device__ __forceinline__ void copy_row(Bf16* out, const Bf16* from, int n) {
  for (int i = static_cast<int>(threadIdx.x) * kLaneValues; i < n; i += kThreads * kLaneValues)
    store_vector(out + i, load_vector(from + i));
}

// Numerics: a bf16 table is copied; code * scale is formed in f32 and rounded once.
__global__ void __launch_bounds__(kThreads) embed_kernel(EmbedParams p) {
  pdl_wait();
  pdl_trigger();
  const int64_t row = blockIdx.x, id = p.ids[row];
  Bf16* out = p.out + row * p.out_stride;
  if (p.scales == nullptr) return copy_row(out, static_cast<const Bf16*>(p.table) + id * p.n, p.n);
  const uint8_t* codes = static_cast<const uint8_t*>(p.table) + id * p.n;
  const float* scales = p.scales + id / kFp8Block * p.scale_stride;
  for (int i = static_cast<int>(threadIdx.x) * kLaneValues; i < p.n; i += kThreads * kLaneValues) {
    uint2 raw = *reinterpret_cast<const uint2*>(codes + i);
    float v[kLaneValues], scale = scales[i / kFp8Block];
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j)
      v[j] = fp8_to_float((j < 4 ? raw.x : raw.y) >> (j % 4 * 8) & 0xFFu) * scale;
    store_vector(out + i, pack(v));
  }
}

__global__ void __launch_bounds__(kThreads) gather_kernel(GatherParams p) {
  pdl_wait();
  pdl_trigger();
  const int64_t row = blockIdx.x;
  copy_row(p.out + row * p.out_stride, p.x + p.rows_of[row] * p.x_stride, p.n);
}

}  // namespace

void embed_rows(const EmbedParams& p, const Launch& l) {
  if (p.rows == 0) return;
  require(p.n % kLaneValues == 0 && p.out_stride % kLaneValues == 0,
          "embedding rows whose width or stride is no multiple of 8");
  launch_kernel(l, embed_kernel, dim3(p.rows), dim3(kThreads), 0, 1, p);
}

void gather_rows(const GatherParams& p, const Launch& l) {
  if (p.rows == 0) return;
  require(
      p.n % kLaneValues == 0 && p.x_stride % kLaneValues == 0 && p.out_stride % kLaneValues == 0,
      "gathered rows whose width or stride is no multiple of 8");
  launch_kernel(l, gather_kernel, dim3(p.rows), dim3(kThreads), 0, 1, p);
}

}  // namespace fathom::cuda
