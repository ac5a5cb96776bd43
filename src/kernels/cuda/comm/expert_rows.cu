#include "kernels/cuda/comm/expert_rows.h"

#include <algorithm>

#include "kernels/cuda/comm/expert_rows.cuh"
#include "kernels/cuda/comm/row_sum.cuh"
#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/norm/norm_row.cuh"

namespace fathom::cuda {
namespace {

constexpr int kCtasPerSm = 4;

__global__ void __launch_bounds__(kTeam* kTeams) place_rows_kernel(GroupGatherParams p) {
  __shared__ uint64_t blocks[kMaxPeers];
  pdl_wait();
  pdl_trigger();
  if (threadIdx.x == 0) blocks[0] = reinterpret_cast<uint64_t>(p.block);
  __syncthreads();
  const int team = static_cast<int>(threadIdx.x) / kTeam;
  const int step = static_cast<int>(gridDim.x) * kTeams;
  for (int row = static_cast<int>(blockIdx.x) * kTeams + team; row < p.rows; row += step) {
    tell_row(p, row, 1, blocks);
    if (p.live) send_row(p, row, 1, blocks);
  }
}

// A CTA a row: first what the ranks of the group have, then what the ranks of its experts have.
template <int kVectors>
__global__ void __launch_bounds__(kVectors <= 2 ? 512 : 1024)
    sum_expert_parts_kernel(ExpertPartSumParams p) {
  pdl_wait();
  pdl_trigger();
  const int group = p.group;
  const int place = p.rank % group;
  for (int row = static_cast<int>(blockIdx.x); row < p.rows; row += static_cast<int>(gridDim.x)) {
    uint32_t left = ranks_of_row(p.ids + int64_t{row} * p.per_token, p.per_token, p.owners);
    Bf16* const own = p.own + int64_t{row} * p.n;
    const auto of_place = [&](int at) { return p.received + at * p.stride + int64_t{row} * p.n; };
    uint4 value[kVectors];
    sum_parts(
        group + __popc(left), p.n, value,
        [&](int part) -> const Bf16* {
          if (part < group) return part == place ? own : of_place(p.ranks + part);
          const int rank = __ffs(static_cast<int>(left)) - 1;
          left &= left - 1;
          return rank == p.rank ? p.parts + int64_t{row} * p.n : of_place(rank);
        },
        [](int, int, int, uint4&) {});
    store_row(own, p.n, value);
  }
}

}  // namespace

void place_rows(const GroupGatherParams& p, const Launch& l) {
  const uint64_t all = reinterpret_cast<uint64_t>(p.from) | reinterpret_cast<uint64_t>(p.block) |
                       static_cast<uint64_t>(p.from_pitch | p.row_bytes);
  require(all % 16 == 0 && (p.scales_at | p.ids_at | p.weights_at) % 4 == 0,
          "rows of experts that are no multiples of 16 bytes");
  require(p.per_token > 0 && p.per_token <= 32, "more than 32 experts a token");
  if (p.rows == 0) return;
  const int ctas = std::min((p.rows + kTeams - 1) / kTeams, l.sms * kCtasPerSm);
  launch_kernel(l, place_rows_kernel, dim3(ctas), dim3(kTeam * kTeams), 0, 1, p);
}

void sum_expert_parts(const ExpertPartSumParams& p, const Launch& l) {
  require(p.ranks > 1 && p.ranks <= 32 && p.owners.ranks == p.ranks && p.owners.experts > 0 &&
              p.group >= 1 && p.ranks % p.group == 0 && p.per_token > 0 && p.per_token <= 32,
          "sums of more than 32 ranks, of other ranks than those of the experts, or of more than "
          "32 experts a token");
  require(p.n > 0 && p.n % kLaneValues == 0 && p.n <= 4 * 1024 * kLaneValues &&
              (reinterpret_cast<uint64_t>(p.received) | reinterpret_cast<uint64_t>(p.own) |
               reinterpret_cast<uint64_t>(p.parts) | static_cast<uint64_t>(2 * p.stride)) %
                      16 ==
                  0,
          "sums of rows that are no multiples of 16 bytes, or too wide");
  if (p.rows == 0) return;
  const int vectors = norm_vectors(p.n);
  auto kernel = vectors == 1   ? sum_expert_parts_kernel<1>
                : vectors == 2 ? sum_expert_parts_kernel<2>
                               : sum_expert_parts_kernel<4>;
  launch_kernel(l, kernel, dim3(std::min(p.rows, l.sms * kCtasPerSm)), dim3(norm_threads(p.n)), 0,
                1, p);
}

}  // namespace fathom::cuda
