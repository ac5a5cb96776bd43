// Ranks on GPUs of several processes as a CommGroup, by NCCL.
#if defined(FATHOM_WITH_NCCL)
#include <dlfcn.h>
#include <nccl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/barrier.h"
#include "comm/comm.h"
#include "comm/group_steps.h"
#include "comm/process_link.h"
#include "kernels/cuda/comm/expert_rows.h"
#include "kernels/cuda/comm/rank_sum.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/nccl.h"
#include "tensor/buffer.h"

namespace fathom {
namespace {

// What a rank sends at once, and room for what all ranks send: an exchange of more goes in pieces.
constexpr int64_t kRoom = int64_t{64} << 20;
constexpr int64_t kOfNccl = int64_t{512} << 20;  // for its own buffers: assumed

// The functions of libnccl.so.2 that are used.
struct Nccl {
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRank) init_rank = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;

  static const Nccl& get() {
    static const Nccl nccl = load();
    return nccl;
  }

 private:
  static Nccl load() {
    void* library = nullptr;
    // Where the loader looks, then where the toolkit of the build had it.
    for (const char* name : {"libnccl.so.2", FATHOM_NCCL_LIBRARY})
      if (!library) library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) fail("ranks on GPUs of several processes exchange by NCCL: {}", ::dlerror());
    Nccl n;
    const auto find = [&](auto& function, const char* name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      if (!function) fail("libnccl.so.2 has no {}", name);
    };
    find(n.get_unique_id, "ncclGetUniqueId");
    find(n.init_rank, "ncclCommInitRank");
    find(n.abort, "ncclCommAbort");
    find(n.all_gather, "ncclAllGather");
    find(n.send, "ncclSend");
    find(n.receive, "ncclRecv");
    find(n.group_start, "ncclGroupStart");
    find(n.group_end, "ncclGroupEnd");
    find(n.error_string, "ncclGetErrorString");
    return n;
  }
};

// What the ranks of this process share.
class NcclRanks {
 public:
  NcclRanks(ProcessLink* link, int ranks)
      : link_(link),
        ranks_(ranks),
        here_(link ? ranks / link->processes() : ranks),
        first_(link ? link->process() * here_ : 0),
        meeting_(here_),
        steps_{std::vector<GroupStep>(static_cast<size_t>(ranks)),
               std::vector<GroupStep>(static_cast<size_t>(ranks))} {
    if (!link_) return;
    // A rank waits on its GPU, where nobody sees that another process is lost.
    watch_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        if (const std::string why = link_->failure(); !why.empty()) return abort(why);
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    });
  }
  // Waits for nothing: an exchange that is still on the GPU waits for a rank that has gone.
  ~NcclRanks() {
    watch_ = {};
    abort("the group of ranks has ended");
  }

  int ranks() const { return ranks_; }
  bool is_here(int rank) const { return first_ <= rank && rank < first_ + here_; }

  // On the rank's thread; all ranks come here at the same time.
  ncclComm_t join(int rank) {
    const ncclUniqueId id = shared_id();
    ncclComm_t comm = nullptr;
    require(Nccl::get().init_rank(&comm, ranks_, id, rank));
    std::lock_guard lock(mutex_);
    comms_.push_back(comm);
    return comm;
  }

  void abort(const std::string& why) {
    std::lock_guard lock(mutex_);
    if (stopped_) return;
    why_ = why;
    stopped_ = true;
    meeting_.abort(why);
    for (ncclComm_t comm : comms_) Nccl::get().abort(comm);
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
    if (!link_) return said;
    if (rank == first_) {
      const auto of_process = [&](int p) {
        return std::span(said).subspan(static_cast<size_t>(p * here_), static_cast<size_t>(here_));
      };
      const std::vector<std::span<const std::byte>> to(static_cast<size_t>(link_->processes()),
                                                       std::as_bytes(of_process(link_->process())));
      std::vector<std::span<std::byte>> from;
      for (int p = 0; p < link_->processes(); ++p)
        from.push_back(std::as_writable_bytes(of_process(p)));
      link_->exchange(to, from);
    }
    meeting_.wait();
    return said;
  }

  void require(ncclResult_t result) {
    if (result == ncclSuccess) return;
    check();
    fail("NCCL: {}", Nccl::get().error_string(result));
  }

 private:
  // The id under which the ranks find each other. The first rank of a process that asks gets a new
  // one, from process 0, for all ranks of its process: NCCL takes an id for one join of every rank.
  ncclUniqueId shared_id() {
    std::lock_guard lock(id_mutex_);
    if (ids_left_ > 0) {
      --ids_left_;
      return id_;
    }
    if (!link_ || link_->process() == 0) {
      require(Nccl::get().get_unique_id(&id_));
      for (int p = 1; link_ && p < link_->processes(); ++p)
        link_->send(p, std::as_bytes(std::span(&id_, 1)));
    } else {
      std::vector<std::byte> message;
      link_->receive(0, message);
      FATHOM_CHECK(message.size() == sizeof(id_), "an id of {} bytes", message.size());
      std::memcpy(&id_, message.data(), sizeof(id_));
    }
    ids_left_ = here_ - 1;
    return id_;
  }

  ProcessLink* const link_;
  const int ranks_, here_, first_;
  std::mutex id_mutex_;  // guards
  int ids_left_ = 0;     // ranks of this process that have yet to take `id_`
  ncclUniqueId id_{};
  std::mutex mutex_;  // guards
  std::vector<ncclComm_t> comms_;
  std::string why_;
  Barrier meeting_;                              // of the ranks here
  std::array<std::vector<GroupStep>, 2> steps_;  // by rank
  std::atomic<bool> stopped_{false};
  std::jthread watch_;
};

// Rows of bytes, each `pitch` bytes behind the one before.
struct ByteRows {
  std::byte* data = nullptr;
  int64_t pitch = 0, bytes = 0, rows = 0;
};

void copy(const ByteRows& to, const ByteRows& from, cudaStream_t stream) {
  if (from.rows == 0 || from.bytes == 0) return;
  FATHOM_CUDA(cudaMemcpy2DAsync(to.data, static_cast<size_t>(to.pitch), from.data,
                                static_cast<size_t>(from.pitch), static_cast<size_t>(from.bytes),
                                static_cast<size_t>(from.rows), cudaMemcpyDeviceToDevice, stream));
}

class NcclComm final : public Comm {
 public:
  NcclComm(std::shared_ptr<NcclRanks> ranks, int rank, CudaOps& ops)
      : ranks_(std::move(ranks)),
        rank_(rank),
        ops_(ops),
        mine_(static_cast<size_t>(kRoom), MemoryKind::device),
        all_(static_cast<size_t>(kRoom), MemoryKind::device),
        comm_(ranks_->join(rank)) {}

  int rank() const override { return rank_; }
  int size() const override { return ranks_->ranks(); }
  void check() override { ranks_->check(); }

  void all_reduce(Tensor x) override {
    FATHOM_CHECK(x.dtype == DType::bf16, "a sum of {} between GPUs", name_of(x.dtype));
    ranks_->check();
    ops_.exchange(x, [&](const cuda::Launch& launch) {
      const int64_t at_once = rows_at_once(x.row_size() * int64_t{sizeof(Bf16)});
      for (int64_t r = 0; r < x.rows(); r += at_once)
        sum(x.slice(r, std::min(x.rows(), r + at_once)), launch);
    });
  }

  // Pieces of uneven width travel in places of the widest.
  void all_gather_columns(Tensor x) override {
    ranks_->check();
    const int64_t size = static_cast<int64_t>(size_of(x.dtype));
    const int64_t widest = (x.row_size() + this->size() - 1) / this->size() * size;
    ops_.exchange(x, [&](const cuda::Launch& launch) {
      const int64_t at_once = rows_at_once(widest);
      for (int64_t r = 0; r < x.rows(); r += at_once) {
        const Tensor rows = x.slice(r, std::min(x.rows(), r + at_once));
        const auto piece = [&](int rank) {
          const PartRange c = part_of(x.row_size(), rank, this->size());
          return ByteRows{static_cast<std::byte*>(rows.data) + c.begin * size, x.row_stride * size,
                          c.size() * size, rows.rows()};
        };
        gather(piece, rows.rows(), widest, launch.stream);
      }
    });
  }

  // A rank's blocks of a number of rounds are as many rows of a block's bytes.
  void all_gather_rows(Tensor x, int block) override {
    FATHOM_CHECK(x.row_stride == x.row_size(), "gathered rows of {} lie {} apart", x.row_size(),
                 x.row_stride);
    ranks_->check();
    const int64_t row = x.row_size() * static_cast<int64_t>(size_of(x.dtype));
    const int64_t bytes = row * block, round = int64_t{block} * size();
    ops_.exchange(x, [&](const cuda::Launch& launch) {
      const int64_t whole = x.rows() / round;
      for (int64_t r = 0, step = rows_at_once(bytes); r < whole; r += step) {
        const int64_t rounds = std::min(step, whole - r);
        const auto piece = [&](int rank) {
          return ByteRows{static_cast<std::byte*>(x.data) + r * round * row + rank * bytes,
                          round * row, bytes, rounds};
        };
        gather(piece, rounds, bytes, launch.stream);
      }
      // The last round: blocks that may be shorter, or empty.
      const auto piece = [&](int rank) {
        const int64_t begin = std::min(x.rows(), whole * round + int64_t{rank} * block);
        const int64_t end = std::min(x.rows(), begin + block);
        return ByteRows{static_cast<std::byte*>(x.data) + begin * row, bytes, (end - begin) * row,
                        begin < end ? 1 : 0};
      };
      if (whole * round < x.rows()) gather(piece, 1, bytes, launch.stream);
    });
  }

  GroupStep agree(const GroupStep& own, int group) override {
    return agree_on(ranks_->meet(rank_, meetings_++, own), own, group, offsets_);
  }

  // Every rank gets all rows: which of them it needs is known on the GPUs alone.
  std::span<const int64_t> gather_expert_rows(const ExpertRows& all, const ExpertRows& own,
                                              const ExpertSpread& spread) override {
    ranks_->check();
    const ExpertPlanes planes = ops_.place_expert_rows(rank_, size(), all, own, spread, offsets_);
    auto* stream = static_cast<cudaStream_t>(ops_.stream());
    together([&] {
      for (int r = 0; r < size(); ++r) {
        if (r == rank_) continue;
        const PartRange mine = brought(rank_, spread.group), theirs = brought(r, spread.group);
        for (const RowPlane& plane : planes) {
          send(r, plane.data + mine.begin * plane.bytes, mine.size() * plane.bytes, stream);
          receive(r, plane.data + theirs.begin * plane.bytes, theirs.size() * plane.bytes, stream);
        }
      }
    });
    return offsets_;
  }

  // Each rank gets all parts of its share of its group's rows, in pieces, and the group's ranks
  // show each other the sums. A group without work takes what it is sent, and leaves it.
  void sum_expert_rows(Tensor sum, Tensor parts, Tensor ids, const ExpertSpread& spread) override {
    ranks_->check();
    const int group = spread.group, leader = rank_ / group * group;
    const int64_t n = parts.row_size(), row = n * int64_t{sizeof(Bf16)};
    const PartRange mine = brought(rank_, group);
    const int64_t begin = mine.begin - offsets_[static_cast<size_t>(rank_ / group)];
    const bool idle = sum.rows() == 0;
    int64_t most = 0;
    for (int r = 0; r < size(); ++r) most = std::max(most, brought(r, group).size());
    const int64_t at_once = kRoom / (row * (size() + group));
    if (at_once == 0) fail("rows of {} bytes of {} ranks do not fit {}", row, size(), kRoom);
    auto* const own = static_cast<Bf16*>(sum.data);
    const auto* const part = static_cast<const Bf16*>(parts.data);
    ops_.exchange(sum, [&](const cuda::Launch& launch) {
      for (int64_t at = 0; at < most; at += at_once) {
        // Rows of this piece of a rank's share.
        const auto piece = [&](int r) {
          const PartRange rows = brought(r, group);
          return PartRange{std::min(rows.end, rows.begin + at),
                           std::min(rows.end, rows.begin + at + at_once)};
        };
        const int64_t rows = piece(rank_).size();
        together([&] {
          for (int r = 0; r < size(); ++r) {
            if (r == rank_) continue;
            send(r, part + piece(r).begin * n, piece(r).size() * row, launch.stream);
            receive(r, all_.data() + r * at_once * row, rows * row, launch.stream);
            if (r / group != rank_ / group || idle) continue;
            const int64_t first = piece(r).begin - offsets_[static_cast<size_t>(rank_ / group)];
            send(r, own + first * n, piece(r).size() * row, launch.stream);
            receive(r, all_.data() + (size() + r - leader) * at_once * row, rows * row,
                    launch.stream);
          }
        });
        if (idle) continue;
        cuda::ExpertPartSumParams p;
        p.received = reinterpret_cast<const Bf16*>(all_.data());
        p.stride = at_once * n;
        p.rank = rank_;
        p.ranks = size();
        p.group = group;
        p.own = own + (begin + at) * n;
        p.parts = part + (mine.begin + at) * n;
        p.rows = static_cast<int>(rows);
        p.n = static_cast<int>(n);
        p.ids = static_cast<const int32_t*>(ids.data) + (begin + at) * ids.row_size();
        p.per_token = static_cast<int>(ids.row_size());
        p.owners = {spread.experts, size()};
        cuda::sum_expert_parts(p, launch);
      }
      if (group == 1 || idle) return;
      together([&] {
        for (int r = leader; r < leader + group; ++r) {
          if (r == rank_) continue;
          const PartRange theirs = brought(r, group);
          const int64_t first = theirs.begin - (mine.begin - begin);
          send(r, own + begin * n, mine.size() * row, launch.stream);
          receive(r, own + first * n, theirs.size() * row, launch.stream);
        }
      });
    });
  }

 private:
  // The rows among those of all groups that a rank brings, its share of its group's.
  PartRange brought(int r, int group) const {
    const auto g = static_cast<size_t>(r / group);
    const PartRange share = part_of(offsets_[g + 1] - offsets_[g], r % group, group);
    return {offsets_[g] + share.begin, offsets_[g] + share.end};
  }

  // Sends and receives that `body` asks for, at the same time.
  template <class Body>
  void together(const Body& body) {
    ranks_->require(Nccl::get().group_start());
    body();
    ranks_->require(Nccl::get().group_end());
  }
  void send(int to, const void* from, int64_t bytes, cudaStream_t stream) {
    if (bytes == 0) return;
    ranks_->require(
        Nccl::get().send(from, static_cast<size_t>(bytes), ncclInt8, to, comm_, stream));
  }
  void receive(int from, void* to, int64_t bytes, cudaStream_t stream) {
    if (bytes == 0) return;
    ranks_->require(
        Nccl::get().receive(to, static_cast<size_t>(bytes), ncclInt8, from, comm_, stream));
  }

  // How many rows of so many bytes of every rank the room holds.
  int64_t rows_at_once(int64_t bytes) const {
    const int64_t rows = kRoom / (bytes * size());
    if (rows == 0)
      fail("rows of {} bytes of {} ranks do not fit the exchange's {}", bytes, size(), kRoom);
    return rows;
  }

  void sum(const Tensor& x, const cuda::Launch& launch) {
    const int64_t row = x.row_size() * int64_t{sizeof(Bf16)};
    copy({mine_.data(), row, row, x.rows()},
         {static_cast<std::byte*>(x.data), x.row_stride * int64_t{sizeof(Bf16)}, row, x.rows()},
         launch.stream);
    ranks_->require(Nccl::get().all_gather(mine_.data(), all_.data(),
                                           static_cast<size_t>(x.rows() * row), ncclInt8, comm_,
                                           launch.stream));
    cuda::RankSumParams p;
    p.parts = reinterpret_cast<const Bf16*>(all_.data());
    p.out = static_cast<Bf16*>(x.data);
    p.ranks = size();
    p.rows = static_cast<int>(x.rows());
    p.n = static_cast<int>(x.row_size());
    p.out_stride = x.row_stride;
    cuda::rank_sum(p, launch);
  }

  // piece(rank): where a rank's rows lie, of at most `bytes` bytes each, at most `rows` of them.
  template <class Piece>
  void gather(const Piece& piece, int64_t rows, int64_t bytes, cudaStream_t stream) {
    const ByteRows own = piece(rank_);
    copy({mine_.data(), bytes, own.bytes, own.rows}, own, stream);
    ranks_->require(Nccl::get().all_gather(
        mine_.data(), all_.data(), static_cast<size_t>(rows * bytes), ncclInt8, comm_, stream));
    for (int r = 0; r < size(); ++r) {
      if (r == rank_) continue;
      const ByteRows to = piece(r);
      copy(to, {all_.data() + r * rows * bytes, bytes, to.bytes, to.rows}, stream);
    }
  }

  const std::shared_ptr<NcclRanks> ranks_;
  const int rank_;
  CudaOps& ops_;
  const Buffer mine_, all_;  // [kRoom] each
  const ncclComm_t comm_;
  uint64_t meetings_ = 0;
  std::vector<int64_t> offsets_{0};  // of the step agreed on last
};

class NcclGroup final : public CommGroup {
 public:
  NcclGroup(ProcessLink* link, int ranks) : ranks_(std::make_shared<NcclRanks>(link, ranks)) {
    Nccl::get();  // or the error that it is not there
  }
  std::unique_ptr<Comm> join(int rank, Ops* ops) override {
    auto* cuda = dynamic_cast<CudaOps*>(ops);
    FATHOM_CHECK(cuda && ranks_->is_here(rank), "rank {} of {} on GPUs of this process", rank,
                 ranks_->ranks());
    return std::make_unique<NcclComm>(ranks_, rank, *cuda);
  }
  void abort(const std::string& why) override { ranks_->abort(why); }

 private:
  std::shared_ptr<NcclRanks> ranks_;
};

}  // namespace

std::shared_ptr<CommGroup> make_nccl_group(ProcessLink* link, int ranks) {
  FATHOM_CHECK(!link || ranks % link->processes() == 0, "{} ranks on {} processes", ranks,
               link->processes());
  return std::make_shared<NcclGroup>(link, ranks);
}

int64_t nccl_exchange_bytes() { return 2 * kRoom + kOfNccl; }

}  // namespace fathom
#endif
