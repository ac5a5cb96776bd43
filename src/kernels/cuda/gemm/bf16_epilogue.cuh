// How accumulators of a bf16 product are stored: rounded once (or kept as float32), brought into
// row order by way of shared memory, and cut at the borders of rows, columns and output segments.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/gemm/bf16_work.h"
#include "kernels/cuda/prim/barrier.h"

namespace fathom::cuda {

// Where a tile's results go: rows row0 .. row_limit - 1 of `batch`, columns n0 ..
struct Bf16Target {
  int batch, row0, row_limit, n0;
};

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<uint32_t&>(pair);
}

template <bool kTranspose>
__device__ __forceinline__ void store_matrices(uint32_t to, uint32_t a, uint32_t b, uint32_t c,
                                               uint32_t d) {
  if constexpr (kTranspose)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

__device__ __forceinline__ uint4 load_shared(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

// Address of column n (inside the segment or not) of a token's row.
template <class T>
__device__ __forceinline__ T* out_address(const Bf16Work& w, const OutSegment& s, int batch,
                                          int token, int n) {
  return static_cast<T*>(s.data) + batch * w.out_batch_stride + token * s.stride + (n - s.n_begin);
}

// One 16-byte piece of a row: elements for columns n .. of which only [low, high) exist. `whole`:
// all exist and the place is aligned.
template <class T>
__device__ __forceinline__ void store_piece(T* to, uint4 v, bool whole, int n, int low, int high) {
  if (whole) {
    *reinterpret_cast<uint4*>(to) = v;
    return;
  }
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  constexpr int kCount = 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (n + i >= low && n + i < high) {
      if constexpr (sizeof(T) == 4)
        to[i] = words[i];
      else
        to[i] = static_cast<T>(words[i / 2] >> (i % 2 * 16));
    }
}

// Whether pieces at `to`, and at multiples of the stride from it, are aligned and inside the
// segment. float32 outputs may have any stride, and segments may end anywhere.
template <class T>
__device__ __forceinline__ bool whole_pieces(const T* to, int64_t stride, int n, int low,
                                             int high) {
  return n >= low && n + static_cast<int>(16 / sizeof(T)) <= high &&
         ((reinterpret_cast<uintptr_t>(to) | static_cast<uintptr_t>(stride) * sizeof(T)) & 15) == 0;
}

// Tokens on the M side: this warp holds 16 tokens from t.row0 and kN columns. 64 columns at a time
// go through `staging` (4 KiB of this warp) so that whole lines are written. The 16-byte pieces of
// a staged row are permuted by the row's number, which keeps both directions free of bank
// conflicts.
template <int kN>
__device__ void store_tokens_m(const float (&d)[kN / 2], uint32_t staging, const Bf16Work& w,
                               const Bf16Target& t) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int g = 0; g < kN / 64; ++g) {
    for (int i = 0; i < w.segments; ++i) {
      const OutSegment& s = w.out[i];
      const int base = t.n0 + g * 64;
      const int low = max(s.n_begin, base), high = min(s.n_end, base + 64);
      if (low >= high) continue;
      __syncwarp();  // the last piece has been read
      if (!s.f32) {
        const int row = (lane & 8) + (lane & 7);
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
          const float* x = &d[(g * 8 + j) * 4];
          const int piece = (j + (lane >> 4)) ^ (row & 7);
          store_matrices<false>(staging + row * 128 + piece * 16, pack_bf16(x[0], x[1]),
                                pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                                pack_bf16(x[6], x[7]));
        }
        __syncwarp();
        const int first = lane / 8, piece = lane % 8, n = base + piece * 8;
        uint16_t* to = out_address<uint16_t>(w, s, t.batch, t.row0 + first, n);
        const bool some = n < high && n + 8 > low, whole = whole_pieces(to, s.stride, n, low, high);
#pragma unroll
        for (int k = 0; k < 4; ++k, to += 4 * s.stride) {
          const int r = k * 4 + first;
          const uint4 v = load_shared(staging + r * 128 + ((piece ^ (r & 7)) * 16));
          if (some && t.row0 + r < t.row_limit) store_piece(to, v, whole, n, low, high);
        }
      } else {
        const int row = lane / 4;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float* x = &d[(g * 8 + j) * 4];
          const int piece = (2 * j + lane % 4 / 2) ^ ((row & 3) * 2);
          const uint32_t to = staging + row * 256 + piece * 16 + lane % 2 * 8;
          asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(x[0]), "f"(x[1])
                       : "memory");
          asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to + 8 * 256), "f"(x[2]), "f"(x[3])
                       : "memory");
        }
        __syncwarp();
        const int first = lane / 16, piece = lane % 16, n = base + piece * 4;
        uint32_t* to = out_address<uint32_t>(w, s, t.batch, t.row0 + first, n);
        const bool some = n < high && n + 4 > low, whole = whole_pieces(to, s.stride, n, low, high);
#pragma unroll
        for (int k = 0; k < 8; ++k, to += 2 * s.stride) {
          const int r = k * 2 + first;
          const uint4 v = load_shared(staging + r * 256 + ((piece ^ ((r & 3) * 2)) * 16));
          if (some && t.row0 + r < t.row_limit) store_piece(to, v, whole, n, low, high);
        }
      }
    }
  }
}

// Weights on the M side: this warp's 16 columns for kN tokens, as bf16, 32 bytes a token. Where
// columns 8 half .. of a token lie:
__device__ __forceinline__ uint32_t staged_weights_m(int token, int half) {
  return token * 32 + (half ^ ((token >> 2) & 1)) * 16;
}
template <int kN>
__device__ __forceinline__ void stage_weights_m(const float (&d)[kN / 2], uint32_t staging) {
  // Matrix m of a store holds columns 8 (m % 2) .. of 8 tokens from 8 (j + m / 2) on.
  const int lane = threadIdx.x % 32, half = (lane >> 3) & 1;
#pragma unroll
  for (int j = 0; j < kN / 8; j += 2) {
    const uint32_t a = pack_bf16(d[4 * j], d[4 * j + 1]);
    const uint32_t b = pack_bf16(d[4 * j + 2], d[4 * j + 3]);
    if constexpr (kN == 8) {
      asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(
                       staging + staged_weights_m(lane & 7, half)),
                   "r"(a), "r"(b)
                   : "memory");
    } else {
      store_matrices<true>(staging + staged_weights_m(8 * (j + (lane >> 4)) + (lane & 7), half), a,
                           b, pack_bf16(d[4 * j + 4], d[4 * j + 5]),
                           pack_bf16(d[4 * j + 6], d[4 * j + 7]));
    }
  }
}

// Weights on the M side: this warp holds 16 columns of the output from t.n0 on, for kN tokens from
// t.row0 on. bf16 is transposed through `staging` (32 bytes a token) and written in whole sectors.
// float32 fills whole sectors straight from the registers.
template <int kN>
__device__ void store_weights_m(const float (&d)[kN / 2], uint32_t staging, const Bf16Work& w,
                                const Bf16Target& t) {
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < w.segments; ++i) {
    const OutSegment& s = w.out[i];
    const int low = max(s.n_begin, t.n0), high = min(s.n_end, t.n0 + 16);
    if (low >= high) continue;
    if (!s.f32) {
      __syncwarp();  // the last segment has been read
      stage_weights_m<kN>(d, staging);
      __syncwarp();
#pragma unroll
      for (int k = 0; k < (kN + 15) / 16; ++k) {
        const int r = k * 16 + lane / 2, token = t.row0 + r;
        const int n = t.n0 + lane % 2 * 8;
        if (r >= kN || token >= t.row_limit || n >= high || n + 8 <= low) continue;
        const uint4 v = load_shared(staging + staged_weights_m(r, lane % 2));
        uint16_t* to = out_address<uint16_t>(w, s, t.batch, token, n);
        store_piece(to, v, whole_pieces(to, 0, n, low, high), n, low, high);
      }
    } else {
#pragma unroll
      for (int e = 0; e < kN / 2; ++e) {
        const int token = t.row0 + e / 4 * 8 + lane % 4 * 2 + e % 2;
        const int n = t.n0 + lane / 4 + e / 2 % 2 * 8;
        if (token < t.row_limit && n >= low && n < high)
          *out_address<float>(w, s, t.batch, token, n) = d[e];
      }
    }
  }
}

__device__ __forceinline__ float4 load_cluster(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// Row pitch of a partial tile in shared memory, in floats: 4 more than the tile, so that the eight
// rows x four tokens a warp writes at once fall into different banks.
__host__ __device__ constexpr int bf16_partial_pitch(int m_rows) { return m_rows + 4; }

// This thread's part of a partial tile, weights on the M side, as [kN tokens][m_rows] float32.
template <int kN>
__device__ __forceinline__ void stage_partial(const float (&d)[kN / 2], float* partial,
                                              int m_rows) {
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
#pragma unroll
  for (int e = 0; e < kN / 2; ++e)
    partial[(e / 4 * 8 + lane % 4 * 2 + e % 2) * bf16_partial_pitch(m_rows) + first + lane / 4 +
            e / 2 % 2 * 8] = d[e];
}

// Sums the partial tiles of all CTAs of the cluster in the order of their ranks, and stores this
// CTA's share of the tile. `threads` threads of each CTA take part.
template <int kMaxSplits>
__device__ void reduce_partials(const float* partial, int m_rows, int tokens, int splits,
                                int threads, const Bf16Work& w, const Bf16Target& t) {
  const int rank = static_cast<int>(cluster_rank()), vectors = m_rows / 4;
  for (int v = rank * threads + static_cast<int>(threadIdx.x); v < tokens * vectors;
       v += splits * threads) {
    const int r = v / vectors, column = v % vectors * 4;
    const float* mine = partial + r * bf16_partial_pitch(m_rows) + column;
    float4 x[kMaxSplits];
#pragma unroll
    for (int c = 0; c < kMaxSplits; ++c)
      if (c < splits) x[c] = load_cluster(cluster_address(mine, static_cast<uint32_t>(c)));
    float4 sum = x[0];
#pragma unroll
    for (int c = 1; c < kMaxSplits; ++c)
      if (c < splits) {
        sum.x += x[c].x;
        sum.y += x[c].y;
        sum.z += x[c].z;
        sum.w += x[c].w;
      }
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
    const int token = t.row0 + r, n = t.n0 + column;
    for (int i = 0; i < w.segments; ++i) {
      const OutSegment& s = w.out[i];
      if (n + 4 <= s.n_begin || n >= s.n_end) continue;
      if (s.f32) {
        float* to = out_address<float>(w, s, t.batch, token, n);
        if (whole_pieces(to, 0, n, s.n_begin, s.n_end)) {
          *reinterpret_cast<float4*>(to) = sum;
          continue;
        }
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (n + e < s.n_begin || n + e >= s.n_end) continue;
        if (s.f32)
          *out_address<float>(w, s, t.batch, token, n + e) = values[e];
        else
          *out_address<__nv_bfloat16>(w, s, t.batch, token, n + e) = __float2bfloat16_rn(values[e]);
      }
    }
  }
}

}  // namespace fathom::cuda
