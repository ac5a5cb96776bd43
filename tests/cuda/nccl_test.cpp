// Exchange by NCCL, as ranks on GPUs of several processes have it: here the ranks are threads with
// two GPUs of this process.
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/comm.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/gpu.h"
#include "kernels/nccl.h"
#include "support.h"

namespace fathom::cuda {
namespace {

constexpr int kNcclRanks = 2;

class NcclTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    int devices = 0;
    FATHOM_CUDA(cudaGetDeviceCount(&devices));
    if (devices < kNcclRanks) GTEST_SKIP() << "two GPUs are needed, there is " << devices;
    group_ = make_nccl_group(nullptr, kNcclRanks);
  }

  // Calls body(comm, ops) on each rank's thread, with its GPU.
  void on_ranks(const std::function<void(Comm&, CudaOps&)>& body) {
    on_ranks(*group_, Numerics::bf16, body);
  }
  static void on_ranks(CommGroup& group, Numerics numerics,
                       const std::function<void(Comm&, CudaOps&)>& body) {
    std::vector<std::thread> threads;
    for (int r = 0; r < kNcclRanks; ++r)
      threads.emplace_back([&, r] {
        try {
          FATHOM_CUDA(cudaSetDevice(r));
          const std::unique_ptr<CudaOps> ops = make_cuda_ops(numerics, workload(), {});
          const std::unique_ptr<Comm> comm = group.join(r, ops.get());
          body(*comm, *ops);
          ops->synchronize();
        } catch (const std::exception& e) {
          ADD_FAILURE() << "rank " << r << ": " << e.what();
          group.abort(e.what());
        }
      });
    for (std::thread& t : threads) t.join();
  }

  static Workload workload() {
    Workload w;
    w.step_tokens = 256;
    w.context = 256;
    w.hidden = 512;
    w.max_intermediate = w.expert_intermediate = 256;
    w.heads = 4;
    w.nope = w.value = w.index_dim = 128;
    w.rope = 64;
    w.latent = 512;
    w.q_rank = 256;
    w.index_heads = 4;
    w.index_topk = 64;
    w.experts = 8;
    w.experts_per_token = 2;
    w.vocab = 512;
    w.index_budget = 1 << 20;
    w.sequences = 4;
    return w;
  }

  std::shared_ptr<CommGroup> group_;
};

TEST_F(NcclTest, SumsAreThoseInRankOrder) {
  // The last ones go in several pieces.
  for (const auto& [rows, n] : {std::pair{1, 7168}, {5, 130}, {64, 7168}, {5000, 7168}}) {
    SCOPED_TRACE(fmt::format("[{}, {}]", rows, n));
    const int stride = n + 8;
    std::vector<std::vector<Bf16>> parts;
    for (uint32_t r = 0; r < kNcclRanks; ++r)
      parts.push_back(random_bf16(static_cast<size_t>(rows) * stride, 7 + r, 3.0f));
    std::vector<std::vector<Bf16>> got(kNcclRanks);
    on_ranks([&](Comm& comm, CudaOps& ops) {
      const auto r = static_cast<size_t>(comm.rank());
      DeviceArray<Bf16> x(parts[r]);
      ops.synchronize();
      comm.all_reduce(Tensor(x.data(), DType::bf16, {rows, stride}).columns(0, n));
      ops.synchronize();
      got[r] = x.download();
    });
    for (size_t r = 0; r < kNcclRanks; ++r)
      for (int row = 0; row < rows; ++row)
        for (int i = 0; i < stride; ++i) {
          const size_t k = static_cast<size_t>(row) * stride + i;
          const Bf16 want =
              i < n ? to_bf16(to_float(parts[0][k]) + to_float(parts[1][k])) : parts[r][k];
          ASSERT_EQ(got[r][k].bits, want.bits) << "rank " << r << ", row " << row << ", " << i;
        }
  }
}

TEST_F(NcclTest, GathersColumnsAndBlocksOfRows) {
  constexpr int kWidth = 515, kBlock = 4;
  for (const int rows : {1, 4, 7, 8, 23, 203}) {
    SCOPED_TRACE(rows);
    std::vector<std::vector<int32_t>> columns(kNcclRanks), blocks(kNcclRanks);
    on_ranks([&](Comm& comm, CudaOps& ops) {
      const auto me = static_cast<size_t>(comm.rank());
      std::vector<int32_t> own_columns(static_cast<size_t>(rows) * kWidth, -1);
      std::vector<int32_t> own_blocks = own_columns;
      const PartRange own = part_of(kWidth, comm.rank(), kNcclRanks);
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < kWidth; ++c) {
          const size_t k = static_cast<size_t>(r) * kWidth + static_cast<size_t>(c);
          if (own.begin <= c && c < own.end) own_columns[k] = r * 1000 + c;
          if (r / kBlock % kNcclRanks == comm.rank()) own_blocks[k] = r * 1000 + c;
        }
      DeviceArray<int32_t> a(own_columns), b(own_blocks);
      ops.synchronize();
      comm.all_gather_columns(Tensor(a.data(), DType::i32, {rows, kWidth}));
      comm.all_gather_rows(Tensor(b.data(), DType::i32, {rows, kWidth}), kBlock);
      ops.synchronize();
      columns[me] = a.download();
      blocks[me] = b.download();
    });
    for (size_t rank = 0; rank < kNcclRanks; ++rank)
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < kWidth; ++c) {
          const size_t k = static_cast<size_t>(r) * kWidth + static_cast<size_t>(c);
          ASSERT_EQ(columns[rank][k], r * 1000 + c);
          ASSERT_EQ(blocks[rank][k], r * 1000 + c);
        }
  }
}

// Steps of decodes are recorded once and replayed.
TEST_F(NcclTest, ASumCanBeRecordedAndReplayed) {
  constexpr int kRows = 3, kWidth = 512, kReplays = 5;
  on_ranks([&](Comm& comm, CudaOps& ops) {
    const std::vector<Bf16> ones(kRows * kWidth, to_bf16(1));
    DeviceArray<Bf16> x(ones);
    const Tensor t(x.data(), DType::bf16, {kRows, kWidth});
    comm.all_reduce(t);  // connections are made by the first
    ops.synchronize();
    auto* stream = static_cast<cudaStream_t>(ops.stream());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    FATHOM_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    comm.all_reduce(t);
    FATHOM_CUDA(cudaStreamEndCapture(stream, &graph));
    FATHOM_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < kReplays; ++i) FATHOM_CUDA(cudaGraphLaunch(exec, stream));
    ops.synchronize();
    for (const Bf16 v : x.download())
      ASSERT_EQ(to_float(v), static_cast<float>(1 << (kReplays + 1)));  // doubled each time
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  });
}

// Rows of two groups of one rank each, or of one group of two, and whether a group is idle.
struct GroupRows {
  int group;
  std::vector<int64_t> rows;  // by group
  int idle = -1;
};

// What rank r has after rows have gone to the ranks of their experts and parts have come back.
struct Exchanged {
  std::vector<std::byte> rows;  // the bytes that its experts read, of all rows, one after the other
  std::vector<Bf16> sums;
};

std::vector<Exchanged> exchanged(
    const GroupRows& c, Numerics numerics,
    const std::function<void(const std::function<void(Comm&, CudaOps&)>&)>& on_ranks) {
  constexpr int64_t kRoom = 256, kWidth = 512, kChosen = 2, kExperts = 8;
  constexpr int64_t kIdsAt = kRoom * kWidth * 2, kWeightsAt = kIdsAt + kRoom * kChosen * 4;
  constexpr int64_t kPartsAt = kWeightsAt + kRoom * kChosen * 4;
  constexpr int64_t kSumAt = kPartsAt + kRoom * kWidth * 2;
  std::vector<Exchanged> all(kNcclRanks);
  on_ranks([&](Comm& comm, CudaOps& ops) {
    const int rank = comm.rank(), g = rank / c.group;
    const bool idle = g == c.idle;
    const int64_t own = idle ? 0 : c.rows[static_cast<size_t>(g)];
    DeviceArray<std::byte> block(static_cast<size_t>(kSumAt + kRoom * kWidth * 2));
    const auto in_block = [&](int64_t at, DType type, int64_t rows, int64_t n) {
      return Tensor(block.data() + at, type, {rows, n});
    };
    const auto values = static_cast<size_t>(kRoom * kWidth);
    const DeviceArray<Bf16> hidden(random_bf16(values, 1 + static_cast<uint32_t>(g)));
    const std::vector<Bf16> parts = random_bf16(values, 11 + static_cast<uint32_t>(rank));
    const std::vector<Bf16> sums = random_bf16(values, 21 + static_cast<uint32_t>(rank));
    std::vector<int32_t> ids(kRoom * kChosen);
    for (size_t i = 0; i < ids.size(); ++i)  // of one rank, of both, of none
      ids[i] = i % 7 == 0 ? -1 : static_cast<int32_t>(i * i + i / 5 + static_cast<size_t>(g)) % 8;
    const DeviceArray<int32_t> own_ids(ids);
    const DeviceArray<float> own_weights(random_floats(ids.size(), 31));
    FATHOM_CUDA(cudaMemcpy(block.data() + kPartsAt, parts.data(), values * 2, cudaMemcpyDefault));
    FATHOM_CUDA(cudaMemcpy(block.data() + kSumAt, sums.data(), values * 2, cudaMemcpyDefault));
    FATHOM_CUDA(cudaDeviceSynchronize());

    const ExpertSpread spread{c.group, kExperts, numerics == Numerics::fp8};
    comm.agree({own, c.idle >= 0}, c.group);
    const auto of = [&](auto& array, DType type, int64_t n) {
      return Tensor(const_cast<void*>(static_cast<const void*>(array.data())), type, {own, n});
    };
    const int64_t total =
        comm.gather_expert_rows({in_block(0, DType::bf16, kRoom, kWidth),
                                 in_block(kIdsAt, DType::i32, kRoom, kChosen),
                                 in_block(kWeightsAt, DType::f32, kRoom, kChosen)},
                                {of(hidden, DType::bf16, kWidth), of(own_ids, DType::i32, kChosen),
                                 of(own_weights, DType::f32, kChosen)},
                                spread)
            .back();
    ops.synchronize();
    Exchanged& e = all[static_cast<size_t>(rank)];
    const std::vector<std::byte> got = block.download();
    const auto append = [&](int64_t at, int64_t bytes) {
      e.rows.insert(e.rows.end(), got.begin() + at, got.begin() + at + bytes);
    };
    append(kIdsAt, total * kChosen * 4);
    append(kWeightsAt, total * kChosen * 4);
    const int64_t codes = spread.coded ? kWidth : 2 * kWidth, groups = kWidth / kFp8Block;
    const int64_t scales_at = (total * kWidth + 255) / 256 * 256;
    for (int64_t row = 0; row < total; ++row) {
      int32_t chosen[kChosen];
      std::memcpy(chosen, &got[static_cast<size_t>(kIdsAt + row * kChosen * 4)], sizeof(chosen));
      bool here = false;
      for (const int32_t id : chosen) here |= id >= 0 && id / (kExperts / kNcclRanks) == rank;
      if (!here) continue;
      append(row * codes, codes);
      if (spread.coded) append(scales_at + row * groups * 4, groups * 4);
    }
    comm.sum_expert_rows(in_block(kSumAt, DType::bf16, own, kWidth),
                         in_block(kPartsAt, DType::bf16, total, kWidth),
                         of(own_ids, DType::i32, kChosen), spread);
    ops.synchronize();
    e.sums.resize(values);
    FATHOM_CUDA(cudaMemcpy(e.sums.data(), block.data() + kSumAt, values * 2, cudaMemcpyDefault));
  });
  return all;
}

TEST_F(NcclTest, RowsOfGroupsComeAndGoAsThroughMemory) {
  for (const Numerics numerics : {Numerics::bf16, Numerics::fp8})
    for (const GroupRows& c : {GroupRows{1, {64, 64}},
                               {1, {3, 0}},
                               {1, {120, 9}},
                               {1, {16, 16}, 0},
                               {2, {33}},
                               {2, {1}}}) {
      SCOPED_TRACE(fmt::format("{}, groups of {}, {} rows", name_of(numerics), c.group, c.rows[0]));
      const auto by = [&](const std::shared_ptr<CommGroup>& group) {
        return exchanged(c, numerics, [&](const auto& body) { on_ranks(*group, numerics, body); });
      };
      const std::vector<Exchanged> got = by(group_), want = by(make_gpu_group(kNcclRanks));
      for (size_t r = 0; r < want.size(); ++r) {
        EXPECT_EQ(got[r].rows, want[r].rows) << "rank " << r;
        ASSERT_EQ(got[r].sums.size(), want[r].sums.size());
        EXPECT_EQ(std::memcmp(got[r].sums.data(), want[r].sums.data(), 2 * want[r].sums.size()), 0)
            << "rank " << r;
      }
    }
}

TEST_F(NcclTest, ARankThatIsGoneEndsTheExchangeOfAllOthers) {
  on_ranks([&](Comm& comm, CudaOps& ops) {
    DeviceArray<Bf16> x(512);
    const Tensor t(x.data(), DType::bf16, {1, 512});
    comm.all_reduce(t);
    ops.synchronize();
    if (comm.rank() == 1) return group_->abort("rank 1 is out of memory");
    try {
      for (;;) {  // at the latest the call after the abort
        comm.all_reduce(t);
        ops.synchronize();
      }
    } catch (const Error& e) {
      EXPECT_STREQ(e.what(), "rank 1 is out of memory");
    }
  });
}

}  // namespace
}  // namespace fathom::cuda
