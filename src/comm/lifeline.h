// Lifeline: watches whether the other processes of a run are alive, by a TCP connection between
// process 0 and each other process. When a process ends, its connection closes at once, whatever it
// was waiting for. A process that is stopped, or behind a broken network, becomes silent. MPI
// itself notices neither.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace fathom {

// The listening socket at which process 0 waits for the others' connections.
class LifelineDoor {
 public:
  // `local`: all processes are on this machine. Throws Error.
  explicit LifelineDoor(bool local);
  ~LifelineDoor();
  LifelineDoor(const LifelineDoor&) = delete;
  LifelineDoor& operator=(const LifelineDoor&) = delete;

  // The port, a secret word that connecting processes must send, and this machine's addresses.
  const std::string& invitation() const { return invitation_; }
  // Returns the connections of processes 1 .. processes - 1, by process; [0] is -1. Throws Error if
  // they do not connect in time.
  std::vector<int> accept(int processes, std::chrono::seconds patience);

 private:
  int descriptor_ = -1;
  std::string word_, invitation_;
};

// Connects another process to that socket. Throws Error.
int connect_lifeline(const std::string& invitation, int process);

// Thread-safe.
class Lifeline {
 public:
  // `connections` by process, -1 for none: those of process 0 to all others, or of another process
  // to process 0. `names` are for messages.
  Lifeline(int process, std::vector<std::string> names, std::vector<int> connections);
  ~Lifeline();
  Lifeline(const Lifeline&) = delete;
  Lifeline& operator=(const Lifeline&) = delete;

  // Of process 0; the others hear of it.
  void set_timeout(double seconds);
  // Reports a failure: all other processes are told, and check() throws from now on.
  void fail(const std::string& why) { fail(why, -1); }
  // Throws ExchangeEnded after a failure.
  void check() const {
    if (failed_.load(std::memory_order_acquire)) throw_failure();
  }
  std::string failure() const;
  // Whether this process has itself found that another one is silent.
  bool heard_silence() const { return heard_silence_; }
  void on_failure(std::function<void(const std::string&)> call);
  // From now on the others may close their connections.
  void part();
  // Waits until process 0 has closed its connection.
  void await_hang_up(std::chrono::seconds at_most);

 private:
  struct Peer {
    int descriptor = -1;
    bool parted = false;  // true: closing its connection is no failure
    std::chrono::steady_clock::time_point heard;
    std::string received;  // the beginning of a message
  };

  void watch();
  void read_from(size_t process);
  void take_messages(size_t process);
  void hung_up(size_t process);
  void look_for_silence(bool we_slept);
  void fail(const std::string& why, int told_by);
  void say_alive();
  void say(const std::string& message, int except);
  void call_once_known();
  [[noreturn]] void throw_failure() const;

  const int process_;
  const std::vector<std::string> names_;
  std::atomic<double> timeout_{60};  // until the program says: processes start at different times
  std::atomic<bool> failed_{false}, stop_{false}, parting_{false}, heard_silence_{false};
  int wake_ = -1;

  mutable std::mutex mutex_;  // guards what follows
  std::vector<Peer> peers_;   // by process
  std::string why_;
  std::chrono::steady_clock::time_point failed_at_;
  std::condition_variable changed_;

  std::mutex call_mutex_;  // held while on_failure's function runs; guards
  std::function<void(const std::string&)> call_;
  bool called_ = false;

  std::thread thread_;
};

}  // namespace fathom
