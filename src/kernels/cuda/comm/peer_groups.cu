#include "kernels/cuda/comm/peer_groups.h"

#include "kernels/cuda/comm/expert_rows.cuh"
#include "kernels/cuda/comm/peer_memory.cuh"
#include "kernels/cuda/comm/row_sum.cuh"
#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/norm/norm_row.cuh"

namespace fathom::cuda {
namespace {

// Lane b of L takes rows b, b + L, ..: a team of its threads each.
__global__ void __launch_bounds__(kTeam* kTeams) group_gather_kernel(GroupGatherParams p) {
  __shared__ uint64_t blocks[kMaxPeers];
  pdl_wait();
  pdl_trigger();
  PeerExchange exchange(p.peers, static_cast<int>(blockIdx.x), p.block, blocks);
  const int team = static_cast<int>(threadIdx.x) / kTeam;
  const int step = static_cast<int>(gridDim.x) * kTeams;
  for (int row = static_cast<int>(gridDim.x) * team + static_cast<int>(blockIdx.x);
       exchange.ok() && row < p.rows; row += step) {
    tell_row(p, row, p.peers.ranks, blocks);
    if (!p.live) continue;
    const uint32_t to = ranks_of_row(p.ids + int64_t{row} * p.per_token, p.per_token, p.owners);
    send_row(p, row, to, blocks);
  }
  exchange.finish();
}

template <int kVectors>
__global__ void __launch_bounds__(kVectors <= 2 ? 512 : 1024) group_sum_kernel(GroupSumParams p) {
  __shared__ uint64_t blocks[kMaxPeers];
  pdl_wait();
  pdl_trigger();
  PeerExchange exchange(p.peers, static_cast<int>(blockIdx.x), p.block, blocks);
  const int group = p.group;
  const int leader = p.peers.rank / group * group, place = p.peers.rank - leader;
  const int step = static_cast<int>(gridDim.x) * group;
  for (int row = static_cast<int>(blockIdx.x) * group + place; exchange.ok() && row < p.rows;
       row += step) {
    uint32_t left = ranks_of_row(p.ids + int64_t{row} * p.per_token, p.per_token, p.owners);
    auto own = [&](int rank) {
      return reinterpret_cast<Bf16*>(blocks[rank] + p.own_at) + int64_t{row} * p.n;
    };
    uint4 value[kVectors];
    sum_parts(
        group + __popc(left), p.n, value,
        [&](int part) -> const Bf16* {
          if (part < group) return own(leader + part);
          const int rank = __ffs(static_cast<int>(left)) - 1;
          left &= left - 1;
          return reinterpret_cast<const Bf16*>(blocks[rank] + p.parts_at) +
                 int64_t{p.first + row} * p.n;
        },
        [](int, int, int, uint4&) {});
    for (int i = 0; i < group; ++i) store_row(own(leader + i), p.n, value);
  }
  exchange.finish();
}

void check_exchange(const PeerView& peers, int lanes, int group, const ExpertOwners& owners,
                    int per_token) {
  require(peers.ranks > 1 && peers.ranks <= kMaxPeers && lanes > 0 && lanes <= peers.lanes &&
              group >= 1 && peers.ranks % group == 0,
          "an exchange of fewer than two ranks, or more than one machine links");
  require(owners.ranks == peers.ranks && owners.experts > 0 && per_token > 0 && per_token <= 32,
          "experts of other ranks than those that exchange rows, or more than 32 a token");
}

}  // namespace

int group_lanes(const PeerView& peers, int64_t rows) {
  const int64_t wanted = rows < 1 ? 1 : rows;
  return static_cast<int>(wanted < peers.lanes ? wanted : peers.lanes);
}

void group_gather(const GroupGatherParams& p, const Launch& l) {
  check_exchange(p.peers, p.lanes, 1, p.owners, p.per_token);
  const uint64_t all = reinterpret_cast<uint64_t>(p.from) | reinterpret_cast<uint64_t>(p.block) |
                       static_cast<uint64_t>(p.from_pitch | p.row_bytes);
  require(all % 16 == 0 && (p.scales_at | p.ids_at | p.weights_at) % 4 == 0,
          "rows of experts that are no multiples of 16 bytes");
  launch_kernel(l, group_gather_kernel, dim3(p.lanes), dim3(kTeam * kTeams), 0, 1, p);
}

void group_sum(const GroupSumParams& p, const Launch& l) {
  check_exchange(p.peers, p.lanes, p.group, p.owners, p.per_token);
  require(p.n > 0 && p.n % kLaneValues == 0 && p.n <= 4 * 1024 * kLaneValues &&
              (reinterpret_cast<uint64_t>(p.block) | static_cast<uint64_t>(p.own_at) |
               static_cast<uint64_t>(p.parts_at)) %
                      16 ==
                  0,
          "sums of rows that are no multiples of 16 bytes, or too wide");
  const int vectors = norm_vectors(p.n);
  auto kernel = vectors == 1   ? group_sum_kernel<1>
                : vectors == 2 ? group_sum_kernel<2>
                               : group_sum_kernel<4>;
  launch_kernel(l, kernel, dim3(p.lanes), dim3(norm_threads(p.n)), 0, 1, p);
}

void load_group_exchanges() {
  cudaFuncAttributes attributes;
  FATHOM_CUDA(cudaFuncGetAttributes(&attributes, group_gather_kernel));
  for (auto kernel : {group_sum_kernel<1>, group_sum_kernel<2>, group_sum_kernel<4>})
    FATHOM_CUDA(cudaFuncGetAttributes(&attributes, kernel));
}

}  // namespace fathom::cuda
