// What tests of several processes share: programs that run beside the test, with their output.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "cli/run_fathom.h"
#include "support/temp_folder.h"

namespace fathom::test {

// --bind-to none: a container may not let processes be bound.
inline const std::string kMpirun =
    "mpirun --allow-run-as-root --oversubscribe --bind-to none --mca btl self,vader,tcp ";

// Why there can be no test here; empty where there can.
inline std::string why_no_mpirun() {
  if (std::system("command -v mpirun >/dev/null") != 0) return "mpirun is not installed";
  if (std::system((std::string("ldd ") + FATHOM_BINARY + " | grep -q libmpi").c_str()) != 0)
    return "this build has no MPI";
  return {};
}

inline std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

// A program with its output in files; ended with the test whatever happens.
class Running {
 public:
  explicit Running(const std::string& command) {
    std::vector<std::string> words = words_of(command);
    std::vector<char*> argv;
    for (std::string& w : words) argv.push_back(w.data());
    argv.push_back(nullptr);
    child_ = ::fork();
    if (child_ != 0) return;
    const auto open_as = [&](const char* name, int to) {
      ::dup2(::open(folder_.file(name).c_str(), O_CREAT | O_WRONLY, 0600), to);
    };
    ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
    open_as("out", STDOUT_FILENO);
    open_as("err", STDERR_FILENO);
    ::setenv("TMPDIR", "/tmp", 1);  // mpirun's own sockets need short names
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ~Running() {
    for (pid_t p : processes()) ::kill(p, SIGKILL);
    if (child_ > 0) ::kill(child_, SIGKILL);
    if (child_ > 0) ::waitpid(child_, nullptr, 0);
  }
  std::string out() const { return read_file(folder_.file("out")); }
  std::string err() const { return read_file(folder_.file("err")); }
  pid_t pid() const { return child_; }

  // The processes that mpirun has started.
  std::vector<pid_t> processes() const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const pid_t p = std::atoi(entry.path().filename().c_str());
      std::ifstream stat(entry.path() / "stat");
      std::string name, state;
      pid_t number = 0, parent = 0;
      if (p > 0 && stat >> number >> name >> state >> parent && parent == child_ && state != "Z")
        found.push_back(p);
    }
    return found;
  }
  // That which computes as process `rank`.
  pid_t process(int rank) const {
    for (pid_t p : processes()) {
      std::ifstream in("/proc/" + std::to_string(p) + "/environ", std::ios::binary);
      const std::string variables{std::istreambuf_iterator<char>(in), {}};
      if (variables.find("OMPI_COMM_WORLD_RANK=" + std::to_string(rank)) != std::string::npos)
        return p;
    }
    return -1;
  }
  // The exit code, once it has ended; -1 if it does not within `seconds`.
  int wait(int seconds = 60) {
    int status = 0;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    while (::waitpid(child_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > give_up) return -1;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  // The port of a server, once it listens; 0 if that does not come.
  int port() const {
    const std::string listening = "listening on http://127.0.0.1:";
    for (int look = 0; look < 12000; ++look) {
      const std::string said = out();
      if (const size_t at = said.find(listening);
          at != std::string::npos && said.find('\n', at) != std::string::npos)
        return std::atoi(said.c_str() + at + listening.size());
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return 0;
  }

 private:
  TempFolder folder_;
  pid_t child_ = -1;
};

inline bool has_ended(pid_t process) {
  std::ifstream stat("/proc/" + std::to_string(process) + "/stat");
  std::string number, name, state;
  return !(stat >> number >> name >> state) || state == "Z";
}

}  // namespace fathom::test
