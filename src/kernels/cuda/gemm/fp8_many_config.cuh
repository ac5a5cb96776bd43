// Shape and shared memory of one FP8 kernel for many rows, and what it is launched with.
#pragma once

#include <cuda.h>

#include "kernels/cuda/gemm/fp8_gemm.h"
#include "kernels/cuda/gemm/fp8_many_schedule.cuh"

namespace fathom::cuda {

inline constexpr int kChunk = 64;   // rows of one wgmma
inline constexpr int kSlice = 128;  // bytes of K a stage holds
inline constexpr int kSmemLimit = 232448;

// Row scales of two chunks. The copy engine takes an innermost coordinate of multiples of 16 bytes
// only, and an expert may begin at any row: a box begins at the multiple of 4 before it, and is
// longer.
inline constexpr int kScaleBox = 2 * kChunk + 4;
inline constexpr int kScalePitch = 160;  // boxes land at multiples of 128 bytes

// A thread takes longer to issue the copies of a stage than the copies take, so four warps share
// the work. Each announces at a stage's barrier the bytes that it brings.
enum class Feeder : uint8_t { weights, even_chunks, odd_chunks, scales };
inline constexpr int kFeeders = 4;

template <int kGroups_, int kWaves_, int kColumns_, Shared kShared_>
struct ManyConfig {
  static constexpr int kGroups = kGroups_;    // warpgroups that multiply
  static constexpr int kWaves = kWaves_;      // chunks of a warpgroup
  static constexpr int kColumns = kColumns_;  // of the tile
  static constexpr Shared kShared = kShared_;
  static constexpr int kCluster = kShared == Shared::nothing ? 1 : 2;
  static constexpr int kThreads = (kGroups + 1) * 128;
  static constexpr int kChunks = kGroups * kWaves;
  static constexpr int kChunkPairs = (kChunks + 1) / 2;
  static constexpr int kRows = kChunks * kChunk;
  static constexpr int kRowBytes = kRows * kSlice;
  static constexpr int kWeightBytes = kColumns * kSlice;
  static constexpr int kScaleBytes = kChunkPairs * kScalePitch * 4;
  static constexpr int kStageBytes = kRowBytes + kWeightBytes + kScaleBytes;
  // The whole tile as it is stored, so that the copy engine has all of the next tile's time for it.
  static constexpr int kOutBytes = kRows * kColumns * 2;
  static constexpr int kSmallBytes = 2048;  // barriers and slack
  static constexpr int kFit = (kSmemLimit - kOutBytes - kSmallBytes - 8192) / kStageBytes;
  static constexpr int kStages = kFit < 16 ? kFit : 16;
  // Columns of a box of results: whole lines where the tile's width allows.
  static constexpr int kPiece = kColumns % 64 == 0 ? 64 : 32;
  static_assert(kColumns % kPiece == 0);
  // Two slices in flight, where registers suffice for two sets of partial sums.
  static constexpr bool kOverlapped = kWaves == 1 && kGroups <= 2 && kColumns <= 128;
  // A box brings a chunk of rows or, if the cluster shares them, the half that this CTA loads for
  // both. The same holds for weights.
  static constexpr int kRowBox = kShared == Shared::rows ? kChunk / 2 : kChunk;
  static constexpr int kWeightBox = kShared == Shared::weights ? kColumns / 2 : kColumns;
  // All 65536 registers: what the feeders give up goes to the others. One warpgroup alone has
  // enough.
  static constexpr bool kMoveRegisters = kGroups > 1;
  static constexpr int kFeederRegisters = kGroups == 2 ? 40 : 32;
  static constexpr int kMathRegisters = kGroups == 2 ? 232 : 160;
};

template <class C>
struct ManySmem {
  alignas(1024) uint8_t rows[C::kStages][C::kRowBytes];
  alignas(1024) uint8_t weights[C::kStages][C::kWeightBytes];
  alignas(1024) uint8_t out[C::kOutBytes];
  alignas(128) float scales[C::kStages][C::kChunkPairs][kScalePitch];
  uint64_t full[C::kStages], empty[C::kStages];
  // Grouped: the tiles of all experts follow here, 2 * (experts + 1) integers.
};

struct ManyArgs {
  const float* weight_scales;  // [experts][ceil(n / 128), scale_stride]
  int64_t scale_stride;
  int n, slices;  // slices of 128 along k
  OutSegment out[kMaxSegments];
  CUtensorMap out_maps[kMaxSegments];  // of bf16 segments
  int segments;
  int tail_rows;  // rows beyond the last whole chunk that have boxes of their own; 0: none
  ManySchedule schedule;
};

}  // namespace fathom::cuda
