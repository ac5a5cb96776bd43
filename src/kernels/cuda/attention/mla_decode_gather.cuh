// The producer warpgroup of decode: finds the rows of a block of 64 keys and brings them into
// shared memory as bf16 tiles. Warp w fetches keys 16 w .. 16 w + 15 of a block in four sets of
// four; eight lanes share a row.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/attention/mla_decode_shared.cuh"
#include "numerics/fp8.h"

namespace fathom::cuda::decode {

// Positions and cache rows, one key a lane (lanes 16 to 31 repeat lanes 0 to 15). Each step is a
// load that depends on the one before, so positions are fetched two blocks ahead of use and rows
// one.
struct KeyRows {
  const Range& range;
  int key;       // of this lane, in the block whose position comes next
  int fallback;  // stands in for keys that do not exist: a row that is there, so that no weight of
                 // zero meets a NaN
  int position;

  __device__ __forceinline__ KeyRows(const Range& r, int warp, int lane) : range(r) {
    key = r.begin * kBlockKeys + warp * 16 + (lane & 15);
    fallback = r.picked ? load_int(r.picked) : 0;
    load_position();
  }
  __device__ __forceinline__ void load_position() {
    position = key < range.keys ? (range.picked ? load_int(range.picked + key) : key) : -1;
    key += kBlockKeys;
  }
  // Starts to load the page of the current position, and the position after it. row() gives the row
  // later: a use right after the load would wait for it.
  int page, offset;
  __device__ __forceinline__ void load_page() {
    const int p = position < 0 ? fallback : position;
    page = load_int(range.pages + p / kPageRows);
    offset = p % kPageRows;
    load_position();
  }
  __device__ __forceinline__ int row() {
    asm volatile("" : "+r"(page));  // not before this point
    return page * kPageRows + offset;
  }
};

// A lane's place in a set of four rows, 8 lanes a row. Lanes are arranged so that any 8
// neighbouring lanes that store 16 bytes each hit all 32 banks.
struct Place {
  int row;    // 0..3
  int chunk;  // 0..7: sixteen codes of a group of 128
  int rope;   // 0..7: eight bf16 of the rotary part
  __device__ __forceinline__ explicit Place(int lane)
      : row((lane >> 4 & 1) * 2 + (lane >> 2 & 1)),
        chunk((lane >> 3 & 1) * 4 + (lane & 3)),
        rope((lane & 3) * 2 + (lane >> 3 & 1)) {}
};

__device__ __forceinline__ uint4 load_row16(const std::byte* p) {
  uint4 v;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 load_row8(const std::byte* p) {
  uint2 v;
  asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
__device__ __forceinline__ void store16(uint32_t to, uint32_t a, uint32_t b, uint32_t c,
                                        uint32_t d) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

__device__ __forceinline__ uint32_t multiply(uint32_t x, uint32_t factor) {
  __nv_bfloat162 r =
      __hmul2(*reinterpret_cast<__nv_bfloat162*>(&x), *reinterpret_cast<__nv_bfloat162*>(&factor));
  return *reinterpret_cast<uint32_t*>(&r);
}

// Converts four codes to four bf16, in the order 0, 2, 1, 3. Exponent and mantissa of e4m3, moved
// to their places in bf16, are the value times 2^-120, also for subnormal codes; `factor` is scale
// * 2^120.
__device__ __forceinline__ void widen(uint32_t codes, uint32_t factor, uint32_t& even,
                                      uint32_t& odd) {
  even = multiply(((codes << 4) & 0x07F007F0u) | ((codes << 8) & 0x80008000u), factor);
  odd = multiply(((codes >> 4) & 0x07F007F0u) | (codes & 0x80008000u), factor);
}

// The same for any scale: through float32.
__device__ __forceinline__ void widen_any(uint32_t codes, float scale, uint32_t& even,
                                          uint32_t& odd) {
  float v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = fp8_to_float(static_cast<uint8_t>(codes >> (8 * i))) * scale;
  __nv_bfloat162 e = __floats2bfloat162_rn(v[0], v[2]), o = __floats2bfloat162_rn(v[1], v[3]);
  even = *reinterpret_cast<uint32_t*>(&e);
  odd = *reinterpret_cast<uint32_t*>(&o);
}

// Whether scale * 2^120 is a finite power of two in bf16.
__device__ __forceinline__ bool plain_scale(uint32_t bits) {
  uint32_t exponent = bits >> 23;  // with the sign, which must be 0
  return (bits & 0x7FFFFFu) == 0 && exponent >= 1 && exponent <= 134;
}

// Rows of fp8 codes in registers: they are loaded one block before their conversion.
struct Fp8Rows {
  uint4 codes[4][4];  // [set][group of 128]
  uint4 rope[4];
  uint2 scales;  // of row lane % 16: groups 0, 1 in lanes below 16, groups 2, 3 above

  __device__ __forceinline__ void load_set(const std::byte* rows, int set, int row, Place at) {
    const std::byte* from =
        rows + static_cast<int64_t>(__shfl_sync(~0u, row, set * 4 + at.row)) * 656;
#pragma unroll
    for (int group = 0; group < 4; ++group)
      codes[set][group] = load_row16(from + group * 128 + at.chunk * 16);
    rope[set] = load_row16(from + 528 + at.rope * 16);
  }
  __device__ __forceinline__ void load_scales(const std::byte* rows, int row, int lane) {
    scales = load_row8(rows + static_cast<int64_t>(row) * 656 + 512 + (lane >> 4) * 8);
  }
};

// Where a lane puts its codes and its share of the rotary part, within the tiles of a block.
struct Destination {
  uint32_t codes, rope;
  __device__ __forceinline__ Destination(Place at, int warp)
      : codes((at.chunk >> 2) * kTileBytes + tile_offset(warp * 16 + at.row, (at.chunk & 3) * 2)),
        rope(8 * kTileBytes + tile_offset(warp * 16 + at.row, at.rope)) {}
  // A set is four rows further; every other set changes bit 2 of the row and so the swizzle.
  __device__ __forceinline__ uint32_t codes_of(int set) const {
    return (codes ^ (set & 1 ? 64 : 0)) + set * 512;
  }
  __device__ __forceinline__ uint32_t rope_of(int set) const {
    return (rope ^ (set & 1 ? 64 : 0)) + set * 512;
  }
};

// Slow path for a block with a scale that is no power of two: it reads the codes again.
__device__ __forceinline__ void convert_any(const std::byte* rows, int row, uint32_t to) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const Place at(lane);
  const Destination destination(at, warp);
#pragma unroll 1
  for (int set = 0; set < 4; ++set) {
    const std::byte* from =
        rows + static_cast<int64_t>(__shfl_sync(~0u, row, set * 4 + at.row)) * 656;
#pragma unroll 1
    for (int group = 0; group < 4; ++group) {
      const uint4 codes = load_row16(from + group * 128 + at.chunk * 16);
      const float scale = __uint_as_float(static_cast<uint32_t>(
          load_int(reinterpret_cast<const int32_t*>(from + 512 + group * 4))));
      uint32_t e[4], o[4];
      widen_any(codes.x, scale, e[0], o[0]);
      widen_any(codes.y, scale, e[1], o[1]);
      widen_any(codes.z, scale, e[2], o[2]);
      widen_any(codes.w, scale, e[3], o[3]);
      const uint32_t tile = to + destination.codes_of(set) + group * 2 * kTileBytes;
      store16(tile, e[0], o[0], e[1], o[1]);
      store16(tile ^ 16, e[2], o[2], e[3], o[3]);
    }
  }
}

__device__ __forceinline__ void gather_fp8(const Args& a, const Range& range, Shared& s) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const Place at(lane);
  const Destination destination(at, warp);
  const std::byte* rows = a.p.cache.rows;
  KeyRows key_rows(range, warp, lane);
  Fp8Rows held;
  key_rows.load_page();
  int row = key_rows.row();
  held.load_scales(rows, row, lane);
#pragma unroll
  for (int set = 0; set < 4; ++set) held.load_set(rows, set, row, at);
  if (range.blocks > 1) key_rows.load_page();

  for (int i = 0; i < range.blocks; ++i) {
    const int buffer = i & 1;
    const uint32_t to = smem_address(s.keys[buffer]);
    const bool more = i + 1 < range.blocks;

    // Each lane prepares the factors of two groups of one row; the lanes that convert that row take
    // them by shuffle.
    const uint2 scales = held.scales;
    const uint32_t factors = __byte_perm(scales.x + (120u << 23), scales.y + (120u << 23), 0x7632);
    const bool plain = __all_sync(~0u, plain_scale(scales.x) && plain_scale(scales.y));
    if (i >= kBuffers) barrier_wait(&s.empty[buffer], (i / kBuffers - 1) & 1);
    if (!plain) convert_any(rows, row, to);
    if (more) {
      row = key_rows.row();
      held.load_scales(rows, row, lane);
    }
#pragma unroll
    for (int set = 0; set < 4; ++set) {
      if (plain) {
        const uint32_t pairs[2] = {__shfl_sync(~0u, factors, set * 4 + at.row),
                                   __shfl_sync(~0u, factors, set * 4 + at.row + 16)};
#pragma unroll
        for (int group = 0; group < 4; ++group) {
          const uint4 codes = held.codes[set][group];
          const uint32_t factor = __byte_perm(pairs[group / 2], 0, group & 1 ? 0x3232 : 0x1010);
          uint32_t e[4], o[4];
          widen(codes.x, factor, e[0], o[0]);
          widen(codes.y, factor, e[1], o[1]);
          widen(codes.z, factor, e[2], o[2]);
          widen(codes.w, factor, e[3], o[3]);
          const uint32_t tile = to + destination.codes_of(set) + group * 2 * kTileBytes;
          store16(tile, e[0], o[0], e[1], o[1]);
          store16(tile ^ 16, e[2], o[2], e[3], o[3]);
        }
      }
      const uint4 r = held.rope[set];
      store16(to + destination.rope_of(set), r.x, r.y, r.z, r.w);
      if (more) held.load_set(rows, set, row, at);
    }
    fence_async_shared();
    __syncwarp();
    if (lane == 0) barrier_arrive(&s.full[buffer]);
    if (i + 2 < range.blocks) key_rows.load_page();
  }
}

// bf16 rows need no conversion: they are copied straight into their tiles, and each thread's
// arrival follows when its copies have landed.
__device__ __forceinline__ void gather_bf16(const Args& a, const Range& range, Shared& s) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const Place at(lane);
  constexpr int kRowBytes = 2 * KernelDims::kRow;
  KeyRows key_rows(range, warp, lane);
  const uint32_t chunk_at = tile_offset(warp * 16 + at.row, at.rope);
  key_rows.load_page();
  for (int i = 0; i < range.blocks; ++i) {
    const int buffer = i & 1;
    const uint32_t to = smem_address(s.keys[buffer]);
    const int row = key_rows.row();
    if (i + 1 < range.blocks) key_rows.load_page();
    if (i >= kBuffers) barrier_wait(&s.empty[buffer], (i / kBuffers - 1) & 1);
#pragma unroll
    for (int set = 0; set < 4; ++set) {
      const std::byte* from =
          a.p.cache.rows +
          static_cast<int64_t>(__shfl_sync(~0u, row, set * 4 + at.row)) * kRowBytes + at.rope * 16;
      const uint32_t set_to = to + (chunk_at ^ (set & 1 ? 64 : 0)) + set * 512;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(set_to + tile * kTileBytes),
                     "l"(from + tile * 128)
                     : "memory");
    }
    asm volatile(
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(smem_address(&s.full[buffer]))
        : "memory");
  }
}

}  // namespace fathom::cuda::decode
