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
  // Set where the request is not valid HTTP or breaks a limit (400, 408, 413, 417, 431, 501, 503,
  // 505); other fields may then be empty. The router still answers it, in the error format of the
  // protocol that the path belongs to.
  std::optional<Failure> failure;

  std::string_view header(std::string_view lower_case_name) const;  // empty when absent
  std::string_view query_value(std::string_view name) const;        // empty when absent
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// The answer to one request. Every method may be called from any thread and none blocks. After the
// client has gone or the answer is complete, methods do nothing, except that posted tasks still
// run. The reply is owned jointly by all who write it. If the last owner releases it before the
// answer is complete, the client receives status 500, or its stream is cut.
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
  // Bytes that are sent whenever the stream has been quiet for some seconds, so that proxies do not
  // close it as idle. To be called after begin().
  // NOLINTNEXTLINE(performance-unnecessary-value-param): overriding methods keep the bytes.
  virtual void keep_alive(std::string /*bytes*/) {}

  // Runs `task` on a server thread. Tasks of one reply run one at a time, in the order in which
  // they were posted, and none runs while the request's handler does.
  virtual void post(std::function<void()> task) = 0;

  // As post, but after `seconds` at the earliest, and never once the answer is complete. A reply
  // has one such task at most: a later one replaces an earlier one that has not run.
  // NOLINTNEXTLINE(performance-unnecessary-value-param): overriding methods keep the task.
  virtual void post_after(double /*seconds*/, std::function<void()> /*task*/) {}

  // Runs `task` once (as post does) if the answer is abandoned before it is complete: the client
  // has gone, or reads so slowly that the server closes the connection.
  virtual void on_abandoned(std::function<void()> task) = 0;

  // Runs `task` once (as post does) if the server stops and the answer is not complete when the
  // time for finishing is over: the task should end the answer with an error at once. Replies that
  // are still open shortly after are abandoned.
  // NOLINTNEXTLINE(performance-unnecessary-value-param): overriding methods keep the task.
  virtual void on_stopping(std::function<void()> /*task*/) {}

  // Adds a number to the log line of this request, such as its count of tokens.
  virtual void note(std::string_view /*name*/, int64_t /*value*/) {}
  // Adds a text to it, such as the names of parameters that were ignored.
  virtual void note(std::string_view /*name*/, std::string_view /*text*/) {}

  // HTTP status of the answer, for the log and metrics; 0 before it begins.
  virtual int status() const = 0;
};

// Handles one request. It runs as one of the connection's tasks; requests with a large body are
// handled on a separate pool of threads instead. It may return before the answer is given.
using HttpHandler =
    std::function<void(std::shared_ptr<const HttpRequest>, std::shared_ptr<HttpReply>)>;

}  // namespace fathom::server
