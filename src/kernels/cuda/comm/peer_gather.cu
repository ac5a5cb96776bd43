#include "kernels/cuda/comm/peer_gather.h"
#include "kernels/cuda/comm/peer_memory.cuh"

namespace fathom::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kInFlight = 4;  // loads of a thread before its first store

// Lanes share a piece word by word. All of them meet their counterparts, also when a piece is
// empty.
template <class Word>
__global__ void __launch_bounds__(kThreads) peer_gather_kernel(PeerGatherParams p) {
  __shared__ uint64_t addresses[kMaxPeers];
  pdl_wait();
  pdl_trigger();
  PeerExchange exchange(p.peers, static_cast<int>(blockIdx.x), p.out, addresses);
  const int64_t per_row = p.bytes / static_cast<int64_t>(sizeof(Word)), total = p.rows * per_row;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  const std::byte* from = static_cast<const std::byte*>(p.piece);
  for (int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x; exchange.ok() && first < total;
       first += kInFlight * step) {
    Word value[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t w = first + i * step;
      if (w < total)
        value[i] = reinterpret_cast<const Word*>(from + w / per_row * p.piece_pitch)[w % per_row];
    }
    for (int r = 0; r < p.peers.ranks; ++r) {
      std::byte* to = reinterpret_cast<std::byte*>(addresses[r]) + p.at;
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int64_t w = first + i * step;
        if (w < total)
          reinterpret_cast<Word*>(to + w / per_row * p.out_pitch)[w % per_row] = value[i];
      }
    }
  }
  exchange.finish();
}

bool all_multiples(const PeerGatherParams& p, uint64_t of) {
  const uint64_t all = reinterpret_cast<uint64_t>(p.piece) | reinterpret_cast<uint64_t>(p.out) |
                       static_cast<uint64_t>(p.bytes | p.piece_pitch | p.out_pitch | p.at);
  return all % of == 0;
}

}  // namespace

void peer_gather(const PeerGatherParams& p, const Launch& l) {
  require(p.peers.ranks > 1 && p.peers.ranks <= kMaxPeers && p.peers.lanes > 0,
          "a gather over fewer than two ranks or more than one machine links");
  require(all_multiples(p, 4), "a gather of pieces that are no multiples of 4 bytes");
  auto kernel = all_multiples(p, 16) ? peer_gather_kernel<uint4> : peer_gather_kernel<uint32_t>;
  // Every rank launches the same number of lanes, whatever the size of its own piece.
  launch_kernel(l, kernel, dim3(p.peers.lanes), dim3(kThreads), 0, 1, p);
}

void load_peer_gathers() {
  cudaFuncAttributes attributes;
  FATHOM_CUDA(cudaFuncGetAttributes(&attributes, peer_gather_kernel<uint4>));
  FATHOM_CUDA(cudaFuncGetAttributes(&attributes, peer_gather_kernel<uint32_t>));
}

}  // namespace fathom::cuda
