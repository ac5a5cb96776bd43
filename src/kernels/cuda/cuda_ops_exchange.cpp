// CudaOps: exchange between the ranks of one machine's GPUs.
#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/comm/peer_gather.h"
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

}  // namespace fathom::cuda
