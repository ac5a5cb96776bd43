// ProcessLink over MPI (Open MPI). No call of MPI that waits is made: a wait could not be ended
// when another process is lost. Messages are started and then asked for, and between two looks the
// lifeline is asked whether the others live.
#if defined(FATHOM_WITH_MPI)
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "comm/comm.h"
#include "comm/lifeline.h"
#include "comm/message.h"
#include "comm/process_link.h"

namespace fathom {
namespace {

enum Tag : int { kMessage = 1, kPiece = 2 };

// A wait within a step is short. Whoever gives the processor away gets it back milliseconds later
// if another program wants it, too, which is a hundred times an exchange: so a process looks for
// long before it does. A wait for the next step may be long: after a while it sleeps between its
// looks.
constexpr int kLooks = 20000, kYields = 20000;
// Where processes share a processor, the one that looks keeps another from its work.
constexpr int kLooksInTurn = 100;
constexpr std::chrono::microseconds kNap{50}, kLongNap{500};
constexpr int kNaps = 20000;  // before they get long

constexpr std::chrono::seconds kPatience{60};  // for the connections at the start
constexpr std::chrono::seconds kLeaving{5};    // for the others at the end
constexpr std::chrono::seconds kAnswering{8};  // for process 0 after a failure

// What MPI counts with is an int.
constexpr size_t kMostBytes = size_t{1} << 30;

std::string host_name() {
  char text[256] = "?";
  ::gethostname(text, sizeof(text) - 1);
  return text;
}

// Processes of the run on this machine.
int processes_here() {
  const char* text = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  return text ? std::atoi(text) : 1;
}

// Each process says this of itself at the start.
struct Hello {
  std::string host;
  int64_t pid = 0;
  ProcessIdentity identity;

  void write_to(MessageWriter& w) const {
    w.put_text(host);
    w.put(pid);
    w.put_text(identity.build);
    w.put<uint64_t>(identity.arguments.size());
    for (const std::string& a : identity.arguments) w.put_text(a);
  }
  static Hello read_from(MessageReader& r) {
    Hello h;
    h.host = r.get_text();
    h.pid = r.get<int64_t>();
    h.identity.build = r.get_text();
    for (uint64_t n = r.get<uint64_t>(); n > 0; --n) h.identity.arguments.push_back(r.get_text());
    return h;
  }
};

// Why two processes cannot compute together; empty where they can.
std::string difference(const ProcessIdentity& a, const std::string& name_a,
                       const ProcessIdentity& b, const std::string& name_b) {
  if (a.build != b.build)
    return fmt::format("{} runs {}, {} runs {}: all processes of a run must have the same program",
                       name_a, a.build, name_b, b.build);
  for (size_t i = 0; i < std::max(a.arguments.size(), b.arguments.size()); ++i) {
    const auto at = [&](const ProcessIdentity& p) {
      return i < p.arguments.size() ? "\"" + p.arguments[i] + "\"" : std::string("nothing");
    };
    if (at(a) != at(b))
      return fmt::format(
          "argument {} is {} for {} and {} for {}: all processes of a run must have "
          "the same",
          i + 1, at(a), name_a, at(b), name_b);
  }
  return {};
}

class MpiLink final : public ProcessLink {
 public:
  MpiLink() {
    // Threads that MPI starts must leave the signals that end the program to those who wait for
    // them.
    sigset_t ends, before;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ends, &before);
    int given = 0;
    const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &given);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (code != MPI_SUCCESS) fathom::fail("MPI does not start: {}", text_of(code));
    if (given < MPI_THREAD_SERIALIZED)
      fathom::fail("this MPI cannot be used by threads in turn (MPI_THREAD_SERIALIZED)");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &process_);
    MPI_Comm_size(MPI_COMM_WORLD, &processes_);
    requests_.resize(2 * static_cast<size_t>(processes_));
  }

  void meet(const ProcessIdentity& identity) {
    std::vector<Hello> hellos = exchange_hellos({host_name(), ::getpid(), identity});
    for (int p = 0; p < processes_; ++p) {
      const Hello& h = hellos[static_cast<size_t>(p)];
      names_.push_back(fmt::format("process {} ({}, pid {})", p, h.host, h.pid));
    }
    for (int p = 1; p < processes_; ++p) {
      const std::string why =
          difference(hellos[0].identity, names_[0], hellos[static_cast<size_t>(p)].identity,
                     names_[static_cast<size_t>(p)]);
      if (!why.empty()) refuse(why);
    }
    std::vector<int> connections(static_cast<size_t>(processes_), -1);
    if (process_ == 0) {
      LifelineDoor door(processes_here() == processes_);
      for (int p = 1; p < processes_; ++p) send(p, std::as_bytes(std::span(door.invitation())));
      connections = door.accept(processes_, kPatience);
    } else {
      std::vector<std::byte> invitation;
      receive(0, invitation);
      connections[0] = connect_lifeline(
          {reinterpret_cast<const char*>(invitation.data()), invitation.size()}, process_);
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    lifeline_ = std::make_unique<Lifeline>(process_, names_, std::move(connections));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  int process() const override { return process_; }
  int processes() const override { return processes_; }
  std::string name(int process) const override { return names_[static_cast<size_t>(process)]; }

  void send(int to, std::span<const std::byte> message) override {
    FATHOM_CHECK(message.size() <= kMostBytes, "a message of {} bytes", message.size());
    MPI_Request request;
    require(MPI_Isend(message.data(), static_cast<int>(message.size()), MPI_BYTE, to, kMessage,
                      MPI_COMM_WORLD, &request));
    await(
        [&] {
          int done = 0;
          require(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
          return done != 0;
        },
        false);
  }

  void receive(int from, std::vector<std::byte>& message) override {
    MPI_Message found;
    MPI_Status status;
    await(
        [&] {
          int there = 0;
          require(MPI_Improbe(from, kMessage, MPI_COMM_WORLD, &there, &found, &status));
          return there != 0;
        },
        true);
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    message.resize(static_cast<size_t>(bytes));
    MPI_Request request;
    require(MPI_Imrecv(message.data(), bytes, MPI_BYTE, &found, &request));
    await(
        [&] {
          int done = 0;
          require(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
          return done != 0;
        },
        false);
  }

  void all_gather(std::span<const std::byte> mine,
                  std::span<const std::span<std::byte>> pieces) override {
    FATHOM_CHECK(pieces.size() == static_cast<size_t>(processes_), "pieces of {} processes of {}",
                 pieces.size(), processes_);
    size_t most = mine.size();
    for (const auto& piece : pieces) most = std::max(most, piece.size());
    for (size_t at = 0; at == 0 || at < most; at += kMostBytes) gather_part(mine, pieces, at);
  }

  void set_timeout(double seconds) override { lifeline_->set_timeout(seconds); }
  void fail(const std::string& why) override { lifeline_->fail(why); }
  std::string failure() const override { return lifeline_->failure(); }
  void on_failure(std::function<void(const std::string&)> call) override {
    lifeline_->on_failure(std::move(call));
  }

  void end() override {
    if (!failure().empty()) {
      // Without MPI_Finalize, which would wait for the lost. Process 0 ends first: mpirun ends the
      // others as soon as one has failed, and clients of process 0 still get their answers.
      // Where process 0 is what was lost, there is nothing to wait for.
      if (process_ > 0 && !failure().starts_with(names_[0])) lifeline_->await_hang_up(kAnswering);
      return;
    }
    lifeline_->part();
    leave();
  }

 private:
  static std::string text_of(int code) {
    char text[MPI_MAX_ERROR_STRING] = "?";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return text;
  }

  void require(int code) const {
    if (code == MPI_SUCCESS) return;
    if (lifeline_) lifeline_->check();  // that is the cause, and this what came of it
    fathom::fail("MPI: {}", text_of(code));
  }

  // `long_wait`: for something that may take any time.
  template <class Done>
  void await(const Done& done, bool long_wait) {
    for (int look = 0; !done(); ++look) {
      if (lifeline_) lifeline_->check();
      if (look < looks_) continue;
      if (look < looks_ + kYields || !long_wait)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(look < looks_ + kYields + kNaps ? kNap : kLongNap);
    }
  }

  // Bytes [at, at + kMostBytes) of each piece.
  void gather_part(std::span<const std::byte> mine, std::span<const std::span<std::byte>> pieces,
                   size_t at) {
    const auto cut = [at](auto bytes) {
      return bytes.size() <= at ? bytes.first(0)
                                : bytes.subspan(at, std::min(kMostBytes, bytes.size() - at));
    };
    int started = 0;
    for (int p = 0; p < processes_; ++p) {
      const std::span<std::byte> theirs = cut(pieces[static_cast<size_t>(p)]);
      if (p == process_ || theirs.empty()) continue;
      require(MPI_Irecv(theirs.data(), static_cast<int>(theirs.size()), MPI_BYTE, p, kPiece,
                        MPI_COMM_WORLD, &requests_[static_cast<size_t>(started++)]));
    }
    // Each begins with its neighbour, so that no process is sent to by all at once.
    const std::span<const std::byte> ours = cut(mine);
    for (int step = 1; step < processes_ && !ours.empty(); ++step)
      require(MPI_Isend(ours.data(), static_cast<int>(ours.size()), MPI_BYTE,
                        (process_ + step) % processes_, kPiece, MPI_COMM_WORLD,
                        &requests_[static_cast<size_t>(started++)]));
    await(
        [&] {
          int done = 0;
          require(MPI_Testall(started, requests_.data(), &done, MPI_STATUSES_IGNORE));
          return done != 0;
        },
        false);
  }

  std::vector<Hello> exchange_hellos(const Hello& own) {
    MessageWriter w;
    own.write_to(w);
    std::vector<Hello> all(static_cast<size_t>(processes_));
    for (int p = 0; p < processes_; ++p)
      if (p != process_) send(p, w.bytes());
    std::vector<std::byte> message;
    for (int p = 0; p < processes_; ++p) {
      if (p == process_) {
        all[static_cast<size_t>(p)] = own;
        continue;
      }
      receive(p, message);
      MessageReader r(message);
      all[static_cast<size_t>(p)] = Hello::read_from(r);
    }
    return all;
  }

  // Every process finds the same, process 0 says it.
  [[noreturn]] void refuse(const std::string& why) {
    leave();
    if (process_ == 0) fathom::fail("{}", why);
    std::_Exit(0);  // mpirun ends all where one has failed, perhaps before process 0 has spoken
  }

  // MPI_Finalize waits for all others: this process does not wait for ever.
  void leave() {
    std::mutex mutex;
    std::condition_variable changed;
    bool left = false;
    std::thread watch([&] {
      std::unique_lock lock(mutex);
      if (!changed.wait_for(lock, kLeaving, [&] { return left; })) ::_exit(1);
    });
    MPI_Finalize();
    {
      std::lock_guard lock(mutex);
      left = true;
    }
    changed.notify_one();
    watch.join();
  }

  int process_ = 0, processes_ = 1;
  const int looks_ = processes_here() <= ::sysconf(_SC_NPROCESSORS_ONLN) ? kLooks : kLooksInTurn;
  std::vector<std::string> names_;
  std::vector<MPI_Request> requests_;
  std::unique_ptr<Lifeline> lifeline_;
};

}  // namespace

std::unique_ptr<ProcessLink> join_processes(const ProcessIdentity& identity) {
  auto link = std::make_unique<MpiLink>();
  link->meet(identity);
  return link;
}

}  // namespace fathom
#endif
