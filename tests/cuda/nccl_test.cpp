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
    std::vector<std::thread> threads;
    for (int r = 0; r < kNcclRanks; ++r)
      threads.emplace_back([&, r] {
        try {
          FATHOM_CUDA(cudaSetDevice(r));
          const std::unique_ptr<CudaOps> ops = make_cuda_ops(Numerics::bf16, workload(), {});
          const std::unique_ptr<Comm> comm = group_->join(r, ops.get());
          body(*comm, *ops);
          ops->synchronize();
        } catch (const std::exception& e) {
          ADD_FAILURE() << "rank " << r << ": " << e.what();
          group_->abort(e.what());
        }
      });
    for (std::thread& t : threads) t.join();
  }

  static Workload workload() {
    Workload w;
    w.step_tokens = 16;
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
