// Ranks that are threads: sums of equal bits in rank order, gathers of uneven parts, and an end for
// everybody when one rank is gone.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/comm.h"
#include "numerics/bf16.h"

namespace fathom {
namespace {

// Runs body(comm) on a thread a rank.
void on_ranks(CommGroup& group, int ranks, const std::function<void(Comm&)>& body) {
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      const std::unique_ptr<Comm> comm = group.join(r, nullptr);
      body(*comm);
    });
  for (std::thread& t : threads) t.join();
}

// A matrix of [rows, width] in memory `stride` wide, whose other bytes are watched.
struct Matrix {
  Matrix(DType dtype, int64_t rows, int64_t width, int64_t stride)
      : bytes(static_cast<size_t>(rows * stride) * size_of(dtype), std::byte{0x5a}),
        tensor(Tensor(bytes.data(), dtype, {rows, stride}).columns(0, width)) {}
  std::vector<std::byte> bytes;
  Tensor tensor;
};

float value_at(const Tensor& t, int64_t r, int64_t c) {
  return t.dtype == DType::f32 ? t.row<float>(r)[c] : to_float(t.row<Bf16>(r)[c]);
}

void set(const Tensor& t, int64_t r, int64_t c, float v) {
  if (t.dtype == DType::f32)
    t.row<float>(r)[c] = v;
  else
    t.row<Bf16>(r)[c] = to_bf16(v);
}

void expect_sums(int ranks, DType dtype, int64_t rows, int64_t width, int64_t stride) {
  SCOPED_TRACE(fmt::format("{} ranks, [{}, {}] of {}", ranks, rows, width, name_of(dtype)));
  std::vector<Matrix> parts;
  std::mt19937 random(static_cast<unsigned>(rows * 100 + width));
  std::normal_distribution<float> normal;
  for (int r = 0; r < ranks; ++r) {
    parts.emplace_back(dtype, rows, width, stride);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t c = 0; c < width; ++c)  // magnitudes far apart: the order of a sum shows
        set(parts.back().tensor, i, c, normal(random) * std::exp2(static_cast<float>(c % 40)));
  }
  std::vector<float> want;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t c = 0; c < width; ++c) {
      float sum = value_at(parts[0].tensor, i, c);
      for (int r = 1; r < ranks; ++r) sum += value_at(parts[static_cast<size_t>(r)].tensor, i, c);
      want.push_back(dtype == DType::f32 ? sum : round_bf16(sum));
    }
  on_ranks(*make_thread_group(ranks), ranks,
           [&](Comm& comm) { comm.all_reduce(parts[static_cast<size_t>(comm.rank())].tensor); });
  for (const Matrix& m : parts) {
    size_t at = 0;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t c = 0; c < width; ++c) ASSERT_EQ(value_at(m.tensor, i, c), want[at++]);
    // What lies between the rows is not the group's.
    for (int64_t i = 0; i < rows; ++i)
      for (size_t b = static_cast<size_t>(i * stride + width) * size_of(dtype);
           b < static_cast<size_t>((i + 1) * stride) * size_of(dtype); ++b)
        ASSERT_EQ(m.bytes[b], std::byte{0x5a});
  }
}

TEST(ThreadsComm, SumsInRankOrderToTheSameBits) {
  for (int ranks : {2, 3, 8})
    for (DType dtype : {DType::f32, DType::bf16}) {
      expect_sums(ranks, dtype, 1, 1, 1);  // less than an element a rank
      expect_sums(ranks, dtype, 1, 7168, 7168);
      expect_sums(ranks, dtype, 5, 130, 137);
      expect_sums(ranks, dtype, 67, 64, 64);
    }
}

TEST(ThreadsComm, GathersUnevenColumnsAndBlocksOfRows) {
  constexpr int kRanks = 3, kRows = 23, kWidth = 10, kBlock = 4;
  std::vector<std::vector<int32_t>> rows(kRanks), columns(kRanks);
  on_ranks(*make_thread_group(kRanks), kRanks, [&](Comm& comm) {
    const auto me = static_cast<size_t>(comm.rank());
    rows[me].assign(kRows * kWidth, -1);
    columns[me] = rows[me];
    const PartRange own = part_of(kWidth, comm.rank(), kRanks);
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kWidth; ++c) {
        if (r / kBlock % kRanks == comm.rank()) rows[me][static_cast<size_t>(r * kWidth + c)] = r;
        if (own.begin <= c && c < own.end) columns[me][static_cast<size_t>(r * kWidth + c)] = c;
      }
    // Twice: no call may disturb the one before.
    comm.all_gather_rows(Tensor(rows[me].data(), DType::i32, {kRows, kWidth}), kBlock);
    comm.all_gather_columns(Tensor(columns[me].data(), DType::i32, {kRows, kWidth}));
  });
  for (int rank = 0; rank < kRanks; ++rank)
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kWidth; ++c) {
        EXPECT_EQ(rows[static_cast<size_t>(rank)][static_cast<size_t>(r * kWidth + c)], r);
        EXPECT_EQ(columns[static_cast<size_t>(rank)][static_cast<size_t>(r * kWidth + c)], c);
      }
}

TEST(ThreadsComm, ARankThatIsGoneEndsTheExchangeOfAllOthers) {
  constexpr int kRanks = 4;
  const auto group = make_thread_group(kRanks);
  std::vector<std::string> heard(kRanks);
  on_ranks(*group, kRanks, [&](Comm& comm) {
    float x = 1;
    const Tensor t(&x, DType::f32, {1, 1});
    if (comm.rank() == 2) return group->abort("rank 2 is out of memory");
    for (int call = 0; call < 2; ++call) {  // one that perhaps waits, and one that comes later
      try {
        comm.all_reduce(t);
        ADD_FAILURE() << "a sum without rank 2";
      } catch (const Error& e) {
        heard[static_cast<size_t>(comm.rank())] = e.what();
      }
    }
  });
  for (int r : {0, 1, 3}) EXPECT_EQ(heard[static_cast<size_t>(r)], "rank 2 is out of memory");
  group->abort("later");
  const auto comm = group->join(0, nullptr);
  float x = 1;
  EXPECT_THROW(comm->all_reduce(Tensor(&x, DType::f32, {1, 1})), Error);
}

}  // namespace
}  // namespace fathom
