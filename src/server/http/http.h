// HTTP as the API handlers see it: a request that has arrived completely, and a reply that is sent
// at once or as a stream. Sockets, timers and limits are in http_server.h.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace fathom::server {

struct HttpRequest {
  std::string method;                          // "POST"
  std::string path;                            // decoded, without the query
  std::map<std::string, std::string> query;    // decoded
  std::map<std::string, std::string> headers;  // names in lower case; repeated ones joined by ", "
  std::string body;
  std::string peer;  // address of the client
  // What is wrong with it as HTTP (400, 408, 413, 417, 431, 501, 503, 505); the rest may then be
  // missing. The router answers such a request, in the words of the protocol it was meant for.
  std::optional<Failure> failure;

  std::string_view header(std::string_view lower_case_name) const;  // empty when absent
  std::string_view query_value(std::string_view name) const;        // empty when absent
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// The answer to one request. All methods may be called from any thread, also after the client has
// gone or the answer is complete (they then do nothing, but tasks are still run); none blocks.
// Shared: whoever still writes keeps it alive. If all let go of it before the answer is complete,
// the client is told so: status 500, or a stream that breaks off.
class HttpReply {
 public:
  virtual ~HttpReply() = default;

  // The whole answer. Once, and not after begin().
  virtual void send(int status, std::string_view content_type, std::string body,
                    HttpHeaders headers = {}) = 0;

  // A stream: begin, then any number of writes, then end. Each write goes out at once.
  virtual void begin(int status, std::string_view content_type, HttpHeaders headers = {}) = 0;
  virtual void write(std::string bytes) = 0;
  virtual void end() = 0;
  // What a stream says when it has said nothing for some seconds, so that nobody on the way takes
  // it for dead. After begin().
  // NOLINTNEXTLINE(performance-unnecessary-value-param): whoever overrides it keeps the bytes.
  virtual void keep_alive(std::string /*bytes*/) {}

  // Runs `task` on this connection's own sequence of tasks, on a server thread: tasks of one reply
  // never run at the same time, and in the order they were posted. None runs while the handler
  // does.
  virtual void post(std::function<void()> task) = 0;

  // As post, but no sooner than in `seconds`; not at all once the answer is complete. At most one
  // at a time: a later one takes the place of an earlier one that has not run.
  // NOLINTNEXTLINE(performance-unnecessary-value-param): whoever overrides it keeps the task.
  virtual void post_after(double /*seconds*/, std::function<void()> /*task*/) {}

  // `task` is run once (as by post) when the client goes away, or reads so slowly that the server
  // gives it up, before the answer was complete.
  virtual void on_abandoned(std::function<void()> task) = 0;

  // `task` is run once (as by post) when the server stops and the time for answers to finish is
  // over, if this one is not complete: it should end the answer with an error at once. Shortly
  // after it, what is still open is abandoned.
  // NOLINTNEXTLINE(performance-unnecessary-value-param): whoever overrides it keeps the task.
  virtual void on_stopping(std::function<void()> /*task*/) {}

  // A figure for the log line of this request, such as its tokens.
  virtual void note(std::string_view /*name*/, int64_t /*value*/) {}
  // A word for it, such as what of the request was not taken into account.
  virtual void note(std::string_view /*name*/, std::string_view /*text*/) {}

  // What was given for the log and metrics; 0 before an answer begins.
  virtual int status() const = 0;
};

// Called in the connection's sequence of tasks, which goes on when it returns; for a large body on
// a thread that serves nothing else meanwhile. May return before the answer is given.
using HttpHandler =
    std::function<void(std::shared_ptr<const HttpRequest>, std::shared_ptr<HttpReply>)>;

}  // namespace fathom::server
