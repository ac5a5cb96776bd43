// The kernel of the indexer's scores, for decode and prefill.
//
// Numerics
//   in     codes e4m3 or values bf16; head weights and key scales float32
//   q . k  tensor cores over all of K = 128 at once, float32 accumulators
//   heads  thread l of a quad adds columns 8 j + 2 l, 8 j + 2 l + 1 for j = 0, 1, ... by fma;
//          then (l0 + l1) + (l2 + l3). The same in every instantiation, so that a score does not
//          depend on which kernel, tile or neighbour it was computed with
//   out    float32: that sum times the key's scale
//   Padded heads have weight 0 and add exactly 0.
//
// Roles: warps of the math warpgroups, and one producer warp that walks the schedule, reads page
// tables and keeps two rings filled: pages of keys, and queries with their weights. Pages go to
// the warpgroups in turn.
#pragma once

#include "kernels/cuda/indexer/index_scores_schedule.cuh"
#include "kernels/cuda/prim/tma.h"
#include "kernels/cuda/prim/wgmma.h"

namespace fathom::cuda {

// One word to shared memory, or a zero; counted by copies_arrive.
__device__ __forceinline__ void copy_word(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(smem_address(to)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}
// Arrives at `bar` when this thread's copies are complete.
__device__ __forceinline__ void copies_arrive(uint64_t* bar) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(smem_address(bar))
               : "memory");
}

// ---- producer ----

template <class S>
__device__ __forceinline__ void load_query(IndexShared<S>& s, const IndexArgs& a,
                                           const CUtensorMap* map, int row, int rows, int query,
                                           int lane) {
  const int stage = query % S::kQueryStages;
  if (lane == 0) {
    barrier_arrive_expect(&s.query_full[stage], S::kQueryBytes);
#pragma unroll
    for (int segment = 0; segment < S::kSegments; ++segment)
      load_box(s.queries[stage] + segment * S::kSegmentBytes, map, &s.query_full[stage],
               segment * 64, 0, row, kEvictNormal);
  }
  for (int i = lane; i < S::kQueries * S::kHeads; i += 32) {
    const int query_of = i / S::kHeads, head = i % S::kHeads;
    const bool valid = query_of < rows && head < a.heads;
    const int64_t from = valid ? static_cast<int64_t>(row + query_of) * a.heads + head : 0;
    copy_word(&s.weights[stage][i], a.head_weight + from, valid);
  }
  copies_arrive(&s.query_full[stage]);
}

template <class S, class Schedule>
__device__ __forceinline__ void produce(IndexShared<S>& s, const IndexArgs& a, Schedule& schedule,
                                        const CUtensorMap* key_map, const CUtensorMap* query_map,
                                        int lane) {
  int issued = 0, query = -1, row = -1;
  int last_item = 0;  // the last item that uses the queries in stage `lane`
  // Waits until item `item` is done. If its stage was issued again since, an earlier wait has seen
  // that.
  auto wait_done = [&](int item) {
    if (item >= 0 && item >= issued - S::kKeyStages)
      barrier_wait(&s.key_empty[item % S::kKeyStages], item / S::kKeyStages & 1);
  };
  IndexItem batch;
  int count = schedule.next(batch);
  pdl_wait();
  while (count > 0) {
    IndexItem ahead;  // its page numbers are on their way while this batch is issued
    const int ahead_count = schedule.next(ahead);
    for (int i = 0; i < count; ++i, ++issued) {
      const int item_row = __shfl_sync(~0u, batch.row, i);
      const int rows = __shfl_sync(~0u, batch.rows, i);
      const int position = __shfl_sync(~0u, batch.position, i);
      const int first_key = __shfl_sync(~0u, batch.first_key, i);
      const int page = __shfl_sync(~0u, batch.page, i);
      if (item_row != row) {
        row = item_row;
        if (query >= 0 && lane == query % S::kQueryStages) last_item = issued - 1;
        if (++query >= S::kQueryStages) {  // each warpgroup's last page of the queries to replace
          const int last = __shfl_sync(~0u, last_item, query % S::kQueryStages);
#pragma unroll
          for (int w = 0; w < S::kWarpgroups; ++w) wait_done(last - w);
        }
        load_query(s, a, query_map, row, rows, query, lane);
      }
      const int stage = issued % S::kKeyStages;
      wait_done(issued - S::kKeyStages);
      if (lane == 0) {
        s.work[stage] = {row, rows, position, first_key, query};
        barrier_arrive_expect(&s.key_full[stage], S::kPageBytes);
#pragma unroll
        for (int segment = 0; segment < S::kSegments; ++segment)
          load_box(s.keys[stage] + segment * kPageRows * 128, key_map, &s.key_full[stage],
                   segment * 64, 0, page, kEvictNormal);
      }
      __syncwarp();
    }
    batch = ahead;
    count = ahead_count;
  }
  pdl_trigger();
  for (int i = 0; i < S::kWarpgroups; ++i, ++issued) {  // one end mark for each warpgroup
    const int stage = issued % S::kKeyStages;
    wait_done(issued - S::kKeyStages);
    if (lane == 0) {
      s.work[stage] = {0, 0, 0, 0, query};
      barrier_arrive(&s.key_full[stage]);
    }
    __syncwarp();
  }
}

// ---- math ----

// A thread's place in its warpgroup and in its page. After the reduction over the quad it owns the
// scores of key `key` for every second query, or for the only query.
struct IndexLane {
  int quad_lane;  // 0..3
  int key;        // 0..63
  int scale_at;   // byte of the key's scale in an fp8 stage
};

__device__ __forceinline__ IndexLane index_lane(int thread) {
  IndexLane l;
  l.quad_lane = thread % 4;
  l.key = thread / 32 * 16 + thread % 32 / 4 + 8 * (thread % 2);
  // Scales are rows 64 and 65 of the box. In row 65 the 128-byte swizzle swaps neighbouring pieces
  // of 16 bytes.
  const int word = l.key % 32;
  l.scale_at =
      kPageRows * 128 + (l.key < 32 ? word * 4 : 128 + ((word / 4) ^ 1) * 16 + word % 4 * 4);
  return l;
}

// d = keys (64 rows) x queries (kColumns), all of K; committed, not awaited.
template <class S>
__device__ __forceinline__ void multiply(float (&d)[S::kColumns / 2], const uint8_t* keys,
                                         const uint8_t* queries) {
  wgmma_fence();
#pragma unroll
  for (int segment = 0; segment < S::kSegments; ++segment)
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint64_t a = k_major_descriptor(keys + segment * kPageRows * 128, k * 32);
      const uint64_t b = k_major_descriptor(queries + segment * S::kSegmentBytes, k * 32);
      if constexpr (S::kFp8)
        wgmma_fp8<S::kColumns>(d, a, b, segment + k > 0);
      else
        wgmma_bf16<S::kColumns>(d, a, b, segment + k > 0);
    }
  wgmma_commit();
}

template <class S>
__device__ __forceinline__ void load_weights(float (&w)[S::kColumns / 4], const float* from,
                                             int quad_lane) {
#pragma unroll
  for (int j = 0; j < S::kColumns / 8; ++j) {
    const float2 pair = *reinterpret_cast<const float2*>(from + j * 8 + quad_lane * 2);
    w[j * 2] = pair.x;
    w[j * 2 + 1] = pair.y;
  }
}

// Relu, head weights, sum over heads, key scale, store: for one accumulator.
template <class S>
__device__ __forceinline__ void finish(const float (&d)[S::kColumns / 2],
                                       const float (&w)[S::kColumns / 4], const IndexLane& lane,
                                       const IndexWork& work, int half, float key_scale,
                                       const IndexArgs& a) {
  constexpr int kGroups = S::kHeads / 8;  // of 8 columns, a query
  float sum[S::kHalfQueries][2];
#pragma unroll
  for (int q = 0; q < S::kHalfQueries; ++q)
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[q][r] = 0.0f;
#pragma unroll
  for (int j = 0; j < kGroups; ++j)
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int q = 0; q < S::kHalfQueries; ++q)
#pragma unroll
        for (int r = 0; r < 2; ++r)
          sum[q][r] = fmaf(fmaxf(d[(q * kGroups + j) * 4 + r * 2 + c], 0.0f),
                           w[(q * kGroups + j) * 2 + c], sum[q][r]);
  // Each step hands half of a lane's sums to its neighbour and keeps the other half.
  const bool odd = lane.quad_lane & 1, high = lane.quad_lane & 2;
  float row[S::kHalfQueries];
#pragma unroll
  for (int q = 0; q < S::kHalfQueries; ++q) {
    const float keep = odd ? sum[q][1] : sum[q][0], give = odd ? sum[q][0] : sum[q][1];
    row[q] = keep + __shfl_xor_sync(~0u, give, 1);
  }
  const int key = work.first_key + lane.key;
  float* out = a.scores + static_cast<int64_t>(work.row) * a.stride + key;
  if constexpr (S::kHalfQueries == 1) {
    const float score = (row[0] + __shfl_xor_sync(~0u, row[0], 2)) * key_scale;
    if (!high && half < work.rows && key <= work.position + half) out[half * a.stride] = score;
  } else {
#pragma unroll
    for (int i = 0; i < S::kHalfQueries / 2; ++i) {
      const float keep = high ? row[2 * i + 1] : row[2 * i];
      const float give = high ? row[2 * i] : row[2 * i + 1];
      const float score = (keep + __shfl_xor_sync(~0u, give, 2)) * key_scale;
      const int query = half * S::kHalfQueries + 2 * i + (high ? 1 : 0);
      if (query < work.rows && key <= work.position + query) out[query * a.stride] = score;
    }
  }
}

// A warpgroup's view of the two rings.
template <class S>
struct IndexConsumer {
  IndexShared<S>& s;
  const IndexLane lane;
  int item;  // number of the page in the CTA's order

  __device__ __forceinline__ int stage() const { return item % S::kKeyStages; }
  // Waits for the page and, the first time, for its queries.
  __device__ __forceinline__ IndexWork acquire(int last_query) {
    barrier_wait(&s.key_full[stage()], item / S::kKeyStages & 1);
    const IndexWork work = s.work[stage()];
    if (work.rows > 0 && work.query != last_query)
      barrier_wait(&s.query_full[work.query % S::kQueryStages], work.query / S::kQueryStages & 1);
    return work;
  }
  __device__ __forceinline__ float key_scale() const {
    if constexpr (!S::kFp8) return 1.0f;
    return *reinterpret_cast<const float*>(s.keys[stage()] + lane.scale_at);
  }
  // Releases the page and, with the last page of its queries, also those and their weights.
  __device__ __forceinline__ void release_key(int stage) {
    fence_reads_of_stage();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.key_empty[stage]);
  }
  __device__ __forceinline__ const uint8_t* queries(const IndexWork& work, int half) const {
    return s.queries[work.query % S::kQueryStages] + half * S::kColumns * 128;
  }
  __device__ __forceinline__ const float* weights(const IndexWork& work, int half) const {
    return s.weights[work.query % S::kQueryStages] + half * S::kColumns;
  }
};

// One product a page; the warpgroups hide each other's latencies.
template <class S>
__device__ __forceinline__ void consume_single(IndexConsumer<S>& c, const IndexArgs& a) {
  float d[S::kColumns / 2], w[S::kColumns / 4];
  for (int query = -1;; c.item += S::kWarpgroups) {
    const IndexWork work = c.acquire(query);
    if (work.rows == 0) break;
    multiply<S>(d, c.s.keys[c.stage()], c.queries(work, 0));
    const float scale = c.key_scale();
    if (work.query != query) {
      query = work.query;
      load_weights<S>(w, c.weights(work, 0), c.lane.quad_lane);
    }
    wgmma_wait<0>();
    pin_registers(d);
    c.release_key(c.stage());
    finish<S>(d, w, c.lane, work, 0, scale, a);
  }
}

// Two products a page. The sums of the first are computed while the second runs, those of the
// second while the other warpgroup's products run. No product is in flight from one round of the
// loop to the next: the compiler does not follow accumulators across that edge and would wait after
// every product. Longer rounds were not faster, nor were warpgroups that take turns at the tensor
// cores.
template <class S>
__device__ __forceinline__ void consume_paired(IndexConsumer<S>& c, const IndexArgs& a) {
  float d0[S::kColumns / 2], d1[S::kColumns / 2];
  float w0[S::kColumns / 4], w1[S::kColumns / 4];
  bool fresh = true;  // the weights in registers are not this page's
  IndexWork work = c.acquire(-1);
  while (work.rows > 0) {
    const int stage = c.stage();
    multiply<S>(d0, c.s.keys[stage], c.queries(work, 0));
    multiply<S>(d1, c.s.keys[stage], c.queries(work, 1));
    const float scale = c.key_scale();
    if (fresh) load_weights<S>(w0, c.weights(work, 0), c.lane.quad_lane);
    wgmma_wait<1>();
    pin_registers(d0);
    finish<S>(d0, w0, c.lane, work, 0, scale, a);
    if (fresh) load_weights<S>(w1, c.weights(work, 1), c.lane.quad_lane);
    c.item += S::kWarpgroups;
    const IndexWork next = c.acquire(work.query);
    wgmma_wait<0>();
    pin_registers(d1);
    c.release_key(stage);
    finish<S>(d1, w1, c.lane, work, 1, scale, a);
    fresh = next.query != work.query;
    work = next;
  }
}

// ---- kernels ----

template <class S>
__device__ __forceinline__ IndexShared<S>& index_shared() {
  extern __shared__ uint8_t raw[];
  const uint32_t at = smem_address(raw);
  return *reinterpret_cast<IndexShared<S>*>(raw + ((at + 1023) / 1024 * 1024 - at));
}

template <class S>
__device__ __forceinline__ void init_barriers(IndexShared<S>& s) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kKeyStages; ++i) {
      barrier_init(&s.key_full[i], 1);
      barrier_init(&s.key_empty[i], 4);  // the warps of the one warpgroup that takes the page
    }
    for (int i = 0; i < S::kQueryStages; ++i)
      barrier_init(&s.query_full[i], 1 + 32);  // the boxes, and each lane's weights
    barrier_init_fence();
  }
  __syncthreads();
}

template <class S>
__device__ __forceinline__ void index_math(IndexShared<S>& s, const IndexArgs& a) {
  IndexConsumer<S> c{s, index_lane(threadIdx.x % 128), static_cast<int>(threadIdx.x / 128)};
  if constexpr (S::kPrefill)
    consume_paired(c, a);
  else
    consume_single(c, a);
}

// Waits by role: the producer warp waits, after it has read the step inputs that its schedule
// needs. The math warps touch global memory only after pages that it has brought.
template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    index_decode_kernel(const __grid_constant__ IndexArgs a,
                        const __grid_constant__ CUtensorMap key_map,
                        const __grid_constant__ CUtensorMap query_map) {
  IndexShared<S>& s = index_shared<S>();
  init_barriers(s);
  if (threadIdx.x < S::kWarpgroups * 128) {
    index_math(s, a);
  } else {
    const int lane = threadIdx.x % 32;
    IndexDecodeSchedule<S::kQueries> schedule(a, lane);
    produce(s, a, schedule, &key_map, &query_map, lane);
  }
}

// Waits by role: as index_decode_kernel.
template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    index_prefill_kernel(const __grid_constant__ IndexArgs a,
                         const __grid_constant__ IndexPrefillPlan plan,
                         const __grid_constant__ CUtensorMap key_map,
                         const __grid_constant__ CUtensorMap query_map) {
  IndexShared<S>& s = index_shared<S>();
  init_barriers(s);
  if (threadIdx.x < S::kWarpgroups * 128) {
    registers_increase<232>();
    index_math(s, a);
  } else {
    registers_decrease<40>();
    if (threadIdx.x >= S::kWarpgroups * 128 + 32) return;  // only there to give up registers
    const int lane = threadIdx.x % 32;
    IndexPrefillSchedule<S::kQueries> schedule(a, plan, lane);
    produce(s, a, schedule, &key_map, &query_map, lane);
  }
}

}  // namespace fathom::cuda
