// Exchange between GPUs as a step meets it: in recorded graphs, one after another, every rank's
// rows cold in its L2. The floor is the bytes that a rank sends, at the rate at which two GPUs copy
// to each other.
#include "bench/cuda/exchange_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/comm/peer_gather.h"
#include "kernels/cuda/comm/peer_group.h"
#include "kernels/cuda/comm/peer_groups.h"
#include "kernels/cuda/comm/peer_sum.h"
#include "kernels/cuda/prim/device_guard.h"

namespace fathom::cuda {
namespace {

constexpr int kHidden = 7168, kTopk = 2048, kVocab = 129280;
constexpr int kRoutedExperts = 256, kRoutedChosen = 8, kRoutedRows = 4096;
constexpr int kReplays = 7, kMaxLaunches = 256;
constexpr double kReplayTime = 4000;  // microseconds of a graph: its start is lost in it

// What a rank exchanges, in sets that together exceed the cache.
struct RankData {
  int device = 0;
  Launch launch;
  cudaEvent_t begin = nullptr, end = nullptr;
  Buffer memory, gain, scales, ids;  // ids: [kRoutedRows, kRoutedChosen], random experts
};

class ExchangeBench {
 public:
  ExchangeBench(BenchContext& bench, int ranks, int64_t bytes) : bench_(bench) {
    std::vector<int> devices;
    for (int r = 0; r < ranks; ++r) devices.push_back(r);
    group_ = std::make_unique<PeerGroup>(devices);
    ranks_.resize(static_cast<size_t>(ranks));
    for (int r = 0; r < ranks; ++r) {
      RankData& data = ranks_[static_cast<size_t>(r)];
      data.device = r;
      const DeviceGuard guard(r);
      data.launch = bench.launch();
      FATHOM_CUDA(cudaStreamCreateWithFlags(&data.launch.stream, cudaStreamNonBlocking));
      FATHOM_CUDA(cudaEventCreate(&data.begin));
      FATHOM_CUDA(cudaEventCreate(&data.end));
      data.memory = Buffer(static_cast<size_t>(bytes), MemoryKind::device);
      data.gain = Buffer(kHidden * sizeof(float), MemoryKind::device);
      data.scales = Buffer(size_t{kHidden / 128 * 4} * 8192, MemoryKind::device);
      std::mt19937 random(static_cast<unsigned>(r));
      std::vector<int32_t> ids(size_t{kRoutedRows} * kRoutedChosen);
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % kRoutedExperts);
      data.ids = Buffer(ids.size() * sizeof(int32_t), MemoryKind::device);
      FATHOM_CUDA(cudaMemcpy(data.ids.data(), ids.data(), data.ids.size(), cudaMemcpyHostToDevice));
      fill_bf16(data.memory.data(), bytes / 2, 1.0f, static_cast<uint64_t>(r), data.launch.stream);
      fill_f32(reinterpret_cast<float*>(data.gain.data()), kHidden, 1.0f, 2, data.launch.stream);
      FATHOM_CUDA(cudaStreamSynchronize(data.launch.stream));
    }
  }
  ~ExchangeBench() {
    for (RankData& data : ranks_) {
      cudaStreamSynchronize(data.launch.stream);
      cudaEventDestroy(data.begin);
      cudaEventDestroy(data.end);
      cudaStreamDestroy(data.launch.stream);
    }
  }
  ExchangeBench(const ExchangeBench&) = delete;
  ExchangeBench& operator=(const ExchangeBench&) = delete;

  void measure_link() {
    const size_t bytes = ranks_[0].memory.size() / 2;
    const double us = time(1, [&](RankData& data, int rank, int) {
      const RankData& next = ranks_[static_cast<size_t>(rank + 1) % ranks_.size()];
      FATHOM_CUDA(cudaMemcpyAsync(next.memory.data() + bytes, data.memory.data(), bytes,
                                  cudaMemcpyDefault, data.launch.stream));
    });
    link_gbs_ = static_cast<double>(bytes) / us / 1e3;
    fmt::print("exchange: {} GPUs copy to each other at {:.0f} GB/s each way\n", ranks_.size(),
               link_gbs_);
  }

  bool fits(int rows, PeerSumWay way) const {
    return way == PeerSumWay::two_shot || group_->view(0).fits_one_shot(rows, kHidden);
  }

  void sum(int rows, PeerSumWay way, bool norm, double anchor_us, const std::string& shape) {
    const int64_t elements = int64_t{rows} * kHidden;
    const int64_t each = elements * 8;  // x, residual, normed, codes
    const double us = time(sets(each), [&](RankData& data, int rank, int set) {
      Bf16* at = reinterpret_cast<Bf16*>(data.memory.data() + set * each);
      PeerSumParams p;
      p.peers = group_->view(rank);
      p.x = at;
      p.rows = rows;
      p.n = kHidden;
      p.x_stride = kHidden;
      if (norm) {
        p.norm.gain = reinterpret_cast<const float*>(data.gain.data());
        p.norm.residual = at + elements;
        p.norm.out = at + 2 * elements;
        p.norm.residual_stride = p.norm.out_stride = kHidden;
        p.norm.eps = 1e-6f;
        p.norm.codes = {reinterpret_cast<uint8_t*>(at + 3 * elements),
                        reinterpret_cast<float*>(data.scales.data()), (rows + 3) / 4 * 4, true};
      }
      peer_sum(p, way, data.launch);
    });
    const double others = static_cast<double>(ranks_.size() - 1);
    const double sent =
        way == PeerSumWay::one_shot ? others : 2 * others / static_cast<double>(ranks_.size());
    bench_.report_at("exchange", shape, us, sent * 2.0 * static_cast<double>(elements), link_gbs_,
                     anchor_us);
  }

  // Rows of FP8 codes to the ranks of their experts; `rows` of each rank.
  void rows_to_experts(int rows, const std::string& shape) {
    const int ranks = static_cast<int>(ranks_.size()), groups = kHidden / 128;
    const int64_t all = int64_t{rows} * ranks;
    const int64_t ids_at = all * (kHidden + 4 * groups),
                  weights_at = ids_at + 4 * all * kRoutedChosen;
    const int64_t block = (weights_at + 4 * all * kRoutedChosen + 255) / 256 * 256;
    const int64_t each = block + (int64_t{rows} * kHidden + 255) / 256 * 256;
    const double us = time(sets(each), [&](RankData& data, int rank, int set) {
      GroupGatherParams p;
      p.peers = group_->view(rank);
      p.lanes = group_lanes(p.peers, rows);
      p.block = data.memory.data() + set * each;
      p.first = rank * rows;
      p.rows = rows;
      p.from = p.block + block;
      p.from_pitch = p.row_bytes = kHidden;
      p.scales = reinterpret_cast<const float*>(data.scales.data());
      p.scale_stride = (rows + 3) / 4 * 4;
      p.scale_groups = groups;
      p.scales_at = all * kHidden;
      p.ids = reinterpret_cast<const int32_t*>(data.ids.data());
      p.weights = p.scales;
      p.per_token = kRoutedChosen;
      p.ids_at = ids_at;
      p.weights_at = weights_at;
      p.owners = {kRoutedExperts, ranks};
      group_gather(p, data.launch);
    });
    bench_.report_at("exchange", shape, us, destinations() * rows * (kHidden + 4.0 * groups),
                     link_gbs_, 0);
  }

  // What their experts made of `rows` of each rank, back and added up.
  void sums_of_experts(int rows, const std::string& shape) {
    const int ranks = static_cast<int>(ranks_.size());
    const int64_t row = 2 * kHidden, parts = rows * ranks * row, each = parts + rows * row;
    const double us = time(sets(each), [&](RankData& data, int rank, int set) {
      GroupSumParams p;
      p.peers = group_->view(rank);
      p.lanes = group_lanes(p.peers, rows);
      p.block = data.memory.data() + set * each;
      p.own_at = parts;
      p.first = rank * rows;
      p.rows = rows;
      p.n = kHidden;
      p.ids = reinterpret_cast<const int32_t*>(data.ids.data());
      p.per_token = kRoutedChosen;
      p.owners = {kRoutedExperts, ranks};
      group_sum(p, data.launch);
    });
    bench_.report_at("exchange", shape, us, destinations() * rows * static_cast<double>(row),
                     link_gbs_, 0);
  }

  // Every rank has its columns, or every ranks-th row, of [rows, n] words.
  void gather(int64_t rows, int64_t n, bool columns, double anchor_us, const std::string& shape) {
    const int64_t ranks = static_cast<int64_t>(ranks_.size()), each = 4 * rows * n;
    const double us = time(sets(2 * each), [&](RankData& data, int rank, int set) {
      std::byte* at = data.memory.data() + set * 2 * each;
      PeerGatherParams p;
      p.peers = group_->view(rank);
      p.piece = at + each;
      p.out = at;
      p.rows = columns ? rows : rows / ranks;
      p.bytes = p.piece_pitch = columns ? 4 * n / ranks : 4 * n;
      p.out_pitch = columns ? 4 * n : 4 * n * ranks;
      p.at = rank * p.bytes;
      peer_gather(p, data.launch);
    });
    bench_.report_at(
        "exchange", shape, us,
        static_cast<double>(each) / static_cast<double>(ranks) * static_cast<double>(ranks - 1),
        link_gbs_, anchor_us);
  }

 private:
  // Other ranks that hold an expert of a row, on average.
  double destinations() const {
    const double ranks = static_cast<double>(ranks_.size());
    return (ranks - 1) * (1 - std::pow(1 - 1 / ranks, kRoutedChosen));
  }

  int sets(int64_t bytes_each) const {
    const int64_t fitting = static_cast<int64_t>(ranks_[0].memory.size()) / bytes_each;
    return static_cast<int>(
        std::min<int64_t>(bench_.sets_for(static_cast<double>(bytes_each)), fitting));
  }

  // Median microseconds of one call on every rank, by the events of the rank that is launched last:
  // when its graph begins, the others are there.
  template <class Run>
  double time(int sets, const Run& run) {
    const double once = replays(sets, sets, run);
    const int wished = static_cast<int>(kReplayTime / std::max(once, 0.5));
    return replays(std::max(sets, std::min(wished, kMaxLaunches) / sets * sets), sets, run);
  }

  template <class Run>
  double replays(int launches, int sets, const Run& run) {
    std::vector<cudaGraph_t> graphs(ranks_.size());
    std::vector<cudaGraphExec_t> execs(ranks_.size());
    each_rank([&](RankData& data, size_t r) {
      FATHOM_CUDA(cudaStreamBeginCapture(data.launch.stream, cudaStreamCaptureModeThreadLocal));
      for (int i = 0; i < launches; ++i) run(data, static_cast<int>(r), i % sets);
      FATHOM_CUDA(cudaStreamEndCapture(data.launch.stream, &graphs[r]));
      FATHOM_CUDA(cudaGraphInstantiate(&execs[r], graphs[r], 0));
    });
    std::vector<double> times;
    for (int i = 0; i < kReplays + 1; ++i) {
      each_rank([&](RankData& data, size_t r) {
        FATHOM_CUDA(cudaEventRecord(data.begin, data.launch.stream));
        FATHOM_CUDA(cudaGraphLaunch(execs[r], data.launch.stream));
        FATHOM_CUDA(cudaEventRecord(data.end, data.launch.stream));
      });
      each_rank(
          [&](RankData& data, size_t) { FATHOM_CUDA(cudaStreamSynchronize(data.launch.stream)); });
      float ms = 0;
      FATHOM_CUDA(cudaEventElapsedTime(&ms, ranks_.back().begin, ranks_.back().end));
      if (i > 0) times.push_back(ms * 1e3 / launches);  // the first warms up
    }
    each_rank([&](RankData&, size_t r) {
      cudaGraphExecDestroy(execs[r]);
      cudaGraphDestroy(graphs[r]);
    });
    std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
    return times[kReplays / 2];
  }

  template <class Body>
  void each_rank(const Body& body) {
    for (size_t r = 0; r < ranks_.size(); ++r) {
      const DeviceGuard guard(ranks_[r].device);
      body(ranks_[r], r);
    }
  }

  BenchContext& bench_;
  std::unique_ptr<PeerGroup> group_;
  std::vector<RankData> ranks_;
  double link_gbs_ = 0;
};

// Microseconds of NCCL's all-reduce on two H200s, in graphs, without the norm (docs/parallel.md).
double nccl_us(int rows) {
  switch (rows) {
    case 1:
      return 13.1;
    case 16:
      return 13.8;
    case 64:
      return 18.5;
    case 128:
      return 32.4;
    case 512:
      return 47.9;
    case 4096:
      return 230;
    default:
      return 0;
  }
}

struct Case {
  std::string shape;
  std::function<void(ExchangeBench&)> run;
};

std::vector<Case> cases_of(int ranks) {
  std::vector<Case> all;
  for (int rows : {1, 16, 64, 128, 256, 512, 1024, 4096})
    for (bool norm : {false, true})
      for (PeerSumWay way : {PeerSumWay::one_shot, PeerSumWay::two_shot}) {
        const std::string shape =
            fmt::format("{} {}x{} {} ranks, {}", norm ? "sum + norm" : "sum", rows, kHidden, ranks,
                        way == PeerSumWay::one_shot ? "one-shot" : "two-shot");
        const double anchor = ranks == 2 && !norm ? nccl_us(rows) : 0;
        all.push_back({shape, [=](ExchangeBench& b) {
                         if (b.fits(rows, way)) b.sum(rows, way, norm, anchor, shape);
                       }});
      }
  for (int rows : {1, 16, 64, 128, kRoutedRows}) {
    const std::string there = fmt::format("rows to experts {}x{} {} ranks", rows, kHidden, ranks);
    const std::string back = fmt::format("sums of experts {}x{} {} ranks", rows, kHidden, ranks);
    all.push_back({there, [=](ExchangeBench& b) { b.rows_to_experts(rows, there); }});
    all.push_back({back, [=](ExchangeBench& b) { b.sums_of_experts(rows, back); }});
  }
  const std::string picks = fmt::format("picks 4096x{} {} ranks", kTopk, ranks);
  all.push_back(
      {picks, [=](ExchangeBench& b) { b.gather(4096, kTopk, false, ranks == 2 ? 99 : 0, picks); }});
  for (int rows : {1, 64}) {
    const std::string logits = fmt::format("logits {}x{} {} ranks", rows, kVocab, ranks);
    all.push_back({logits, [=](ExchangeBench& b) { b.gather(rows, kVocab, true, 0, logits); }});
  }
  return all;
}

}  // namespace

void bench_exchange(BenchContext& bench) {
  int devices = 0;
  FATHOM_CUDA(cudaGetDeviceCount(&devices));
  for (int ranks = 2; ranks <= std::min(std::max(devices, 2), kMaxPeers); ranks *= 2) {
    std::vector<Case> wanted = cases_of(ranks);
    std::erase_if(wanted, [&](const Case& c) { return !bench.wanted("exchange", c.shape); });
    if (wanted.empty()) continue;
    if (devices < ranks) {
      fmt::print("exchange: skipped, it needs two GPUs and this machine has {}\n", devices);
      return;
    }
    ExchangeBench exchange(bench, ranks, int64_t{1} << 30);
    exchange.measure_link();
    for (const Case& c : wanted) c.run(exchange);
  }
}

}  // namespace fathom::cuda
