// How the FP8 kernel for many rows stores a tile.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/gemm/fp8_many_config.cuh"
#include "kernels/cuda/prim/barrier.h"
#include "kernels/cuda/prim/tma.h"

namespace fathom::cuda {

// The segment of the results that a piece of the tile's columns belongs to.
__device__ __forceinline__ int segment_of(const ManyArgs& args, int column) {
  int segment = 0;
  while (segment + 1 < args.segments && column >= args.out[segment].n_end) ++segment;
  return segment;
}

// Where cell `cell` (16 bytes) of row r of a box of results lies: in the copy engine's swizzle of
// as many bytes as a row has, so that neither side meets bank conflicts.
template <int kPiece>
__device__ __forceinline__ int box_cell(int r, int cell) {
  constexpr int kPitch = kPiece * 2;
  return r * kPitch + (cell ^ (r * kPitch / 128 % (kPiece / 8))) * 16;
}

// Lays 16 rows of kPiece columns down as part of a box, rounded to bf16. `cells`: box_cell() of
// this lane for every 16 columns. Found once a tile, since what a warpgroup does between two tiles
// hides nowhere. `d`: the accumulators.
template <int kPiece>
__device__ __forceinline__ void lay_down(const float* d, const int (&cells)[kPiece / 16],
                                         uint32_t box) {
#pragma unroll
  for (int j = 0; j < kPiece / 16; ++j) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* from = d + (j * 2 + i / 2) * 4 + (i % 2) * 2;
      __nv_bfloat162 pair = __floats2bfloat162_rn(from[0], from[1]);
      v[i] = *reinterpret_cast<uint32_t*>(&pair);
    }
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(box + cells[j]),
        "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
        : "memory");
  }
}
template <int kPiece>
__device__ __forceinline__ void find_cells(int (&cells)[kPiece / 16], int lane) {
  const int matrix = lane / 8, row = (matrix & 1) * 8 + lane % 8;
#pragma unroll
  for (int j = 0; j < kPiece / 16; ++j) cells[j] = box_cell<kPiece>(row, j * 2 + matrix / 2);
}

// Stores a warp's 16 rows of kPiece columns of a float32 segment.
template <int kPiece>
__device__ __forceinline__ void store_f32(const float* d, const OutSegment& out, int n, int row,
                                          int row_end, int column, int lane) {
  float* data = static_cast<float*>(out.data);
#pragma unroll
  for (int j = 0; j < kPiece / 8; ++j, d += 4) {
    const int r = row + lane / 4, c = column + j * 8 + (lane % 4) * 2;
    float* to = data + r * out.stride + (c - out.n_begin);
    if (c < n && r < row_end) *reinterpret_cast<float2*>(to) = {d[0], d[1]};
    if (c < n && r + 8 < row_end) *reinterpret_cast<float2*>(to + 8 * out.stride) = {d[2], d[3]};
  }
}

// Stores a warpgroup's chunks of a tile, as many as `chunks`, from `row` on: they are laid down in
// shared memory, and the copy engine takes them from there while the next tile is computed.
template <class C>
__device__ __forceinline__ void store_boxes(const float (&sum)[C::kWaves][C::kColumns / 2],
                                            ManySmem<C>& s, const ManyArgs& args,
                                            const ManyTileAt& at, int chunks, int group, int warp,
                                            int lane) {
  constexpr int kPiece = C::kPiece, kPieces = C::kColumns / kPiece;
  constexpr int kBox = kChunk * kPiece * 2, kApart = C::kGroups * kChunk;
  uint8_t* boxes = s.out + group * C::kWaves * kPieces * kBox;
  const bool issues = warp == 0 && lane == 0;
  const int row = at.row + group * kChunk;
  int cells[kPiece / 16];
  find_cells<kPiece>(cells, lane);
  const uint32_t to = smem_address(boxes) + warp * 16 * kPiece * 2;
  if (issues) store_wait_read<0>();  // the boxes of the tile before have left
  named_sync(1 + group, 128);
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    const int column = at.column + piece * kPiece;
    if (column >= args.n) break;
    const OutSegment& out = args.out[segment_of(args, column)];
#pragma unroll
    for (int w = 0; w < C::kWaves; ++w) {
      if (w >= chunks) break;
      const float* d = &sum[w][piece * kPiece / 2];
      if (out.f32)
        store_f32<kPiece>(d, out, args.n, row + w * kApart + warp * 16, at.row_end, column, lane);
      else
        lay_down<kPiece>(d, cells, to + (piece * C::kWaves + w) * kBox);
    }
  }
  fence_async_shared();
  named_sync(1 + group, 128);
  if (!issues) return;
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    const int column = at.column + piece * kPiece;
    if (column >= args.n) break;
    const int segment = segment_of(args, column);
    if (args.out[segment].f32) continue;
#pragma unroll
    for (int w = 0; w < C::kWaves; ++w)
      if (w < chunks)
        store_box(&args.out_maps[segment], boxes + (piece * C::kWaves + w) * kBox,
                  column - args.out[segment].n_begin, row + w * kApart);
  }
  store_commit();
}

// The same for experts: their rows end anywhere, so the lanes of each warp store its 16 rows, whole
// lines at a time.
template <class C>
__device__ __forceinline__ void store_rows(const float (&sum)[C::kColumns / 2], uint8_t* staging,
                                           const ManyArgs& args, const ManyTileAt& at, int row,
                                           int lane) {
  constexpr int kPiece = C::kPiece, kCells = kPiece / 8;
  const OutSegment& out = args.out[0];
  __nv_bfloat16* data = static_cast<__nv_bfloat16*>(out.data);
  int cells[kPiece / 16];
  find_cells<kPiece>(cells, lane);
#pragma unroll
  for (int piece = 0; piece < C::kColumns / kPiece; ++piece) {
    const int column = at.column + piece * kPiece;
    if (column >= args.n) return;
    lay_down<kPiece>(&sum[piece * kPiece / 2], cells, smem_address(staging));
    __syncwarp();
    const int cell = lane % kCells, c = column + cell * 8;
#pragma unroll
    for (int i = 0; i < kCells / 2; ++i) {
      const int r = i * (32 / kCells) + lane / kCells;
      const uint4 v = *reinterpret_cast<const uint4*>(staging + box_cell<kPiece>(r, cell));
      if (c < args.n && row + r < at.row_end)
        *reinterpret_cast<uint4*>(data + (row + r) * out.stride + c) = v;
    }
    __syncwarp();
  }
}

}  // namespace fathom::cuda
