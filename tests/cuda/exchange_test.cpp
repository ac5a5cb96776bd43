// Exchange between ranks: sums and gathers through the memory of each other's GPUs. On a machine
// with several GPUs the ranks are spread over them; on one they are streams of it, which takes the
// same ways with shorter latencies.
#include "exchange.h"

#include <array>
#include <thread>

#include "kernels/cuda/comm/peer_gather.h"
#include "kernels/cuda/comm/peer_sum.h"
#include "kernels/cuda/norm/norm.h"

namespace fathom::cuda {
namespace {

// Parts whose sum is due, rows `stride` apart; between the rows lies poison.
struct Parts {
  Parts(int ranks, int rows_, int n_, int stride_, uint32_t seed)
      : rows(rows_), n(n_), stride(stride_), of_rank(static_cast<size_t>(ranks)) {
    for (size_t r = 0; r < of_rank.size(); ++r) {
      of_rank[r] = random_bf16(static_cast<size_t>(rows) * stride,
                               seed + 100 * static_cast<uint32_t>(r), 3.0f);
      for (int row = 0; row < rows; ++row)
        for (int i = n; i < stride; ++i) at(r, row, i).bits = 0xFFFF;
    }
  }
  Bf16& at(size_t r, int row, int i) {
    return of_rank[r][static_cast<size_t>(row) * stride + static_cast<size_t>(i)];
  }
  // In float32, in the order of the ranks, rounded once.
  std::vector<Bf16> sum() const {
    std::vector<Bf16> out = of_rank[0];
    parallel(rows, [&](int64_t row) {
      for (int i = 0; i < n; ++i) {
        const size_t k = static_cast<size_t>(row * stride + i);
        float sum = to_float(of_rank[0][k]);
        for (size_t r = 1; r < of_rank.size(); ++r) sum += to_float(of_rank[r][k]);
        out[k] = to_bf16(sum);
      }
    });
    return out;
  }

  int rows, n, stride;
  std::vector<std::vector<Bf16>> of_rank;
};

// As bytes, but that any NaN is as good as another.
void expect_same_values(const std::vector<Bf16>& got, const std::vector<Bf16>& want,
                        const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  int64_t different = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const bool both_nan = std::isnan(to_float(got[i])) && std::isnan(to_float(want[i]));
    if (got[i].bits != want[i].bits && !both_nan && different++ == 0)
      ADD_FAILURE() << what << ": " << to_float(got[i]) << " for " << to_float(want[i]) << " at "
                    << i << " of " << got.size();
  }
  EXPECT_EQ(different, 0) << what;
}
class SumTest : public ExchangeTest {
 protected:
  // Sums in place, without a norm.
  void expect_sum(const Parts& parts, PeerSumWay way) {
    SCOPED_TRACE(::testing::Message() << ranks() << " ranks, " << parts.rows << "x" << parts.n
                                      << (way == PeerSumWay::one_shot   ? ", one-shot"
                                          : way == PeerSumWay::two_shot ? ", two-shot"
                                                                        : ""));
    PerRank<Bf16> x = on_devices(parts.of_rank);
    on_all([&](int r, const Launch& l) {
      PeerSumParams p;
      p.peers = group_->view(r);
      p.x = x[static_cast<size_t>(r)]->data();
      p.rows = parts.rows;
      p.n = parts.n;
      p.x_stride = parts.stride;
      peer_sum(p, way, l);
    });
    synchronize_all();
    const std::vector<Bf16> want = parts.sum(), first = x[0]->download();
    expect_same_values(first, want, "rank 0");
    for (size_t r = 1; r < x.size(); ++r)
      expect_same_bytes(x[r]->download(), first, "rank " + std::to_string(r));
    int64_t outside = 0;
    for (int row = 0; row < parts.rows; ++row)
      for (int i = 0; i < parts.n; ++i) {
        const size_t k = static_cast<size_t>(row) * parts.stride + static_cast<size_t>(i);
        double exact = 0, magnitude = 0;
        for (const auto& of_rank : parts.of_rank) {
          exact += to_float(of_rank[k]);
          magnitude += std::abs(static_cast<double>(to_float(of_rank[k])));
        }
        outside += std::isfinite(exact) &&
                   !(std::abs(to_float(first[k]) - exact) <= bf16_bound(exact, magnitude, ranks()));
      }
    EXPECT_EQ(outside, 0) << "values further from the float64 sum than rounding explains";
  }
};

TEST_F(SumTest, EveryRankHasTheSum) {
  for (int ranks : {2, 3, 8}) {
    make_group(ranks);
    for (auto [rows, n, pad] : {std::tuple{0, 7168, 0},
                                {1, 7168, 0},
                                {16, 7168, 0},
                                {64, 7168, 64},
                                {100, 7168, 0},
                                {1, 8, 0},
                                {7, 1536, 8},
                                {33, 2056, 0},
                                {300, 512, 0}}) {
      const Parts parts(ranks, rows, n, n + pad, 7);
      if (group_->view(0).fits_one_shot(rows, n)) expect_sum(parts, PeerSumWay::one_shot);
      expect_sum(parts, PeerSumWay::two_shot);
    }
    expect_sum(Parts(ranks, 4096, ranks == 2 ? 7168 : 1536, ranks == 2 ? 7168 : 1536, 8),
               PeerSumWay::by_size);
  }
}

TEST_F(SumTest, WideRows) {
  make_group(2);
  for (PeerSumWay way : {PeerSumWay::one_shot, PeerSumWay::two_shot})
    expect_sum(Parts(2, 5, 16384, 16384, 9), way);
}

// Values of which a receiver could believe that they have not come yet, and what numbers can be.
TEST_F(SumTest, AnyBitsMayBeSent) {
  make_group(2);
  Parts parts(2, 40, 512, 512, 10);
  std::mt19937 generator(11);
  for (size_t r = 0; r < 2; ++r)
    for (Bf16& v : parts.of_rank[r]) switch (generator() % 4) {
        case 0:
          v.bits = 0xFFFF;
          break;
        case 1:
          v.bits = 0x8000;
          break;
        case 2:
          v.bits = 0x7F80;
          break;
        default:
          break;
      }
  for (int i = 0; i < 512; ++i) parts.at(0, 3, i).bits = parts.at(1, 3, i).bits = 0xFFFF;
  for (PeerSumWay way : {PeerSumWay::one_shot, PeerSumWay::two_shot}) expect_sum(parts, way);
}

// The sum with residual, norm and codes in one kernel leaves the bits of the two steps apart.
TEST_F(SumTest, FusedNormIsTheNormOfTheSum) {
  for (int ranks : {2, 4})
    for (auto [rows, n] : {std::pair{1, 7168}, {64, 7168}, {100, 1536}, {3, 128}, {280, 7168}}) {
      make_group(ranks);
      const Parts parts(ranks, rows, n, n, 12);
      const size_t size = static_cast<size_t>(rows) * n;
      const int64_t scale_stride = (rows + 3) / 4 * 4;
      const size_t scale_count = static_cast<size_t>(n / kFp8Block * scale_stride);
      const std::vector<Bf16> before = random_bf16(size, 13, 20.0f);
      const std::vector<float> gain = random_floats(static_cast<size_t>(n), 14);

      DeviceArray<Bf16> sum(parts.sum()), residual(before), out(size);
      DeviceArray<float> gain_dev(gain), scales(scale_count);
      DeviceArray<uint8_t> codes(size);
      RmsNormParams norm;
      norm.x = sum.data();
      norm.residual = residual.data();
      norm.out = out.data();
      norm.gain = gain_dev.data();
      norm.codes = {codes.data(), scales.data(), scale_stride, true};
      norm.rows = rows;
      norm.n = n;
      norm.x_stride = norm.residual_stride = norm.out_stride = n;
      norm.eps = 1e-6f;
      rms_norm(norm, launch);
      synchronize();

      for (PeerSumWay way : {PeerSumWay::one_shot, PeerSumWay::two_shot}) {
        if (way == PeerSumWay::one_shot && !group_->view(0).fits_one_shot(rows, n)) continue;
        const size_t k = static_cast<size_t>(ranks);
        PerRank<Bf16> x = on_devices(parts.of_rank),
                      kept = on_devices(std::vector<std::vector<Bf16>>(k, before));
        PerRank<float> gains = on_devices(std::vector<std::vector<float>>(k, gain));
        PerRank<Bf16> normed;
        PerRank<uint8_t> coded;
        PerRank<float> scaled;
        on_all([&](int, const Launch&) {
          normed.push_back(std::make_unique<DeviceArray<Bf16>>(size));
          coded.push_back(std::make_unique<DeviceArray<uint8_t>>(size));
          scaled.push_back(std::make_unique<DeviceArray<float>>(scale_count));
        });
        on_all([&](int r, const Launch& l) {
          const size_t i = static_cast<size_t>(r);
          PeerSumParams p;
          p.peers = group_->view(r);
          p.x = x[i]->data();
          p.rows = rows;
          p.n = n;
          p.x_stride = n;
          p.norm = norm;
          p.norm.residual = kept[i]->data();
          p.norm.out = normed[i]->data();
          p.norm.gain = gains[i]->data();
          p.norm.codes = {coded[i]->data(), scaled[i]->data(), scale_stride, true};
          peer_sum(p, way, l);
        });
        synchronize_all();
        for (size_t r = 0; r < k; ++r) {
          const std::string what = std::to_string(rows) + "x" + std::to_string(n) + " of rank " +
                                   std::to_string(r) + " of " + std::to_string(ranks);
          expect_same_bytes(kept[r]->download(), residual.download(), "residual " + what);
          expect_same_bytes(normed[r]->download(), out.download(), "normed " + what);
          expect_same_bytes(coded[r]->download(), codes.download(), "codes " + what);
          expect_same_bytes(scaled[r]->download(), scales.download(), "scales " + what);
        }
      }
    }
}

// Columns of a matrix, rows of one in turn, and pieces of any size down to none.
TEST_F(SumTest, EveryRankHasAllPieces) {
  for (int ranks : {2, 3})
    for (auto [rows, words] : {std::pair{1, 4}, {1, 32320}, {64, 1000}, {5, 7}, {513, 2048}}) {
      make_group(ranks);
      for (bool columns : {true, false}) {
        // Rank r has r-th columns, or rows r, r + ranks, ..; the last rank has fewer of those.
        const int all = columns ? rows : rows * ranks - 1;
        const int width = columns ? words * ranks : words;
        std::vector<uint32_t> want(static_cast<size_t>(all) * width);
        for (size_t i = 0; i < want.size(); ++i) want[i] = static_cast<uint32_t>(i * 2654435761u);
        PerRank<uint32_t> pieces, out;
        on_all([&](int r, const Launch&) {
          std::vector<uint32_t> piece;
          for (int row = columns ? 0 : r; row < all; row += columns ? 1 : ranks)
            for (int i = 0; i < words; ++i)
              piece.push_back(
                  want[static_cast<size_t>(row) * width + (columns ? r * words : 0) + i]);
          pieces.push_back(std::make_unique<DeviceArray<uint32_t>>(piece));
          out.push_back(std::make_unique<DeviceArray<uint32_t>>(want.size()));
        });
        on_all([&](int r, const Launch& l) {
          PeerGatherParams p;
          p.peers = group_->view(r);
          p.piece = pieces[static_cast<size_t>(r)]->data();
          p.out = out[static_cast<size_t>(r)]->data();
          p.rows = static_cast<int64_t>(pieces[static_cast<size_t>(r)]->size()) / words;
          p.bytes = p.piece_pitch = 4 * words;
          p.out_pitch = 4 * width * (columns ? 1 : ranks);
          p.at = 4 * r * (columns ? words : width);
          peer_gather(p, l);
        });
        synchronize_all();
        for (const auto& got : out)
          expect_same_bytes(got->download(), want,
                            std::to_string(rows) + "x" + std::to_string(words));
      }
    }
}

// Ranks that run ahead of each other, over thousands of replays of recorded exchanges of many
// sizes. Two recordings in turn, on other parts and in another order of sizes, so that what a
// replay finds in memory is never what it must leave there.
TEST_F(SumTest, ReplaysKeepTheirBits) {
  constexpr int kReplays = 3000, kWidth = 1536, kRanks = 2;
  make_group(kRanks);
  struct Op {
    int rows;
    PeerSumWay way;
  };
  const std::vector<Op> orders[2] = {{{1, PeerSumWay::by_size},
                                      {64, PeerSumWay::by_size},
                                      {7, PeerSumWay::two_shot},
                                      {2, PeerSumWay::by_size},
                                      {200, PeerSumWay::one_shot},
                                      {1, PeerSumWay::by_size}},
                                     {{200, PeerSumWay::two_shot},
                                      {1, PeerSumWay::by_size},
                                      {150, PeerSumWay::one_shot},
                                      {1, PeerSumWay::two_shot},
                                      {33, PeerSumWay::by_size},
                                      {2, PeerSumWay::by_size}}};
  struct Recording {
    std::vector<Parts> parts;
    std::vector<Bf16> want;  // of all ops
    PerRank<Bf16> source, x;
    cudaGraph_t graph[kRanks] = {};
    cudaGraphExec_t exec[kRanks] = {};
  } recordings[2];
  size_t values = 0;
  for (int k = 0; k < 2; ++k) {
    Recording& rec = recordings[k];
    std::vector<std::vector<Bf16>> all(kRanks);
    for (size_t i = 0; i < orders[k].size(); ++i) {
      rec.parts.emplace_back(kRanks, orders[k][i].rows, kWidth, kWidth,
                             static_cast<uint32_t>(20 + 10 * k) + static_cast<uint32_t>(i));
      const std::vector<Bf16> sum = rec.parts.back().sum();
      rec.want.insert(rec.want.end(), sum.begin(), sum.end());
      for (size_t r = 0; r < kRanks; ++r)
        all[r].insert(all[r].end(), rec.parts.back().of_rank[r].begin(),
                      rec.parts.back().of_rank[r].end());
    }
    rec.source = on_devices(all);
    rec.x = on_devices(all);
    on_all([&](int r, const Launch& l) {
      const size_t i = static_cast<size_t>(r);
      FATHOM_CUDA(cudaStreamBeginCapture(l.stream, cudaStreamCaptureModeThreadLocal));
      FATHOM_CUDA(cudaMemcpyAsync(rec.x[i]->data(), rec.source[i]->data(),
                                  rec.x[i]->size() * sizeof(Bf16), cudaMemcpyDeviceToDevice,
                                  l.stream));
      Bf16* at = rec.x[i]->data();
      for (const Op& op : orders[k]) {
        PeerSumParams p;
        p.peers = group_->view(r);
        p.x = at;
        p.rows = op.rows;
        p.n = kWidth;
        p.x_stride = kWidth;
        peer_sum(p, op.way, l);
        at += static_cast<int64_t>(op.rows) * kWidth;
      }
      FATHOM_CUDA(cudaStreamEndCapture(l.stream, &rec.graph[r]));
      FATHOM_CUDA(cudaGraphInstantiate(&rec.exec[r], rec.graph[r], 0));
    });
    values = std::max(values, rec.want.size());
  }

  constexpr int kSlots = 4;
  const size_t slot_bytes = values * sizeof(Bf16);
  Buffer slots(kSlots * kRanks * slot_bytes, MemoryKind::pinned);
  std::array<std::array<cudaEvent_t, kRanks>, kSlots> fetched = {};
  PerRank<uint8_t> ballast;
  on_all([&](int r, const Launch&) {
    for (auto& slot : fetched)
      FATHOM_CUDA(cudaEventCreateWithFlags(&slot[static_cast<size_t>(r)], cudaEventDisableTiming));
    ballast.push_back(std::make_unique<DeviceArray<uint8_t>>(size_t{64} << 20));
  });
  int wrong = 0;
  auto judge = [&](int i) {
    const std::vector<Bf16>& want = recordings[i % 2].want;
    for (int r = 0; r < kRanks; ++r) {
      FATHOM_CUDA(cudaEventSynchronize(fetched[i % kSlots][static_cast<size_t>(r)]));
      wrong += std::memcmp(slots.data() + static_cast<size_t>(i % kSlots * kRanks + r) * slot_bytes,
                           want.data(), want.size() * sizeof(Bf16)) != 0;
    }
  };
  for (int i = 0; i < kReplays; ++i) {
    if (i >= kSlots) judge(i - kSlots);
    Recording& rec = recordings[i % 2];
    on_all([&](int r, const Launch& l) {
      if (i % 7 == r)  // this rank comes late
        FATHOM_CUDA(cudaMemsetAsync(ballast[static_cast<size_t>(r)]->data(), i,
                                    ballast[static_cast<size_t>(r)]->size(), l.stream));
      FATHOM_CUDA(cudaGraphLaunch(rec.exec[r], l.stream));
      FATHOM_CUDA(
          cudaMemcpyAsync(slots.data() + static_cast<size_t>(i % kSlots * kRanks + r) * slot_bytes,
                          rec.x[static_cast<size_t>(r)]->data(), rec.want.size() * sizeof(Bf16),
                          cudaMemcpyDeviceToHost, l.stream));
      FATHOM_CUDA(cudaEventRecord(fetched[i % kSlots][static_cast<size_t>(r)], l.stream));
    });
  }
  for (int i = kReplays - kSlots; i < kReplays; ++i) judge(i);
  EXPECT_EQ(wrong, 0) << "of " << kRanks * kReplays << " results differ";
  on_all([&](int r, const Launch&) {
    for (Recording& rec : recordings) {
      cudaGraphExecDestroy(rec.exec[r]);
      cudaGraphDestroy(rec.graph[r]);
    }
    for (auto& slot : fetched) cudaEventDestroy(slot[static_cast<size_t>(r)]);
  });
}

// A rank whose peer never comes waits until the host says stop, and so do those after it.
TEST_F(SumTest, StopEndsEveryWait) {
  make_group(2);
  const DeviceGuard guard(rank(0).device);
  DeviceArray<Bf16> x(random_bf16(4 * 512, 15));
  for (PeerSumWay way : {PeerSumWay::one_shot, PeerSumWay::two_shot}) {
    PeerSumParams p;
    p.peers = group_->view(0);
    p.x = x.data();
    p.rows = 4;
    p.n = 512;
    p.x_stride = 512;
    peer_sum(p, way, rank(0).launch);
  }
  EXPECT_EQ(cudaStreamQuery(rank(0).launch.stream), cudaErrorNotReady);
  EXPECT_FALSE(group_->stopped());
  group_->stop();
  EXPECT_TRUE(group_->stopped());
  EXPECT_EQ(cudaStreamSynchronize(rank(0).launch.stream), cudaSuccess);
}

}  // namespace
}  // namespace fathom::cuda
