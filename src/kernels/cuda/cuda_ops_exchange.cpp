// CudaOps: exchange between the ranks of one machine's GPUs.
#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/comm/expert_rows.h"
#include "kernels/cuda/comm/peer_gather.h"
#include "kernels/cuda/comm/peer_groups.h"
#include "kernels/cuda/comm/peer_sum.h"
#include "kernels/cuda/cuda_ops_impl.h"

namespace fathom::cuda {
namespace {

PeerSumParams sum_of(const PeerView& peers, const Tensor& x) {
  PeerSumParams p;
  p.peers = peers;
  p.x = bf16_of(x);
  p.rows = static_cast<int>(x.rows());
  p.n = static_cast<int>(x.row_size());
  p.x_stride = x.row_stride;
  return p;
}

}  // namespace

void CudaOpsImpl::all_reduce(const PeerView& peers, Tensor x) {
  begin_op();
  peer_sum(sum_of(peers, x), PeerSumWay::by_size, launch_);
  written(x);
}

void CudaOpsImpl::all_reduce_add_rms_norm(const PeerView& peers, Tensor normed, Tensor residual,
                                          Tensor update, const float* gain, float eps) {
  begin_op();
  PeerSumParams p = sum_of(peers, update);
  written(update);
  p.norm = add_norm_params(normed, residual, update, gain, eps);
  peer_sum(p, PeerSumWay::by_size, launch_);
}

void CudaOpsImpl::all_gather_columns(const PeerView& peers, Tensor x) {
  begin_op();
  const int64_t size = static_cast<int64_t>(size_of(x.dtype));
  const int64_t begin = x.row_size() * peers.rank / peers.ranks;
  const int64_t end = x.row_size() * (peers.rank + 1) / peers.ranks;
  PeerGatherParams p;
  p.peers = peers;
  p.out = x.data;
  p.at = begin * size;
  p.piece = static_cast<const std::byte*>(x.data) + p.at;
  p.rows = x.rows();
  p.bytes = (end - begin) * size;
  p.piece_pitch = p.out_pitch = x.row_stride * size;
  peer_gather(p, launch_);
  written(x);
}

// Whole blocks first, and then the last one where that is shorter.
void CudaOpsImpl::all_gather_rows(const PeerView& peers, Tensor x, int block) {
  begin_op();
  const int64_t row = x.row_size() * static_cast<int64_t>(size_of(x.dtype));
  FATHOM_CHECK(x.row_stride == x.row_size(), "gathered rows of {} lie {} apart", x.row_size(),
               x.row_stride);
  const int64_t blocks = x.rows() / block, rest = x.rows() % block;
  PeerGatherParams p;
  p.peers = peers;
  p.out = x.data;
  p.rows = (blocks - peers.rank + peers.ranks - 1) / peers.ranks;
  p.bytes = row * block;
  p.at = peers.rank * p.bytes;
  p.piece = static_cast<const std::byte*>(x.data) + p.at;
  p.piece_pitch = p.out_pitch = p.bytes * peers.ranks;
  if (blocks > 0) peer_gather(p, launch_);
  p.rows = blocks % peers.ranks == peers.rank ? 1 : 0;
  p.at = blocks * p.bytes;
  p.piece = static_cast<const std::byte*>(x.data) + p.at;
  p.bytes = row * rest;
  if (rest > 0) peer_gather(p, launch_);
  written(x);
}

void CudaOpsImpl::exchange(Tensor x, const std::function<void(const Launch&)>& body) {
  begin_op();
  body(launch_);
  written(x);
}

namespace {

// What lies where in the blocks of all ranks, relative to `block`.
int64_t place_in(const void* block, const void* at) {
  return static_cast<const std::byte*>(at) - static_cast<const std::byte*>(block);
}

// Lanes of an exchange of these groups: each rank of a group has its part of the rows.
int lanes_of(const PeerView& peers, const ExpertSpread& spread, std::span<const int64_t> offsets) {
  int64_t most = 0;
  for (size_t g = 0; g + 1 < offsets.size(); ++g)
    most = std::max(most, offsets[g + 1] - offsets[g]);
  return group_lanes(peers, (most + spread.group - 1) / spread.group);
}

}  // namespace

// The rows that a rank brings, and where rows of all groups lie in its memory.
GroupGatherParams CudaOpsImpl::expert_rows_of(int rank, int ranks, const ExpertRows& all,
                                              const ExpertRows& own, const ExpertSpread& spread,
                                              std::span<const int64_t> offsets) {
  const auto g = static_cast<size_t>(rank / spread.group);
  const int64_t total = offsets.back(), rows = offsets[g + 1] - offsets[g];
  const int64_t n = all.hidden.row_size(), k = all.ids.row_size();
  FATHOM_CHECK((own.hidden.rows() == rows || own.hidden.rows() == 0) &&
                   total <= all.hidden.rows() && all.hidden.row_stride == n,
               "{} of {} rows brought to {} of all groups, room for {}", own.hidden.rows(), rows,
               total, all.hidden.rows());
  permuted_ids_ = nullptr;  // the places of other rows
  const PartRange mine = part_of(rows, rank % spread.group, spread.group);
  GroupGatherParams p;
  p.block = static_cast<std::byte*>(all.hidden.data);
  p.first = static_cast<int>(offsets[g] + mine.begin);
  p.rows = static_cast<int>(mine.size());
  p.live = own.hidden.rows() > 0;
  p.row_bytes = static_cast<int>(spread.coded ? n : 2 * n);
  p.per_token = static_cast<int>(k);
  p.ids_at = place_in(p.block, all.ids.data);
  p.weights_at = place_in(p.block, all.weights.data);
  p.owners = {spread.experts, ranks};
  gathered_ = {};
  if (spread.coded) {
    p.scale_groups = static_cast<int>(n / kFp8Block);
    p.scales_at = round_up(total * n, kScratchAlign);
    FATHOM_CHECK(
        n % kFp8Block == 0 && p.scales_at + 4 * total * p.scale_groups <= 2 * n * all.hidden.rows(),
        "{} rows of {} codes and their scales in room for {} of bf16", total, n, all.hidden.rows());
    gathered_ = {p.block, total, n, p.scales_at};
  }
  if (p.live) {
    p.ids = own.ids.row<int32_t>(mine.begin);
    p.weights = own.weights.row<float>(mine.begin);
    FATHOM_CHECK(own.ids.row_stride == k && own.weights.row_stride == k, "ids {} and {} apart",
                 own.ids.row_stride, own.weights.row_stride);
    if (spread.coded) {
      const Fp8Rows coded = quantised(own.hidden);
      p.from = reinterpret_cast<const std::byte*>(coded.codes) + mine.begin * n;
      p.from_pitch = n;
      p.scales = coded.scales + mine.begin;
      p.scale_stride = coded.scale_stride;
    } else {
      p.from = reinterpret_cast<const std::byte*>(bf16_of(own.hidden) +
                                                  mine.begin * own.hidden.row_stride);
      p.from_pitch = 2 * own.hidden.row_stride;
    }
  }
  return p;
}

void CudaOpsImpl::gather_expert_rows(const PeerView& peers, const ExpertRows& all,
                                     const ExpertRows& own, const ExpertSpread& spread,
                                     std::span<const int64_t> offsets) {
  begin_op();
  GroupGatherParams p = expert_rows_of(peers.rank, peers.ranks, all, own, spread, offsets);
  p.peers = peers;
  p.lanes = lanes_of(peers, spread, offsets);
  group_gather(p, launch_);
  written(all.hidden.slice(0, offsets.back()));
}

ExpertPlanes CudaOpsImpl::place_expert_rows(int rank, int ranks, const ExpertRows& all,
                                            const ExpertRows& own, const ExpertSpread& spread,
                                            std::span<const int64_t> offsets) {
  begin_op();
  const GroupGatherParams p = expert_rows_of(rank, ranks, all, own, spread, offsets);
  place_rows(p, launch_);
  written(all.hidden.slice(0, offsets.back()));
  const int64_t pairs = int64_t{p.per_token} * 4;
  return {RowPlane{p.block, p.row_bytes},
          RowPlane{p.block + p.scales_at, int64_t{p.scale_groups} * 4},
          RowPlane{p.block + p.ids_at, pairs}, RowPlane{p.block + p.weights_at, pairs}};
}

void CudaOpsImpl::sum_expert_rows(const PeerView& peers, Tensor sum, Tensor parts, Tensor ids,
                                  const ExpertSpread& spread, std::span<const int64_t> offsets) {
  begin_op();
  const auto g = static_cast<size_t>(peers.rank / spread.group);
  const int64_t n = parts.row_size();
  FATHOM_CHECK(parts.rows() == offsets.back() && parts.row_stride == n && sum.row_stride == n &&
                   sum.row_size() == n && ids.rows() == sum.rows() &&
                   (sum.rows() == offsets[g + 1] - offsets[g] || sum.rows() == 0),
               "sums [{}, {}] of [{}, {}]", sum.rows(), sum.row_size(), parts.rows(), n);
  GroupSumParams p;
  p.peers = peers;
  p.lanes = lanes_of(peers, spread, offsets);
  p.group = spread.group;
  p.block = reinterpret_cast<std::byte*>(bf16_of(parts));
  p.own_at = place_in(p.block, bf16_of(sum));
  p.first = static_cast<int>(offsets[g]);
  p.rows = static_cast<int>(sum.rows());
  p.n = static_cast<int>(n);
  p.ids = static_cast<const int32_t*>(ids.data);
  p.per_token = static_cast<int>(ids.row_size());
  p.owners = {spread.experts, peers.ranks};
  group_sum(p, launch_);
  written(sum);
}

}  // namespace fathom::cuda
