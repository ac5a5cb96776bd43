// Launches of the expanded form, and the small kernels around it.
#include "kernels/cuda/attention/mha_kernel.cuh"
#include "numerics/cache_rows.h"

namespace fathom::cuda::mha {
namespace {

constexpr int kMaskThreads = 256;
constexpr int kSide = 64;  // of a transposed tile
constexpr int kGatherThreads = 288, kGatherRows = 16;

// One block a token. The row is built in shared memory, where the bits of different threads' keys
// can be joined by atomics.
__global__ void __launch_bounds__(kMaskThreads) mask_kernel(const __grid_constant__ MaskArgs a) {
  extern __shared__ uint32_t words[];
  for (int i = threadIdx.x; i < a.mask_words; i += kMaskThreads) words[i] = 0;
  __syncthreads();
  pdl_wait();
  pdl_trigger();
  const int32_t* row = a.picked + int64_t{blockIdx.x} * a.topk;
  for (int i = threadIdx.x; i < a.topk; i += kMaskThreads) {
    int position = row[i];
    if (position >= 0 && position < a.mask_words * 32)
      atomicOr(&words[position / 32], 1u << position % 32);
  }
  __syncthreads();
  uint32_t* out = a.mask + int64_t{blockIdx.x} * a.mask_words;
  for (int i = threadIdx.x; i < a.mask_words; i += kMaskThreads) out[i] = words[i];
}

__global__ void __launch_bounds__(256) transpose_kernel(const __grid_constant__ TransposeArgs a) {
  __shared__ uint16_t tile[kSide][kSide + 2];
  pdl_wait();
  pdl_trigger();
  const int64_t base = int64_t{blockIdx.z} * a.rows * a.cols;
  const int row = blockIdx.y * kSide, col = blockIdx.x * kSide;
  for (int i = threadIdx.x; i < kSide * kSide; i += 256)
    tile[i / kSide][i % kSide] =
        a.in[base + int64_t{row + i / kSide} * a.cols + col + i % kSide].bits;
  __syncthreads();
  for (int i = threadIdx.x; i < kSide * kSide; i += 256)
    a.out[base + int64_t{col + i / kSide} * a.rows + row + i % kSide].bits =
        tile[i % kSide][i / kSide];
}

// 72 threads a row, 16 bytes each.
__global__ void __launch_bounds__(kGatherThreads)
    gather_kernel(const __grid_constant__ GatherArgs a) {
  constexpr int kPieces = 2 * KernelDims::kRow / 16;
  pdl_wait();
  pdl_trigger();
  const int piece = threadIdx.x % kPieces;
  int64_t position = int64_t{blockIdx.x} * kGatherRows + threadIdx.x / kPieces;
#pragma unroll
  for (int i = 0; i < kGatherRows;
       i += kGatherThreads / kPieces, position += kGatherThreads / kPieces) {
    if (position >= a.context) return;
    const uint4* from =
        reinterpret_cast<const uint4*>(a.rows) + row_of(a.page_table, position) * kPieces;
    reinterpret_cast<uint4*>(a.out)[position * kPieces + piece] = from[piece];
  }
}

}  // namespace

void launch_attend(const AttendArgs& a, const Launch& l) {
  const int tiles = (a.tokens + kQueryRows - 1) / kQueryRows;
  const dim3 grid(static_cast<unsigned>(tiles * a.heads));
  launch_kernel(l, a.mask ? mha_kernel<true> : mha_kernel<false>, grid, dim3(kThreads),
                sizeof(Shared), 1, a);
}

void launch_mask(const MaskArgs& a, const Launch& l) {
  launch_kernel(l, mask_kernel, dim3(static_cast<unsigned>(a.tokens)), dim3(kMaskThreads),
                static_cast<size_t>(a.mask_words) * 4, 1, a);
}

void launch_transpose(const TransposeArgs& a, const Launch& l) {
  launch_kernel(l, transpose_kernel,
                dim3(static_cast<unsigned>(a.cols / kSide), static_cast<unsigned>(a.rows / kSide),
                     static_cast<unsigned>(a.count)),
                dim3(256), 0, 1, a);
}

void launch_gather(const GatherArgs& a, const Launch& l) {
  launch_kernel(l, gather_kernel,
                dim3(static_cast<unsigned>((a.context + kGatherRows - 1) / kGatherRows)),
                dim3(kGatherThreads), 0, 1, a);
}

}  // namespace fathom::cuda::mha
