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
#include <fstream>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/processors.h"
#include "comm/comm.h"
#include "comm/launcher.h"
#include "comm/lifeline.h"
#include "comm/message.h"
#include "comm/process_link.h"

namespace fathom {
namespace {

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

// Names the machine, also where its processes have several host names; empty where Linux does not.
std::string machine_name() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(in, id);
  return id;
}

std::string variable(const char* name) {
  const char* text = std::getenv(name);
  return text ? text : "";
}

// Each process says this of itself at the start.
struct Hello {
  std::string host, machine, processors, gpus;
  int64_t pid = 0;
  ProcessIdentity identity;

  void write_to(MessageWriter& w) const {
    for (const std::string* text : {&host, &machine, &processors, &gpus}) w.put_text(*text);
    w.put(pid);
    w.put_text(identity.build);
    w.put<uint64_t>(identity.arguments.size());
    for (const std::string& a : identity.arguments) w.put_text(a);
  }
  static Hello read_from(MessageReader& r) {
    Hello h;
    for (std::string* text : {&h.host, &h.machine, &h.processors, &h.gpus}) *text = r.get_text();
    h.pid = r.get<int64_t>();
    h.identity.build = r.get_text();
    for (uint64_t n = r.get<uint64_t>(); n > 0; --n) h.identity.arguments.push_back(r.get_text());
    return h;
  }
};

Hello own_hello(const ProcessIdentity& identity) {
  return {host_name(),
          machine_name(),
          fmt::format("{}", fmt::join(allowed_processors(), ",")),
          variable("CUDA_VISIBLE_DEVICES"),
          ::getpid(),
          identity};
}

// What process `own` shares with the others.
MachineShare share_of(const std::vector<Hello>& all, int own) {
  const Hello& here = all[static_cast<size_t>(own)];
  const auto among = [&](auto same) {
    Sharing s{0, 0};
    for (int p = 0; p < static_cast<int>(all.size()); ++p) {
      const Hello& h = all[static_cast<size_t>(p)];
      if (p != own && (here.machine.empty() || h.machine != here.machine || !same(h))) continue;
      if (p < own) ++s.place;
      ++s.count;
    }
    return s;
  };
  return {among([](const Hello&) { return true; }),
          among([&](const Hello& h) { return h.processors == here.processors; }),
          among([&](const Hello& h) { return h.gpus == here.gpus; })};
}

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

// What all parts of a process's link share.
struct MpiRun {
  int process = 0, processes = 1;
  std::vector<std::string> names;
  MachineShare share;
  std::mutex mutex;  // one thread at a time calls MPI
  std::unique_ptr<Lifeline> lifeline;
};

std::string text_of(int code) {
  char text[MPI_MAX_ERROR_STRING] = "?";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return text;
}

// What a process waits for, and so how it waits.
enum class Wait : uint8_t {
  exchange,  // others are about to be there
  order,     // the next step follows the last one, or comes much later
  answer,    // others compute, and so may this process: its processor is given away
};

class MpiPart : public ProcessLink {
 public:
  // Processes [first, first + count) of the run. Messages of different channels never meet.
  MpiPart(std::shared_ptr<MpiRun> run, int first, int count, int channel)
      : run_(std::move(run)),
        first_(first),
        count_(count),
        message_tag_(2 * channel),
        piece_tag_(2 * channel + 1),
        requests_(2 * static_cast<size_t>(count)) {}

  int process() const override { return run_->process - first_; }
  int processes() const override { return count_; }
  std::string name(int process) const override {
    const int of_run = first_ + process;
    return run_->names[static_cast<size_t>(of_run)];
  }
  MachineShare share() const override { return run_->share; }

  void send(int to, std::span<const std::byte> message) override {
    FATHOM_CHECK(message.size() <= kMostBytes, "a message of {} bytes", message.size());
    MPI_Request request;
    require([&] {
      return MPI_Isend(message.data(), static_cast<int>(message.size()), MPI_BYTE, first_ + to,
                       message_tag_, MPI_COMM_WORLD, &request);
    });
    complete({&request, 1});
  }

  void receive(int from, std::vector<std::byte>& message) override {
    MPI_Message found;
    MPI_Status status;
    await(run_->process == 0 ? Wait::answer : Wait::order, [&](int& there) {
      return MPI_Improbe(first_ + from, message_tag_, MPI_COMM_WORLD, &there, &found, &status);
    });
    int bytes = 0;
    MPI_Request request;
    require([&] { return MPI_Get_count(&status, MPI_BYTE, &bytes); });
    message.resize(static_cast<size_t>(bytes));
    require([&] { return MPI_Imrecv(message.data(), bytes, MPI_BYTE, &found, &request); });
    complete({&request, 1});
  }

  void exchange(std::span<const std::span<const std::byte>> to,
                std::span<const std::span<std::byte>> from) override {
    FATHOM_CHECK(to.size() == static_cast<size_t>(count_) && from.size() == to.size(),
                 "pieces for {} and from {} processes of {}", to.size(), from.size(), count_);
    size_t most = 0;
    for (size_t p = 0; p < to.size(); ++p) most = std::max({most, to[p].size(), from[p].size()});
    for (size_t at = 0; at == 0 || at < most; at += kMostBytes) exchange_part(to, from, at);
  }

  std::unique_ptr<ProcessLink> part(int first, int count, int channel) override {
    FATHOM_CHECK(channel > 0 && first >= 0 && first + count <= count_,
                 "channel {} of processes {} to {} of {}", channel, first, first + count, count_);
    return std::make_unique<MpiPart>(run_, first_ + first, count, channel);
  }

  void set_timeout(double seconds) override { run_->lifeline->set_timeout(seconds); }
  void fail(const std::string& why) override { run_->lifeline->fail(why); }
  std::string failure() const override { return run_->lifeline->failure(); }
  void on_failure(std::function<void(const std::string&)> call) override {
    run_->lifeline->on_failure(std::move(call));
  }
  void end() override { FATHOM_CHECK(false, "a part of a link is ended"); }

 protected:
  const std::shared_ptr<MpiRun> run_;

 private:
  void check(int code) const {
    if (code == MPI_SUCCESS) return;
    if (run_->lifeline) run_->lifeline->check();  // that is the cause, and this what came of it
    fathom::fail("MPI: {}", text_of(code));
  }

  template <class Call>
  void require(const Call& call) const {
    int code = MPI_SUCCESS;
    {
      std::lock_guard lock(run_->mutex);
      code = call();
    }
    check(code);
  }

  // Calls look(done) until it sets `done`.
  template <class Look>
  void await(Wait wait, const Look& look) const {
    const int looks = wait == Wait::answer ? kLooksInTurn : looks_;
    const int yields = wait == Wait::answer ? 0 : kYields;
    for (int64_t looked = 0;; ++looked) {
      int done = 0, code = MPI_SUCCESS;
      // Another thread that is at it looks for all.
      if (std::unique_lock lock(run_->mutex, std::try_to_lock); lock) code = look(done);
      check(code);
      if (done) return;
      if (run_->lifeline) run_->lifeline->check();
      if (looked < looks) continue;
      if (looked < looks + yields || wait == Wait::exchange)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(looked < looks + yields + kNaps ? kNap : kLongNap);
    }
  }

  void complete(std::span<MPI_Request> requests) const {
    await(Wait::exchange, [&](int& done) {
      return MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done,
                         MPI_STATUSES_IGNORE);
    });
  }

  // Bytes [at, at + kMostBytes) of each piece.
  void exchange_part(std::span<const std::span<const std::byte>> to,
                     std::span<const std::span<std::byte>> from, size_t at) {
    const auto cut = [at](auto bytes) {
      return bytes.size() <= at ? bytes.first(0)
                                : bytes.subspan(at, std::min(kMostBytes, bytes.size() - at));
    };
    size_t started = 0;
    for (int p = 0; p < count_; ++p) {
      const std::span<std::byte> theirs = cut(from[static_cast<size_t>(p)]);
      if (p == process() || theirs.empty()) continue;
      require([&] {
        return MPI_Irecv(theirs.data(), static_cast<int>(theirs.size()), MPI_BYTE, first_ + p,
                         piece_tag_, MPI_COMM_WORLD, &requests_[started]);
      });
      ++started;
    }
    // Each begins with its neighbour, so that no process is sent to by all at once.
    for (int step = 1; step < count_; ++step) {
      const int p = (process() + step) % count_;
      const std::span<const std::byte> ours = cut(to[static_cast<size_t>(p)]);
      if (ours.empty()) continue;
      require([&] {
        return MPI_Isend(ours.data(), static_cast<int>(ours.size()), MPI_BYTE, first_ + p,
                         piece_tag_, MPI_COMM_WORLD, &requests_[started]);
      });
      ++started;
    }
    complete(std::span(requests_).first(started));
  }

  const int first_, count_, message_tag_, piece_tag_;
  const int looks_ = processes_here() <= ::sysconf(_SC_NPROCESSORS_ONLN) ? kLooks : kLooksInTurn;
  std::vector<MPI_Request> requests_;
};

// Starts MPI. Throws Error when it does not start.
std::shared_ptr<MpiRun> start_mpi() {
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
  if (code != MPI_SUCCESS) fail("MPI does not start: {}", text_of(code));
  if (given < MPI_THREAD_SERIALIZED)
    fail("this MPI cannot be used by threads in turn (MPI_THREAD_SERIALIZED)");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  auto run = std::make_shared<MpiRun>();
  MPI_Comm_rank(MPI_COMM_WORLD, &run->process);
  MPI_Comm_size(MPI_COMM_WORLD, &run->processes);
  return run;
}

// The whole link.
class MpiLink final : public MpiPart {
 public:
  explicit MpiLink(const std::shared_ptr<MpiRun>& run) : MpiPart(run, 0, run->processes, 0) {}

  void meet(const ProcessIdentity& identity) {
    const std::vector<Hello> hellos = exchange_hellos(own_hello(identity));
    run_->share = share_of(hellos, process());
    std::vector<std::string>& names = run_->names;
    for (int p = 0; p < processes(); ++p) {
      const Hello& h = hellos[static_cast<size_t>(p)];
      names.push_back(fmt::format("process {} ({}, pid {})", p, h.host, h.pid));
    }
    for (int p = 1; p < processes(); ++p) {
      const std::string why =
          difference(hellos[0].identity, names[0], hellos[static_cast<size_t>(p)].identity,
                     names[static_cast<size_t>(p)]);
      if (!why.empty()) refuse(why);
    }
    std::vector<int> connections(static_cast<size_t>(processes()), -1);
    if (process() == 0) {
      LifelineDoor door(processes_here() == processes());
      for (int p = 1; p < processes(); ++p) send(p, std::as_bytes(std::span(door.invitation())));
      connections = door.accept(processes(), kPatience);
    } else {
      std::vector<std::byte> invitation;
      receive(0, invitation);
      connections[0] = connect_lifeline(
          {reinterpret_cast<const char*>(invitation.data()), invitation.size()}, process());
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    run_->lifeline = std::make_unique<Lifeline>(process(), names, std::move(connections));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void end() override {
    Lifeline& lifeline = *run_->lifeline;
    if (const std::string why = failure(); !why.empty()) {
      // Without MPI_Finalize, which would wait for the lost. Process 0 ends first: mpirun ends the
      // others as soon as one has failed, and clients of process 0 still get their answers.
      // Where process 0 is what was lost, there is nothing to wait for.
      if (process() > 0 && !why.starts_with(name(0))) lifeline.await_hang_up(kAnswering);
      if (lifeline.heard_silence()) end_launcher_that_waits();
      return;
    }
    lifeline.part();
    leave();
  }

 private:
  std::vector<Hello> exchange_hellos(const Hello& own) {
    MessageWriter w;
    own.write_to(w);
    std::vector<Hello> all(static_cast<size_t>(processes()));
    for (int p = 0; p < processes(); ++p)
      if (p != process()) send(p, w.bytes());
    std::vector<std::byte> message;
    for (int p = 0; p < processes(); ++p) {
      if (p == process()) {
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
    if (process() == 0) fathom::fail("{}", why);
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
};

}  // namespace

std::unique_ptr<ProcessLink> join_processes(const ProcessIdentity& identity) {
  auto link = std::make_unique<MpiLink>(start_mpi());
  link->meet(identity);
  return link;
}

}  // namespace fathom
#endif
