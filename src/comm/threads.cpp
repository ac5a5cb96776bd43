// Ranks that are threads: each shows the others where its tensor lies, and they read it there. What
// ranks of other processes show is brought here first, by one thread of each process; all else is
// the same, and so are the results.
#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "comm/barrier.h"
#include "comm/comm.h"
#include "comm/process_link.h"
#include "numerics/bf16.h"

namespace fathom {
namespace {

constexpr int kLane = 64;  // elements summed at a time

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

// Room that grows with the largest exchange and is not cleared.
class Room {
 public:
  std::byte* of(size_t bytes) {
    if (bytes > size_) {
      memory_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      size_ = bytes;
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
  size_t size_ = 0;
};

// What every rank shows of itself in an exchange of several processes: [rows, columns].
struct Extent {
  int64_t rows = 0, columns = 0;
  size_t bytes(DType type) const { return static_cast<size_t>(rows * columns) * size_of(type); }
};

void copy_rows(std::byte* to, const Tensor& from) {
  const size_t bytes = static_cast<size_t>(from.row_size()) * size_of(from.dtype);
  const size_t stride = static_cast<size_t>(from.row_stride) * size_of(from.dtype);
  if (bytes == 0 || from.rows() == 0) return;  // then there may be no memory to copy from
  if (bytes == stride) {
    std::memcpy(to, from.data, bytes * static_cast<size_t>(from.rows()));
    return;
  }
  for (int64_t r = 0; r < from.rows(); ++r, to += bytes)
    std::memcpy(to, static_cast<const std::byte*>(from.data) + static_cast<size_t>(r) * stride,
                bytes);
}

struct Board {
  explicit Board(int ranks, ProcessLink* others = nullptr)
      : link(others),
        here(others ? ranks / others->processes() : ranks),
        first(others ? others->process() * here : 0),
        barrier(here),
        shown(static_cast<size_t>(ranks)),
        parts(static_cast<size_t>(ranks)),
        third(static_cast<size_t>(ranks)),
        part_first(static_cast<size_t>(ranks)),
        to(others ? static_cast<size_t>(others->processes()) : 0),
        from(to.size()) {}

  bool is_here(int rank) const { return first <= rank && rank < first + here; }

  // Brings what ranks of other processes show: extent_of(rank) says how much that is. The ranks of
  // this process have shown as much. Called by one of them.
  template <class ExtentOf>
  void bring(DType type, const ExtentOf& extent_of) {
    size_t own = 0, foreign = 0;
    for (int r = 0; r < static_cast<int>(shown.size()); ++r)
      (is_here(r) ? own : foreign) += extent_of(r).bytes(type);
    std::byte* out = outgoing.of(own);
    std::byte* in = incoming.of(foreign);
    for (int r = first; r < first + here; ++r) {
      copy_rows(out, shown[static_cast<size_t>(r)]);
      out += extent_of(r).bytes(type);
    }
    for (int r = 0; r < static_cast<int>(shown.size()); ++r) {
      const Extent e = extent_of(r);
      if (r % here == 0) from[static_cast<size_t>(r / here)] = {in, 0};
      if (is_here(r)) continue;
      shown[static_cast<size_t>(r)] = Tensor(in, type, {e.rows, e.columns});
      in += e.bytes(type);
      auto& piece = from[static_cast<size_t>(r / here)];
      piece = {piece.data(), piece.size() + e.bytes(type)};
    }
    std::fill(to.begin(), to.end(), std::span<const std::byte>(outgoing.of(own), own));
    link->exchange(to, from);
  }

  // Tensor i of those that a rank shows in an exchange of groups.
  std::vector<Tensor>& plane(size_t i) { return i == 0 ? shown : i == 1 ? parts : third; }

  // Groups whose first rank, or any rank, is in process `p`.
  PartRange groups_from(int p, int group) const {
    return {(int64_t{p} * here + group - 1) / group, (int64_t{p + 1} * here + group - 1) / group};
  }
  PartRange groups_on(int p, int group) const {
    return {int64_t{p} * here / group, (int64_t{p + 1} * here - 1) / group + 1};
  }

  // Brings the rows that the groups of other processes show, `like.size()` tensors of each: what
  // their first rank has. First how many rows there are.
  void bring_groups(std::span<const Tensor> like, int group) {
    rows.resize(shown.size() / static_cast<size_t>(group));
    const int own = link->process();
    const std::span<int64_t> counts(rows);
    const auto counts_of = [&](int p) {
      const PartRange g = groups_from(p, group);
      return counts.subspan(static_cast<size_t>(g.begin), static_cast<size_t>(g.size()));
    };
    const PartRange mine = groups_from(own, group);
    for (int64_t g = mine.begin; g < mine.end; ++g)
      counts[static_cast<size_t>(g)] = shown[static_cast<size_t>(g * group)].rows();
    for (int p = 0; p < link->processes(); ++p) {
      to[static_cast<size_t>(p)] = std::as_bytes(counts_of(own));
      from[static_cast<size_t>(p)] = std::as_writable_bytes(counts_of(p));
    }
    link->exchange(to, from);

    const auto bytes_of = [&](int64_t g, const Tensor& x) {
      return Extent{counts[static_cast<size_t>(g)], x.row_size()}.bytes(x.dtype);
    };
    size_t ours = 0, theirs = 0;
    for (size_t g = 0; g < counts.size(); ++g)
      for (const Tensor& x : like)
        (is_here(static_cast<int>(g) * group) ? ours : theirs) +=
            bytes_of(static_cast<int64_t>(g), x);
    std::byte* out = outgoing.of(ours);
    std::fill(to.begin(), to.end(), std::span<const std::byte>(out, ours));
    std::byte* in = incoming.of(theirs);
    for (int p = 0; p < link->processes(); ++p) {
      std::byte* const begin = in;
      const PartRange groups = groups_from(p, group);
      for (int64_t g = groups.begin; g < groups.end; ++g)
        for (size_t i = 0; i < like.size(); ++i) {
          Tensor& x = plane(i)[static_cast<size_t>(g * group)];
          const size_t bytes = bytes_of(g, like[i]);
          if (p == own) {
            copy_rows(out, x);
            out += bytes;
          } else {
            x = Tensor(in, like[i].dtype, {counts[static_cast<size_t>(g)], like[i].row_size()});
            in += bytes;
          }
        }
      from[static_cast<size_t>(p)] = {begin, static_cast<size_t>(in - begin)};
    }
    link->exchange(to, from);
  }

  // For sum_groups: brings the parts of the ranks of other processes for the rows of the groups
  // that have ranks here, and what those ranks show if they belong to such a group. `like`: a
  // tensor as any rank shows.
  void bring_parts(const Tensor& like, int group, std::span<const int64_t> offsets) {
    const auto rows_on = [&](int p) {
      const PartRange g = groups_on(p, group);
      return PartRange{offsets[static_cast<size_t>(g.begin)], offsets[static_cast<size_t>(g.end)]};
    };
    // Rows that rank r shows to process p.
    const auto own_rows = [&](int r, int p) {
      const PartRange on = groups_on(p, group);
      const int64_t g = r / group;
      if (g < on.begin || g >= on.end) return int64_t{0};
      return offsets[static_cast<size_t>(g) + 1] - offsets[static_cast<size_t>(g)];
    };
    const int own = link->process();
    const auto bytes_between = [&](int sender, int receiver) {
      int64_t count = 0;
      for (int r = sender * here; r < (sender + 1) * here; ++r)
        count += rows_on(receiver).size() + own_rows(r, receiver);
      return Extent{count, like.row_size()}.bytes(like.dtype);
    };
    size_t ours = 0, theirs = 0;
    for (int p = 0; p < link->processes(); ++p) {
      if (p == own) continue;
      ours += bytes_between(own, p);
      theirs += bytes_between(p, own);
    }
    std::byte *out = outgoing.of(ours), *in = incoming.of(theirs);
    const auto append = [&](const Tensor& x) {
      copy_rows(out, x);
      out += Extent{x.rows(), like.row_size()}.bytes(like.dtype);
    };
    const auto next = [&](int64_t count) {
      const Tensor x(in, like.dtype, {count, like.row_size()});
      in += Extent{count, like.row_size()}.bytes(like.dtype);
      return x;
    };
    for (int p = 0; p < link->processes(); ++p) {
      if (p == own) continue;
      const auto q = static_cast<size_t>(p);
      to[q] = {out, bytes_between(own, p)};
      from[q] = {in, bytes_between(p, own)};
      const PartRange wanted = rows_on(p), mine = rows_on(own);
      for (int r = first; r < first + here; ++r) {
        append(parts[static_cast<size_t>(r)].slice(wanted.begin, wanted.end));
        if (own_rows(r, p) > 0) append(shown[static_cast<size_t>(r)]);
      }
      for (int r = p * here; r < (p + 1) * here; ++r) {
        parts[static_cast<size_t>(r)] = next(mine.size());
        part_first[static_cast<size_t>(r)] = mine.begin;
        if (const int64_t n = own_rows(r, own); n > 0) shown[static_cast<size_t>(r)] = next(n);
      }
    }
    link->exchange(to, from);
  }

  ProcessLink* const link;                     // to other processes; null without any
  const int here, first;                       // ranks of this process
  Barrier barrier;                             // of those
  std::vector<Tensor> shown, parts, third;     // by rank
  std::vector<int64_t> part_first;             // by rank: the first row of `parts` that is there
  std::vector<std::span<const std::byte>> to;  // by process
  std::vector<std::span<std::byte>> from;      // by process
  std::vector<int64_t> rows;                   // by group
  Room outgoing, incoming;
};

class ThreadsComm final : public Comm {
 public:
  ThreadsComm(std::shared_ptr<Board> board, int rank) : board_(std::move(board)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(board_->shown.size()); }

  // Each rank sums its part of the elements and writes it for all of its process.
  void all_reduce(Tensor x) override {
    show_alike(x, x);
    bring(x.dtype, [&](int) { return Extent{x.rows(), x.row_size()}; });
    if (x.dtype == DType::f32)
      reduce<float>(x);
    else
      reduce<Bf16>(x);
    board_->barrier.wait();
  }

  void all_gather_columns(Tensor x) override {
    const auto columns = [&](int r) { return part_of(x.row_size(), r, size()); };
    show_alike(x, x.columns(columns(rank_).begin, columns(rank_).end));
    bring(x.dtype, [&](int r) { return Extent{x.rows(), columns(r).size()}; });
    for (int other = 0; other < size(); ++other) {
      if (other == rank_) continue;
      const Tensor place = x.columns(columns(other).begin, columns(other).end);
      for (int64_t r = 0; r < x.rows(); ++r) copy_row(place, r, other, r);
    }
    board_->barrier.wait();
  }

  void all_gather_rows(Tensor x, int block) override {
    const int64_t round = int64_t{block} * size();
    // Rows of a rank among the first n, which it shows one after the other.
    const auto rows_of = [&](int r, int64_t n) {
      return n / round * block + std::clamp<int64_t>(n % round - int64_t{r} * block, 0, block);
    };
    show_alike(x, board_->link ? packed_rows(x, block, rows_of(rank_, x.rows())) : x);
    bring(x.dtype, [&](int r) { return Extent{rows_of(r, x.rows()), x.row_size()}; });
    for (int64_t r = 0; r < x.rows(); ++r) {
      const int owner = static_cast<int>(r / block % size());
      if (owner != rank_) copy_row(x, r, owner, board_->link ? rows_of(owner, r) : r);
    }
    board_->barrier.wait();
  }

  std::span<const int64_t> gather_groups(Tensor all, Tensor own, int group) override {
    return gather({&all, 1}, {&own, 1}, group);
  }

  std::span<const int64_t> gather_expert_rows(const ExpertRows& all, const ExpertRows& own,
                                              const ExpertSpread& spread) override {
    const Tensor to[] = {all.hidden, all.ids, all.weights};
    const Tensor from[] = {own.hidden, own.ids, own.weights};
    return gather(to, from, spread.group);
  }

  void sum_groups(Tensor own, Tensor parts, int group) override {
    board_->parts[static_cast<size_t>(rank_)] = parts;
    show(own);
    if (!board_->link) {
      find_offsets(group);
    } else {
      const auto g = static_cast<size_t>(rank_ / group);
      FATHOM_CHECK(g + 1 < offsets_.size() && offsets_[g + 1] - offsets_[g] == own.rows(),
                   "a sum of {} rows that were not gathered before", own.rows());
      if (rank_ == board_->first) board_->bring_parts(own, group, offsets_);
      board_->barrier.wait();
    }
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

  // Shows `piece` of `x`, which has the same shape on every rank.
  void show_alike(const Tensor& x, const Tensor& piece) {
    board_->parts[static_cast<size_t>(rank_)] = x;
    show(piece);
    const Tensor& first = board_->parts[static_cast<size_t>(board_->first)];
    FATHOM_CHECK(
        x.rows() == first.rows() && x.row_size() == first.row_size() && x.dtype == first.dtype,
        "rank {} exchanges [{}, {}] and rank {} [{}, {}]", rank_, x.rows(), x.row_size(),
        board_->first, first.rows(), first.row_size());
  }

  // Between show() and a read of what ranks of other processes show.
  template <class ExtentOf>
  void bring(DType type, const ExtentOf& extent_of) {
    if (!board_->link) return;
    if (rank_ == board_->first) board_->bring(type, extent_of);
    board_->barrier.wait();
  }

  // The rows that are this rank's, one after the other.
  Tensor packed_rows(const Tensor& x, int block, int64_t count) {
    const size_t bytes = static_cast<size_t>(x.row_size()) * size_of(x.dtype);
    std::byte* to = packed_.of(static_cast<size_t>(count) * bytes);
    const Tensor packed(to, x.dtype, {count, x.row_size()});
    const auto first = static_cast<int64_t>(rank_) * block,
               stride = static_cast<int64_t>(size()) * block;
    for (int64_t r = first; r < x.rows(); r += stride) {
      const Tensor rows = x.slice(r, std::min(x.rows(), r + block));
      copy_rows(to, rows);
      to += static_cast<size_t>(rows.rows()) * bytes;
    }
    return packed;
  }

  template <class T>
  void reduce(const Tensor& x) {
    std::vector<T*>& rows = places<T>();
    rows.resize(board_->shown.size());
    const std::span<T*> own = std::span(rows).subspan(static_cast<size_t>(board_->first),
                                                      static_cast<size_t>(board_->here));
    // Whole cache lines a rank, so that none is written by two.
    const int64_t width = x.row_size();
    const PartRange lanes =
        part_of((width * x.rows() + kLane - 1) / kLane, rank_ - board_->first, board_->here);
    for (int64_t at = lanes.begin * kLane, end = std::min(width * x.rows(), lanes.end * kLane);
         at < end;) {
      const int64_t r = at / width, from = at % width;
      const int64_t to = std::min(width, from + end - at);
      for (size_t i = 0; i < rows.size(); ++i) rows[i] = board_->shown[i].row<T>(r);
      sum_elements<T>(rows, own, from, to);
      at += to - from;
    }
  }

  std::span<const int64_t> gather(std::span<const Tensor> all, std::span<const Tensor> own,
                                  int group) {
    for (size_t i = 0; i < own.size(); ++i) board_->plane(i)[static_cast<size_t>(rank_)] = own[i];
    board_->barrier.wait();
    if (board_->link) {
      if (rank_ == board_->first) board_->bring_groups(own, group);
      board_->barrier.wait();
    }
    find_offsets(group);
    FATHOM_CHECK(offsets_.back() <= all[0].rows(), "{} rows of all groups, room for {}",
                 offsets_.back(), all[0].rows());
    for (size_t i = 0; i < own.size(); ++i)
      for (size_t g = 0; g + 1 < offsets_.size(); ++g) {
        const Tensor& from = board_->plane(i)[g * static_cast<size_t>(group)];
        for (int64_t r = 0; r < from.rows(); ++r) copy_row(all[i], offsets_[g] + r, from, r);
      }
    board_->barrier.wait();
    return offsets_;
  }

  // Where the rows of each group begin among those of all.
  void find_offsets(int group) {
    offsets_.assign(1, 0);
    for (int r = 0; r < size(); r += group)
      offsets_.push_back(offsets_.back() + board_->shown[static_cast<size_t>(r)].rows());
  }

  // The ranks of a group that are in this process share its rows out.
  template <class T>
  void sum_own(const Tensor& own, int group) {
    const int first = rank_ / group * group;
    const int first_here = std::max(first, board_->first);
    const int here = std::min(first + group, board_->first + board_->here) - first_here;
    const auto ranks = static_cast<size_t>(size()), of_group = static_cast<size_t>(group);
    const int64_t offset = offsets_[static_cast<size_t>(rank_ / group)];
    std::vector<T*>& rows = places<T>();
    rows.resize(of_group + ranks);
    const std::span<T*> results =
        std::span(rows).subspan(static_cast<size_t>(first_here - first), static_cast<size_t>(here));
    for (int64_t r = rank_ - first_here; r < own.rows(); r += here) {
      for (size_t i = 0; i < of_group; ++i)
        rows[i] = board_->shown[static_cast<size_t>(first) + i].row<T>(r);
      for (size_t i = 0; i < ranks; ++i)
        rows[of_group + i] = board_->parts[i].row<T>(offset + r - board_->part_first[i]);
      sum_elements<T>(rows, results, 0, own.row_size());
    }
  }

  template <class T>
  std::vector<T*>& places() {
    if constexpr (std::is_same_v<T, float>)
      return floats_;
    else
      return halves_;
  }

  // Row `r` of `to` becomes row `from_row` of what rank `other` shows.
  void copy_row(const Tensor& to, int64_t r, int other, int64_t from_row) {
    copy_row(to, r, board_->shown[static_cast<size_t>(other)], from_row);
  }
  static void copy_row(const Tensor& to, int64_t r, const Tensor& from, int64_t from_row) {
    if (to.row_size() == 0) return;  // as in copy_rows
    const size_t size = size_of(to.dtype);
    std::memcpy(static_cast<std::byte*>(to.data) + static_cast<size_t>(r * to.row_stride) * size,
                static_cast<const std::byte*>(from.data) +
                    static_cast<size_t>(from_row * from.row_stride) * size,
                static_cast<size_t>(to.row_size()) * size);
  }

  const std::shared_ptr<Board> board_;
  const int rank_;
  std::vector<float*> floats_;
  std::vector<Bf16*> halves_;
  std::vector<int64_t> offsets_;
  Room packed_;
};

class ThreadGroup final : public CommGroup {
 public:
  explicit ThreadGroup(int ranks, ProcessLink* link = nullptr)
      : board_(std::make_shared<Board>(ranks, link)) {}
  std::unique_ptr<Comm> join(int rank, Ops*) override {
    FATHOM_CHECK(board_->is_here(rank), "rank {} belongs to another process", rank);
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

std::shared_ptr<CommGroup> make_process_group(ProcessLink& link, int ranks) {
  FATHOM_CHECK(ranks % link.processes() == 0, "{} ranks on {} processes", ranks, link.processes());
  return std::make_shared<ThreadGroup>(ranks, &link);
}

}  // namespace fathom
