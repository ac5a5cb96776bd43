// The shared memory of the prefill kernel and the warpgroup that fills it with key rows.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/mla_prefill_rows.h"
#include "kernels/cuda/prim/barrier.h"

namespace fathom::cuda {
namespace prefill {

constexpr int kHeads = 64;            // rows of a tile: heads of one token
constexpr int kKeys = 64;             // keys of a block
constexpr int kTileBytes = 64 * 128;  // 64 rows x 64 bf16, 128-byte swizzle
constexpr int kTiles = 9;             // 576 = 8 latent tiles + 1 rotary
constexpr int kThreads = 384;
constexpr int kMathThreads = 256;
constexpr int kProducerThreads = 128;
constexpr int kMathRegisters = 216, kProducerRegisters = 72;

enum Barrier : int { kMathStart = 1, kMaxEven, kOddReady, kEvenReady, kSums };

// A half block of keys is what one warpgroup multiplies by P: latent columns 0..255 (left), or
// 256..511 and the rotary part (right). Each half is refilled as soon as it is free.
struct alignas(1024) Shared {
  uint8_t q[kTiles][kTileBytes];
  uint8_t keys[2][kTiles][kTileBytes];  // even and odd block; P of the even block later takes the
                                        // place of its rotary tile, dead once its scores are formed
  uint8_t p_odd[kTileBytes];
  float max_even[kHeads], max_both[kHeads];
  float sum[2][kHeads];
  uint64_t ready[2][2], free[2][2];  // [block][half]
};
static_assert(sizeof(Shared) <= 227 * 1024);

// What every thread of the block knows of its token.
struct Token {
  int index;            // in the batch
  int keys;             // upper bound of its key count: picked entries, or positions 0 .. keys - 1
  int pairs;            // pairs of key blocks
  const int32_t* list;  // picked positions, or null
};

// 16 bytes to shared memory; `bytes` = 0 writes zeros and reads nothing.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(bytes)
               : "memory");
}

// The rows of the keys that a producer thread copies: rows first_row + 16 j of both blocks of a
// pair. The list is read one pair ahead of the page table, and that one pair ahead of the copies.
// The loads are volatile: otherwise the compiler moves them to their use, where two latencies in a
// row before every copy double the time of the kernel.
class RowAhead {
 public:
  int now[2][4];  // rows of the current pair, -1: no such key

  __device__ __forceinline__ RowAhead(const Token& token, const PrefillRows& rows, int first_row)
      : token_(token), table_(rows.table), first_row_(first_row) {
    load_positions(0);
    load_pages();
    load_positions(1);
  }
  __device__ __forceinline__ void advance(int pair) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      int within = within_[i / 4][i % 4];
      now[i / 4][i % 4] = within < 0 ? -1 : page_[i / 4][i % 4] * kPageRows + within;
    }
    load_pages();
    load_positions(pair + 2);
  }

 private:
  __device__ __forceinline__ void load_positions(int pair) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int slot = (2 * pair + i / 4) * kKeys + first_row_ + 16 * (i % 4);
      int& p = position_[i / 4][i % 4];
      p = slot < token_.keys ? slot : -1;
      if (token_.list && p >= 0)
        asm volatile("ld.global.s32 %0, [%1];" : "=r"(p) : "l"(token_.list + slot));
    }
  }
  __device__ __forceinline__ void load_pages() {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int p = position_[i / 4][i % 4];
      int &page = page_[i / 4][i % 4], &within = within_[i / 4][i % 4];
      page = 0;
      within = p;
      if (table_ && p >= 0) {
        within = p % kPageRows;
        asm volatile("ld.global.s32 %0, [%1];" : "=r"(page) : "l"(table_ + p / kPageRows));
      }
    }
  }

  const Token& token_;
  const int32_t* table_;
  int first_row_;
  int position_[2][4];             // of the pair after next
  int page_[2][4], within_[2][4];  // of the next pair
};

// The producer warpgroup: gathers the rows of every block pair, half block by half block, in the
// order in which the math warpgroups free them. Eight threads copy a row, 128 bytes at a time.
__device__ __forceinline__ void produce(const PrefillArgs& a, Shared& sm, const Token& token,
                                        const PrefillRows& rows, int thread) {
  const int chunk = thread % 8, first_row = thread / 8;
  const uint32_t within = static_cast<uint32_t>(first_row * 128 + ((chunk ^ (first_row % 8)) << 4));
  const std::byte* base = a.rows + rows.base * kRowBytes + chunk * 16;
  RowAhead row(token, rows, first_row);
  auto fill = [&](int block, int half, uint32_t parity) {
    barrier_wait(&sm.free[block][half], parity);
    const int begin = half == 0 ? 0 : 4, end = half == 0 ? 4 : kTiles;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool live = row.now[block][j] >= 0;
      const std::byte* from = base + int64_t{live ? row.now[block][j] : 0} * kRowBytes;
      uint32_t to = smem_address(sm.keys[block][0]) + within + j * 16 * 128;
#pragma unroll
      for (int tile = begin; tile < end; ++tile)
        copy_async(to + tile * kTileBytes, from + tile * 128, live ? 16 : 0);
    }
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(
                     smem_address(&sm.ready[block][half]))
                 : "memory");
  };
  for (int pair = 0; pair < token.pairs; ++pair) {
    const uint32_t parity = (pair & 1) ^ 1;  // the first wait of each buffer passes at once
    row.advance(pair);
    fill(0, 0, parity);
    fill(1, 1, parity);
    fill(0, 1, parity);
    fill(1, 0, parity);
  }
}

}  // namespace prefill
}  // namespace fathom::cuda
