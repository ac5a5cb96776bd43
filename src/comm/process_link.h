// The link between the processes of one run: one process a machine, each with some ranks of the
// same model, started by mpirun. Process 0 decides what is computed; the others follow it.
//
// Messages and exchanges go through MPI. Whether the others still live is watched beside it, by
// sockets of our own (comm/lifeline.h): when a process ends, throws or falls silent, every wait of
// all others ends with the reason.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"

namespace fathom {

// Thread-compatible: one thread of a process uses it at a time. fail(), failure() and the
// registration of on_failure() may be called from any. Every wait throws ExchangeEnded (comm.h)
// once a process has failed.
class ProcessLink {
 public:
  virtual ~ProcessLink() = default;
  virtual int process() const = 0;
  virtual int processes() const = 0;
  // "process 1 (node7, pid 4711)"
  virtual std::string name(int process) const = 0;

  // Returns once `message` may be overwritten.
  virtual void send(int to, std::span<const std::byte> message) = 0;
  // Waits for the next message, for any time.
  virtual void receive(int from, std::vector<std::byte>& message) = 0;
  // Every process gives `mine` to all others, and gets theirs: pieces[p] has the size of what
  // process p gives. pieces[process()] is left alone.
  virtual void all_gather(std::span<const std::byte> mine,
                          std::span<const std::span<std::byte>> pieces) = 0;

  // How long another process may be silent before it counts as lost.
  virtual void set_timeout(double seconds) = 0;
  // Ends every wait, here and in all other processes. The first reason stays.
  virtual void fail(const std::string& why) = 0;
  // That reason; empty while all is well.
  virtual std::string failure() const = 0;
  // Called once with the reason, on a thread of the link, or at once if it is known already.
  // An empty function takes the last one back: it does not run any more when this returns.
  virtual void on_failure(std::function<void(const std::string&)> call) = 0;

  // The orderly end: after it the others may leave, and no message is sent. Process 0 calls it
  // after it has told all others to do the same.
  virtual void end() = 0;
};

// What the processes of a run must have in common, in words.
struct ProcessIdentity {
  std::string build;
  std::vector<std::string> arguments;
};

// How many processes the launcher says it has started; 1 without a launcher. Throws Error for the
// launcher of an MPI that fathom is not built for.
int launched_processes();
int launched_process();  // which of them this is

// Joins the processes that mpirun started. Throws Error when this build has no MPI, and when
// another process differs in its identity.
std::unique_ptr<ProcessLink> join_processes(const ProcessIdentity& identity);

}  // namespace fathom
