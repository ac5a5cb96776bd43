// Rows of groups of ranks on their way to the ranks of their experts, and back: each rank has what
// its experts need, at the row's place among those of all, and nothing else is touched.
#include <cstring>
#include <tuple>

#include "exchange.h"
#include "kernels/cuda/comm/peer_groups.h"

namespace fathom::cuda {
namespace {

constexpr int kChosen = 8;

// The rows of all groups and who holds their experts.
struct GroupCase {
  int ranks, group, experts, n;
  std::vector<int> rows;  // by group
  bool coded;

  int groups() const { return ranks / group; }
  int total() const {
    int all = 0;
    for (int r : rows) all += r;
    return all;
  }
  int first(int g) const {
    int before = 0;
    for (int i = 0; i < g; ++i) before += rows[static_cast<size_t>(i)];
    return before;
  }
  int most() const { return *std::max_element(rows.begin(), rows.end()); }
  int row_bytes() const { return coded ? n : 2 * n; }
  int scale_groups() const { return coded ? n / kFp8Block : 0; }
  // Where things lie in a block.
  int64_t scales_at() const { return (int64_t{total()} * row_bytes() + 255) / 256 * 256; }
  int64_t ids_at() const {
    return (scales_at() + 4LL * total() * scale_groups() + 255) / 256 * 256;
  }
  int64_t weights_at() const { return (ids_at() + 4LL * total() * kChosen + 255) / 256 * 256; }
  size_t bytes() const { return static_cast<size_t>(weights_at() + 4LL * total() * kChosen); }
  // By counting: the owner whose part has the expert.
  int owner(int expert) const {
    for (int r = 0; r < ranks; ++r)
      if (expert < int64_t{experts} * (r + 1) / ranks) return r;
    return -1;
  }
};

class GroupExchangeTest : public ExchangeTest {
 protected:
  // What group g brings.
  struct Brought {
    std::vector<uint8_t> rows;
    std::vector<float> scales;  // [scale_groups, stride]
    std::vector<int32_t> ids;
    std::vector<float> weights;
    int stride = 0;
  };

  std::vector<Brought> rows_of(const GroupCase& c, uint32_t seed) {
    std::vector<Brought> all;
    std::mt19937 random(seed);
    for (int g = 0; g < c.groups(); ++g) {
      Brought b;
      const auto rows = static_cast<size_t>(c.rows[static_cast<size_t>(g)]);
      b.stride = static_cast<int>(rows + 3) / 4 * 4;
      b.rows.resize(rows * static_cast<size_t>(c.row_bytes()));
      for (uint8_t& v : b.rows) v = static_cast<uint8_t>(random());
      b.scales = random_floats(static_cast<size_t>(c.scale_groups() * b.stride), seed + 1);
      for (size_t i = 0; i < rows * kChosen; ++i) {
        // Some rows choose among few experts, and some none.
        const int few = i / kChosen % 3 == 0 ? std::max(1, c.experts / c.ranks) : c.experts;
        b.ids.push_back(i / kChosen % 5 == 4
                            ? -1
                            : static_cast<int32_t>(random() % static_cast<unsigned>(few)));
      }
      b.weights = random_floats(rows * kChosen, seed + 2);
      all.push_back(std::move(b));
    }
    return all;
  }

  uint32_t ranks_of(const GroupCase& c, const Brought& b, int row) {
    uint32_t ranks = 0;
    for (int k = 0; k < kChosen; ++k)
      if (const int32_t id = b.ids[static_cast<size_t>(row * kChosen + k)]; id >= 0)
        ranks |= 1u << c.owner(id);
    return ranks;
  }

  // `idle`: a group whose rows count and that has nothing to compute; -1: none.
  void expect_gathered(const GroupCase& c, int idle) {
    SCOPED_TRACE(::testing::Message() << c.ranks << " ranks in groups of " << c.group << ", "
                                      << c.total() << "x" << c.n << (c.coded ? " codes" : " bf16"));
    const std::vector<Brought> brought = rows_of(c, 3);
    PerRank<uint8_t> blocks, rows;
    PerRank<float> scales, weights;
    PerRank<int32_t> ids;
    on_all([&](int r, const Launch&) {
      const Brought& b = brought[static_cast<size_t>(r / c.group)];
      blocks.push_back(std::make_unique<DeviceArray<uint8_t>>(c.bytes()));
      rows.push_back(std::make_unique<DeviceArray<uint8_t>>(b.rows));
      scales.push_back(std::make_unique<DeviceArray<float>>(b.scales));
      weights.push_back(std::make_unique<DeviceArray<float>>(b.weights));
      ids.push_back(std::make_unique<DeviceArray<int32_t>>(b.ids));
    });
    on_all([&](int r, const Launch& l) {
      const auto i = static_cast<size_t>(r);
      const int g = r / c.group, place = r % c.group, all = c.rows[static_cast<size_t>(g)];
      const int begin = all * place / c.group, end = all * (place + 1) / c.group;
      GroupGatherParams p;
      p.peers = group_->view(r);
      p.lanes = group_lanes(p.peers, (c.most() + c.group - 1) / c.group);
      p.block = reinterpret_cast<std::byte*>(blocks[i]->data());
      p.first = c.first(g) + begin;
      p.rows = end - begin;
      p.live = g != idle;
      p.from = reinterpret_cast<const std::byte*>(rows[i]->data()) + int64_t{begin} * c.row_bytes();
      p.from_pitch = p.row_bytes = c.row_bytes();
      if (c.coded) {
        p.scales = scales[i]->data() + begin;
        p.scale_stride = brought[static_cast<size_t>(g)].stride;
        p.scale_groups = c.scale_groups();
        p.scales_at = c.scales_at();
      }
      p.ids = ids[i]->data() + begin * kChosen;
      p.weights = weights[i]->data() + begin * kChosen;
      p.per_token = kChosen;
      p.ids_at = c.ids_at();
      p.weights_at = c.weights_at();
      p.owners = {c.experts, c.ranks};
      group_gather(p, l);
    });
    synchronize_all();
    for (int r = 0; r < c.ranks; ++r) {
      std::vector<uint8_t> want(c.bytes(), 0xFF);
      for (int g = 0; g < c.groups(); ++g) {
        const Brought& b = brought[static_cast<size_t>(g)];
        for (int row = 0; row < c.rows[static_cast<size_t>(g)]; ++row) {
          const int64_t at = c.first(g) + row;
          for (int k = 0; k < kChosen; ++k) {
            const auto pair = static_cast<size_t>(row * kChosen + k);
            const int32_t id = g == idle ? -1 : b.ids[pair];
            const float weight = g == idle ? 0.0f : b.weights[pair];
            std::memcpy(&want[static_cast<size_t>(c.ids_at() + 4 * (at * kChosen + k))], &id, 4);
            std::memcpy(&want[static_cast<size_t>(c.weights_at() + 4 * (at * kChosen + k))],
                        &weight, 4);
          }
          if (g == idle || (ranks_of(c, b, row) >> r & 1) == 0) continue;
          std::memcpy(&want[static_cast<size_t>(at * c.row_bytes())],
                      &b.rows[static_cast<size_t>(row) * static_cast<size_t>(c.row_bytes())],
                      static_cast<size_t>(c.row_bytes()));
          for (int s = 0; s < c.scale_groups(); ++s)
            std::memcpy(&want[static_cast<size_t>(c.scales_at() + 4 * (at * c.scale_groups() + s))],
                        &b.scales[static_cast<size_t>(s * b.stride + row)], 4);
        }
      }
      expect_same_bytes(blocks[static_cast<size_t>(r)]->download(), want,
                        "block of rank " + std::to_string(r));
    }
  }

  void expect_summed(const GroupCase& c) {
    SCOPED_TRACE(::testing::Message() << c.ranks << " ranks in groups of " << c.group << ", "
                                      << c.total() << "x" << c.n);
    const std::vector<Brought> brought = rows_of(c, 5);
    const size_t parts = static_cast<size_t>(c.total()) * static_cast<size_t>(c.n);
    const size_t own = static_cast<size_t>(c.most()) * static_cast<size_t>(c.n);
    // The parts of all rows, then room for the group's own.
    std::vector<std::vector<Bf16>> host;
    for (int r = 0; r < c.ranks; ++r)
      host.push_back(random_bf16(parts + own, 20 + static_cast<uint32_t>(r), 3.0f));
    PerRank<Bf16> blocks = on_devices(host);
    PerRank<int32_t> ids;
    on_all([&](int r, const Launch&) {
      ids.push_back(
          std::make_unique<DeviceArray<int32_t>>(brought[static_cast<size_t>(r / c.group)].ids));
    });
    on_all([&](int r, const Launch& l) {
      const auto i = static_cast<size_t>(r);
      GroupSumParams p;
      p.peers = group_->view(r);
      p.lanes = group_lanes(p.peers, (c.most() + c.group - 1) / c.group);
      p.group = c.group;
      p.block = reinterpret_cast<std::byte*>(blocks[i]->data());
      p.own_at = static_cast<int64_t>(2 * parts);
      p.first = c.first(r / c.group);
      p.rows = c.rows[static_cast<size_t>(r / c.group)];
      p.n = c.n;
      p.ids = ids[i]->data();
      p.per_token = kChosen;
      p.owners = {c.experts, c.ranks};
      group_sum(p, l);
    });
    synchronize_all();
    for (int r = 0; r < c.ranks; ++r) {
      const int g = r / c.group;
      std::vector<Bf16> want = host[static_cast<size_t>(r)];
      for (int row = 0; row < c.rows[static_cast<size_t>(g)]; ++row) {
        const uint32_t ranks = ranks_of(c, brought[static_cast<size_t>(g)], row);
        for (int col = 0; col < c.n; ++col) {
          const size_t at = parts + static_cast<size_t>(row * c.n + col);
          float sum = to_float(host[static_cast<size_t>(g * c.group)][at]);
          for (int o = 1; o < c.group; ++o)
            sum += to_float(host[static_cast<size_t>(g * c.group + o)][at]);
          for (int o = 0; o < c.ranks; ++o)
            if (ranks >> o & 1)
              sum += to_float(host[static_cast<size_t>(o)][static_cast<size_t>(c.first(g) + row) *
                                                               static_cast<size_t>(c.n) +
                                                           static_cast<size_t>(col)]);
          want[at] = to_bf16(sum);
        }
      }
      expect_same_bytes(blocks[static_cast<size_t>(r)]->download(), want,
                        "block of rank " + std::to_string(r));
    }
  }

  std::vector<GroupCase> cases() const {
    return {{2, 1, 256, 7168, {64, 64}, true}, {2, 1, 256, 7168, {1, 0}, true},
            {2, 1, 16, 256, {33, 300}, true},  {2, 1, 12, 256, {5, 7}, false},
            {3, 1, 16, 512, {7, 0, 20}, true}, {4, 2, 16, 7168, {9, 130}, false},
            {4, 2, 3, 256, {40, 1}, true},     {8, 1, 256, 1536, {4, 8, 1, 0, 64, 3, 2, 9}, true},
            {8, 4, 30, 2048, {17, 6}, false}};
  }
};

TEST_F(GroupExchangeTest, RowsGoToTheRanksOfTheirExperts) {
  for (const GroupCase& c : cases()) {
    make_group(c.ranks);
    for (int idle : {-1, 0}) expect_gathered(c, idle);
  }
}

TEST_F(GroupExchangeTest, SumsAreThoseOfTheRanksThatHoldExperts) {
  for (const GroupCase& c : cases()) {
    make_group(c.ranks);
    for (int twice = 0; twice < 2; ++twice) expect_summed(c);
  }
}

// A rank whose peer never comes waits until the host says stop.
TEST_F(GroupExchangeTest, StopEndsEveryWait) {
  make_group(2);
  const DeviceGuard guard(rank(0).device);
  DeviceArray<uint8_t> block(1 << 16);
  const std::vector<int32_t> none(kChosen, 0);
  DeviceArray<int32_t> ids(none);
  GroupGatherParams gather;
  gather.peers = group_->view(0);
  gather.lanes = 1;
  gather.block = reinterpret_cast<std::byte*>(block.data());
  gather.rows = 1;
  gather.from = gather.block;
  gather.from_pitch = gather.row_bytes = 512;
  gather.ids = ids.data();
  gather.weights = reinterpret_cast<const float*>(ids.data());
  gather.per_token = kChosen;
  gather.ids_at = 4096;
  gather.weights_at = 8192;
  gather.owners = {16, 2};
  group_gather(gather, rank(0).launch);
  GroupSumParams sum;
  sum.peers = group_->view(0);
  sum.lanes = 1;
  sum.block = gather.block;
  sum.own_at = 16384;
  sum.rows = 1;
  sum.n = 256;
  sum.ids = ids.data();
  sum.per_token = kChosen;
  sum.owners = {16, 2};
  group_sum(sum, rank(0).launch);
  EXPECT_EQ(cudaStreamQuery(rank(0).launch.stream), cudaErrorNotReady);
  group_->stop();
  EXPECT_EQ(cudaStreamSynchronize(rank(0).launch.stream), cudaSuccess);
}

}  // namespace
}  // namespace fathom::cuda
