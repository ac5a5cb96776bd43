// The ranks of one machine's GPUs as a CommGroup.
#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "comm/barrier.h"
#include "comm/comm.h"
#include "comm/group_steps.h"
#include "kernels/cuda/comm/peer_group.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/gpu.h"

namespace fathom {
namespace {

// What the ranks share: the way to each other's memory, and why it has been broken off.
class Peers {
 public:
  Peers(int ranks, int first)
      : devices_(static_cast<size_t>(ranks)),
        meeting_(ranks),
        steps_{std::vector<GroupStep>(devices_.size()), std::vector<GroupStep>(devices_.size())} {
    std::iota(devices_.begin(), devices_.end(), first);
  }

  int ranks() const { return static_cast<int>(devices_.size()); }
  // Made by the first that asks: weights are loaded by ranks that exchange nothing.
  cuda::PeerView view(int rank) {
    std::lock_guard lock(mutex_);
    if (!why_.empty()) throw ExchangeEnded(why_);
    if (!group_) group_ = std::make_unique<cuda::PeerGroup>(devices_);
    return group_->view(rank);
  }
  void stop(const std::string& why) {
    std::lock_guard lock(mutex_);
    if (!why_.empty()) return;
    why_ = why;
    stopped_ = true;  // before a kernel's wait ends: whoever sees that it has must see why
    meeting_.abort(why);
    if (group_) group_->stop();
  }
  void check() {
    if (!stopped_) return;
    std::lock_guard lock(mutex_);
    throw ExchangeEnded(why_);
  }
  // What each rank says at this meeting; `meetings` is how often the rank has met before. A rank
  // writes in turn to two lists: it comes to the next but one meeting only when all have left this.
  std::span<const GroupStep> meet(int rank, uint64_t meetings, const GroupStep& own) {
    std::vector<GroupStep>& said = steps_[meetings % 2];
    said[static_cast<size_t>(rank)] = own;
    meeting_.wait();
    return said;
  }

 private:
  std::vector<int> devices_;
  std::mutex mutex_;
  std::unique_ptr<cuda::PeerGroup> group_;
  std::string why_;
  std::atomic<bool> stopped_{false};
  Barrier meeting_;
  std::array<std::vector<GroupStep>, 2> steps_;  // by rank
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
  std::span<const int64_t> gather_expert_rows(const ExpertRows& all, const ExpertRows& own,
                                              const ExpertSpread& spread) override {
    peers_->check();
    ops_.gather_expert_rows(view_, all, own, spread, offsets_);
    return offsets_;
  }
  void sum_expert_rows(Tensor sum, Tensor parts, Tensor ids, const ExpertSpread& spread) override {
    peers_->check();
    ops_.sum_expert_rows(view_, sum, parts, ids, spread, offsets_);
  }
  GroupStep agree(const GroupStep& own, int group) override {
    return agree_on(peers_->meet(rank(), meetings_++, own), own, group, offsets_);
  }
  void check() override { peers_->check(); }

 private:
  std::shared_ptr<Peers> peers_;
  CudaOps& ops_;
  const cuda::PeerView view_;
  uint64_t meetings_ = 0;
  std::vector<int64_t> offsets_{0};  // of the step agreed on last
};

class GpuGroup final : public CommGroup {
 public:
  GpuGroup(int ranks, int first) : peers_(std::make_shared<Peers>(ranks, first)) {}

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

std::shared_ptr<CommGroup> make_gpu_group(int ranks, int first) {
  return std::make_shared<GpuGroup>(ranks, first);
}

int64_t gpu_exchange_bytes(int ranks) {
  return ranks > 1 ? static_cast<int64_t>(cuda::peer_group_bytes(ranks)) : 0;
}

}  // namespace fathom
