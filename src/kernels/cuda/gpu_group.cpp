// The ranks of one machine's GPUs as a CommGroup.
#include <atomic>
#include <mutex>
#include <numeric>

#include "base/error.h"
#include "comm/comm.h"
#include "kernels/cuda/comm/peer_group.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/gpu.h"

namespace fathom {
namespace {

// What the ranks share: the way to each other's memory, and why it has been broken off.
class Peers {
 public:
  explicit Peers(int ranks) : devices_(static_cast<size_t>(ranks)) {
    std::iota(devices_.begin(), devices_.end(), 0);
  }

  int ranks() const { return static_cast<int>(devices_.size()); }
  // Made by the first that asks: weights are loaded by ranks that exchange nothing.
  cuda::PeerView view(int rank) {
    std::lock_guard lock(mutex_);
    if (!why_.empty()) throw Error(why_);
    if (!group_) group_ = std::make_unique<cuda::PeerGroup>(devices_);
    return group_->view(rank);
  }
  void stop(const std::string& why) {
    std::lock_guard lock(mutex_);
    if (!why_.empty()) return;
    why_ = why;
    if (group_) group_->stop();
    stopped_ = true;
  }
  void check() {
    if (!stopped_) return;
    std::lock_guard lock(mutex_);
    throw Error(why_);
  }

 private:
  std::vector<int> devices_;
  std::mutex mutex_;
  std::unique_ptr<cuda::PeerGroup> group_;
  std::string why_;
  std::atomic<bool> stopped_{false};
};

class GpuComm final : public Comm {
 public:
  GpuComm(std::shared_ptr<Peers> peers, int rank, CudaOps& ops)
      : peers_(std::move(peers)), ops_(ops), view_(peers_->view(rank)) {}

  int rank() const override { return view_.rank; }
  int size() const override { return view_.ranks; }
  void all_reduce(Tensor x) override {
    peers_->check();
    ops_.all_reduce(view_, x);
  }
  bool all_reduce_add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                               float eps) override {
    peers_->check();
    ops_.all_reduce_add_rms_norm(view_, normed, residual, update, gain, eps);
    return true;
  }
  void all_gather_columns(Tensor x) override {
    peers_->check();
    ops_.all_gather_columns(view_, x);
  }
  void all_gather_rows(Tensor x, int block) override {
    peers_->check();
    ops_.all_gather_rows(view_, x, block);
  }

 private:
  std::shared_ptr<Peers> peers_;
  CudaOps& ops_;
  const cuda::PeerView view_;
};

class GpuGroup final : public CommGroup {
 public:
  explicit GpuGroup(int ranks) : peers_(std::make_shared<Peers>(ranks)) {}

  std::unique_ptr<Comm> join(int rank, Ops* ops) override {
    auto* cuda = dynamic_cast<CudaOps*>(ops);
    FATHOM_CHECK(cuda && 0 <= rank && rank < peers_->ranks(), "rank {} of {} on GPUs", rank,
                 peers_->ranks());
    return std::make_unique<GpuComm>(peers_, rank, *cuda);
  }
  void abort(const std::string& why) override { peers_->stop(why); }

 private:
  std::shared_ptr<Peers> peers_;
};

}  // namespace

std::shared_ptr<CommGroup> make_gpu_group(int ranks) { return std::make_shared<GpuGroup>(ranks); }

int64_t gpu_exchange_bytes(int ranks) {
  return ranks > 1 ? static_cast<int64_t>(cuda::peer_group_bytes(ranks)) : 0;
}

}  // namespace fathom
