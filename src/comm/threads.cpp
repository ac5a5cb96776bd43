// Ranks that are threads: each shows the others where its tensor lies, and they read it there.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "comm/comm.h"
#include "numerics/bf16.h"

namespace fathom {
namespace {

// Before a waiting rank gives its processor away: longer than ranks are usually apart.
constexpr int kSpins = 4000;
constexpr int kLane = 64;  // elements summed at a time

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Where all ranks meet. wait() returns when every rank has called it.
class Barrier {
 public:
  explicit Barrier(int ranks) : ranks_(ranks), spins_(ranks <= usable_processors() ? kSpins : 0) {}

  void wait() {
    const uint64_t round = round_.load(std::memory_order_acquire);
    check();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == ranks_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.fetch_add(1, std::memory_order_release);
      round_.notify_all();
      return;
    }
    for (int spin = 0; round_.load(std::memory_order_acquire) == round; ++spin) {
      if (spin < spins_)
        pause_briefly();
      else
        round_.wait(round, std::memory_order_acquire);
    }
    check();
  }

  void abort(const std::string& why) {
    {
      std::lock_guard lock(mutex_);
      if (aborted_) return;
      why_ = why;
      aborted_ = true;
    }
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

 private:
  void check() {
    if (!aborted_.load(std::memory_order_acquire)) return;
    std::lock_guard lock(mutex_);
    throw ExchangeEnded(why_);
  }

  const int ranks_, spins_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint64_t> round_{0};
  std::atomic<bool> aborted_{false};
  std::mutex mutex_;
  std::string why_;
};

template <class T>
float widened(T v) {
  if constexpr (std::is_same_v<T, float>)
    return v;
  else
    return to_float(v);
}

// Elements [begin, end) of `to` become the sum of those of `from`, which may be the same.
template <class T>
void sum_elements(std::span<T* const> from, std::span<T* const> to, int64_t begin, int64_t end) {
  float sum[kLane];
  for (int64_t at = begin; at < end; at += kLane) {
    const int n = static_cast<int>(std::min<int64_t>(kLane, end - at));
    for (int i = 0; i < n; ++i) sum[i] = widened(from[0][at + i]);
    for (size_t r = 1; r < from.size(); ++r)
      for (int i = 0; i < n; ++i) sum[i] += widened(from[r][at + i]);
    for (T* row : to)
      for (int i = 0; i < n; ++i) {
        if constexpr (std::is_same_v<T, float>)
          row[at + i] = sum[i];
        else
          row[at + i] = to_bf16(sum[i]);
      }
  }
}

struct Board {
  explicit Board(int ranks)
      : barrier(ranks), shown(static_cast<size_t>(ranks)), parts(static_cast<size_t>(ranks)) {}
  Barrier barrier;
  std::vector<Tensor> shown, parts;  // by rank
};

class ThreadsComm final : public Comm {
 public:
  ThreadsComm(std::shared_ptr<Board> board, int rank) : board_(std::move(board)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(board_->shown.size()); }

  // Each rank sums its part of the elements and writes it for all.
  void all_reduce(Tensor x) override {
    show_alike(x);
    if (x.dtype == DType::f32)
      reduce<float>(x);
    else
      reduce<Bf16>(x);
    board_->barrier.wait();
  }

  void all_gather_columns(Tensor x) override {
    show_alike(x);
    for (int other = 0; other < size(); ++other) {
      if (other == rank_) continue;
      const PartRange c = part_of(x.row_size(), other, size());
      for (int64_t r = 0; r < x.rows(); ++r) copy(other, x, r, c.begin, c.end);
    }
    board_->barrier.wait();
  }

  void all_gather_rows(Tensor x, int block) override {
    show_alike(x);
    for (int64_t r = 0; r < x.rows(); ++r)
      if (const int owner = static_cast<int>(r / block % size()); owner != rank_)
        copy(owner, x, r, 0, x.row_size());
    board_->barrier.wait();
  }

  std::span<const int64_t> gather_groups(Tensor all, Tensor own, int group) override {
    show(own);
    find_offsets(group);
    FATHOM_CHECK(offsets_.back() <= all.rows(), "{} rows of all groups, room for {}",
                 offsets_.back(), all.rows());
    const int64_t size = static_cast<int64_t>(size_of(all.dtype));
    for (size_t g = 0; g + 1 < offsets_.size(); ++g) {
      const Tensor& from = board_->shown[g * static_cast<size_t>(group)];
      for (int64_t r = 0; r < from.rows(); ++r)
        std::memcpy(static_cast<char*>(all.data) + (offsets_[g] + r) * all.row_stride * size,
                    static_cast<const char*>(from.data) + r * from.row_stride * size,
                    static_cast<size_t>(all.row_size() * size));
    }
    board_->barrier.wait();
    return offsets_;
  }

  void sum_groups(Tensor own, Tensor parts, int group) override {
    board_->parts[static_cast<size_t>(rank_)] = parts;
    show(own);
    find_offsets(group);
    if (own.dtype == DType::f32)
      sum_own<float>(own, group);
    else
      sum_own<Bf16>(own, group);
    board_->barrier.wait();
  }

 private:
  void show(const Tensor& x) {
    board_->shown[static_cast<size_t>(rank_)] = x;
    board_->barrier.wait();
  }

  void show_alike(const Tensor& x) {
    show(x);
    const Tensor& first = board_->shown[0];
    FATHOM_CHECK(
        x.rows() == first.rows() && x.row_size() == first.row_size() && x.dtype == first.dtype,
        "rank {} exchanges [{}, {}] and rank 0 [{}, {}]", rank_, x.rows(), x.row_size(),
        first.rows(), first.row_size());
  }

  template <class T>
  void reduce(const Tensor& x) {
    std::vector<T*>& rows = places<T>();
    rows.resize(board_->shown.size());
    // Whole cache lines a rank, so that none is written by two.
    const int64_t width = x.row_size();
    const PartRange lanes = part_of((width * x.rows() + kLane - 1) / kLane, rank_, size());
    for (int64_t at = lanes.begin * kLane, end = std::min(width * x.rows(), lanes.end * kLane);
         at < end;) {
      const int64_t r = at / width, from = at % width;
      const int64_t to = std::min(width, from + end - at);
      for (size_t i = 0; i < rows.size(); ++i) rows[i] = board_->shown[i].row<T>(r);
      sum_elements<T>(rows, rows, from, to);
      at += to - from;
    }
  }

  // Where the rows of each group begin among those of all.
  void find_offsets(int group) {
    offsets_.assign(1, 0);
    for (int r = 0; r < size(); r += group)
      offsets_.push_back(offsets_.back() + board_->shown[static_cast<size_t>(r)].rows());
  }

  // The ranks of a group share its rows out.
  template <class T>
  void sum_own(const Tensor& own, int group) {
    const int first = rank_ / group * group;
    const auto ranks = static_cast<size_t>(size()), here = static_cast<size_t>(group);
    const int64_t offset = offsets_[static_cast<size_t>(rank_ / group)];
    std::vector<T*>& rows = places<T>();
    rows.resize(here + ranks);
    for (int64_t r = rank_ - first; r < own.rows(); r += group) {
      for (size_t i = 0; i < here; ++i)
        rows[i] = board_->shown[static_cast<size_t>(first) + i].row<T>(r);
      for (size_t i = 0; i < ranks; ++i) rows[here + i] = board_->parts[i].row<T>(offset + r);
      sum_elements<T>(rows, std::span(rows).first(here), 0, own.row_size());
    }
  }

  template <class T>
  std::vector<T*>& places() {
    if constexpr (std::is_same_v<T, float>)
      return floats_;
    else
      return halves_;
  }

  // Elements [begin, end) of row r, from where rank `other` has them.
  void copy(int other, const Tensor& x, int64_t r, int64_t begin, int64_t end) {
    const int64_t size = static_cast<int64_t>(size_of(x.dtype));
    auto at = [&](const Tensor& t) {
      return static_cast<char*>(t.data) + (r * t.row_stride + begin) * size;
    };
    std::memcpy(at(x), at(board_->shown[static_cast<size_t>(other)]),
                static_cast<size_t>((end - begin) * size));
  }

  const std::shared_ptr<Board> board_;
  const int rank_;
  std::vector<float*> floats_;
  std::vector<Bf16*> halves_;
  std::vector<int64_t> offsets_;
};

class ThreadGroup final : public CommGroup {
 public:
  explicit ThreadGroup(int ranks) : board_(std::make_shared<Board>(ranks)) {}
  std::unique_ptr<Comm> join(int rank, Ops*) override {
    return std::make_unique<ThreadsComm>(board_, rank);
  }
  void abort(const std::string& why) override { board_->barrier.abort(why); }

 private:
  std::shared_ptr<Board> board_;
};

}  // namespace

std::shared_ptr<CommGroup> make_thread_group(int ranks) {
  return std::make_shared<ThreadGroup>(ranks);
}

}  // namespace fathom
