// Ranks of a PeerGroup for tests. On a machine with several GPUs the ranks are spread over them; on
// one they are streams of it, which takes the same ways with shorter latencies.
#pragma once

#include <functional>
#include <memory>

#include "kernels/cuda/comm/peer_group.h"
#include "kernels/cuda/prim/device_guard.h"
#include "support.h"

namespace fathom::cuda {

template <class T>
using PerRank = std::vector<std::unique_ptr<DeviceArray<T>>>;

class ExchangeTest : public GpuTest {
 protected:
  struct Rank {
    int device = 0;
    Launch launch;
  };

  void TearDown() override {
    if (group_) group_->stop();  // after a failure ranks may still wait
    for (Rank& r : ranks_) {
      const DeviceGuard guard(r.device);
      EXPECT_EQ(cudaStreamSynchronize(r.launch.stream), cudaSuccess);
      cudaStreamDestroy(r.launch.stream);
    }
    group_.reset();
    GpuTest::TearDown();
  }

  void make_group(int ranks) {
    int devices = 0;
    FATHOM_CUDA(cudaGetDeviceCount(&devices));
    std::vector<int> of_rank;
    for (int r = 0; r < ranks; ++r) of_rank.push_back(r % devices);
    while (ranks_.size() < static_cast<size_t>(ranks)) {
      Rank r;
      r.device = of_rank[ranks_.size()];
      const DeviceGuard guard(r.device);
      FATHOM_CUDA(cudaStreamCreateWithFlags(&r.launch.stream, cudaStreamNonBlocking));
      ranks_.push_back(r);
    }
    // Where ranks share a GPU, a kernel that started early would wait, in the place that another
    // rank's part of the exchange needs, for an exchange that needs this part: nobody would go on.
    for (Rank& r : ranks_) r.launch.pdl = devices >= ranks;
    synchronize_all();
    group_ = std::make_unique<PeerGroup>(of_rank);
    if (devices < ranks) printf("%d ranks on %d GPU%s\n", ranks, devices, devices > 1 ? "s" : "");
  }
  int ranks() const { return group_->ranks(); }
  const Rank& rank(int r) const { return ranks_[static_cast<size_t>(r)]; }

  // body(rank, launch) for every rank, on its device. Each launches before the next: a kernel that
  // waits for the others waits for the host to come round, as ranks that are threads do.
  void on_all(const std::function<void(int, const Launch&)>& body) {
    for (int r = 0; r < ranks(); ++r) {
      const DeviceGuard guard(rank(r).device);
      body(r, rank(r).launch);
    }
  }
  void synchronize_all() {
    for (const Rank& r : ranks_) FATHOM_CUDA(cudaStreamSynchronize(r.launch.stream));
  }

  template <class T>
  PerRank<T> on_devices(const std::vector<std::vector<T>>& host) {
    PerRank<T> all;
    on_all([&](int r, const Launch&) {
      all.push_back(std::make_unique<DeviceArray<T>>(host[static_cast<size_t>(r)]));
    });
    return all;
  }

  std::unique_ptr<PeerGroup> group_;

 private:
  std::vector<Rank> ranks_;
};

template <class T>
void expect_same_bytes(const std::vector<T>& got, const std::vector<T>& want,
                       const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(T)), 0) << what;
}

}  // namespace fathom::cuda
