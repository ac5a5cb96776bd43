#include "kernels/cuda/comm/peer_group.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/check.h"
#include "base/error.h"
#include "kernels/cuda/comm/peer_gather.h"
#include "kernels/cuda/comm/peer_groups.h"
#include "kernels/cuda/comm/peer_sum.h"
#include "kernels/cuda/prim/device_guard.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {
namespace {

std::string name_of_device(int device) {
  cudaDeviceProp p{};
  FATHOM_CUDA(cudaGetDeviceProperties(&p, device));
  return fmt::format("GPU {} ({})", device, p.name);
}

// Lets `from` read and write the memory of `to`.
void reach(int from, int to) {
  int possible = 0;
  FATHOM_CUDA(cudaDeviceCanAccessPeer(&possible, from, to));
  if (!possible)
    fail("{} cannot reach the memory of {}: ranks on these two cannot exchange rows",
         name_of_device(from), name_of_device(to));
  const DeviceGuard guard(from);
  const cudaError_t e = cudaDeviceEnablePeerAccess(to, 0);
  if (e == cudaErrorPeerAccessAlreadyEnabled)
    cudaGetLastError();  // not an error of whatever runs next
  else
    FATHOM_CUDA(e);
}

// CTAs of an exchange that a GPU runs at once, when `sharing` ranks do so on the same.
int lanes_of(int device, int sharing) {
  int sms = 0;
  FATHOM_CUDA(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  return std::min(kMaxPeerLanes, std::max(1, sms / sharing));
}

}  // namespace

size_t peer_group_bytes(int ranks) {
  PeerView v;
  v.ranks = ranks;
  v.lanes = kMaxPeerLanes;
  return v.bytes();
}

PeerGroup::PeerGroup(std::span<const int> devices)
    : devices_(devices.begin(), devices.end()), stop_(64, MemoryKind::pinned) {
  if (devices.size() > kMaxPeers)
    fail("{} ranks on one machine's GPUs: at most {} are possible", devices.size(), kMaxPeers);
  for (int from : devices_)
    for (int to : devices_)
      if (from != to) reach(from, to);
  std::memset(stop_.data(), 0, stop_.size());
  shape_.stop = reinterpret_cast<const uint32_t*>(stop_.data());
  shape_.ranks = ranks();
  shape_.lanes = kMaxPeerLanes;
  for (int device : devices_) {
    const auto sharing = std::count(devices_.begin(), devices_.end(), device);
    shape_.lanes = std::min(shape_.lanes, lanes_of(device, static_cast<int>(sharing)));
  }
  for (size_t r = 0; r < devices_.size(); ++r) {
    const DeviceGuard guard(devices_[r]);
    memory_.emplace_back(shape_.bytes(), MemoryKind::device);
    std::byte* at = memory_.back().data();
    // Packets that have not come are words of ones (peer_sum.cu); lanes and mail begin with zeros.
    FATHOM_CUDA(
        cudaMemset(at + PeerView::received_at(), 0xFF, shape_.bytes() - PeerView::received_at()));
    FATHOM_CUDA(cudaStreamSynchronize(nullptr));
    shape_.memory[r] = at;
    load_peer_sums();
    load_peer_gathers();
    load_group_exchanges();
  }
}

PeerGroup::~PeerGroup() {
  // After an error of the device these fail too; there is nobody left to tell.
  int before = 0;
  cudaGetDevice(&before);
  for (int device : devices_) {
    cudaSetDevice(device);
    cudaDeviceSynchronize();
  }
  cudaSetDevice(before);
}

PeerView PeerGroup::view(int rank) const {
  PeerView v = shape_;
  v.rank = rank;
  return v;
}

void PeerGroup::stop() {
  std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(stop_.data())).store(1);
}

bool PeerGroup::stopped() const {
  return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(stop_.data())).load() != 0;
}

}  // namespace fathom::cuda
