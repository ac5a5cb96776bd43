// Shared memory and work range of a decode thread block.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/mla_decode_args.h"
#include "kernels/cuda/attention/mla_decode_plan.h"
#include "kernels/cuda/prim/barrier.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda::decode {

constexpr int kTiles = 9;             // of 64 columns: 8 of the latent, 1 of the rotary part
constexpr int kTileBytes = 64 * 128;  // 64 rows x 64 bf16, swizzled by 128 bytes
constexpr int kBuffers = 2;
constexpr int kThreads = 384, kMathThreads = 256;
constexpr int kLatent = KernelDims::kLatent;

struct alignas(1024) Shared {
  uint8_t query[kTiles][kTileBytes];
  // A block of keys: [tile][key][64 columns]. Once the block's scores are computed its rotary tile
  // is overwritten with the softmax weights P [head][key], which the right warpgroup reads from
  // there.
  uint8_t keys[kBuffers][kTiles][kTileBytes];
  float decay[kBuffers][kTileHeads];  // one factor a head for the sums of earlier blocks
  float inverse[kTileHeads];          // 1 / denominator, at the end
  uint64_t full[kBuffers], empty[kBuffers], weighed[kBuffers];
};
static_assert(sizeof(Shared) <= 227 * 1024);

// Byte offset of 16-byte chunk `chunk` of row `row` in a swizzled tile.
__device__ __forceinline__ uint32_t tile_offset(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}

// Loads that must stay behind pdl_wait(): the compiler may move plain read-only loads anywhere.
__device__ __forceinline__ int32_t load_int(const int32_t* p) {
  int32_t v;
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}

// Which keys this thread block sums over: blocks [begin, begin + blocks) of its token.
struct Range {
  const int32_t* picked;  // of the token, or null: key i is position i
  const int32_t* pages;   // of its sequence
  int keys;               // length of the list (with -1 entries), or of the context
  int begin, blocks;
};

// Splits cut the list as it was allocated (sparse) or the context as it is now (dense), so they
// depend on the token alone. Blocks of -1 entries only are not counted; those come last in a list.
__device__ __forceinline__ Range range_of(const Args& a, int token, int split) {
  const int lane = threadIdx.x % 32;
  Range r;
  r.picked = a.p.picked ? a.p.picked + int64_t{token} * a.p.topk : nullptr;
  const LatentCache& c = a.p.cache;
  r.pages = c.page_tables + int64_t{load_int(c.sequence_of + token)} * c.max_pages;
  r.keys = r.picked ? a.p.topk : load_int(c.positions + token) + 1;
  const int all = (r.keys + kBlockKeys - 1) / kBlockKeys;
  const int share = (all + a.splits - 1) / a.splits;
  r.begin = split * share;
  r.blocks = min(share, all - r.begin);
  if (r.picked == nullptr) return r;
  int live = 0;
  for (int b = 0; b < r.blocks; b += 32) {
    bool has = b + lane < r.blocks && load_int(r.picked + (r.begin + b + lane) * kBlockKeys) >= 0;
    unsigned votes = __ballot_sync(~0u, has);
    live += __popc(votes);
    if (votes != ~0u) break;
  }
  r.blocks = live;
  return r;
}

// Keys of the last block of the range.
__device__ __forceinline__ int tail_of(const Range& r) {
  const int lane = threadIdx.x % 32, first = (r.begin + r.blocks - 1) * kBlockKeys;
  const int left = r.keys - first;
  if (r.picked == nullptr) return min(left, kBlockKeys);
  bool low = lane < left && load_int(r.picked + first + lane) >= 0;
  bool high = lane + 32 < left && load_int(r.picked + first + lane + 32) >= 0;
  return __popc(__ballot_sync(~0u, low)) + __popc(__ballot_sync(~0u, high));
}

}  // namespace fathom::cuda::decode
