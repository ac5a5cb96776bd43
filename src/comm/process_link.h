// The link between the processes of one run, which mpirun starts: one process per machine, each
// with some ranks of the same model. Process 0 decides what is computed; the others follow it.
//
// Messages and exchanges use MPI. Separate sockets (comm/lifeline.h) watch whether the other
// processes are alive. When a process ends, throws or becomes silent, every wait in all other
// processes ends with the reason.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"

namespace fathom {

// This process among those of a run that share something.
struct Sharing {
  int place = 0, count = 1;
};
// What the processes of a run share on this machine.
struct MachineShare {
  Sharing machine;     // all of them
  Sharing processors;  // those with the same affinity mask
  Sharing gpus;        // those that see the same GPUs (CUDA_VISIBLE_DEVICES)
};

// Thread-compatible: one thread of a process uses it at a time, and each part of it likewise, at
// the same time as others. fail(), failure() and the registration of on_failure() may be called
// from any. Every wait throws ExchangeEnded (comm.h) once a process has failed.
class ProcessLink {
 public:
  virtual ~ProcessLink() = default;
  virtual int process() const = 0;
  virtual int processes() const = 0;
  // "process 1 (node7, pid 4711)"
  virtual std::string name(int process) const = 0;
  virtual MachineShare share() const { return {}; }

  // Returns once `message` may be overwritten.
  virtual void send(int to, std::span<const std::byte> message) = 0;
  // Waits for the next message, without a time limit.
  virtual void receive(int from, std::vector<std::byte>& message) = 0;
  // Sends to[p] to process p and receives from[p], which must have the size of what p sends; this
  // process's own entries are not used. Every process of the link takes part.
  virtual void exchange(std::span<const std::span<const std::byte>> to,
                        std::span<const std::span<std::byte>> from) = 0;

  // Returns a link of processes [first, first + count) alone, numbered from 0; a process outside
  // has a negative or too great number. Its messages and exchanges never meet those of another
  // channel; channel 0 is this link's. This link must outlive it.
  virtual std::unique_ptr<ProcessLink> part(int first, int count, int channel) = 0;

  // Sets how long another process may be silent before it counts as lost.
  virtual void set_timeout(double seconds) = 0;
  // Ends every wait, here and in all other processes. The first reason is kept.
  virtual void fail(const std::string& why) = 0;
  // Returns that reason; empty if no process has failed.
  virtual std::string failure() const = 0;
  // Sets a function that is called once with the reason, on a thread of the link, or at once if the
  // reason is already known. An empty function removes the last one, which is not running any more
  // when this returns.
  virtual void on_failure(std::function<void(const std::string&)> call) = 0;

  // Ends the link in order: after it the other processes may exit, and no message is sent. Process
  // 0 calls it after it has told all others to call it.
  virtual void end() = 0;
};

// What must be the same in all processes of a run, as text.
struct ProcessIdentity {
  std::string build;
  std::vector<std::string> arguments;
};

// Returns how many processes the launcher has started; 1 without a launcher. Throws Error for the
// launcher of an MPI that fathom is not built for.
int launched_processes();
int launched_process();   // the number of this one
int launched_machines();  // on which they are, as many on each

// Joins the processes that mpirun started. Throws Error when this build has no MPI, and when
// another process has another identity.
std::unique_ptr<ProcessLink> join_processes(const ProcessIdentity& identity);

}  // namespace fathom
