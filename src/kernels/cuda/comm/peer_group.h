// The ranks of one machine's GPUs as a group: their memory for exchanges, and the way to each
// other's.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/comm/peer_view.h"
#include "tensor/buffer.h"

namespace fathom::cuda {

// Thread-safe once it stands.
class PeerGroup {
 public:
  // Rank r runs on devices[r]. A device may have several ranks, for tests on one GPU: their
  // exchanges then have to fit on it together. Throws Error when two GPUs cannot reach each other's
  // memory, or memory is not there.
  explicit PeerGroup(std::span<const int> devices);
  // Waits for what runs on the devices: exchanges use its memory.
  ~PeerGroup();
  PeerGroup(const PeerGroup&) = delete;
  PeerGroup& operator=(const PeerGroup&) = delete;

  int ranks() const { return static_cast<int>(devices_.size()); }
  int device(int rank) const { return devices_[static_cast<size_t>(rank)]; }
  // What the kernels of a rank are given.
  PeerView view(int rank) const;

  // Ends every wait, now and later: exchanges under way and to come leave rubbish. For a group that
  // has lost a rank.
  void stop();
  bool stopped() const;

 private:
  std::vector<int> devices_;
  PeerView shape_;
  std::vector<Buffer> memory_;  // of each rank, on its device
  Buffer stop_;                 // pinned: kernels of every GPU read it
};

// Bytes of GPU memory that a rank of such a group takes: an estimate from above.
size_t peer_group_bytes(int ranks);

}  // namespace fathom::cuda
