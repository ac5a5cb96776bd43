#include "cli/signals.h"

#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

namespace fathom::cli {
namespace {

sigset_t end_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

EndSignals::EndSignals() {
  const sigset_t set = end_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { wait(); });
}

EndSignals::~EndSignals() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
  }
  // Wakes the thread, which waits for this signal and does not die of it.
  pthread_kill(thread_.native_handle(), SIGTERM);  // NOLINT(bugprone-bad-signal-to-kill-thread)
  thread_.join();
  const sigset_t set = end_signals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void EndSignals::listen(std::function<void(int)> on_signal) {
  std::lock_guard lock(mutex_);
  on_signal_ = std::move(on_signal);
}

void EndSignals::wait() {
  const sigset_t set = end_signals();
  for (int count = 1;; ++count) {
    siginfo_t info;
    int signal = 0;
    do signal = sigwaitinfo(&set, &info);
    while (signal < 0 && errno == EINTR);
    if (signal < 0) return;
    sent_by_parent_ = info.si_pid == ::getppid();
    std::unique_lock lock(mutex_);
    if (over_) return;
    if (on_signal_) {
      on_signal_(count);
      continue;
    }
    lock.unlock();
    // Without a listener the signal gets its default action.
    std::signal(signal, SIG_DFL);
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, signal);
    pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
    std::raise(signal);
  }
}

}  // namespace fathom::cli
