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
__device__ __forceinline__ void load_group(IndexShared<S>& s, const IndexArgs& a,
                                           const CUtensorMap* map, const IndexGroup& group,
                                           int number, int lane) {
  const int stage = number % S::kQueryStages;
  const auto [row, rows, position] = group;
  if (lane == 0) {
    s.group[stage] = group;
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
  int issued = 0, group = -1, row = -1;
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
        if (group >= 0 && lane == group % S::kQueryStages) last_item = issued - 1;
        if (++group >= S::kQueryStages) {  // each warpgroup's last page of the queries to replace
          const int last = __shfl_sync(~0u, last_item, group % S::kQueryStages);
#pragma unroll
          for (int w = 0; w < S::kWarpgroups; ++w) wait_done(last - w);
        }
        load_group(s, a, query_map, {row, rows, position}, group, lane);
      }
      const int stage = issued % S::kKeyStages;
      wait_done(issued - S::kKeyStages);
      if (lane == 0) {
        s.work[stage] = {first_key, group};
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
      s.work[stage] = {0, -1};
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

// Describes the operand tile that begins `bytes` (a multiple of 16) behind the one of `descriptor`.
__device__ __forceinline__ uint64_t descriptor_behind(uint64_t descriptor, uint32_t bytes) {
  const uint32_t low = static_cast<uint32_t>(descriptor) + (bytes >> 4);  // never carries
  return (descriptor & 0xFFFFFFFF00000000u) | low;
}

// d = keys (64 rows) x queries (kColumns), all of K; committed, not awaited.
template <class S>
__device__ __forceinline__ void multiply(float (&d)[S::kColumns / 2], const uint8_t* keys,
                                         const uint8_t* queries) {
  const uint64_t key = k_major_descriptor(keys), query = k_major_descriptor(queries);
  wgmma_fence();
#pragma unroll
  for (int segment = 0; segment < S::kSegments; ++segment)
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint64_t a = descriptor_behind(key, segment * kPageRows * 128 + k * 32);
      const uint64_t b = descriptor_behind(query, segment * S::kSegmentBytes + k * 32);
      if constexpr (S::kFp8)
        wgmma_fp8<S::kColumns>(d, a, b, segment + k > 0);
      else
        wgmma_bf16<S::kColumns>(d, a, b, segment + k > 0);
    }
  wgmma_commit();
}

// What a thread keeps of a group of queries.
template <class S>
struct IndexRows {
  float weight[S::kHalves][S::kColumns / 4];  // of this thread's columns
  float* out;  // score of its key in a page that begins at position 0, in its first row
  int room;    // rows of the group from its first row on
  int last;    // its first row has scores of pages that begin up to here
};

template <class S>
__device__ __forceinline__ void load_rows(IndexRows<S>& rows, const IndexShared<S>& s, int stage,
                                          const IndexLane& lane, const IndexArgs& a) {
#pragma unroll
  for (int half = 0; half < S::kHalves; ++half)
#pragma unroll
    for (int j = 0; j < S::kColumns / 8; ++j) {
      const float2 pair = *reinterpret_cast<const float2*>(s.weights[stage] + half * S::kColumns +
                                                           j * 8 + lane.quad_lane * 2);
      rows.weight[half][j * 2] = pair.x;
      rows.weight[half][j * 2 + 1] = pair.y;
    }
  // The upper lanes of a quad own every second query, or with one query nothing.
  const int high = lane.quad_lane / 2, first = S::kHalfQueries == 1 ? 0 : high;
  const IndexGroup group = s.group[stage];
  rows.out = a.scores + static_cast<int64_t>(group.row + first) * a.stride + lane.key;
  rows.room = S::kHalfQueries == 1 && high ? 0 : group.rows - first;
  rows.last = group.position + first - lane.key;
}

// Relu, head weights, sum over heads, key scale, store: for one accumulator.
template <class S>
__device__ __forceinline__ void finish(const float (&d)[S::kColumns / 2], const IndexRows<S>& rows,
                                       const IndexLane& lane, int half, int first_key,
                                       float key_scale, const IndexArgs& a) {
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
                           rows.weight[half][(q * kGroups + j) * 2 + c], sum[q][r]);
  // Each step hands half of a lane's sums to its neighbour and keeps the other half.
  const bool odd = lane.quad_lane & 1, high = lane.quad_lane & 2;
  float row[S::kHalfQueries];
#pragma unroll
  for (int q = 0; q < S::kHalfQueries; ++q) {
    const float keep = odd ? sum[q][1] : sum[q][0], give = odd ? sum[q][0] : sum[q][1];
    row[q] = keep + __shfl_xor_sync(~0u, give, 1);
  }
  auto store = [&](int query, float score) {  // counted from this thread's first row
    if (query < rows.room && first_key <= rows.last + query)
      rows.out[query * a.stride + first_key] = score;
  };
  if constexpr (S::kHalfQueries == 1) {
    store(half, (row[0] + __shfl_xor_sync(~0u, row[0], 2)) * key_scale);
  } else {
#pragma unroll
    for (int i = 0; i < S::kHalfQueries / 2; ++i) {
      const float keep = high ? row[2 * i + 1] : row[2 * i];
      const float give = high ? row[2 * i] : row[2 * i + 1];
      store(half * S::kHalfQueries + 2 * i, (keep + __shfl_xor_sync(~0u, give, 2)) * key_scale);
    }
  }
}

// A warpgroup's view of the two rings. Stages are computed by uniform instructions, as the
// descriptors of operands must be.
template <class S>
struct IndexConsumer {
  IndexShared<S>& s;
  const IndexLane lane;
  int stage;            // of the page
  uint32_t phase = 0;   // of the ring of pages
  int group = -1;       // of the page's queries
  int group_stage = 0;  // that holds them
  int first_key = 0;    // of the page

  // Waits for the page at `stage` and for its queries, if they are not those of the page before.
  // False: there is no more work.
  __device__ __forceinline__ bool acquire(bool& fresh) {
    barrier_wait(&s.key_full[stage], phase);
    const IndexWork work = s.work[stage];
    first_key = work.first_key;
    fresh = work.group != group;
    if (work.group < 0) return false;
    if (fresh) {
      group = work.group;
      group_stage = __shfl_sync(~0u, group % S::kQueryStages, 0);
      barrier_wait(&s.query_full[group_stage], group / S::kQueryStages & 1);
    }
    return true;
  }
  __device__ __forceinline__ void advance() {
    stage += S::kWarpgroups;
    if (stage < S::kKeyStages) return;
    stage -= S::kKeyStages;
    phase ^= 1;
  }
  __device__ __forceinline__ float key_scale() const {
    if constexpr (!S::kFp8) return 1.0f;
    return *reinterpret_cast<const float*>(s.keys[stage] + lane.scale_at);
  }
  // Releases a page and, with the last page of its queries, also those and their weights.
  __device__ __forceinline__ void release(int page) {
    fence_reads_of_stage();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.key_empty[page]);
  }
  __device__ __forceinline__ void start(float (&d)[S::kColumns / 2], int half) const {
    multiply<S>(d, s.keys[stage], s.queries[group_stage] + half * S::kColumns * 128);
  }
};

// One product a page; the warpgroups hide each other's latencies.
template <class S>
__device__ __forceinline__ void consume_single(IndexConsumer<S>& c, const IndexArgs& a) {
  float d[S::kColumns / 2];
  IndexRows<S> rows;
  bool fresh;
  for (; c.acquire(fresh); c.advance()) {
    c.start(d, 0);
    const float scale = c.key_scale();
    if (fresh) load_rows<S>(rows, c.s, c.group_stage, c.lane, a);
    wgmma_wait<0>();
    pin_registers(d);
    c.release(c.stage);
    finish<S>(d, rows, c.lane, 0, c.first_key, scale, a);
  }
}

// Two products a page. While one of them runs the sums of the one before are computed, so that
// every warpgroup always has a product in flight: the tensor cores serve all warpgroups at the same
// time, and would stand still while all of them add. A product is awaited in the round that started
// it: the compiler does not follow accumulators across the loop's edge.
template <class S>
__device__ __forceinline__ void consume_paired(IndexConsumer<S>& c, const IndexArgs& a) {
  float d0[S::kColumns / 2], d1[S::kColumns / 2];
  IndexRows<S> rows;
  bool fresh;
  if (!c.acquire(fresh)) return;
  c.start(d0, 0);
  load_rows<S>(rows, c.s, c.group_stage, c.lane, a);
  float scale = c.key_scale();
  wgmma_wait<0>();
  pin_registers(d0);
  while (true) {
    const int page = c.stage, first_key = c.first_key;
    c.start(d1, 1);
    finish<S>(d0, rows, c.lane, 0, first_key, scale, a);
    c.advance();
    const bool more = c.acquire(fresh);
    wgmma_wait<0>();
    pin_registers(d1);
    if (!more) return finish<S>(d1, rows, c.lane, 1, first_key, scale, a);
    c.start(d0, 0);
    c.release(page);
    finish<S>(d1, rows, c.lane, 1, first_key, scale, a);
    if (fresh) load_rows<S>(rows, c.s, c.group_stage, c.lane, a);
    scale = c.key_scale();
    wgmma_wait<0>();
    pin_registers(d0);
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
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 128), 0);
  IndexConsumer<S> c{s, index_lane(threadIdx.x % 128), warpgroup};
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
