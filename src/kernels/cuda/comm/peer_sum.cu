#include "kernels/cuda/comm/peer_memory.cuh"
#include "kernels/cuda/comm/peer_sum.h"
#include "kernels/cuda/comm/row_sum.cuh"
#include "kernels/cuda/norm/norm_row.cuh"

namespace fathom::cuda {
namespace {

// A packet is 16 bytes of a row. Where one is still to come, memory holds this word four times; a
// word that is sent is never the same: it would be two NaN, and is sent as two other NaN.
constexpr uint32_t kNothing = 0xFFFFFFFFu;

__device__ __forceinline__ uint32_t sendable(uint32_t word) {
  return word == kNothing ? kNothing - 1 : word;
}
__device__ __forceinline__ uint4 sendable(uint4 v) {
  return {sendable(v.x), sendable(v.y), sendable(v.z), sendable(v.w)};
}
__device__ __forceinline__ bool has_come(uint4 v) {
  return v.x != kNothing && v.y != kNothing && v.z != kNothing && v.w != kNothing;
}

// `v`: the packet's memory as it was last read.
__device__ __forceinline__ void wait_for_packet(uint4& v, const Bf16* at, const PeerView& peers) {
  for (uint32_t tries = 1; !has_come(v); ++tries) {
    v = load_shared_vector(at);
    if (stopped(peers, tries)) return;
  }
}

template <int kVectors>
__device__ __forceinline__ void send_row(const PeerView& peers, int buffer, int row, int n,
                                         const uint4 (&value)[kVectors]) {
  const int vectors = n / kLaneValues;
  for (int other = 0; other < peers.ranks; ++other) {
    if (other == peers.rank) continue;
    Bf16* to = peers.received(other, buffer, peers.rank, row, n);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int v = static_cast<int>(threadIdx.x + i * blockDim.x);
      if (v < vectors) store_shared_vector(to + v * kLaneValues, sendable(value[i]));
    }
  }
}

// value: this rank's row on entry, the sum on return.
template <int kVectors>
__device__ __forceinline__ void receive_row(const PeerView& peers, int buffer, int row, int n,
                                            uint4 (&value)[kVectors]) {
  const auto received = [&](int rank) -> const Bf16* {
    return peers.received(peers.rank, buffer, rank, row, n);
  };
  sum_parts(
      peers.ranks, n, value,
      [&](int rank) { return rank == peers.rank ? nullptr : received(rank); },
      [&](int rank, int i, int v, uint4& got) {
        if (rank == peers.rank)
          got = value[i];
        else
          wait_for_packet(got, received(rank) + v * kLaneValues, peers);
      });
}

// Marks the packets of this lane's last sum, which lie in `buffer`, as not yet received.
__device__ __forceinline__ void clear_received(const PeerView& peers, int lane, int buffer,
                                               const PeerLane& last) {
  const int n = static_cast<int>(last.width);
  for (int from = 0; from < peers.ranks; ++from) {
    if (from == peers.rank) continue;
    for (int row = lane; row < static_cast<int>(last.rows); row += peers.lanes) {
      Bf16* at = peers.received(peers.rank, buffer, from, row, n);
      for (int v = static_cast<int>(threadIdx.x); v < n / kLaneValues;
           v += static_cast<int>(blockDim.x))
        store_vector(at + v * kLaneValues, {kNothing, kNothing, kNothing, kNothing});
    }
  }
}

// Lane b takes rows b, b + lanes, .. whatever the number of rows. The buffers go round: a lane that
// makes its sum k clears what sum k - 1 has left. The next that is written there comes with sum
// k + 2; a rank begins that one when it has the packets of sum k + 1 from every other, and those
// were sent by a kernel that began when sum k, with its clearing, had ended there.
template <int kVectors>
__global__ void __launch_bounds__(kVectors <= 2 ? 512 : 1024)
    peer_sum_one_shot_kernel(PeerSumParams p) {
  const int lane = static_cast<int>(blockIdx.x);
  const PeerView& peers = p.peers;
  NormRow<kVectors> norm;
  if (p.norm.gain) norm.load_gain(p.norm);  // a weight, so it may come before the wait
  pdl_wait();
  pdl_trigger();
  const PeerLane state = *peers.lane(lane);
  const int buffer = static_cast<int>(state.sums % kReceiveBuffers);
  uint4 value[kVectors];
  for (int row = lane; row < p.rows; row += peers.lanes) {
    load_row(p.x + row * p.x_stride, p.n, value);
    send_row(peers, buffer, row, p.n, value);
  }
  clear_received(peers, lane, (buffer + kReceiveBuffers - 1) % kReceiveBuffers, state);
  for (int row = lane; row < p.rows; row += peers.lanes) {
    if (row != lane || p.rows > peers.lanes) load_row(p.x + row * p.x_stride, p.n, value);
    if (p.norm.gain) norm.load_residual(p.norm, row);
    receive_row(peers, buffer, row, p.n, value);
    if (p.norm.gain)
      norm.run(p.norm, row, value);
    else
      store_row(p.x + row * p.x_stride, p.n, value);
    __syncthreads();  // the norm's shared memory is free again; all have read the lane's state
  }
  if (threadIdx.x == 0)
    *peers.lane(lane) = {state.sums + 1, static_cast<uint32_t>(p.rows), static_cast<uint32_t>(p.n),
                         state.epoch};
}

// Row r is summed by rank r % ranks; lane b of every rank takes part in the same rows.
template <int kVectors>
__global__ void __launch_bounds__(kVectors <= 2 ? 512 : 1024)
    peer_sum_two_shot_kernel(PeerSumParams p) {
  __shared__ uint64_t addresses[kMaxPeers];
  const int lane = static_cast<int>(blockIdx.x);
  const PeerView& peers = p.peers;
  pdl_wait();
  pdl_trigger();
  const int stride = peers.lanes * peers.ranks;
  PeerExchange exchange(peers, lane, p.x, addresses);
  auto row_of = [&](int rank, int row) {
    return reinterpret_cast<Bf16*>(addresses[rank]) + row * p.x_stride;
  };
  for (int row = lane * peers.ranks + peers.rank; exchange.ok() && row < p.rows; row += stride) {
    uint4 value[kVectors];
    sum_parts(
        peers.ranks, p.n, value, [&](int rank) -> const Bf16* { return row_of(rank, row); },
        [](int, int, int, uint4&) {});
    for (int rank = 0; rank < peers.ranks; ++rank) store_row(row_of(rank, row), p.n, value);
  }
  exchange.finish();
}

template <class Kernel>
Kernel by_width(int n, Kernel one, Kernel two, Kernel four) {
  const int vectors = norm_vectors(n);
  return vectors == 1 ? one : vectors == 2 ? two : four;
}

}  // namespace

void peer_sum(const PeerSumParams& given, PeerSumWay way, const Launch& l) {
  PeerSumParams p = given;
  const PeerView& peers = p.peers;
  if (p.rows == 0) return;
  p.norm.x = p.x;
  p.norm.rows = p.rows;
  p.norm.n = p.n;
  p.norm.x_stride = p.x_stride;
  check_norm(p.norm);
  require(peers.ranks > 1 && peers.ranks <= kMaxPeers && peers.lanes > 0,
          "a sum over fewer than two ranks or more than one machine links");
  if (way == PeerSumWay::by_size)
    way = peers.is_small(p.rows, p.n) ? PeerSumWay::one_shot : PeerSumWay::two_shot;
  require(way == PeerSumWay::two_shot || peers.fits_one_shot(p.rows, p.n),
          "a one-shot sum of more than its buffers hold");
  const bool one_shot = way == PeerSumWay::one_shot;
  const int rows_a_lane = one_shot ? 1 : peers.ranks;
  const int lanes = min(peers.lanes, (p.rows + rows_a_lane - 1) / rows_a_lane);
  auto kernel = one_shot ? by_width(p.n, peer_sum_one_shot_kernel<1>, peer_sum_one_shot_kernel<2>,
                                    peer_sum_one_shot_kernel<4>)
                         : by_width(p.n, peer_sum_two_shot_kernel<1>, peer_sum_two_shot_kernel<2>,
                                    peer_sum_two_shot_kernel<4>);
  launch_kernel(l, kernel, dim3(lanes), dim3(norm_threads(p.n)), 0, 1, p);
  if (!one_shot && p.norm.gain) rms_norm(p.norm, l);
}

void load_peer_sums() {
  for (auto kernel :
       {peer_sum_one_shot_kernel<1>, peer_sum_one_shot_kernel<2>, peer_sum_one_shot_kernel<4>,
        peer_sum_two_shot_kernel<1>, peer_sum_two_shot_kernel<2>, peer_sum_two_shot_kernel<4>}) {
    cudaFuncAttributes attributes;
    FATHOM_CUDA(cudaFuncGetAttributes(&attributes, kernel));
  }
}

}  // namespace fathom::cuda
