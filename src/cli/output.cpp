#include "cli/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace fathom::cli {
namespace {

bool pipes_were_ignored = false;  // SIGPIPE, by whoever started the program
int first_error = 0;              // errno of the first failed write to standard output

// Occupies a closed standard descriptor, so that no file opened later gets its number. It is opened
// for the wrong direction: reads or writes still fail and are reported.
void reserve(int descriptor) {
  if (::fcntl(descriptor, F_GETFD) != -1 || errno != EBADF) return;
  const int mode = descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY;
  // The lowest free descriptor is this one: those below have been taken.
  if (::open("/dev/null", mode) < 0) (void)::open("/", O_RDONLY | O_DIRECTORY);
}

// Writes to descriptor 2 and always reports success: a stream whose writes fail makes fmt::print
// throw, in the middle of the message that says what went wrong.
ssize_t write_error_output(void*, const char* text, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t n = ::write(STDERR_FILENO, text + done, size - done);
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (n < 0 && errno == EAGAIN) {  // somebody else has made the terminal non-blocking
      pollfd ready{STDERR_FILENO, POLLOUT, 0};
      if (::poll(&ready, 1, -1) < 0 && errno != EINTR) break;
    } else if (n == 0 || errno != EINTR) {
      break;
    }
  }
  return static_cast<ssize_t>(size);
}

void note_output_error(int error) {
  if (first_error == 0) first_error = error == 0 ? EIO : error;
}

// Whether a pipe's or socket's other end has gone.
bool reader_has_gone() {
  if (first_error == EPIPE) return true;
  pollfd out{STDOUT_FILENO, POLLOUT, 0};
  return ::poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
}

// Ends the program as SIGPIPE ends any program that writes to a closed pipe.
[[noreturn]] void end_by_pipe() {
  if (!pipes_were_ignored) {
    std::signal(SIGPIPE, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    std::raise(SIGPIPE);
  }
  ::_exit(1);
}

}  // namespace

void guard_standard_streams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) reserve(descriptor);
  // Standard error may be a pipe that nobody reads any more, and the program goes on without it.
  pipes_were_ignored = std::signal(SIGPIPE, SIG_IGN) == SIG_IGN;
  cookie_io_functions_t functions{};
  functions.write = write_error_output;
  if (FILE* stream = ::fopencookie(nullptr, "w", functions)) {
    std::setvbuf(stream, nullptr, _IONBF, 0);
    stderr = stream;
  }
}

void write_out(std::string_view text) {
  if (first_error != 0) return;
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) < text.size() || std::fflush(stdout) != 0)
    note_output_error(errno);
}

bool output_lost() {
  errno = 0;
  if (std::fflush(stdout) != 0) note_output_error(errno);
  // A write failed whose result was not checked.
  if (std::ferror(stdout) != 0) note_output_error(EIO);
  return first_error != 0;
}

void check_output() {
  if (output_lost()) throw OutputLost();
}

bool is_output_error(const std::system_error& error) {
  if (std::ferror(stdout) == 0) return false;
  note_output_error(error.code().value());
  return true;
}

int end_of_output(int code) {
  if (!output_lost()) return code;
  if (reader_has_gone()) end_by_pipe();
  fmt::print(stderr, "fathom: cannot write to standard output: {}\n", std::strerror(first_error));
  return code == 0 ? 1 : code;
}

}  // namespace fathom::cli
