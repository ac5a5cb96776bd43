// The server's log: one JSON object per line on standard error.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace fathom::server {

enum class LogLevel { debug, info, warning, error, off };

// Throws Error for a name other than those above.
LogLevel log_level_of_name(std::string_view name);

// The log line of a request, written when it is over.
struct RequestRecord {
  std::string id, method, path, peer;
  int status = 0;
  double seconds = 0;
  uint64_t bytes = 0;    // of the answer's body
  std::string_view end;  // "complete", "client gone", "broken off"
  std::string body;      // of the request; empty: not to be logged
  std::vector<std::pair<std::string, std::variant<int64_t, std::string>>> notes;  // HttpReply::note
};

// May be used from any thread; a thread of its own writes the lines. If standard error is too slow,
// the oldest lines are dropped and serving goes on.
class ServerLog {
 public:
  explicit ServerLog(LogLevel level);
  ~ServerLog();  // finishes, within a few seconds
  ServerLog(const ServerLog&) = delete;
  ServerLog& operator=(const ServerLog&) = delete;

  void request(const RequestRecord& record);  // level info
  void write(LogLevel level, std::string_view message);

  // Writes the waiting lines; nothing may be logged afterwards. Returns false if standard error did
  // not accept them in time. Then a detached thread still waits for standard error and holds its
  // lock.
  bool finish(double seconds);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::server
